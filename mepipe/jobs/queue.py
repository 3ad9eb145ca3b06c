"""What Slurm says of jobs: squeue for those it still knows, sacct, where there is accounting, for older ones.

States   https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES
"""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
RUNNING = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT",
                     "RESIZING"})  # fmt: skip
ASKING = 60  # seconds to wait for an answer: a slurmctld that is restarting lets squeue try again
USUAL_ARRAY = 1001  # MaxArraySize where nobody has set it


@dataclass(frozen=True)
class Entry:
    """One job, or task of an array. state: Slurm's word; reason: why it waits or ended; node: where it is or was."""

    state: str
    reason: str = ""
    node: str = ""

    @property
    def alive(self) -> bool:
        return self.state in WAITING or self.state in RUNNING


def ask(jobs: Iterable[str]) -> dict[str, Entry] | None:
    """Job id (``12`` or ``12_3``) -> what Slurm knows of it; None where Slurm does not answer."""
    wanted = set(jobs)
    if not wanted:
        return {}
    arrays = {job.split("_")[0] for job in wanted}
    told = _run(
        "squeue", "--noheader", "--array", "--states=all", f"--user={getpass.getuser()}", "--format=%i|%T|%r|%N"
    )
    if told is None:
        return None
    found = {job: Entry(*facts) for job, *facts in (line.split("|") for line in told.splitlines()) if job in wanted}
    if unknown := {job.split("_")[0] for job in wanted - found.keys()} & arrays:
        past = _run("sacct", "--noheader", "--parsable2", "--allocations", "--array", f"--jobs={','.join(unknown)}",
                    "--format=JobID,State,NodeList")  # fmt: skip
        for line in (past or "").splitlines():
            job, state, node = line.split("|")
            if job in wanted:
                found.setdefault(job, Entry(state.split()[0], state.partition(" ")[2], node))
    return found


def is_running(job: str) -> bool:
    """Whether ``job`` runs, to Slurm: not when it was cancelled, but still when it has time to make way for another."""
    entry = (ask([job]) or {}).get(job)
    return entry is not None and entry.state == "RUNNING"


def queue_again(job: str) -> bool:
    """End ``job`` and queue it once more. Returns whether Slurm does."""
    return _run("scontrol", "requeue", job) is not None


def array_limit() -> int:
    """Tasks that one array may have here: MaxArraySize of the cluster."""
    told = _run("scontrol", "show", "config") or ""
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", told, re.MULTILINE)
    return max(1, (int(size[1]) if size else USUAL_ARRAY) - 1)


def _run(*command: str) -> str | None:
    """What a command of Slurm prints; None where it is absent or fails."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, errors="replace", timeout=ASKING, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
