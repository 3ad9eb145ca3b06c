from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mepipe.executors import WorkerDied, process_map

_base = 0


def set_base(n: int) -> None:
    global _base
    _base = n


def add_base(n: int) -> int:
    return _base + n


def die_on_three(n: int) -> int:
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def fail_on_two(n: int) -> int:
    if n == 2:
        raise ValueError("two")
    return n


def test_results_come_with_their_index_and_setup_ran():
    got = dict(process_map(add_base, list(range(50)), 2, setup=set_base, setup_args=(100,)))
    assert got == {i: 100 + i for i in range(50)}


def test_a_killed_worker_costs_its_item_only():
    got = dict(process_map(die_on_three, list(range(8)), 2))
    assert isinstance(got[3], WorkerDied)
    assert {i: v for i, v in got.items() if i != 3} == {i: i for i in range(8) if i != 3}


def test_an_exception_is_raised_here():
    with pytest.raises(ValueError, match="two"):
        list(process_map(fail_on_two, list(range(5)), 2))


def test_no_items_start_no_worker():
    assert list(process_map(add_base, [], 2)) == []


def test_workers_die_with_their_parent(tmp_path):
    """A parent killed by SIGKILL leaves no worker behind that writes on."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\n"
        "from mepipe.executors import process_map\n"
        "def work(n):\n"
        "    open(sys.argv[1] if len(sys.argv) > 1 else '/dev/null', 'a')\n"
        f"    open({str(tmp_path / 'pids')!r}, 'a').write(str(os.getpid()) + '\\n')\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(process_map(work, [1, 2], 2))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    pids = tmp_path / "pids"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (pids.is_file() and len(pids.read_text().split()) == 2):
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    workers = [int(p) for p in pids.read_text().split()]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(alive(p) for p in workers):
        time.sleep(0.1)
    assert len(workers) == 2
    assert not any(alive(p) for p in workers)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
