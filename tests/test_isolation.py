"""One fold's failure is told by name, costs no other fold, and is tried again by the same command."""

from __future__ import annotations

import pytest
import torch
from tinyflow import quick, samples, write_flow

from mepipe.workspace import Workspace
from mepipe_model.models import ModelInfo, create_model, registry
from mepipe_model.running import TRACE
from mepipe_model.runs import find_run
from mepipe_model.train import FoldsFailed, train_run


@pytest.fixture
def ws(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    write_flow(workspace, samples("casme2", ["sub01", "sub02", "sub03"]))
    return workspace


@pytest.fixture
def trap(monkeypatch):
    """A model called "trap": ``trap(fold=2, does)`` lets ``does(model)`` happen when its second fold is built."""
    plan = {}

    def build(name, options):
        model = create_model("ststnet", **options)
        plan["built"] += 1
        if plan["built"] == plan["at"]:
            plan["does"](model)
        return model

    info = ModelInfo("trap", "", "", "", "reconstruction", "", 1683, takes=("px",))
    monkeypatch.setitem(registry._MODELS._things, "trap", (info, build))

    def set_(fold, does):
        plan.update(built=0, at=fold + 2, does=does)  # one is built to check its options, one to count its parameters

    return set_


def fail_with(error):
    def does(model):
        raise error

    return does


def spoil(model):
    next(model.parameters()).data.fill_(torch.nan)


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        (fail_with(RuntimeError("a bug")), "RuntimeError: a bug"),
        (fail_with(MemoryError()), "MemoryError"),
        (spoil, "the loss is nan in epoch 1; lower --lr"),
    ],
)
def test_the_other_folds_go_on_and_the_same_command_tries_the_failed_one_again(ws, trap, does, reason):
    trap(2, does)
    said: list[str] = []
    with pytest.raises(FoldsFailed, match=r"1 fold failed: casme2_sub02 \(.*the same command tries them again") as e:
        train_run(ws, quick(model="trap", run="mine"), say=said.append)
    assert reason in str(e.value)
    assert e.value.exit_code == 1
    (told,) = [line for line in said if line.startswith("fold 2/3 casme2_sub02 failed")]
    assert reason in told
    run = find_run(ws, "mine")
    assert run.finished() == ["casme2_sub01", "casme2_sub03"]
    assert len((run.folder / "predictions.csv").read_text().splitlines()) == 7, "what is finished is pooled"
    before = (run.fold("casme2_sub01") / "fold.json").stat().st_mtime_ns
    healed = train_run(ws, quick(model="trap", run="mine"))
    assert healed.metrics["folds"] == {"finished": 3, "of": 3}
    assert before == (run.fold("casme2_sub01") / "fold.json").stat().st_mtime_ns
    assert not list(run.folder.rglob(TRACE))


def test_a_bug_leaves_its_traceback_beside_the_fold(ws, trap):
    trap(1, fail_with(RuntimeError("a bug")))
    with pytest.raises(FoldsFailed):
        train_run(ws, quick(model="trap", run="mine", folds="1"))
    assert "in does" in (find_run(ws, "mine").fold("casme2_sub01") / TRACE).read_text()


def test_when_all_fail_for_one_reason_it_is_said_once(ws, monkeypatch):
    from mepipe_model import fold

    monkeypatch.setattr(fold, "train_fold", fail_with(OSError("no space left")))
    with pytest.raises(FoldsFailed, match=r"3 folds failed \(casme2_sub01, .*\): OSError: no space left") as e:
        train_run(ws, quick())
    assert str(e.value).count("no space left") == 1


def test_an_interruption_still_stops_the_run_at_once(ws, trap):
    trap(2, fail_with(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        train_run(ws, quick(model="trap", run="mine"))
    assert find_run(ws, "mine").finished() == ["casme2_sub01"]


def test_a_fold_that_fails_in_a_worker_process_costs_no_other(ws):
    """Two real processes; the first fold finds a damaged state of its own."""
    train_run(ws, quick(run="mine", folds="3"))
    broken = find_run(ws, "mine").fold("casme2_sub01") / "state.pt"
    broken.parent.mkdir()
    broken.write_bytes(b"no state")
    with pytest.raises(FoldsFailed, match=r"casme2_sub01 \(.*state\.pt is no state of this fold"):
        train_run(ws, quick(run="mine", jobs=2))
    assert find_run(ws, "mine").finished() == ["casme2_sub02", "casme2_sub03"]
    broken.unlink()
    assert train_run(ws, quick(run="mine")).metrics["folds"]["finished"] == 3
