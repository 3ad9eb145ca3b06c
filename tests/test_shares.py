"""--shard I/N: parts of one command side by side on one workspace give what the whole gives."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from tinyflow import quick, samples, write_flow

from mepipe.datasets import get_corpus
from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.executors import serial_map, serial_team
from mepipe.flow.run import flow_corpora
from mepipe.jobs import status
from mepipe.locks import Holder, lock_path
from mepipe.merging import PARTS, merge_lost, merge_parts, prepared_corpora
from mepipe.prepare import prepare_corpus, wanted
from mepipe.settings import FlowConfig, PrepareConfig, cores
from mepipe.shards import open_shards
from mepipe.shares import Share
from mepipe.stopping import VARIABLE, Stopped
from mepipe.workspace import TEMP_MARK, Workspace, sweep
from mepipe_model.runs import find_run
from mepipe_model.train import train_run


def test_a_share_takes_every_nth_and_refuses_what_is_none():
    assert [Share(i, 3).pick("abcdefg") for i in (1, 2, 3)] == [list("adg"), list("be"), list("cf")]
    assert [n for n in range(7) if Share.parse("2/3").owns(n)] == [1, 4]
    for wrong in ("0/2", "3/2", "x", "1/2/3", "1/0", "-1/2"):
        with pytest.raises(UsageError, match="--shard"):
            Share.parse(wrong)


def test_parts_of_one_cut_are_held_side_by_side_and_exclude_the_whole_and_other_cuts(tmp_path):
    ws = Workspace(tmp_path)
    with ws.lock("flow", Share(1, 2)), ws.lock("flow", Share(2, 2)), ws.lock("flow-other"):
        for share in (None, Share(1, 2), Share(3, 3)):
            with pytest.raises(MepipeError, match="flow is already running"), ws.lock("flow", share):
                pass
    with ws.lock("flow"), pytest.raises(MepipeError, match="flow is already running"), ws.lock("flow", Share(1, 2)):
        pass


def test_a_lock_is_waited_for_as_long_as_asked(tmp_path):
    ws, held = Workspace(tmp_path), Workspace(tmp_path).lock("merge")
    held.__enter__()
    threading.Timer(0.3, held.__exit__, (None, None, None)).start()
    with ws.lock("merge", patience=5):
        pass


def test_the_lock_of_a_slurm_job_on_another_node_is_taken_over_by_the_same_job_alone(tmp_path, monkeypatch):
    path = lock_path(tmp_path / ".locks", "flow", Share(1, 2))
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "node7", "pid": 1, "since": "now", "job": "12_3"}))
    ws = Workspace(tmp_path)
    monkeypatch.setenv("PATH", "")  # no squeue: nobody tells whether the job still runs
    with pytest.raises(MepipeError, match="host node7"), ws.lock("flow", Share(1, 2)):
        pass
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with ws.lock("flow", Share(1, 2)):
        assert Holder.of(path).job == "12_3"


def test_a_part_sweeps_only_what_it_would_have_written(tmp_path):
    for name in ("mine.csv", "theirs.csv", "with-dash-in-it.csv"):
        (tmp_path / f"{TEMP_MARK}12-ab-{name}").touch()
    assert sweep(tmp_path, lambda path: path == tmp_path / "with-dash-in-it.csv") == 1
    assert sweep(tmp_path) == 2


def test_a_slurm_task_keeps_to_its_cores(monkeypatch):
    here = len(os.sched_getaffinity(0))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert cores() == here, "a variable that some shell has left"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000")
    assert cores() == here


def test_serial_works_here_and_in_order():
    assert list(serial_map(lambda n: (n, os.getpid()), [3, 1])) == [(0, (3, os.getpid())), (1, (1, os.getpid()))]


def test_serial_works_on_one_list_after_the_other_and_is_set_up_once():
    set_up: list[str] = []
    with serial_team(str, setup=set_up.append, setup_args=("once",)) as team:
        assert list(team([])) == []
        assert set_up == [], "nothing to do needs no detector"
        assert next(team([3, 1])) == (0, "3"), "who does not ask for the rest does not get it"
        assert [list(team([3, 1])), list(team([2]))] == [[(0, "3"), (1, "1")], [(0, "2")]]
    assert set_up == ["once"]


# --- prepare, flow ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parted(made, tmp_path_factory) -> Workspace:
    """The made-up corpus, prepared and given flow by parts in any order, in this process."""
    ws = Workspace(tmp_path_factory.mktemp("parted"))
    for part in ("2/2", "1/2"):
        settings = PrepareConfig(shard=part, executor="serial")
        prepare_corpus(ws, get_corpus("casme2"), made.raw, settings, in_job=True)
    for part in ("3/3", "1/3", "2/3"):
        flow_corpora(ws, config=FlowConfig(shard=part, shard_size=2, executor="serial"))
    return ws


def table(ws: Workspace) -> str:
    return (ws.prepared("casme2") / "clips.csv").read_text()


def test_parts_give_the_table_of_the_whole_to_the_byte(made, parted):
    assert table(parted) == table(Workspace(made.work))


def test_parts_make_whole_shards_with_the_flow_of_the_whole(made, parted):
    ours, whole = open_shards(parted.flow), open_shards(Path(made.work) / "flow")
    assert [p.name for p in ours.paths] == [f"casme2-{n:05d}.h5" for n in range(5)]
    assert ours.samples == whole.samples
    assert (ours.read_all() == whole.read_all()).all()


def test_a_merge_that_was_lost_is_repeated_by_who_needs_it(parted):
    before = table(parted)
    (parted.prepared("casme2") / "clips.csv").unlink()
    assert merge_lost(parted, "casme2") is None
    assert table(parted) == before
    stamp = (parted.prepared("casme2") / "clips.csv").stat().st_mtime_ns
    assert merge_parts(parted, get_corpus("casme2"))
    assert stamp == (parted.prepared("casme2") / "clips.csv").stat().st_mtime_ns, "what is merged is left alone"


def test_flow_and_report_repeat_a_merge_that_was_lost(parted):
    before = table(parted)
    for repeat in (lambda: wanted(parted, []), lambda: wanted(parted, ["casme2"]), lambda: prepared_corpora(parted)):
        (parted.prepared("casme2") / "clips.csv").unlink()
        assert repeat() == ["casme2"]
        assert table(parted) == before


def test_parts_of_a_corpus_that_is_not_asked_for_are_left_alone(parted):
    other = parted.prepared("samm") / PARTS
    other.mkdir(parents=True)
    good = parted.prepared("casme2") / PARTS
    for name in ("1of2", "2of2"):
        (other / f"{name}.json").write_bytes((good / f"{name}.json").read_bytes())  # and their rows are gone
    assert wanted(parted, ["casme2"]) == ["casme2"]
    with pytest.raises(DataError, match="rows is missing or no file"):
        wanted(parted, [])
    shutil.rmtree(other.parent)


def test_parts_that_are_missing_are_named(parted):
    part = parted.prepared("casme2") / PARTS / "1of2.json"
    text = part.read_text()
    part.unlink()
    try:
        assert merge_lost(parted, "casme2").endswith("missing parts: 1/2")
        assert status(parted).lines() == ["casme2: only a part of its clips is prepared; missing parts: 1/2"]
        told = []
        flow_corpora(parted, ["casme2"], FlowConfig(dry_run=True), say=told.append)
        assert told[-1].endswith("missing parts: 1/2")
    finally:
        part.write_text(text)


def test_a_dry_run_of_flow_counts_and_writes_nothing(made, tmp_path):
    before = sorted(p.name for p in (Path(made.work) / "flow").iterdir())
    summary = flow_corpora(Workspace(made.work), config=FlowConfig(dry_run=True, shard_size=4, shard="2/2"))
    assert (summary.samples, summary.computed) == (4, 0)
    assert sorted(p.name for p in (Path(made.work) / "flow").iterdir()) == before


# --- train -----------------------------------------------------------------------------------------


@pytest.fixture
def ws(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    write_flow(workspace, samples("casme2", ["sub01", "sub02", "sub03"]))
    return workspace


def test_folds_trained_by_parts_give_the_run_of_the_whole(ws):
    whole = train_run(ws, quick(run="whole"))
    first = train_run(ws, quick(run="parts", shard="2/2"), in_job=True)
    assert first.metrics is None
    assert first.folders == []
    last = train_run(ws, quick(run="parts", shard="1/2"), in_job=True)
    assert last.metrics == whole.metrics
    names = ("predictions.csv", "folds/casme2_sub02/predictions.csv", "folds/casme2_sub03/weights.safetensors")
    for name in names:
        assert (last.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_part_alone_pools_what_there_is_and_force_leaves_the_others(ws):
    train_run(ws, quick(run="mine", shard="1/3"))
    only = train_run(ws, quick(run="mine", shard="2/3"))
    assert only.metrics["folds"] == {"finished": 2, "of": 3}
    before = (find_run(ws, "mine").fold("casme2_sub01") / "fold.json").stat().st_mtime_ns
    train_run(ws, quick(run="mine", shard="2/3", force=True))
    assert before == (find_run(ws, "mine").fold("casme2_sub01") / "fold.json").stat().st_mtime_ns


def test_a_task_asked_to_end_keeps_its_state_and_gives_the_numbers_of_one_that_was_not(ws, tmp_path, monkeypatch):
    whole = train_run(ws, quick(run="whole", epochs=3, folds="1"))
    stop = tmp_path / "stop"
    stop.touch()
    monkeypatch.setenv(VARIABLE, str(stop))
    monkeypatch.setattr("mepipe_model.fold.stop_wanted", asked_after(1))
    with pytest.raises(Stopped, match=r"kept after 1 of 3 epochs; 2 folds go on") as e:
        train_run(ws, quick(run="mine", epochs=3, folds="1,2"))
    assert e.value.exit_code == 75
    run = find_run(ws, "mine")
    assert (run.fold("casme2_sub01") / "state.pt").is_file()
    assert not run.fold("casme2_sub02").exists(), "what has not begun does not begin"
    monkeypatch.undo()
    done = train_run(ws, quick(run="mine", epochs=3, folds="1"))
    for name in ("folds/casme2_sub01/predictions.csv", "folds/casme2_sub01/log.csv"):
        assert (done.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def asked_after(looks: int):
    """A stop_wanted that says yes after so many times no."""
    left = [looks]

    def wanted() -> bool:
        left[0] -= 1
        return left[0] < 0

    return wanted
