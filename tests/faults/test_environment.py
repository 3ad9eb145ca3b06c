"""Disk full, read-only, input gone, permission denied, too few file handles: one line, exit 1, nothing lost, go on."""

from __future__ import annotations

import contextlib
import csv
import errno
import resource
import shutil
import subprocess

import pytest
from faultkit import QUICK_FLOW, crops, done, last_line, leftovers, listing, lower_rights, predictions, samples

from mepipe.errors import MepipeError
from mepipe.workspace import TEMP_MARK, atomic_file, sweep, write_bytes

TRAIN = ("train", "--model", "ststnet", "--epochs", "1", "--jobs", "1", "--threads", "1")
# torch takes seconds to load, and train ends in the same lines as the others
EACH_COMMAND = pytest.mark.parametrize("command", ["prepare", "flow", pytest.param("train", marks=pytest.mark.long)])


def one_line(code, said, *parts):
    """The command has failed with one clear line that holds ``parts``."""
    assert code == 1, said
    assert "Traceback" not in said
    assert "internal error" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line == last_line(said)
    for part in parts:
        assert part in line
    return line


def content(folder, *suffixes):
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix in suffixes)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


# --- disk full ---


def fill(filler):
    """Leave not one page of the disk."""
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_is_one_line_and_prepare_goes_on_after_room_is_made(made, disk, run_mepipe):
    folder = disk(4)
    filler = folder / "filler"
    filler.write_bytes(b"x" * (3 << 20))
    args = ("-w", folder / "ws", "prepare", "casme2", made.raw, "--jobs", "1")
    failed = run_mepipe(*args)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert "No space left on device" in line
    assert "run the same command again" in line
    filler.unlink()
    assert run_mepipe(*args).returncode == 0
    assert content(folder / "ws", ".png") == content(made.work, ".png")
    assert not leftovers(folder)


def test_a_full_disk_leaves_no_half_shard(made, disk, run_mepipe):
    folder = disk(4)
    shutil.copytree(made.work / "prepared", folder / "ws/prepared")
    failed = run_mepipe("-w", folder / "ws", "flow")
    assert failed.returncode == 1
    assert "cannot write" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list(folder.rglob("*.h5"))
    assert not leftovers(folder)


def test_flow_keeps_the_shards_that_were_finished_when_the_disk_was_full(small_work, disk):
    folder = disk(10)
    shutil.copytree(small_work / "prepared", folder / "ws/prepared")
    filler = folder / "filler"
    filler.write_bytes(b"x" * (3 << 20))
    args = ["-w", "ws", "flow", *QUICK_FLOW, "--shard-size", "4"]
    one_line(*done(args, folder), "No space left on device", "run the same command again")
    right, kept = samples(small_work), samples(folder / "ws")
    assert 4 <= len(kept) < 12
    assert kept.items() <= right.items()
    assert not leftovers(folder)
    filler.unlink()
    assert done(args, folder)[0] == 0
    assert samples(folder / "ws") == right


@pytest.mark.slow
def test_train_keeps_the_folds_that_were_finished_when_the_disk_was_full(small_work, disk):
    folder = disk(12)
    shutil.copytree(small_work / "flow", folder / "ws/flow")
    filler = folder / "filler"
    free = shutil.disk_usage(folder).free
    filler.write_bytes(b"x" * (free - (48 << 10)))  # enough for config.json and a fold, not for four
    args = ["-w", "ws", *TRAIN]
    one_line(*done(args, folder), "No space left on device")
    kept = list((folder / "ws/runs").rglob("fold.json"))
    assert 1 <= len(kept) < 4
    times = [path.stat().st_mtime_ns for path in kept]
    filler.unlink()
    assert done(args, folder)[0] == 0
    assert times == [path.stat().st_mtime_ns for path in kept], "what was finished is not done again"
    assert len([name for name in predictions(folder / "ws") if name.endswith("weights.safetensors")]) == 4
    assert not leftovers(folder)


@EACH_COMMAND
def test_a_disk_without_one_byte_is_one_line(small, small_env, small_work, disk, command):
    """Not even the lock can be written, and none must stay."""
    folder = disk(20)
    shutil.copytree(small_work, folder / "ws")
    (folder / "ws/.locks").rmdir()
    (folder / "ws/.locks").mkdir()
    fill(folder / "filler")
    args = {"prepare": [*small.prepare, "--force"], "flow": ["flow", *QUICK_FLOW, "--force"], "train": list(TRAIN)}
    one_line(*done(["-w", "ws", *args[command]], folder, env=small_env), "No space left on device")
    assert crops(folder / "ws") == crops(small_work)
    assert samples(folder / "ws") == samples(small_work)
    assert not leftovers(folder)


# --- read only ---


@EACH_COMMAND
def test_a_read_only_workspace_is_one_line(small, small_env, small_work, disk, command):
    folder = disk(20)
    shutil.copytree(small_work, folder / "ws")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    args = {"prepare": [*small.prepare, "--force"], "flow": ["flow", *QUICK_FLOW, "--force"], "train": list(TRAIN)}
    one_line(*done(["-w", "ws", *args[command]], folder, env=small_env), "Read-only file system")


# --- the input goes away ---


