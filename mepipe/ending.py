"""SIGTERM, with which schedulers and `kill` end a command, taken as Ctrl-C is: what is finished is kept, locks go."""

from __future__ import annotations

import os
import signal
import threading

CODE = 128 + signal.SIGTERM  # as shells say it


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def heed_sigterm() -> None:
    """Raise Terminated in this process at its first SIGTERM; those after it would only disturb what is kept then.

    Not where SIGTERM has a meaning already (a task of Slurm's), nor under torchrun, which ends its processes by it
    while they wait for each other in code that no exception reaches.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and "TORCHELASTIC_RUN_ID" not in os.environ
    ):
        signal.signal(signal.SIGTERM, _once)


def _once(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
