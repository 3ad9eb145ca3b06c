"""Parts of one run made on different machines are pooled; parts of two experiments are not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tinyflow import quick, samples, write_flow

from mepipe.errors import DataError
from mepipe.workspace import Workspace
from mepipe_model.evaluate import evaluate_runs, lines
from mepipe_model.runs import find_run
from mepipe_model.train import train_run


@dataclass(frozen=True)
class Machine:
    """A workspace and its part of the run."""

    ws: Workspace
    run: Path


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two machines with the same shards, each with a part of one LOSO run, and the whole run's metrics."""
    here = Workspace(tmp_path_factory.mktemp("here") / "ws")
    write_flow(here, samples("casme2", ["a", "b", "c"]))
    there = Workspace(tmp_path_factory.mktemp("there") / "ws")
    shutil.copytree(here.root, there.root)
    first = train_run(here, quick(folds="1,2")).folder
    # a machine with other cores chooses another number of threads
    second = train_run(there, quick(folds="3", threads=2)).folder
    whole = Workspace(tmp_path_factory.mktemp("whole") / "ws")
    shutil.copytree(here.flow, whole.flow)
    return Machine(here, first), Machine(there, second), train_run(whole, quick()).metrics


def test_parts_of_one_run_from_two_machines_are_pooled(machines):
    here, there, whole = machines
    assert here.run.name != there.run.name, "threads are part of a run's name"
    pooled = evaluate_runs(here.ws, [str(here.run), str(there.run)])
    assert pooled["clips"] == whole["clips"]
    assert pooled["confusion"] == whole["confusion"]
    assert not any("not a result yet" in w for w in pooled["warnings"])
    half = evaluate_runs(here.ws, [here.run.name])
    assert any("2 of 3 folds are finished: not a result yet" in w for w in half["warnings"])


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"lr": 1e-3}, r"lr 5e-05 and 0\.001"),
        ({"seed": 1}, "seed 0 and 1"),
        ({"epochs": 1}, "epochs 2 and 1"),
        ({"protocol": "kfold", "k": 3}, "k 5 and 3; protocol loso and kfold; folds: "),
    ],
)
def test_runs_of_other_settings_are_not_pooled(machines, options, difference):
    here, there, _ = machines
    other = train_run(there.ws, quick(run="other", force=True, folds="3", **options)).folder
    for source in (other, other / "predictions.csv", *other.glob("folds/*/predictions.csv")):
        with pytest.raises(DataError, match=f"are two experiments: {difference}"):
            evaluate_runs(here.ws, [here.run.name, str(source)])


def test_runs_over_other_data_are_not_pooled(machines, tmp_path):
    here, _, _ = machines
    ws = Workspace(tmp_path)
    write_flow(ws, samples("samm", ["a", "b", "c"]))
    other = train_run(ws, quick(folds="3")).folder
    with pytest.raises(DataError, match="two experiments: corpora: casme2, samm in one of them only"):
        evaluate_runs(here.ws, [here.run.name, str(other)])


def test_what_cannot_be_checked_is_said(machines, tmp_path):
    here, there, _ = machines
    copied = shutil.copy(there.run / "predictions.csv", tmp_path / "from-elsewhere.csv")
    warned = evaluate_runs(here.ws, [here.run.name, str(copied)])["warnings"]
    assert any("from-elsewhere.csv" in w and "cannot be checked" in w for w in warned)


def test_the_parts_of_a_corpus_own_test_set_are_scored_apart(tmp_path):
    """DFME's test A and test B: never one figure only."""
    ws = Workspace(tmp_path)
    splits = {"a": "train", "b": "train", "c": "testA", "d": "testB", "e": "testB"}
    write_flow(ws, samples("dfme", splits))
    outcome = train_run(ws, quick(protocol="holdout", classes=7))
    parts = outcome.metrics["per_part"]
    assert {name: part["clips"] for name, part in parts.items()} == {"testA": 3, "testB": 6}
    assert find_run(ws, outcome.folder).parts == {"dfme_c": "testA", "dfme_d": "testB", "dfme_e": "testB"}
    again = evaluate_runs(ws, [outcome.folder.name])
    assert again["per_part"] == parts
    shown = "\n".join(lines(again))
    assert f"testA      UF1 {parts['testA']['UF1']:.4f}" in shown
    assert f"testB      UF1 {parts['testB']['UF1']:.4f}" in shown
