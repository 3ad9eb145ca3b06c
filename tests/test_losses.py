import math

import pytest
import torch
import torch.nn.functional as F

from mepipe_model.losses import TO_COARSE, TO_FINE, dgcm_alpha, dgcm_decide, dgcm_loss, dgcm_probabilities

ANGER, CONTEMPT, DISGUST, FEAR, HAPPINESS, SADNESS, SURPRISE = range(7)
COARSE = torch.tensor([[2.0, 0, 0, 0], [0, 1, 0, 0]])
FINE = torch.tensor([[0, 1.5, 0, 0], [9, 0, 0, 0]])
TRUTH = torch.tensor([DISGUST, HAPPINESS])


@pytest.mark.parametrize(
    ("epoch", "alpha", "loss"),
    [(0, 0.5, 0.399220), (50, 1.0, 0.527335), (100, 1.5, 0.655449), (150, 2.0, 0.783564), (199, 2.0, 0.783564)],
)
def test_the_loss_of_equations_6_and_7_on_a_worked_example(epoch, alpha, loss):
    assert dgcm_alpha(epoch / 200) == pytest.approx(alpha)
    assert dgcm_loss(COARSE, FINE, TRUTH, epoch / 200).item() == pytest.approx(loss, abs=2e-6)


def test_the_fine_term_can_be_averaged_over_the_whole_batch():
    coarse = ((math.log(math.e**2 + 3) - 2) + (math.log(math.e + 3) - 1)) / 2
    fine = (math.log(math.e**1.5 + 3) - 1.5) / 2
    value = dgcm_loss(COARSE, FINE, TRUTH, 0.25, fine_mean="batch").item()
    assert value == pytest.approx(0.5 * (coarse + fine), abs=1e-6)


def test_a_batch_without_negative_emotions_trains_the_coarse_head_only():
    fine = FINE.clone().requires_grad_()
    coarse = COARSE.clone().requires_grad_()
    target = torch.tensor([HAPPINESS, SURPRISE])
    loss = dgcm_loss(coarse, fine, target, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * F.cross_entropy(COARSE, torch.tensor([1, 2])).item())
    assert fine.grad.abs().sum() == 0
    assert coarse.grad.abs().sum() > 0


def test_the_class_maps_put_every_emotion_where_the_paper_does():
    assert TO_COARSE.tolist() == [0, 3, 0, 0, 1, 0, 2]
    assert TO_FINE.tolist() == [0, -1, 1, 2, -1, 3, -1]


@pytest.mark.parametrize("emotion", range(7))
@pytest.mark.parametrize("rule", ["hard", "product"])
def test_confident_heads_decide_for_the_emotion_they_encode(emotion, rule):
    coarse, fine = torch.zeros(1, 4), torch.zeros(1, 4)
    coarse[0, TO_COARSE[emotion]] = 10
    if TO_FINE[emotion] >= 0:
        fine[0, TO_FINE[emotion]] = 10
    assert dgcm_decide(coarse, fine, rule).tolist() == [emotion]
    assert dgcm_probabilities(coarse, fine).argmax().item() == emotion


def test_the_worked_example_is_decided_as_disgust_and_happiness():
    assert dgcm_decide(COARSE, FINE).tolist() == [DISGUST, HAPPINESS]


def test_the_hard_rule_and_the_product_differ_where_negative_wins_narrowly():
    coarse, fine = torch.log(torch.tensor([[0.4, 0.35, 0.15, 0.1]])), torch.zeros(1, 4)
    assert dgcm_decide(coarse, fine).item() == ANGER
    assert dgcm_decide(coarse, fine, "product").item() == HAPPINESS


def test_probabilities_are_a_distribution_with_the_stated_parts():
    g = torch.Generator().manual_seed(0)
    coarse, fine = torch.randn(20, 4, generator=g), torch.randn(20, 4, generator=g)
    p = dgcm_probabilities(coarse, fine)
    torch.testing.assert_close(p.sum(-1), torch.ones(20))
    negatives = [ANGER, DISGUST, FEAR, SADNESS]
    torch.testing.assert_close(p[:, negatives].sum(-1), coarse.softmax(-1)[:, 0])
    torch.testing.assert_close(p[:, CONTEMPT], coarse.softmax(-1)[:, 3])
