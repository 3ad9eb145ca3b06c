"""Ctrl-C: every command stops within two seconds, keeps what is finished, and exits with 130; SIGTERM, with 143."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from faultkit import QUICK_FLOW, clip_records, crops, done, leftovers, predictions, samples, start

from mepipe.shards import open_shards

SAYS = "error: interrupted; what is finished is kept, the same command goes on"
ENDED = SAYS.replace("interrupted", "ended by SIGTERM")


def interrupted(process, whole_group=False, by=signal.SIGINT):
    """Ctrl-C, or what a scheduler sends, and what has to follow."""
    if whole_group:  # as a terminal does it: to all processes at once
        os.killpg(process.pid, by)
    else:
        process.send_signal(by)
    begin = time.monotonic()
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - begin < 2
    assert process.returncode == 128 + by
    assert said.strip().splitlines()[-1] == (SAYS if by == signal.SIGINT else ENDED)
    assert said.count("error: ") == 1
    assert "Traceback" not in said
    return said


def until(found, seconds=120):
    """Wait until ``found()`` is true."""
    deadline = time.monotonic() + seconds
    while not found() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_ctrl_c_stops_soon_and_keeps_what_is_finished(made, tmp_path):
    args = ["-w", "ws", "prepare", "casme2", made.raw, "--frames", "all", "--jobs", "1"]
    process = start(args, tmp_path)
    until(lambda: clip_records(tmp_path / "ws"))
    interrupted(process)
    assert clip_records(tmp_path / "ws")


@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("command", ["prepare", "flow", "train"])
def test_sigterm_gives_the_lock_back(small, small_env, small_work, tmp_path, command, whole_group):
    """A lock left behind would keep machines that share the folder out of it."""
    for folder in {"prepare": [], "flow": ["prepared"], "train": ["flow"]}[command]:
        shutil.copytree(small_work / folder, tmp_path / "ws" / folder)
    args = {
        "prepare": [*small.prepare, "--jobs", "2"],
        "flow": ["flow", *QUICK_FLOW, "--inner", "700", "--jobs", "1", "--epsilon", "0"],
        "train": ["train", "--model", "ststnet", "--epochs", "2000", "--jobs", "2", "--threads", "1"],
    }[command]
    process = start(["-w", "ws", *args], tmp_path, env=small_env, start_new_session=True)
    until(lambda: list(tmp_path.glob("ws/.locks/*.json")))
    time.sleep(0.5)
    interrupted(process, whole_group, by=signal.SIGTERM)
    assert not list(tmp_path.glob("ws/.locks/*.json"))
    assert not leftovers(tmp_path)


def begun(args, cwd):
    """`mepipe flow` that has found its engine."""
    command = [sys.executable, "-m", "mepipe", *map(str, args)]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline().startswith("flow engine")
    return process


@pytest.mark.parametrize(("engine", "warps"), [("opencv", "5"), ("torch", "1")])
def test_ctrl_c_in_the_middle_of_a_large_shard_keeps_the_pairs_that_are_done(made, run_mepipe, tmp_path, engine, warps):
    """Of an engine that threads call for one pair each, and of one that gets batches."""
    shutil.copytree(made.work / "prepared", tmp_path / "ws/prepared")
    args = ["-w", "ws", "flow", "--engine", engine, "--shard-size", "512", "--batch", "2", "--warps", warps]
    process = begun(args, tmp_path)
    two = 2 * 602_112  # bytes
    until(lambda: max((p.stat().st_size for p in leftovers(tmp_path)), default=0) >= two)
    assert interrupted(process).strip() == SAYS
    assert not leftovers(tmp_path)
    kept = open_shards(tmp_path / "ws/flow")
    assert 2 <= len(kept) < 9
    flows = kept.read_all()
    again = run_mepipe(*args)
    assert f"({9 - len(kept)} computed by {engine}" in again.stdout
    whole = open_shards(tmp_path / "ws/flow")
    assert whole.samples[: len(kept)] == kept.samples
    assert np.array_equal(whole.read_all()[: len(kept)], flows)
    assert len(whole) == 9
    assert not whole.damaged()


def test_ctrl_c_does_not_wait_for_pairs_that_take_long(made, tmp_path):
    """With 750 iterations a warp OpenCV needs many seconds for a pair, and nothing can stop it in between."""
    shutil.copytree(made.work / "prepared", tmp_path / "ws/prepared")
    process = begun(["-w", "ws", "flow", "--engine", "opencv", "--epsilon", "0", "--inner", "75"], tmp_path)
    time.sleep(1.5)
    assert interrupted(process).strip() == SAYS
    assert not list((tmp_path / "ws/flow").iterdir())
    assert not leftovers(tmp_path)


def test_ctrl_c_in_a_terminal_stops_prepare_and_its_workers(made, tmp_path):
    """The terminal sends it to the workers too, some of which are only just starting."""
    args = ["-w", "ws", "prepare", "casme2", made.raw, "--jobs", "2"]
    process = start(args, tmp_path, start_new_session=True)
    until(lambda: list(tmp_path.glob("ws/.locks/*")))
    time.sleep(0.3)
    assert interrupted(process, whole_group=True).strip() == SAYS
    assert not leftovers(tmp_path)


def test_ctrl_c_in_a_terminal_stops_flow_and_keeps_its_pairs(small_work, tmp_path):
    shutil.copytree(small_work / "prepared", tmp_path / "ws/prepared")
    args = ["-w", "ws", "flow", *QUICK_FLOW, "--shard-size", "2", "--inner", "700", "--jobs", "1", "--epsilon", "0"]
    process = start(args, tmp_path, start_new_session=True)
    until(lambda: list(tmp_path.glob("ws/flow/*.h5")))
    interrupted(process, whole_group=True)
    assert samples(tmp_path / "ws")
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.slow
def test_ctrl_c_in_a_terminal_stops_train_and_keeps_its_folds(small_work, tmp_path, jobs):
    """Folds in this process, and folds in processes of their own."""
    shutil.copytree(small_work / "flow", tmp_path / "ws/flow")
    args = ["-w", "ws", "train", "--model", "ststnet", "--epochs", "10", "--jobs", jobs, "--threads", "1"]
    process = start(args, tmp_path, start_new_session=True)
    until(lambda: list(tmp_path.glob("ws/runs/*/folds/*/fold.json")))
    interrupted(process, whole_group=True)
    kept = {path: path.read_bytes() for path in tmp_path.glob("ws/runs/*/folds/*/fold.json")}
    assert 1 <= len(kept) < 4
    assert not leftovers(tmp_path)
    if jobs == "2":
        return  # the rest is the same
    assert done(args, tmp_path)[0] == 0
    assert all(path.read_bytes() == before for path, before in kept.items())
    assert len([name for name in predictions(tmp_path / "ws") if name.endswith("weights.safetensors")]) == 4


def test_what_prepare_had_finished_when_it_was_interrupted_is_not_done_again(small, small_env, small_work, tmp_path):
    args = ["-w", "ws", *small.prepare, "--jobs", "1"]
    process = start(args, tmp_path, env=small_env, start_new_session=True)
    until(lambda: clip_records(tmp_path / "ws"))
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert not leftovers(tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in clip_records(tmp_path / "ws")}
    assert kept
    assert done(args, tmp_path, env=small_env)[0] == 0
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert crops(tmp_path / "ws") == crops(small_work)
