"""One command at a time in each stage of a workspace: who is at work, since when, and whether it still lives.

Lock    WORKSPACE/.locks/<stage>.json, made by one process only, removed when it is done
Stale   its process is gone: no such pid, the pid has gone to a younger process, or the machine was started anew
Guard   a stale lock is replaced under flock of the folder, so that only one of two commands takes it over; where the
        file system has no flock, exclusive creation of the file still lets only one of them begin
Parts   of one cut (--shard I/N) hold locks of their own, <stage>.<I>of<N>.json, beside each other; the whole stage and
        parts of another cut wait for none of them to live
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from mepipe.errors import DataError, MepipeError
from mepipe.limits import read_json
from mepipe.shares import Share

GUARD = 1.0  # seconds to wait for another command that looks at the locks: it needs a millisecond
GRACE = 0.2  # seconds between creating a lock and writing it: far more than a living process needs


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    born: when it began, in the words of its kernel, so that a later process of the same pid is another one; boot: of
    the machine; space: its process namespace, for pids of one container mean nothing in another; job: of Slurm, which
    tells of other machines whether it still runs.  "" is unknown.
    """

    host: str
    pid: int
    since: str
    born: str = ""
    boot: str = ""
    space: str = ""
    job: str = ""

    @classmethod
    def me(cls) -> Holder:
        pid = os.getpid()
        return cls(socket.gethostname(), pid, time.strftime("%F %T"), born(pid), _boot(), _space(), slurm_job())

    @classmethod
    def of(cls, path: Path) -> Holder | None:
        """Who is written in the lock ``path``; None for nobody."""
        try:
            found = read_json(path) or {}
            known: dict[str, Any] = {f.name: str(found[f.name]) for f in fields(cls) if f.name in found}
            return cls(**known | {"pid": int(found["pid"])})
        except (DataError, ValueError, TypeError, KeyError):
            return None

    def gone(self) -> bool:
        """Whether the process is known to have ended.

        Of another machine only Slurm can tell, of another container nobody.
        """
        here = Holder.me()
        if self.host != here.host:
            return self.job != "" and (self.job == here.job or _job_ended(self.job))
        if self.boot and here.boot and self.boot != here.boot:
            return True
        if self.space and here.space and self.space != here.space:
            return False
        return not _alive(self.pid) or (self.born != "" and born(self.pid) not in ("", self.born))


@contextlib.contextmanager
def held(path: Path, stage: str, share: Share | None = None) -> Iterator[None]:
    """Hold the lock ``path`` of ``stage``, or of ``share`` of it.

    Raises MepipeError, who holds it, when it is another's, and OSError.
    """
    _take(path, stage, share)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # on a disk that has gone, the work's own error says so
            path.unlink(missing_ok=True)


def lock_path(folder: Path, stage: str, share: Share | None = None) -> Path:
    """Where the lock of ``stage`` lies in ``folder``, or that of one part of it."""
    return folder / (f"{stage}.json" if share is None else f"{stage}.{share.word}.json")


def living(folder: Path, stage: str, besides: Share | None = None) -> list[Path]:
    """The locks of ``stage`` and of its parts whose processes may be at work, but for parts of the cut of ``besides``.

    Of those it is not asked: each question for a lock of another node is one to Slurm.
    """
    named = re.compile(rf"{re.escape(stage)}(\.\d+of(\d+))?\.json")
    found = [(p, match[2]) for p in folder.glob("*.json") if (match := named.fullmatch(p.name))]
    paths = [p for p, of in found if besides is None or of != str(besides.of)]
    return [p for p in paths if (holder := Holder.of(p)) is not None and not holder.gone()]


def _take(path: Path, stage: str, share: Share | None) -> None:
    with _guard(path.parent):
        for other in living(path.parent, stage, besides=share):
            if other != path:
                _refuse_living(other, stage)
        for _ in range(3):
            try:
                with path.open("x") as file:
                    _write(file, path)
                return
            except FileExistsError:
                _refuse_living(path, stage)
                path.unlink(missing_ok=True)
    raise MepipeError(f"could not take the lock {path}", do="try again")


def _write(file: TextIO, path: Path) -> None:
    """Write who we are; a lock that says nothing, as on a full disk, must not stay."""
    try:
        json.dump(asdict(Holder.me()), file)
        file.flush()
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _refuse_living(path: Path, stage: str) -> None:
    holder = Holder.of(path)
    if holder is None:  # half-written by a process killed in between; give a living one a moment
        time.sleep(GRACE)
        holder = Holder.of(path)
    if holder is not None and not holder.gone():
        who = f"host {holder.host}, pid {holder.pid}, since {holder.since}"
        raise MepipeError(
            f"{stage} is already running in this workspace ({who})",
            do=f"wait for it, or remove {path} if that process is gone",
        )


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Be the only one who looks at the locks in ``folder``, where its file system knows flock."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + GUARD
        while time.monotonic() < deadline:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
            else:
                break
        yield
    finally:
        os.close(fd)


def slurm_job() -> str:
    """The Slurm job, or task of an array, that this process belongs to; "" outside of one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def _job_ended(job: str) -> bool:
    """Whether Slurm says that ``job`` runs no more; False where it cannot be asked."""
    from mepipe.jobs.queue import RUNNING, ask

    answer = ask([job])
    return answer is not None and (job not in answer or answer[job].state not in RUNNING)


def _alive(pid: int) -> bool:
    if pid <= 0 or _stat(pid, 0) in ("Z", "X"):  # a dead process that nobody has asked for its exit code
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def born(pid: int) -> str:
    """When process ``pid`` began: clock ticks since the machine's start; "" where the system does not say."""
    return _stat(pid, 19)


def _stat(pid: int, field: int) -> str:
    """A field of /proc/<pid>/stat, counted from the state on; before that is a name with any brackets in it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[field]
    except (OSError, IndexError):
        return ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
