"""``mepipe status``: how the tasks that were sent to a cluster fare, and who else is at work in the workspace.

A task says itself that it runs, is done or has failed; whether it waits, and what became of one that was killed before
it could say so, Slurm tells.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mepipe.jobs.job import DONE, FAILED, RUNNING, WAITING, Job, list_jobs
from mepipe.jobs.queue import WAITING as IN_QUEUE
from mepipe.jobs.queue import Entry, ask
from mepipe.locks import Holder
from mepipe.merging import missing_parts
from mepipe.workspace import Workspace

STATES = (WAITING, RUNNING, DONE, FAILED)
SHOWN = 20  # tasks of one state that are listed; --json lists all
SILENT = "ended without a word (killed, out of memory, or its node failed)"


@dataclass(frozen=True)
class TaskStatus:
    """One task. reason: why it waits or has failed; log: where it writes; slurm: its id; attempts: begun so far."""

    number: int
    state: str
    reason: str
    log: Path
    slurm: str
    node: str
    attempts: int
    seconds: float | None

    @property
    def alive(self) -> bool:
        """Whether Slurm still has it."""
        return self.state in (WAITING, RUNNING) and self.slurm != ""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "log": str(self.log)}


@dataclass(frozen=True)
class JobStatus:
    """A job and its tasks."""

    job: Job
    tasks: list[TaskStatus]

    @property
    def counts(self) -> Counter[str]:
        return Counter(t.state for t in self.tasks)


@dataclass(frozen=True)
class Status:
    """What ``mepipe status`` shows. at_work: stage or part -> who holds it; parts: of --shard, what is missing."""

    jobs: list[JobStatus]
    at_work: dict[str, Holder]
    slurm: bool
    parts: list[str]

    def as_dict(self) -> dict[str, Any]:
        jobs = [
            {"job": j.job.name, "command": j.job.command, "counts": {s: j.counts[s] for s in STATES},
             "tasks": [t.as_dict() for t in j.tasks]}
            for j in self.jobs
        ]  # fmt: skip
        return {"jobs": jobs, "at_work": {k: asdict(h) for k, h in self.at_work.items()}, "slurm": self.slurm,
                "parts": self.parts}  # fmt: skip

    def lines(self) -> list[str]:
        lines = [] if self.slurm or not self.jobs else ["Slurm does not answer here: tasks are as they said last"]
        for j in self.jobs:
            counts = ", ".join(f"{j.counts[s]} {s}" for s in STATES if j.counts[s])
            lines.append(f"{j.job.name}: {len(j.tasks)} tasks: {counts}")
            for state in (FAILED, RUNNING, WAITING):
                lines += _told([t for t in j.tasks if t.state == state])
        lines += [f"{k}: at work on {h.host}, pid {h.pid}, since {h.since}" for k, h in self.at_work.items()]
        lines += self.parts
        return lines or ["nothing was sent from this workspace, and nothing is at work in it"]


def _told(tasks: Sequence[TaskStatus]) -> list[str]:
    lines = []
    for t in tasks[:SHOWN]:
        facts = [
            f"job {t.slurm}" if t.slurm else "",
            f"on {t.node}" if t.node else "",
            f"attempt {t.attempts}" if t.attempts > 1 else "",
        ]
        about = ", ".join(filter(None, facts))
        more = f"  {t.reason}" if t.reason else ""
        log = f"  {t.log}" if t.state == FAILED and t.log.is_file() else ""
        lines.append(f"  {t.state:8} task {t.number}" + (f" ({about})" if about else "") + more + log)
    if len(tasks) > SHOWN:
        lines.append(f"  {tasks[0].state:8} ... and {len(tasks) - SHOWN} more: --json lists all")
    return lines


def status(ws: Workspace) -> Status:
    """How all that was sent from ``ws`` fares, and who holds a lock of it now.

    Parameters
    ----------
    ws
        The workspace.

    Returns
    -------
    Status
        Its jobs with their tasks; ``lines()`` and ``as_dict()`` show it.

    Raises
    ------
    DataError
        A job's file is damaged.
    """
    jobs = list_jobs(ws)
    told = ask(i for job in jobs for i in job.sent.values())
    holders = {p.stem: Holder.of(p) for p in sorted(ws.locks.glob("*.json"))}
    at_work = {stage: h for stage, h in holders.items() if h is not None and not _gone(h, told)}
    parts = filter(None, (missing_parts(ws, p.parent.name) for p in sorted(ws.root.glob("prepared/*/.parts"))))
    return Status([JobStatus(job, _statuses(job, told)) for job in jobs], at_work, told is not None, list(parts))


def _gone(holder: Holder, told: dict[str, Entry] | None) -> bool:
    """Whether who holds a lock has ended; of a task of ours Slurm has said so already."""
    entry = (told or {}).get(holder.job)
    return holder.gone() if entry is None else not entry.alive


def statuses(job: Job) -> list[TaskStatus]:
    """The tasks of one job as they are now."""
    return _statuses(job, ask(job.sent.values()))


def _statuses(job: Job, told: dict[str, Entry] | None) -> list[TaskStatus]:
    return [_status(job, n, told) for n in range(1, job.tasks + 1)]


def _status(job: Job, number: int, told: dict[str, Entry] | None) -> TaskStatus:
    said, slurm = job.state(number), job.sent.get(str(number), "")
    entry = (told or {}).get(slurm)
    state, reason = _judged(said, slurm, entry, answered=told is not None)
    seconds = said.get("seconds")
    if state == RUNNING and "since" in said:
        seconds = round(time.time() - said["since"], 1)
    node = entry.node if entry and entry.node else said.get("host", "") if state == RUNNING else ""
    return TaskStatus(number, state, reason, job.log(number), slurm, node, said.get("attempt", 0), seconds)


def _judged(said: dict[str, Any], slurm: str, entry: Entry | None, *, answered: bool) -> tuple[str, str]:
    """State and reason of a task, from what it has said and what Slurm says."""
    last = said.get("state")
    if last == DONE:
        return DONE, ""
    if entry is not None and entry.alive:
        if entry.state in IN_QUEUE:
            return WAITING, entry.reason if entry.reason != "None" else ""
        return RUNNING, ""
    if not slurm:
        return WAITING, "not submitted"
    if last == FAILED:
        return FAILED, said.get("reason", "")
    if not answered:
        return last or WAITING, said.get("reason", "")
    word = entry.state if entry else "gone"
    if last is None and word == "CANCELLED":
        return FAILED, "cancelled before it began"
    return FAILED, f"{word}: {SILENT}" if last in (RUNNING, None) else f"{word}: {said.get('reason', SILENT)}"
