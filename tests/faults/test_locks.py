"""Two commands at once: the second says who is at work; the lock of a dead process is taken over, by one only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
from faultkit import QUICK_FLOW, done, finished, last_line, leftovers, samples, start

from mepipe.errors import MepipeError
from mepipe.locks import Holder, born
from mepipe.workspace import Workspace

TRAIN = ("train", "--model", "ststnet", "--epochs", "1", "--jobs", "1", "--run", "mine")


def test_a_second_command_on_the_same_workspace_names_the_holder(made, run_mepipe, tmp_path):
    ws = Workspace(tmp_path / "mepipe-work")
    with ws.lock("prepare-casme2"):
        failed = run_mepipe("prepare", "casme2", made.raw)
    assert failed.returncode == 1
    assert f"already running in this workspace (host {os.uname().nodename}, pid {os.getpid()}" in failed.stderr
    assert not list((ws.root / ".locks").iterdir())


@pytest.mark.parametrize(
    ("stage", "args"), [("flow", ("flow", *QUICK_FLOW)), pytest.param("train-mine", TRAIN, marks=pytest.mark.long)]
)
def test_flow_and_train_name_the_holder_and_since_when(small_work, tmp_path, stage, args):
    shutil.copytree(small_work, tmp_path / "ws")
    before = time.strftime("%F")
    with Workspace(tmp_path / "ws").lock(stage):
        code, said = done(["-w", "ws", *args], tmp_path)
    assert code == 1
    who = f"{stage} is already running in this workspace (host {os.uname().nodename}, pid {os.getpid()}, since "
    assert who + before in last_line(said) or who + time.strftime("%F") in last_line(said)
    assert samples(tmp_path / "ws") == samples(small_work)


def test_of_two_flows_at_once_one_does_all_and_the_other_nothing(small_work, tmp_path):
    shutil.copytree(small_work / "prepared", tmp_path / "ws/prepared")
    both = [start(["-w", "ws", "flow", *QUICK_FLOW, "--jobs", "1"], tmp_path) for _ in range(2)]
    (first, said), (second, told) = sorted(map(finished, both))
    assert first == 0, said
    assert second == 0 or "already running" in told  # it came when the first was done, or while it worked
    assert samples(tmp_path / "ws") == samples(small_work)
    assert not leftovers(tmp_path)


# --- stale locks ---


@pytest.fixture
def dead():
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def written(folder, holder):
    (folder / ".locks").mkdir()
    path = folder / ".locks/flow.json"
    path.write_text(holder if isinstance(holder, str) else json.dumps(asdict(holder)))
    return path


def test_the_lock_of_a_dead_process_is_taken_over(dead, tmp_path):
    ws = Workspace(tmp_path)
    path = written(tmp_path, "")
    for text in (f'{{"host": "{os.uname().nodename}", "pid": {dead}, "since": "then"}}', "", "[]", '{"pid": "x"}'):
        path.write_text(text)
        with ws.lock("flow"):
            assert Holder.of(path).pid == os.getpid()


def test_the_lock_of_a_dead_process_whose_number_went_to_another_is_taken_over(tmp_path):
    parent = os.getppid()
    younger = replace(Holder.me(), pid=parent, born=str(int(born(parent)) - 1))
    written(tmp_path, younger)
    with Workspace(tmp_path).lock("flow"):
        pass


def test_the_lock_of_before_the_machine_was_started_anew_is_taken_over(tmp_path):
    written(tmp_path, replace(Holder.me(), pid=os.getppid(), born=born(os.getppid()), boot="another"))
    with Workspace(tmp_path).lock("flow"):
        pass


def test_the_lock_of_a_zombie_is_taken_over(tmp_path):
    """Where nobody asks for the exit code of an orphan, its number lives on."""
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    while zombie.returncode is None and "Z" not in status(zombie.pid):
        time.sleep(0.05)
    written(tmp_path, replace(Holder.me(), pid=zombie.pid, born=born(zombie.pid)))
    with Workspace(tmp_path).lock("flow"):
        pass
    zombie.wait()


def status(pid):
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - no file on a disk
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("change", [{}, {"host": "another"}, {"space": "pid:[1]", "pid": 1 << 21}])
def test_the_lock_of_a_process_that_may_live_is_left_alone(tmp_path, change):
    """One of another machine or of another container cannot be seen from here."""
    holder = replace(Holder.me(), pid=os.getppid(), born=born(os.getppid()), since="noon")
    path = written(tmp_path, replace(holder, **change))
    before = path.read_bytes()
    with pytest.raises(MepipeError, match=r"already running .*since noon\); wait for it, or remove"):
        Workspace(tmp_path).lock("flow").__enter__()
    assert path.read_bytes() == before


def test_many_commands_that_find_a_stale_lock_never_hold_it_together(dead, tmp_path):
    written(tmp_path, replace(Holder.me(), pid=dead))
    script = (
        "import os, sys, time\n"
        "from mepipe.errors import MepipeError\n"
        "from mepipe.workspace import Workspace\n"
        "time.sleep(max(0, float(sys.argv[1]) - time.time()))\n"
        "try:\n"
        "    with Workspace('.').lock('flow'):\n"
        "        os.mkdir('inside')\n"
        "        time.sleep(0.2)\n"
        "        os.rmdir('inside')\n"
        "        print('held')\n"
        "except MepipeError:\n"
        "    print('refused')\n"
    )
    at = str(time.time() + 3)
    many = [
        subprocess.Popen([sys.executable, "-c", script, at], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in many]
    assert set(said) <= {"held", "refused"}, "two were inside"
    assert "held" in said
    assert not leftovers(tmp_path)
