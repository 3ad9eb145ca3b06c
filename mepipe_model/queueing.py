"""Folds over devices: every slot is a process of its own, bound to one device, that takes the next fold when free.

A fold that fails costs itself and no other: what it raised comes back as a Failure.  A process that dies has its
fold tried once more after all others.  Where several slots share a device and its memory runs out, one of them
closes and the fold goes to the end of the queue, so that as many run side by side as fit, down to one.
"""

from __future__ import annotations

import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from mepipe.errors import MepipeError, one_line
from mepipe.executors import die_with_parent, undisturbed
from mepipe.stopping import Stopped

TRIES = 2  # of a fold whose process dies: once may have been a neighbour's fault (memory), twice is its own
DYING = 10.0  # seconds from the end of a process's pipe to its exit status


@dataclass(frozen=True)
class Failure:
    """A fold that raised. reason: one line; trace: for a bug report; memory: it ran out of memory; stopped: it was
    asked to end, and goes on another time.
    """

    reason: str
    trace: str = ""
    memory: bool = False
    stopped: bool = False

    @classmethod
    def of(cls, error: Exception) -> Failure:
        known = isinstance(error, MepipeError)
        reason = str(error) if known else one_line(f"{type(error).__name__}: {error}".rstrip(": "))
        # torch's own error is known by its name: this module must not import torch
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        memory = memory or "can't allocate memory" in str(error)  # torch's allocator on the CPU
        return cls(reason, "" if known else traceback.format_exc(), memory, isinstance(error, Stopped))


def slots(kind: str, folds: int, jobs: int | None, default: int, gpus: Sequence[str] = ()) -> list[str]:
    """The device of every slot: of ``kind`` cpu or cuda, at most ``folds`` of them.

    jobs: how many at once; default: on the CPU, when jobs is None.  On CUDA it is one per GPU, and more than one
    only when asked for: slots go round the ``gpus``, so that all are used before one gets a second fold.
    """
    names = list(gpus) if kind == "cuda" else ["cpu"]
    count = min(jobs or (len(names) if kind == "cuda" else default), folds)
    return [names[i % len(names)] for i in range(count)]


def guarded(fn: Callable[..., Any], *args: Any) -> Any:
    """fn(*args), or the Failure it ended in; Ctrl-C passes."""
    try:
        return fn(*args)
    except Exception as e:
        return Failure.of(e)


def fold_queue(
    fn: Callable[[Any], Any],
    items: Sequence[Any],
    devices: Sequence[str],
    setup: Callable[..., None],
    setup_args: tuple[Any, ...] = (),
) -> Generator[tuple[int, Any], None, None]:
    """Yield (index, fn(items[index]) or a Failure) as results come, with a process for each of ``devices``.

    Each process runs setup(device, *setup_args) before its first item.  ``fn`` and ``setup`` must be importable.
    """
    todo = deque(enumerate(items))
    deaths: Counter[int] = Counter()
    team = [Slot(device, (fn, setup, setup_args)) for device in devices]
    try:
        while todo or any(s.busy for s in team):
            _hand_out(todo, team)
            ready = wait([s.connection for s in team if s.connection is not None and s.busy])
            for slot in [s for s in team if s.connection in ready]:
                index, result, crowded = slot.take()
                memory = slot.killed or (isinstance(result, Failure) and result.memory)
                again = memory and crowded
                if again:
                    _shrink(team, slot)
                elif memory:
                    slot.end()  # whatever it still holds goes with it
                if result is None:
                    deaths[index] += 1
                    again = deaths[index] < TRIES
                    result = Failure("its process died twice (out of memory, or a crash in a library)")
                if again:
                    todo.append((index, items[index]))
                else:
                    yield index, result
    finally:
        for slot in team:
            slot.end()


def _hand_out(todo: deque[tuple[int, Any]], team: list[Slot]) -> None:
    """Give every free slot a fold, and note which devices are shared from now on."""
    for slot in team:
        if todo and not slot.busy:
            slot.give(*todo.popleft())
    shared = Counter(s.device for s in team if s.busy)
    for slot in team:
        slot.crowded |= slot.busy and shared[slot.device] > 1


def _shrink(team: list[Slot], slot: Slot) -> None:
    """End ``slot``'s process, and close the slot for good unless it is the last of its device."""
    slot.end()
    if sum(s.device == slot.device for s in team) > 1:
        team.remove(slot)


class Slot:
    """One process on one device and the fold it works on; the process starts with its first fold."""

    def __init__(self, device: str, work: tuple[Any, ...]) -> None:
        self.device = device
        self.connection: Connection | None = None
        self.crowded = False  # whether another fold shared the device while this one ran
        self.killed = False  # whether the last fold ended with the process killed, as the kernel does without memory
        self._work = work
        self._process: Any = None
        self._index: int | None = None

    @property
    def busy(self) -> bool:
        return self._index is not None

    def give(self, index: int, item: Any) -> None:
        if self._process is None:
            self._start()
        assert self.connection is not None
        self._index, self.crowded = index, False
        try:
            self.connection.send(item)
        except OSError:  # it died while idle; take() will find the closed pipe
            return

    def take(self) -> tuple[int, Any, bool]:
        """(index, result, crowded) of the fold at hand; the result is None when the process has died."""
        assert self.connection is not None
        assert self._index is not None
        index, self._index, self.killed = self._index, None, False
        try:
            return index, self.connection.recv(), self.crowded
        except (EOFError, OSError):
            self._process.join(DYING)
            self.killed = self._process.exitcode == -signal.SIGKILL
            self.end()
            return index, None, self.crowded

    def end(self) -> None:
        """Stop the process, at work or not."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            assert self.connection is not None
            self.connection.close()
        self._process = self.connection = self._index = None

    def _start(self) -> None:
        context = get_context("spawn")  # forking under torch's threads deadlocks, and CUDA does not survive it
        self.connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.device, *self._work), daemon=True)
        try:
            with undisturbed():
                process.start()
        except BaseException:  # no handle or no memory for one more process: the command ends, end() has none to stop
            self.connection.close()
            raise
        finally:
            theirs.close()  # else the pipe stays open when the process dies
        self._process = process


def _serve(connection: Connection, device: str, fn: Any, setup: Any, setup_args: tuple[Any, ...]) -> None:
    """What a slot's process does: set up once, then work on what comes until nothing does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, once
    die_with_parent()
    ready = False
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        failed = None if ready else guarded(setup, device, *setup_args)
        ready = failed is None
        connection.send(failed or guarded(fn, item))
