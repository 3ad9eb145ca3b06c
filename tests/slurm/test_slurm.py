"""prepare, flow and train through a real slurmctld and slurmd; what happens to tasks there happens to these.

They take minutes, so they run when asked for: ``make slurm-test``, which also installs what they need, as root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster, why_not

ASKED = "MEPIPE_SLURM_TEST"
WHY_NOT = why_not() if ASKED in os.environ else f"only when asked for: make slurm-test, or {ASKED}=1"
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

# the smallest model, steps of one epoch each a few milliseconds
TRAIN = ("--model", "ststnet", "--batch-size", "8", "--threads", "1")
SLURM = ("--executor", "slurm", "--cpus-per-task", "1", "--time", "10", "--grace", "20")
SECONDS = 400  # for what takes ten on a machine of its own


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running
    assert running.left() == [], "nothing is left running"


@pytest.fixture
def lab(cluster, own):
    """A workspace that is prepared and has flow, of its own, and the command in it."""
    return Lab(cluster, own.work, own.raw)


class Lab:
    """What somebody on the login node does."""

    def __init__(self, cluster: Cluster, work: Path, raw: Path) -> None:
        self.cluster, self.work, self.raw = cluster, work, raw

    def mepipe(self, *words: object, code: int = 0) -> str:
        command = [sys.executable, "-m", "mepipe", "-w", str(self.work), *map(str, words)]
        done = subprocess.run(
            command, env=self.cluster.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr + self.logs()
        return done.stdout + done.stderr

    def logs(self) -> str:
        return "".join(f"\n--- {p}\n{p.read_text()}" for p in sorted(self.work.glob("jobs/*/logs/*.log")))

    def tasks(self) -> dict[int, dict]:
        (job,) = json.loads(self.mepipe("status", "--json"))["jobs"]
        return {t["number"]: t for t in job["tasks"]}

    def until(self, true, what: str) -> dict[int, dict]:
        """The tasks, once they are as wanted."""
        deadline = time.monotonic() + SECONDS
        while not true(tasks := self.tasks()):
            assert time.monotonic() < deadline, f"{what}: {tasks}{self.logs()}"
            time.sleep(0.5)
        return tasks

    def train(self, *words: object, **more) -> str:
        return self.mepipe("train", *TRAIN, *SLURM, *words, **more)

    def epochs(self, fold: str) -> int:
        """Epochs that a fold has behind it."""
        (log,) = self.work.glob(f"runs/*/folds/casme2_{fold}/log.csv")
        return len(log.read_text().splitlines()) - 1

    def begun(self, *folds: str) -> None:
        """Wait until these folds are at work."""
        deadline = time.monotonic() + SECONDS
        while len([f for f in folds if list(self.work.glob(f"runs/*/folds/casme2_{f}/log.csv"))]) < len(folds):
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)


def states(tasks: dict[int, dict]) -> list[str]:
    return [tasks[n]["state"] for n in sorted(tasks)]


def test_prepare_flow_and_train_by_arrays_give_what_this_machine_gives(cluster, made, tmp_path):
    lab = Lab(cluster, tmp_path / "work", made.raw)
    told = lab.mepipe("prepare", "casme2", made.raw, *SLURM, "--tasks", 3, "--wait")
    assert "9 clips prepared: 9 ok" in told
    crops = [p.relative_to(made.work) for p in Path(made.work).rglob("prepared/casme2/sub*/*/*.png")]
    assert len(crops) == 18
    for name in (*crops, Path("prepared/casme2/clips.csv")):
        assert (lab.work / name).read_bytes() == (Path(made.work) / name).read_bytes()
    lab.mepipe("flow", *SLURM, "--tasks", 2, "--shard-size", 4, "--wait")
    here = Lab(cluster, tmp_path / "here", made.raw)
    shutil.copytree(Path(made.work) / "prepared", here.work / "prepared")
    here.mepipe("flow", "--shard-size", 4)
    for shard in sorted((here.work / "flow").glob("*.h5")):
        assert same_flow(shard, lab.work / "flow" / shard.name)
    told = lab.train("--epochs", 3, "--wait")
    assert "UF1" in told
    here.mepipe("train", *TRAIN, "--epochs", 3)
    (theirs,), (ours,) = lab.work.glob("runs/*"), here.work.glob("runs/*")
    assert theirs.name == ours.name
    for name in ("predictions.csv", "metrics.json", "folds/casme2_sub03/weights.safetensors"):
        assert (theirs / name).read_bytes() == (ours / name).read_bytes()
    assert (theirs / "report.html").is_file()
    assert "0 submitted" in lab.train("--epochs", 3), "what is there is not sent again"


def same_flow(one: Path, other: Path) -> bool:
    from mepipe.shards import open_shards

    a, b = open_shards(one), open_shards(other)
    return a.samples == b.samples and bool((a.read_all() == b.read_all()).all())


def test_a_task_that_is_cancelled_or_killed_costs_no_other_and_the_same_command_runs_it_again(lab):
    lab.train("--epochs", 20000, "--run", "mine")
    lab.begun("sub01", "sub02", "sub03")
    tasks = lab.tasks()
    lab.cluster.ask("scancel", tasks[1]["slurm"])
    kill_work(lab, 2)
    tasks = lab.until(lambda t: t[1]["state"] == t[2]["state"] == "failed", "two killed tasks")
    assert "ended by Slurm (scancel or preemption); its work is kept" in tasks[1]["reason"]
    assert tasks[2]["reason"] == "its process died (SIGKILL: out of memory, see --mem)"
    assert tasks[3]["state"] == "running"
    assert (lab.work / "runs/mine/folds/casme2_sub01/state.pt").is_file(), "kept when it was cancelled"
    assert "0 done, 1 at work, 2 submitted" in lab.train("--epochs", 20000, "--run", "mine")
    lab.until(lambda t: states(t) == ["running"] * 3 and t[1]["attempts"] == 2, "two tasks again")
    lab.cluster.ask("scancel", "--user=root")
    lab.until(lambda t: states(t) == ["failed"] * 3, "all cancelled")


def kill_work(lab: Lab, task: int) -> None:
    """SIGKILL for the process that does the work, as the kernel does when memory runs out."""
    found = subprocess.run(
        ["pgrep", "-f", f"mepipe.jobs.work {lab.work}/jobs/.* {task}( |$)"], capture_output=True, text=True, check=True
    )
    for pid in found.stdout.split():
        subprocess.run(["kill", "-9", pid], check=True)


def test_a_time_limit_is_survived_as_often_as_it_comes(lab):
    """A limit of a minute of which 45 s are grace: told at the latest 15 s after the start, at times at once."""
    settings = ("--epochs", 100000, "--run", "mine", "--folds", 1, "--time", 1, "--grace", 45)
    lab.train(*settings)
    lab.begun("sub01")
    tasks = lab.until(
        lambda t: "kept after" in lab.logs() and t[1]["attempts"] >= 2 and t[1]["state"] == "running",
        "an attempt after one that kept its epochs",
    )
    assert tasks[1]["reason"] == ""
    first = lab.epochs("sub01")
    assert first > 0
    lab.cluster.ask("scancel", "--user=root")
    lab.until(lambda t: states(t) == ["failed"], "cancelled")
    assert lab.epochs("sub01") >= first, "it went on where it was"


@pytest.mark.parametrize("partition", ["cpu", "hasty"], ids=["20 s of grace", "no grace"])
def test_who_makes_way_for_a_better_partition_goes_on_afterwards(lab, partition):
    """Slurm preempts by requeueing: the task is told, ends, and its next attempt goes on from the epochs kept."""
    lab.train("--epochs", 100000, "--run", "mine", "--folds", 1, "--partition", partition)
    lab.begun("sub01")
    lab.until(lambda t: lab.epochs("sub01") > 0, "an epoch")
    first = lab.epochs("sub01")
    urgent = ("--partition=urgent", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 15")
    lab.cluster.ask("sbatch", *urgent)
    tasks = lab.until(lambda t: t[1]["attempts"] >= 2 and t[1]["state"] == "running", "an attempt after the urgent job")
    assert tasks[1]["reason"] == ""
    assert "fold casme2_sub01 is kept after" in lab.logs()
    lab.cluster.ask("scancel", "--user=root")
    lab.until(lambda t: states(t) == ["failed"], "cancelled")
    assert lab.epochs("sub01") >= first, "it went on where it was"


def test_a_drained_node_and_a_restarted_controller_lose_nothing(lab):
    lab.train("--epochs", 30, "--run", "mine", "--parallel", 1)
    lab.cluster.ask("scontrol", "update", "NodeName=one", "State=DRAIN", "Reason=test")
    lab.cluster.restart_controller()
    lab.until(lambda t: states(t) == ["done"] * 3, "all folds")
    drained = lab.cluster.ask("sinfo", "--noheader", "--Node", "--nodes=one", "--format=%T").split()
    assert drained[0].startswith("drain"), "it was all the time"
    lab.cluster.ask("scontrol", "update", "NodeName=one", "State=RESUME")
    assert "UF1" in lab.train("--epochs", 30, "--run", "mine")


def test_what_slurm_refuses_is_one_line(lab):
    told = lab.train("--partition", "absent", code=1)
    assert "error: Slurm does not take the tasks:" in told
    assert "Invalid partition" in told or "invalid partition" in told
    assert "Traceback" not in told
