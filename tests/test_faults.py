"""Every command is killed at random moments and run again; the result must equal an uninterrupted run's."""

from __future__ import annotations

import csv
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mepipe.errors import MepipeError
from mepipe.shards import open_shards
from mepipe.workspace import TEMP_MARK, Workspace, atomic_file, sweep, write_bytes

KILLS = 5
FLOW_KILLS = 10


def start(args: list[object], cwd: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mepipe", *map(str, args)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed_then_finished(args: list[object], cwd: Path, seconds: float, seed: int) -> None:
    """Run ``args``, kill it KILLS times at random moments of its ``seconds``, then let it finish."""
    rng = random.Random(seed)
    for _ in range(KILLS):
        process = start(args, cwd)
        try:
            process.wait(rng.uniform(0.3, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert start(args, cwd).wait(300) == 0


def timed(args: list[object], cwd: Path) -> float:
    begin = time.monotonic()
    assert start(args, cwd).wait(300) == 0
    return time.monotonic() - begin


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.startswith(TEMP_MARK)]


def content(folder: Path, *suffixes: str) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix in suffixes)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_prepare_killed_at_random_moments_gives_the_same_crops(made, tmp_path):
    args = ["-w", "ws", "prepare", "casme2", made.raw, "--frames", "all", "--jobs", "2"]
    (tmp_path / "whole").mkdir()
    seconds = timed(args, tmp_path / "whole")
    killed_then_finished(args, tmp_path, seconds, seed=0)
    assert content(tmp_path / "ws", ".png", ".csv") == content(tmp_path / "whole/ws", ".png", ".csv")
    assert not leftovers(tmp_path)
    assert not list((tmp_path / "ws/.locks").iterdir())


def test_flow_killed_ten_times_at_random_moments_gives_the_same_values(made, tmp_path):
    args = ["-w", "ws", "flow", "--engine", "opencv", "--shard-size", "2", "--pad", "8", "--warps", "2"]
    for folder in ("whole", "."):
        shutil.copytree(made.work / "prepared", tmp_path / folder / "ws/prepared")
    seconds, idle = timed(args, tmp_path / "whole"), timed(args, tmp_path / "whole")
    rng, killed = random.Random(1), 0
    while killed < FLOW_KILLS:  # each gets a third of the work done, most often
        process = start(args, tmp_path)
        try:
            process.wait(rng.uniform(0.6 * idle, idle + 0.6 * (seconds - idle)))
            shutil.rmtree(tmp_path / "ws/flow")  # it was faster: begin again
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    assert start(args, tmp_path).wait(300) == 0
    whole, got = open_shards(tmp_path / "whole/ws/flow"), open_shards(tmp_path / "ws/flow")
    assert got.samples == whole.samples
    assert np.array_equal(got.read_all(), whole.read_all())
    assert len(got.paths) == 5
    assert not leftovers(tmp_path)


def test_train_killed_at_random_moments_gives_the_same_predictions(made, tmp_path):
    args = ["-w", "ws", "train", "--model", "merba_tiny", "--epochs", "3", "--jobs", "2", "--threads", "1"]
    for folder in ("whole", "."):
        shutil.copytree(made.work / "flow", tmp_path / folder / "ws/flow")
    seconds = timed(args, tmp_path / "whole")
    killed_then_finished(args, tmp_path, seconds, seed=2)
    names = ("predictions.csv", "weights.safetensors")
    whole = {k: v for k, v in content(tmp_path / "whole/ws/runs", ".csv", ".safetensors").items() if k.endswith(names)}
    got = {k: v for k, v in content(tmp_path / "ws/runs", ".csv", ".safetensors").items() if k.endswith(names)}
    assert len(whole) == 7
    assert got == whole
    assert not leftovers(tmp_path)


def test_ctrl_c_stops_soon_and_keeps_what_is_finished(made, tmp_path):
    args = ["-w", "ws", "prepare", "casme2", made.raw, "--frames", "all", "--jobs", "1"]
    process = start(args, tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("ws/prepared/casme2/*/*/clip.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(2)
    begin = time.monotonic()
    code = process.wait(30)
    assert time.monotonic() - begin < 2
    assert code == 130
    assert list(tmp_path.glob("ws/prepared/casme2/*/*/clip.json"))


def begun(args: list[object], cwd: Path) -> subprocess.Popen[str]:
    """`mepipe flow` that has found its engine."""
    command = [sys.executable, "-m", "mepipe", *map(str, args)]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("flow engine")
    return process


def interrupted(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, and what has to follow."""
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - begin < 2
    assert process.returncode == 130
    assert said.strip() == "error: interrupted; what is finished is kept, the same command goes on"


@pytest.mark.parametrize(("engine", "warps"), [("opencv", "5"), ("torch", "1")])
def test_ctrl_c_in_the_middle_of_a_large_shard_keeps_the_pairs_that_are_done(made, run_mepipe, tmp_path, engine, warps):
    """Of an engine that threads call for one pair each, and of one that gets batches."""
    shutil.copytree(made.work / "prepared", tmp_path / "ws/prepared")
    args = ["-w", "ws", "flow", "--engine", engine, "--shard-size", "512", "--batch", "2", "--warps", warps]
    process = begun(args, tmp_path)
    deadline = time.monotonic() + 120
    two = 2 * 602_112  # bytes
    while max((p.stat().st_size for p in leftovers(tmp_path)), default=0) < two and time.monotonic() < deadline:
        time.sleep(0.02)
    interrupted(process)
    assert not leftovers(tmp_path)
    assert not list((tmp_path / "ws/.locks").iterdir())
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
    interrupted(process)
    assert not list((tmp_path / "ws/flow").iterdir())
    assert not list((tmp_path / "ws/.locks").iterdir())


def test_a_second_command_on_the_same_workspace_names_the_holder(made, run_mepipe, tmp_path):
    ws = Workspace(tmp_path / "mepipe-work")
    with ws.lock("prepare-casme2"):
        done = run_mepipe("prepare", "casme2", made.raw)
    assert done.returncode == 1
    assert f"already running in this workspace (host {os.uname().nodename}, pid {os.getpid()}" in done.stderr
    assert not list((ws.root / ".locks").iterdir())


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ws = Workspace(tmp_path)
    (tmp_path / ".locks").mkdir()
    for text in (f'{{"host": "{os.uname().nodename}", "pid": {dead.pid}, "since": "then"}}', ""):
        (tmp_path / ".locks" / "flow.json").write_text(text)
        with ws.lock("flow"):
            pass


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 4 MB; skips where it cannot be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_prepare_goes_on_after_room_is_made(made, small_disk, run_mepipe, tmp_path):
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (3 << 20))
    args = ("-w", small_disk / "ws", "prepare", "casme2", made.raw, "--jobs", "1")
    done = run_mepipe(*args)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line
    assert "run the same command again" in line
    filler.unlink()
    assert run_mepipe(*args).returncode == 0
    assert content(small_disk / "ws", ".png") == content(made.work, ".png")
    assert not leftovers(small_disk)


def test_a_full_disk_leaves_no_half_shard(made, small_disk, run_mepipe):
    shutil.copytree(made.work / "prepared", small_disk / "ws/prepared")
    done = run_mepipe("-w", small_disk / "ws", "flow")
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(small_disk.rglob("*.h5"))
    assert not leftovers(small_disk)


def test_an_input_folder_that_vanishes_is_refused_clip_by_clip(own_raw, run_mepipe, tmp_path):
    shutil.rmtree(next(own_raw.glob("CASME2_RAW_selected/sub02")))
    assert run_mepipe("prepare", "casme2", own_raw).returncode == 0
    with (tmp_path / "mepipe-work/prepared/casme2/clips.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert {r["status"] for r in rows if r["subject"] == "sub02"} == {"refused"}
    assert {r["status"] for r in rows if r["subject"] != "sub02"} == {"ok"}


def fail_halfway(target: Path) -> None:
    with atomic_file(target) as temp:
        temp.write_bytes(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path):
    target = tmp_path / "file"
    write_bytes(target, b"old")
    with pytest.raises(MepipeError, match=r"cannot write .*No space"):
        fail_halfway(target)
    assert target.read_bytes() == b"old"
    assert not leftovers(tmp_path)


def test_sweep_removes_only_unfinished_files(tmp_path):
    keep = tmp_path / "sub01" / "clip" / "1.png"
    keep.parent.mkdir(parents=True)
    keep.write_bytes(b"")
    for folder in (tmp_path, tmp_path / "sub01", tmp_path / "sub01/clip"):
        (folder / f"{TEMP_MARK}1-x").mkdir()
    assert sweep(tmp_path) == 3
    assert keep.exists()
