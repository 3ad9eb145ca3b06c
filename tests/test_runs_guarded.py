"""What a run folder is not taken for: other settings' folds, edited predictions, a leaky split's honest score."""

from __future__ import annotations

import shutil

import pytest
from tinyflow import quick, samples, write_flow

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.workspace import Workspace
from mepipe_model.evaluate import compare_runs, evaluate_runs, score_lines
from mepipe_model.protocols import LEAKY
from mepipe_model.runs import find_run
from mepipe_model.train import train_run

MODEL = {"model": "ststnet", "epochs": 1, "run": "mine"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A quick LOSO run. Read only."""
    ws = Workspace(tmp_path_factory.mktemp("guarded"))
    write_flow(ws, samples("casme2", ["sub01", "sub02", "sub03"]))
    train_run(ws, quick(**MODEL))
    return ws


@pytest.fixture
def ws(trained, tmp_path):
    return Workspace(shutil.copytree(trained.root, tmp_path / "ws"))


def test_folds_without_a_config_go_on_with_their_own_settings_only(ws):
    before = (ws.runs / "mine/predictions.csv").read_bytes()
    (ws.runs / "mine/config.json").unlink()
    with pytest.raises(MepipeError, match=r"no config\.json, and casme2_sub01 was trained with other settings"):
        train_run(ws, quick(**{**MODEL, "epochs": 2}))
    assert not (ws.runs / "mine/config.json").exists()
    train_run(ws, quick(**MODEL))
    assert (ws.runs / "mine/predictions.csv").read_bytes() == before


@pytest.mark.parametrize("edit", ["last row", "truth", "another fold's"])
def test_predictions_that_training_did_not_write_are_not_scored(ws, edit):
    folds = ws.runs / "mine/folds"
    path = folds / "casme2_sub01/predictions.csv"
    lines = path.read_text().splitlines(keepends=True)
    if edit == "last row":
        path.write_text("".join(lines[:-1]))
    elif edit == "truth":
        path.write_text("".join(line.replace(",negative,", ",positive,", 1) for line in lines))
    else:
        shutil.copy(folds / "casme2_sub02/predictions.csv", path)
    for again in (lambda: evaluate_runs(ws, ["mine"]), lambda: train_run(ws, quick(**MODEL))):
        with pytest.raises(DataError, match=r"casme2_sub01/predictions\.csv is not what its training wrote"):
            again()
    (folds / "casme2_sub01/fold.json").unlink()
    train_run(ws, quick(**MODEL))
    assert path.read_text() == "".join(lines), "as the message says"


def test_a_split_that_is_leaky_marks_every_figure_and_is_compared_with_no_honest_one(ws):
    outcome = train_run(ws, quick(**{**MODEL, "run": "rl"}, protocol=LEAKY, k=3))
    told = score_lines(find_run(ws, "rl"), outcome.metrics)
    assert f"  {LEAKY} UF1 " in told[1]
    assert "people are in training and in test" in told[1]
    found = evaluate_runs(ws, ["rl"])
    assert found["selection"].startswith(LEAKY)
    with pytest.raises(UsageError, match="saw the test subjects, and the other is not"):
        compare_runs(ws, ["rl"], "mine")


@pytest.mark.parametrize("option", ["nope=1", "drop_rate=2", "plain"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_wrong_model_option_leaves_no_run_and_is_told_by_a_dry_run(ws, option, dry_run):
    with pytest.raises(UsageError):
        train_run(ws, quick(**{**MODEL, "run": "new"}, options=(option,), dry_run=dry_run))
    assert not (ws.runs / "new").exists()


def test_no_fold_is_no_wish(ws):
    with pytest.raises(UsageError, match="--folds names no fold"):
        train_run(ws, quick(**{**MODEL, "run": "new"}, folds=" , "))


def test_resume_takes_no_other_settings(ws, run_mepipe):
    done = run_mepipe("-w", ws.root, "train", "--resume", "mine", "--epochs", "5", "--set", "x=1")
    assert done.returncode == 2
    assert "--resume goes on with the run's own settings; leave out --epochs, --set" in done.stderr
    done = run_mepipe("-w", ws.root, "train", "--resume", "mine", "--json")
    assert done.returncode == 0, done.stderr
