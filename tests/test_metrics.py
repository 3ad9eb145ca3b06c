from __future__ import annotations

import csv

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from mepipe_model.metrics import Scores, uf1_uar


def test_scores_equal_scikit_learn_on_random_predictions():
    rng = np.random.default_rng(0)
    for classes in (3, 7):
        true, pred = rng.integers(0, classes, (2, 200))
        labels = list(range(classes))
        got = uf1_uar(true, pred, labels=labels)
        assert got.UF1 == pytest.approx(f1_score(true, pred, labels=labels, average="macro"))
        assert got.UAR == pytest.approx(recall_score(true, pred, labels=labels, average="macro"))


def test_a_published_run_scores_what_was_published(real_data):
    """STSTNet's log of 442 clips: UF1 0.7209, UAR 0.725."""
    with (real_data / "ststnet_predictions.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 442
    got = uf1_uar([int(r["true"]) for r in rows], [int(r["pred"]) for r in rows], labels=[0, 1, 2])
    assert round(got.UF1, 4) == 0.7209
    assert round(got.UAR, 3) == 0.725


def test_an_absent_class_scores_zero_with_a_warning():
    with pytest.warns(UserWarning, match="scored 0: surprise"):
        got = uf1_uar(["negative", "positive"], ["negative", "positive"], ["negative", "positive", "surprise"])
    assert got == pytest.approx((2 / 3, 2 / 3))


def test_a_constant_answer_scores_low():
    true = [0] * 88 + [1] * 32 + [2] * 25
    assert uf1_uar(true, [0] * 145, labels=[0, 1, 2]).UF1 == pytest.approx(0.2518, abs=1e-3)


def test_only_one_class_in_truth_and_prediction_keeps_the_full_matrix():
    with pytest.warns(UserWarning, match="absent"):
        scores = Scores.of([1, 1], [1, 1], [0, 1, 2])
    assert scores.matrix.tolist() == [[0, 0, 0], [0, 2, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("true", "pred", "message"),
    [([0, 1], [0], "2 truths and 1"), ([], [], "no predictions"), ([0, 5], [0, 1], "5 is not among the labels")],
)
def test_wrong_input_is_refused(true, pred, message):
    with pytest.raises(ValueError, match=message):
        uf1_uar(true, pred, labels=[0, 1, 2])


def test_weighted_scores_and_precision_equal_scikit_learn():
    rng = np.random.default_rng(1)
    true = rng.choice(4, 300, p=[0.6, 0.2, 0.15, 0.05])
    pred = np.where(rng.random(300) < 0.5, true, rng.integers(0, 4, 300))
    scores = Scores.of(true.tolist(), pred.tolist(), [0, 1, 2, 3])
    assert scores.wf1 == pytest.approx(f1_score(true, pred, average="weighted"))
    assert scores.acc == pytest.approx(recall_score(true, pred, average="weighted")), "WAR"
    assert scores.precision == pytest.approx(precision_score(true, pred, average=None))
    told = scores.as_dict()
    assert told["WAR"] == told["ACC"] == pytest.approx((true == pred).mean())
    assert told["WF1"] != pytest.approx(told["UF1"], abs=0.01)
