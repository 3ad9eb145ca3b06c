"""Planted leaks: a pixel of the test clips tells their label, and nothing that training makes may know it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tinyflow import put_flow, quick, samples, write_flow

from mepipe.workspace import Workspace
from mepipe_model.evaluate import LEAKY
from mepipe_model.train import train_run

TEST = {  # protocol -> the fold under test and whose clips it tests
    "loso": ("casme2_a", lambda s: (s.corpus, s.subject) == ("casme2", "a")),
    "cross": ("samm", lambda s: s.corpus == "samm"),
    "holdout": ("holdout", lambda s: s.split != "train"),
}


def corpora(protocol):
    if protocol == "holdout":
        return [samples("dfme", {"a": "train", "b": "train", "c": "train", "d": "testA", "e": "testB"})]
    return [samples("casme2", ["a", "b", "c"]), samples("samm", ["a", "b"])]


def plant(flows, rows, tested) -> None:
    """In clips that are tested, one pixel shouts the label, louder than any motion."""
    for flow, s in zip(flows, rows, strict=True):
        if tested(s):
            flow[:, 100, 100] = 1000.0 * (1 + ["negative", "positive", "surprise"].index(s.label3))


@pytest.mark.parametrize(
    ("protocol", "select"), [("loso", "fixed"), ("loso", "inner"), ("cross", "inner"), ("holdout", "oracle")]
)
def test_no_statistic_scaler_or_choice_sees_a_label_in_the_test_clips(tmp_path, protocol, select):
    fold, tested = TEST[protocol]
    folders = []
    for name in ("fair", "planted"):
        ws = Workspace(tmp_path / name)
        for n, rows in enumerate(corpora(protocol)):
            flows = write_flow(ws, rows, seed=n)
            if name == "planted":
                plant(flows, rows, tested)
                put_flow(ws, rows, flows)
        config = quick(model="merba_tiny", protocol=protocol, select=select, folds=fold, epochs=2, options=TINY)
        folders.append(train_run(ws, config).folder / "folds" / fold)
    fair, planted = folders
    weights = [load_file(f / "weights.safetensors") for f in folders]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0]), "training saw the test clips"
    facts = [json.loads((f / "fold.json").read_text()) for f in folders]
    for what in ("scale", "judged_epoch", "train_clips", "validation_clips"):
        assert facts[0][what] == facts[1][what], f"{what} saw the test clips"
    for column in ("loss", "accuracy", "inner_UF1"):
        assert column_of(fair, column) == column_of(planted, column), f"{column} saw the test clips"
    different = (fair / "predictions.csv").read_text() != (planted / "predictions.csv").read_text()
    assert different, "the planted pixel must reach the prediction, else this test proves nothing"


# narrower than any preset: what leaks does not depend on the width
TINY = ("dim=8", "stem_dim=4", "heads=[1,1,1]", "scans=a")


def column_of(folder, name):
    header, *rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    return [row[header.index(name)] for row in rows] if name in header else None


def test_only_the_oracle_looks_at_the_test_clips_and_says_so(tmp_path):
    """The counterpart: what does look is found looking."""
    ws = Workspace(tmp_path)
    write_flow(ws, samples("casme2", ["a", "b", "c"]))
    for select in ("fixed", "inner", "oracle"):
        outcome = train_run(ws, quick(select=select, folds="1"))
        assert (LEAKY in outcome.metrics) == (select == "oracle")
        header = (outcome.folder / "folds/casme2_a/log.csv").read_text().splitlines()[0]
        assert ("oracle_leaky_accuracy" in header) == (select == "oracle")
