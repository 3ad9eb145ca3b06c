"""What runs on a node: ``Task``, which submitit starts, and the process that it watches, which does the work.

The work is in a process of its own, so that its death, whatever it is of, is told, and so that signals reach it in one
way only.  Slurm sends them to every process of a task; all but the watching one ignore them.

SIGUSR2   the time limit is near: keep what there is, be queued again (submitit's handler, which calls ``checkpoint``)
SIGTERM   scancel or preemption: keep what there is, end.  Who must make way for another job and has time for it (a
          partition's GraceTime) is not queued again by Slurm when it ends by itself: it asks for that
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mepipe.jobs.job import DONE, FAILED, RUNNING, WAITING, Job
from mepipe.jobs.queue import is_running, queue_again
from mepipe.locks import slurm_job
from mepipe.stopping import STOPPED, VARIABLE
from mepipe.workspace import make_folder

POLL = 0.2  # seconds between two looks at the process; it takes longer to start
MARGIN = 15  # seconds of the grace that are left for Slurm and for queueing again
LAST = 5.0  # seconds from Ctrl-C to the end of the process: within two it is done
TERMINATED = 20  # seconds from SIGTERM: Slurm kills after KillWait, which is 30 by default
# what libraries take for the number of their threads, when they are loaded
THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENCV_FOR_THREADS_NUM",
)  # fmt: skip


class Task:
    """Task ``number`` of the job in ``folder``: all that is sent is these two."""

    def __init__(self, folder: str, number: int) -> None:
        self.folder = folder
        self.number = number

    def __call__(self) -> str:
        """Do the task. Returns its last line; raises RuntimeError, with the reason, when it failed."""
        job = Job.load(Path(self.folder))
        signal.signal(signal.SIGTERM, self._terminated)
        attempt = job.state(self.number).get("attempt", 0) + 1
        facts = {"attempt": attempt, "host": socket.gethostname(), "pid": os.getpid(), "job": slurm_job()}
        job.stop_file(self.number).unlink(missing_ok=True)
        job.say(self.number, RUNNING, **facts, since=time.time())
        started, log = time.time(), job.log(self.number)
        start = log.stat().st_size if log.is_file() else 0
        code = self._work(job, log, first=attempt == 1)
        facts |= {"since": started, "seconds": round(time.time() - started, 1)}
        if code == 0:
            job.say(self.number, DONE, **facts)
            return f"task {self.number} is done"
        reason = _reason(code, log, start)
        job.say(self.number, FAILED, **facts, reason=reason)
        raise RuntimeError(reason)

    def checkpoint(self) -> Any:
        """Called by submitit when the time limit is near. Returns what to queue again."""
        from submitit.helpers import DelayedSubmission

        job = Job.load(Path(self.folder))
        self._stop(job, job.grace - MARGIN)
        attempt = job.state(self.number).get("attempt", 1)
        job.say(self.number, WAITING, attempt=attempt, reason="queued again: its time limit, or a preemption")
        return DelayedSubmission(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "number": self.number}  # never the process

    def _work(self, job: Job, log: Path, *, first: bool) -> int:
        """Run the process to its end. Returns its exit code, negative for a signal."""
        make_folder(log.parent)
        command = [sys.executable, "-m", "mepipe.jobs.work", self.folder, str(self.number), *(["--first"] * first)]
        environment = {**os.environ, **thread_limits(job.threads), VARIABLE: str(job.stop_file(self.number))}
        if not job.gpus:  # what was not asked for is another's, also where Slurm does not hide it
            environment["CUDA_VISIBLE_DEVICES"] = ""
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_deaf
            )
        while (code := self._process.poll()) is None:  # not wait(): a handler that runs here must be able to poll too
            time.sleep(POLL)
        return code

    def _stop(self, job: Job, patience: float) -> None:
        """Have the process keep what it has, then end it."""
        process = getattr(self, "_process", None)
        if process is None:
            return
        job.stop_file(self.number).touch()
        if job.command != "train":  # there is nothing to wait for: what is finished is kept at once
            process.send_signal(signal.SIGINT)
        for seconds, then in ((patience, signal.SIGINT), (LAST, signal.SIGKILL)):
            deadline = time.monotonic() + seconds
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(POLL)
            if process.poll() is None:
                process.send_signal(then)

    def _terminated(self, *_: object) -> None:
        job = Job.load(Path(self.folder))
        self._stop(job, TERMINATED)
        attempt = job.state(self.number).get("attempt", 1)
        if is_running(slurm_job()):
            job.say(self.number, WAITING, attempt=attempt, reason="made way for another job and is queued again")
            if queue_again(slurm_job()):
                sys.exit(128 + signal.SIGTERM)
        job.say(self.number, FAILED, attempt=attempt, reason="ended by Slurm (scancel or preemption); its work is kept")
        sys.exit(128 + signal.SIGTERM)


def thread_limits(count: int) -> dict[str, str]:
    """The environment in which OpenCV, torch, BLAS and numba start ``count`` threads in a process."""
    return dict.fromkeys(THREADS, str(count))


def _deaf() -> None:
    """In the process of the work, and so in all that it starts: Slurm's signals are for the one that watches."""
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)


def _reason(code: int, log: Path, start: int) -> str:
    """Why the process failed: its own last word of this attempt, or the signal that ended it."""
    if code == STOPPED:
        return "asked to end; its work is kept"
    if code < 0:
        return f"its process died ({signal.Signals(-code).name}{': out of memory, see --mem' if code == -9 else ''})"
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").splitlines()
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return told[-1] if told else f"exit code {code}"
