"""SIGTERM, with which schedulers and `kill` end a command, taken as Ctrl-C is: what is finished is kept, locks go."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CODE = 128 + signal.SIGTERM  # as shells say it


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """Inside, raise Terminated at the first SIGTERM; those after it would only disturb what is kept then.

    Not where SIGTERM has a meaning already (a task of Slurm's), nor under torchrun, which ends its processes by it
    while they wait for each other in code that no exception reaches.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and "TORCHELASTIC_RUN_ID" not in os.environ
    ):
        signal.signal(signal.SIGTERM, _once)
    try:
        yield
    finally:  # a Python script that called the command goes on, and may fork: a handler can lose a child's first signal
        if signal.getsignal(signal.SIGTERM) is _once:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _once(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