def test_an_input_folder_that_vanishes_is_refused_clip_by_clip(own_raw, run_mepipe, tmp_path):
    """Before the command: the annotation names clips that are nowhere."""
    shutil.rmtree(next(own_raw.glob("CASME2_RAW_selected/sub02")))
    assert run_mepipe("prepare", "casme2", own_raw).returncode == 0
    with (tmp_path / "mepipe-work/prepared/casme2/clips.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert {r["status"] for r in rows if r["subject"] == "sub02"} == {"refused"}
    assert {r["status"] for r in rows if r["subject"] != "sub02"} == {"ok"}


@pytest.mark.parametrize("gone", ["raw", "raw/CASME2_RAW_selected"])
def test_an_input_that_vanishes_at_work_stops_the_command_and_costs_no_crop(
    own_small, small_env, deadly, tmp_path, gone
):
    """A share that is unmounted must not refuse all clips that follow, and drop the crops they had."""
    args = ["-w", "ws", *own_small.prepare, "--jobs", "1"]
    assert done(args, tmp_path, env=small_env)[0] == 0
    before = crops(tmp_path / "ws")
    env = deadly("vanish", "EP00006", folder=tmp_path / gone)
    code, said = done([*args, "--force"], tmp_path, env=env)
    one_line(code, said, "EP0000", "is gone", "bring the input back and run the same command again")
    assert crops(tmp_path / "ws") == before
    assert not leftovers(tmp_path)
    (tmp_path / f"{gone}.away").rename(tmp_path / gone)
    assert done(args, tmp_path, env=small_env)[0] == 0
    assert crops(tmp_path / "ws") == before


# --- permission denied ---


def test_a_workspace_that_may_not_be_written_is_one_line_and_the_command_goes_on_later(
    small, small_env, small_work, tmp_path
):
    (tmp_path / "ws/prepared/casme2").mkdir(parents=True)
    (tmp_path / "ws/prepared/casme2").chmod(0o555)
    args = ["-w", "ws", *small.prepare, "--jobs", "1"]
    one_line(*done(args, tmp_path, env=small_env, preexec_fn=lower_rights), "Permission denied", "fix the permission")
    (tmp_path / "ws/prepared/casme2").chmod(0o755)
    assert done(args, tmp_path, env=small_env, preexec_fn=lower_rights)[0] == 0
    assert crops(tmp_path / "ws") == crops(small_work)


def test_a_clip_that_may_not_be_read_is_one_line_and_the_command_goes_on_later(
    own_small, small_env, small_work, tmp_path
):
    """Told before anything is done: it may be the whole disk."""
    closed = own_small.folder("sub02", "EP00004")
    closed.chmod(0)
    args = ["-w", "ws", *own_small.prepare]
    one_line(*done(args, tmp_path, env=small_env, preexec_fn=lower_rights), "EP00004", "Permission denied")
    closed.chmod(0o755)
    assert done(args, tmp_path, env=small_env, preexec_fn=lower_rights)[0] == 0
    right = {k: v for k, v in crops(small_work).items() if k.endswith(".png")}
    assert {k: v for k, v in crops(tmp_path / "ws").items() if k.endswith(".png")} == right


def test_a_shard_that_may_not_be_read_is_neither_computed_again_nor_replaced(small_work, tmp_path):
    shutil.copytree(small_work, tmp_path / "ws")
    shard = tmp_path / "ws/flow/casme2-00001.h5"
    shard.chmod(0)
    args = ["-w", "ws", "flow", *QUICK_FLOW, "--shard-size", "4"]
    one_line(*done(args, tmp_path, preexec_fn=lower_rights), "casme2-00001.h5", "fix the permission")
    assert shard.stat().st_mode & 0o777 == 0


# --- file handles ---


def at_most(handles):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))

    return limit


@EACH_COMMAND
def test_too_few_file_handles_are_one_line_and_nothing_is_done_twice(small, small_env, small_work, tmp_path, command):
    """flow and train hold a handle for each shard, of which there are twelve here."""
    shutil.copytree(small_work / "prepared", tmp_path / "ws/prepared")
    flow = ["-w", "ws", "flow", *QUICK_FLOW, "--shard-size", "1"]
    assert done(flow, tmp_path)[0] == 0
    args = {"prepare": ["-w", "ws", *small.prepare, "--force"], "flow": flow, "train": ["-w", "ws", *TRAIN]}[command]
    before, times = listing(tmp_path / "ws"), [p.stat().st_mtime_ns for p in sorted((tmp_path / "ws/flow").iterdir())]
    one_line(
        *done(args, tmp_path, env=small_env, preexec_fn=at_most(9)),
        "Too many open files",
        "ulimit -n",
        "run the same command again",
    )
    assert listing(tmp_path / "ws") == before
    assert done(args, tmp_path, env=small_env)[0] == 0
    assert times == [p.stat().st_mtime_ns for p in sorted((tmp_path / "ws/flow").iterdir())]
    assert crops(tmp_path / "ws") == crops(small_work)


# --- the parts ---


def fail_halfway(target):
    with atomic_file(target) as temp:
        temp.write_bytes(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_can_be_read_by_whom_the_umask_lets(tmp_path):
    """A shared workspace has several users, and what writes weights makes files for one."""
    with atomic_file(tmp_path / "file") as temp:
        temp.write_bytes(b"weights")
        temp.chmod(0o600)
    (tmp_path / "other").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


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
