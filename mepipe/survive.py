"""`mepipe flow` outlives its own death: by a crash in a decoder or an engine, or by a kernel that is short of memory.

Threads compute the pairs, and all threads die together.  So the command forks before it loads anything: the child
works, and the parent waits.  Memory that both share says which pairs were at work when the child died.

All but these go on in a new child, as fast as before; at the end these are tried alone, one at a time.  What kills
its process again is refused by name.  `flow_corpora` called from Python has one process, and nothing of this.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from mepipe.errors import MepipeError
from mepipe.executors import die_with_parent, undisturbed

CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGKILL}
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
STILLBORN = 2  # deaths in a row with no pair at work: then it is not for a pair
SLOTS, SLOT = 2048, 512  # pairs at work at once, bytes for the name of one: a subject and a clip have 100 each at most


class AtWork:
    """The names of the pairs at work, in memory that a forked process shares. Threads may use it together."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SLOTS * SLOT)
        self._free = deque(range(SLOTS))

    @contextlib.contextmanager
    def on(self, names: Sequence[str]) -> Iterator[None]:
        """The pairs ``names`` are at work inside the block; only the death of the process leaves them there."""
        slots = [self._free.popleft() for _ in names]
        for slot, name in zip(slots, names, strict=True):
            self._write(slot, name.encode()[: SLOT - 1])
        try:
            yield
        finally:
            for slot in slots:
                self._write(slot, b"")
                self._free.append(slot)

    def _write(self, slot: int, name: bytes) -> None:
        self._memory[slot * SLOT : (slot + 1) * SLOT] = name.ljust(SLOT, b"\0")

    def take(self) -> list[str]:
        """The names that are there, which are removed."""
        slots = range(SLOTS)
        names = [self._memory[slot * SLOT : (slot + 1) * SLOT].rstrip(b"\0").decode(errors="replace") for slot in slots]
        self._memory[:] = bytes(len(self._memory))
        return [name for name in names if name]


@dataclass
class Care:
    """What the working process has to know of pairs that may kill it.

    at_work: where it says what it is doing.  left_out: pairs not to touch.  alone: compute one pair at a time.
    last: nothing is tried after this.  since: when the command began (ns since the epoch), None in its first process.
    refused: pairs that have killed a process alone, and how.
    """

    at_work: AtWork = field(default_factory=AtWork)
    left_out: frozenset[str] = frozenset()
    alone: bool = False
    last: bool = True
    since: int | None = None
    refused: dict[str, str] = field(default_factory=dict)

    def tell(self) -> None:
        """Raise MepipeError that names the refused pairs, if there are any."""
        if self.refused:
            named = ", ".join(f"{name} ({how})" for name, how in self.refused.items())
            do = "all others are done; run mepipe prepare --force for these clips, or the same command to try again"
            raise MepipeError(f"refused, for they killed the process that computed them twice: {named}", do=do)


def survive(say: Callable[[str], None]) -> Care:
    """Fork; returns in every child, which has to do the work, and never in the parent, which ends as the last child.

    To be called before threads and libraries are there.  Raises MepipeError in the parent when children die without
    a pair at work.
    """
    care, suspects, stillborn, began = Care(), set[str](), 0, time.time_ns()
    while True:
        with undisturbed():
            child = _fork()
            if child == 0:
                return care
            before = {s: signal.signal(s, partial(_pass_on, child)) for s in PASSED_ON}
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for number, handler in before.items():
            signal.signal(number, handler)
        if -code not in CRASHES:
            if code or care.last:
                _leave(code)
            care = Care(care.at_work, alone=True, since=began)
            continue
        how, names = signal.Signals(-code).name, care.at_work.take()
        stillborn = 0 if names else stillborn + 1
        if stillborn == STILLBORN:
            do = "what is finished is kept; free memory, or try another --engine"
            raise MepipeError(f"the process that computes flow died ({how}) before it had a pair", do=do)
        refused = {**care.refused, **(dict.fromkeys(names, how) if care.alone else {})}
        suspects |= set() if care.alone else set(names)
        left_out = frozenset(refused if care.alone else suspects)
        say(f"the process that computes flow died ({how}) at work on {', '.join(names) or 'no pair'}; it goes on")
        care = Care(care.at_work, left_out, care.alone, care.alone or not suspects, began, refused)


def _fork() -> int:
    """os.fork() whose child dies with us and takes one Ctrl-C: a second would only disturb what it keeps then."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt_once)
    return child


def _interrupt_once(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _pass_on(child: int, number: int, _frame: object) -> None:
    """A Ctrl-C or SIGTERM meant for the command; the child may have it already (a terminal), and takes only one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _leave(code: int) -> None:
    """End as the child did, without Python's way out: what there was to say and to clean up, it has."""
    os._exit(code if code >= 0 else 128 - code)
