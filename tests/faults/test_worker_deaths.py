"""A worker process that dies, by the kernel's hand or in a decoder, costs one clip at most, and nobody waits for it."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from faultkit import QUICK_FLOW, crops, done, last_line, leftovers, listing, samples
from tiny import rows_of

from mepipe.errors import MepipeError
from mepipe.executors import WorkerDied, process_map

CLIP = "EP00004"


def status(ws):
    return {row["clip"]: (row["status"], row["reason"]) for row in rows_of(ws / "prepared/casme2/clips.csv")}


@pytest.mark.parametrize(
    ("how", "reason"),
    [("segfault", "died twice (SIGSEGV"), ("sigkill", "died twice (SIGKILL"), ("memory", "out of memory twice")],
)
def test_a_clip_that_kills_its_worker_twice_is_refused_by_name(
    small, small_env, small_work, deadly, tmp_path, how, reason
):
    args = ["-w", "ws", *small.prepare, "--jobs", "2"]
    code, said = done(args, tmp_path, env=deadly(how, CLIP))
    assert (code, said) == (0, "")
    found = status(tmp_path / "ws")
    assert len(found) == 12
    assert found[CLIP][0] == "refused"
    assert reason in found[CLIP][1]
    right = crops(small_work)
    assert {k: v for k, v in right.items() if CLIP not in k and k.endswith(".png")}.items() <= crops(
        tmp_path / "ws"
    ).items()
    assert not leftovers(tmp_path)
    if how == "segfault":  # mended
        assert done(args, tmp_path, env=small_env) == (0, "")
        assert crops(tmp_path / "ws") == right


def test_a_clip_whose_worker_dies_once_is_not_lost(small, small_work, deadly, tmp_path):
    """Another program took the memory for a moment."""
    code, said = done(["-w", "ws", *small.prepare, "--jobs", "2"], tmp_path, env=deadly("sigkill", CLIP, once=True))
    assert (code, said) == (0, "")
    assert crops(tmp_path / "ws") == crops(small_work)


@pytest.mark.parametrize("how", ["segfault", pytest.param("sigkill", marks=pytest.mark.long)])
def test_flow_goes_on_past_a_pair_that_kills_its_process_and_refuses_it_by_name(small_work, deadly, tmp_path, how):
    """The pairs are computed by threads, which die together; the command starts itself anew around the pair."""
    shutil.copytree(small_work / "prepared", tmp_path / "ws/prepared")
    args = ["-w", "ws", "flow", *QUICK_FLOW, "--shard-size", "4"]
    code, said = done(args, tmp_path, env=deadly(how, f"{CLIP}/4.png"))
    assert code == 1
    assert last_line(said).startswith("error: ")
    assert CLIP in last_line(said)
    assert "Traceback" not in said
    right, got = samples(small_work), samples(tmp_path / "ws")
    assert got == {k: v for k, v in right.items() if CLIP not in k}
    assert not leftovers(tmp_path)
    assert done(args, tmp_path)[0] == 0
    assert samples(tmp_path / "ws") == right
    assert listing(tmp_path / "ws/flow") == listing(small_work / "flow")


def test_a_pair_that_kills_its_process_once_is_not_lost(small_work, deadly, tmp_path):
    shutil.copytree(small_work / "prepared", tmp_path / "ws/prepared")
    args = ["-w", "ws", "flow", *QUICK_FLOW, "--shard-size", "4"]
    code, said = done(args, tmp_path, env=deadly("sigkill", f"{CLIP}/4.png", once=True))
    assert code == 0, said
    assert samples(tmp_path / "ws") == samples(small_work)


def test_many_deaths_at_once_cost_the_deadly_items_only():
    got = dict(process_map(die_on_odd, list(range(8)), 4))
    assert sorted(n for n, value in got.items() if isinstance(value, WorkerDied)) == [1, 3, 5, 7]
    assert {n: got[n] for n in (0, 2, 4, 6)} == {0: 0, 2: 2, 4: 4, 6: 6}


def die_on_odd(n):
    if n % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def test_when_no_worker_can_start_it_is_the_machine_and_no_clip_is_refused():
    with pytest.raises(MepipeError, match=r"worker processes cannot start \(SIGKILL\); what is finished is kept"):
        list(process_map(die_on_odd, [0, 2, 4, 6, 8], 2, setup=die_on_odd, setup_args=(1,)))


def test_an_error_while_a_worker_sets_up_is_raised_here():
    with pytest.raises(ValueError, match="no tools"):
        list(process_map(die_on_odd, [0, 2], 1, setup=no_tools))


def no_tools():
    raise ValueError("no tools")


def test_a_result_that_cannot_be_sent_is_an_error_and_no_hang():
    with pytest.raises(TypeError, match="pickle"):
        list(process_map(unsendable, [0], 1))


def unsendable(n):
    return lambda: n
