"""Class weights in the loss: the formula, both heads, and that only the fold's training clips are counted."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace
from mepipe_model import fold as fold_module
from mepipe_model.losses import balanced_weights, dgcm_counts, dgcm_loss
from mepipe_model.models.heads import DgcmHead, LinearHead
from mepipe_model.plan import make_plan
from mepipe_model.recipes import resolved
from mepipe_model.runs import run_name
from mepipe_model.train import train_run


def test_weights_are_inverse_to_counts_and_their_mean_over_the_clips_is_one():
    counts = torch.tensor([250, 109, 83])
    weights = balanced_weights(counts)
    torch.testing.assert_close(weights, torch.tensor([442 / 750, 442 / 327, 442 / 249]))
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1)
    torch.testing.assert_close(balanced_weights(torch.tensor([6, 0, 2])), torch.tensor([8 / 12, 0.0, 2.0]))


def test_a_linear_heads_loss_is_the_weighted_mean():
    torch.manual_seed(0)
    head, out, target = LinearHead(4, 3), torch.randn(5, 3), torch.tensor([0, 0, 0, 1, 2])
    plain = head.loss(out, target, 0.0)
    head.weigh(torch.tensor([3, 1, 1]))
    each = F.cross_entropy(out, target, reduction="none")
    w = balanced_weights(torch.tensor([3, 1, 1]))[target]
    torch.testing.assert_close(head.loss(out, target, 0.0), (w * each).sum() / w.sum())
    head.weigh(torch.tensor([2, 2, 2]))
    torch.testing.assert_close(head.loss(out, target, 0.0), plain, msg="equal classes: the loss as it was")
    assert set(head.state_dict()) == {"linear.weight", "linear.bias"}, "weights of the loss are not saved"


def test_coarse_and_fine_classes_are_weighed_by_their_own_counts():
    counts = torch.tensor([5, 1, 7, 2, 9, 3, 4])  # anger contempt disgust fear happiness sadness surprise
    coarse, fine = dgcm_counts(counts)
    assert coarse.tolist() == [17, 9, 4, 1]
    assert fine.tolist() == [5, 7, 2, 3]
    torch.manual_seed(0)
    head, out = DgcmHead(4), torch.randn(6, 8)
    target = torch.tensor([0, 2, 2, 4, 6, 5])
    plain = head.loss(out, target, 0.5)
    head.weigh(counts)
    wc, wf = balanced_weights(coarse), balanced_weights(fine)
    lc = F.cross_entropy(out[:, :4], torch.tensor([0, 0, 0, 1, 2, 0]), wc)
    lf = F.cross_entropy(out[[0, 1, 2, 5], 4:], torch.tensor([0, 1, 1, 3]), wf)
    torch.testing.assert_close(head.loss(out, target, 0.5), 0.5 * (lc + 1.5 * lf))
    by_batch = dgcm_loss(out[:, :4], out[:, 4:], target, 0.5, "batch", wc, wf)
    total = F.cross_entropy(out[[0, 1, 2, 5], 4:], torch.tensor([0, 1, 1, 3]), wf, reduction="sum")
    torch.testing.assert_close(by_batch, 0.5 * (lc + 1.5 * total / 6))
    head.weigh(torch.ones(7))
    head.weights = head.fine_weights = torch.ones(4)
    torch.testing.assert_close(head.loss(out, target, 0.5), plain)
    none = dgcm_loss(out[:1, :4], out[:1, 4:], torch.tensor([4]), 0.5, "negatives", wc, wf)
    torch.testing.assert_close(none, 0.5 * F.cross_entropy(out[:1, :4], torch.tensor([1])), msg="no negative: 0")


@pytest.mark.parametrize("select", ["fixed", "inner"])
def test_only_the_clips_that_are_trained_on_are_counted(own, select):
    config = TrainConfig(
        model="merba_tiny", epochs=1, batch_size=4, device="cpu", jobs=1, folds="2", class_weights="balanced",
        select=select,
    )  # fmt: skip
    outcome = train_run(Workspace(own.work), config)
    shutil.rmtree(outcome.folder / "folds" / "casme2_sub02")
    fold_module.start_worker(own.work, outcome.folder, "cpu", 1)
    bench = fold_module._bench
    training = fold_module._Training(bench, bench.folds["casme2_sub02"])
    seen = Counter(bench.data.targets[i] for i in training.train)
    assert not set(training.train) & {*bench.folds["casme2_sub02"].test, *training.validation}
    expected = balanced_weights(torch.tensor([seen[k] for k in range(3)]))
    torch.testing.assert_close(training.model.head.weights, expected)


def test_without_the_option_a_run_keeps_its_name_and_the_loss_its_value(made):
    plan = make_plan(Workspace(made.work), resolved(TrainConfig(model="merba_tiny")))
    name = run_name(plan.config, plan.data_name, plan.fingerprint, plan.device)
    balanced = resolved(TrainConfig(model="merba_tiny", class_weights="balanced"))
    other = make_plan(Workspace(made.work), balanced)
    assert run_name(other.config, other.data_name, other.fingerprint, other.device) != name
    assert LinearHead(4, 3).weights is None
