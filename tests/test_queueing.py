"""Folds over devices, with devices that are names only: what a machine with several GPUs does."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from mepipe_model.queueing import Failure, fold_queue, slots

_device = ""
_folder = Path()


def set_up(device: str, folder: Path) -> None:
    global _device, _folder
    _device, _folder = device, folder


def fail_to_set_up(device: str) -> None:
    raise RuntimeError(f"no driver for {device}")


def work(item: str) -> tuple[str, int, str]:
    """(device, process, item); what an item asks for is in its name."""
    if item == "slow":
        for _ in range(200):  # until two others have been worked on
            if len(list(_folder.glob("done-*"))) >= 2:
                break
            time.sleep(0.05)
    if item == "broken":
        raise ValueError("two lines\nof reason")
    if item == "deadly" or (item == "deadly once" and not (_folder / "died").exists()):
        (_folder / "died").touch()
        os._exit(9)
    if item.startswith("big"):
        _need_the_whole_device(item)
    (_folder / f"done-{item}").touch()
    return _device, os.getpid(), item


def _need_the_whole_device(item: str) -> None:
    """Out of memory while another item is at work on the same device, or always when it is too big."""
    mark = _folder / f"at-work-{_device}-{os.getpid()}"
    mark.touch()
    try:
        time.sleep(0.3)
        others = [p for p in _folder.glob(f"at-work-{_device}-*") if p != mark]
        if others and item == "big, killed":
            mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does
        if others or item == "big, too big":
            raise MemoryError("no room")
    finally:
        time.sleep(0.3)  # the other one must have seen it
        mark.unlink(missing_ok=True)


def run(items, devices, folder, setup=set_up, args=None):
    return dict(fold_queue(work, items, devices, setup, (folder,) if args is None else args))


def test_the_slots_go_round_the_gpus_one_fold_each_unless_more_are_asked_for():
    gpus = ["cuda:0", "cuda:1"]
    assert slots("cuda", 68, None, 5, gpus) == gpus
    assert slots("cuda", 68, 5, 5, gpus) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert slots("cuda", 1, None, 5, gpus) == ["cuda:0"]
    assert slots("cuda", 68, 1, 5, gpus) == ["cuda:0"]
    assert slots("cpu", 3, None, 8) == ["cpu"] * 3
    assert slots("cpu", 68, 2, 8) == ["cpu"] * 2


def test_a_free_device_takes_the_next_fold_while_another_is_busy(tmp_path):
    done = run(["slow", "a", "b", "c"], ["cuda:0", "cuda:1"], tmp_path)
    assert [done[i][2] for i in range(4)] == ["slow", "a", "b", "c"]
    assert done[0][0] == "cuda:0"
    assert {done[i][:2] for i in (1, 2)} == {("cuda:1", done[1][1])}, "one process did both, set up once"


def test_a_fold_that_raises_costs_itself_alone(tmp_path):
    done = run(["a", "broken", "b", "c"], ["cuda:0", "cuda:1"], tmp_path)
    assert isinstance(done[1], Failure)
    assert done[1].reason == r"ValueError: two lines\nof reason"
    assert "in work" in done[1].trace
    assert [done[i][2] for i in (0, 2, 3)] == ["a", "b", "c"]


def test_a_process_that_dies_costs_its_fold_only_when_it_dies_again(tmp_path):
    done = run(["deadly once", "a", "deadly"], ["cuda:0", "cuda:1"], tmp_path)
    assert done[0][2] == "deadly once"
    assert done[1][2] == "a"
    assert done[2].reason.startswith("its process died twice")


def test_folds_too_many_for_a_device_become_fewer_until_they_fit(tmp_path):
    items = ["big 1", "big, killed", "big 3"]
    done = run(items, ["cuda:0", "cuda:0"], tmp_path)
    assert [done[i][2] for i in range(3)] == items
    assert len({done[i][1] for i in range(3)}) <= 2


def test_a_fold_too_big_for_a_device_of_its_own_fails(tmp_path):
    done = run(["big, too big", "big 2"], ["cuda:0", "cuda:0"], tmp_path)
    assert done[0] == Failure("MemoryError: no room", done[0].trace, memory=True)
    assert done[1][2] == "big 2"


def test_a_device_that_cannot_be_set_up_is_told_for_each_fold(tmp_path):
    done = run(["a", "b"], ["cuda:7"], tmp_path, fail_to_set_up, ())
    assert {r.reason for r in done.values()} == {"RuntimeError: no driver for cuda:7"}


def test_who_stops_listening_stops_the_processes(tmp_path):
    results = fold_queue(work, ["a", "slow", "slow"], ["cuda:0", "cuda:1"], set_up, (tmp_path,))
    _, (_, process, _) = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
