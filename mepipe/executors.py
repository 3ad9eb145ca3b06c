"""Running one function over many items: one after the other here, or in worker processes that may die.

An executor is a function like ``process_map``; ``--executor`` chooses one by name (slurm, which sends whole parts of
the work to a cluster instead, is in ``mepipe.jobs``).

A worker that is killed (out of memory, a crash in a decoder) costs one item, not the run: the others go on, a new
worker takes its place, and the item is tried once more at the end, alone.  What kills its worker again comes back as
WorkerDied.  Each worker has a pipe of its own: a dead one shows as a closed pipe, so nobody waits for it, and its
last item is known.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from mepipe.errors import MepipeError, UsageError
from mepipe.registry import Registry

DYING = 10.0  # seconds from the end of a worker's pipe to its exit status
STILLBORN = 3  # workers in a row that die before they can work: then it is the machine, and no item's fault
READY, VALUE, ERROR = "ready", "value", "error"  # what a worker says


def _remedy() -> str:
    """What to do when workers cannot start: a script without a guard starts itself again in each of them."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path is None or Path(path).name in ("mepipe", "mepipe.exe", "__main__.py"):
        return "free memory or lower --jobs, and run the same command again"
    return f"in {Path(path).name}, start the work below if __name__ == '__main__': (a file, not a pipe), or free memory"


EXECUTORS: Registry[Callable[..., Iterator[tuple[int, Any]]]] = Registry("executor")


def check_here(executor: str, command: str) -> None:
    """Raises UsageError for work that is to be sent to a cluster: what is called works on this machine."""
    if executor not in EXECUTORS:
        what = f"executor {executor!r}: this call works on this machine"
        raise UsageError(what, do=f"mepipe.jobs.send(workspace, {command!r}, ...) sends it to a cluster")


class WorkerDied(MepipeError):
    """The process that worked on an item was killed twice."""


@EXECUTORS.register("serial")
def serial_map(
    fn: Callable[[Any], Any],
    items: Sequence[Any],
    jobs: int = 1,
    *,
    setup: Callable[..., None] | None = None,
    setup_args: tuple[Any, ...] = (),
) -> Iterator[tuple[int, Any]]:
    """What ``process_map`` does, one item after the other in this process: for a debugger, and where none may start."""
    if items and setup is not None:
        setup(*setup_args)
    for i, item in enumerate(items):
        yield i, fn(item)


@EXECUTORS.register("local")
def process_map(
    fn: Callable[[Any], Any],
    items: Sequence[Any],
    jobs: int,
    *,
    setup: Callable[..., None] | None = None,
    setup_args: tuple[Any, ...] = (),
) -> Iterator[tuple[int, Any]]:
    """Yield (index, fn(items[index])) as results come, in any order.

    ``fn`` and ``setup`` must be importable (processes are spawned: forking under OpenCV's and torch's
    threads deadlocks).  An exception of either is raised here; a worker that dies twice on an item yields
    a WorkerDied in place of the result.  Raises MepipeError when no worker can even start.
    """
    with process_team(fn, jobs, setup=setup, setup_args=setup_args) as team:
        yield from team(items)


@contextlib.contextmanager
def process_team(
    fn: Callable[[Any], Any], jobs: int, *, setup: Callable[..., None] | None = None, setup_args: tuple[Any, ...] = ()
) -> Iterator[Callable[[Sequence[Any]], Iterator[tuple[int, Any]]]]:
    """``process_map`` of one list after the other by the same workers: as a function of the list."""
    team = _Team((fn, setup, setup_args))

    def over(items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        suspects: list[tuple[int, Any]] = []
        for index, item, outcome in team.work(enumerate(items), jobs):
            if isinstance(outcome, WorkerDied):
                suspects.append((index, item))
            else:
                yield index, outcome
        for suspect in suspects:
            for index, _item, outcome in team.work(iter([suspect]), 1):
                yield index, outcome

    try:
        yield over
    finally:
        team.end()


@contextlib.contextmanager
def serial_team(
    fn: Callable[[Any], Any],
    jobs: int = 1,
    *,
    setup: Callable[..., None] | None = None,
    setup_args: tuple[Any, ...] = (),
) -> Iterator[Callable[[Sequence[Any]], Iterator[tuple[int, Any]]]]:
    """What ``process_team`` does, in this process: ``serial_map`` of one list after the other, set up once."""
    ready = setup is None

    def over(items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        nonlocal ready
        first, ready = bool(items) and not ready, bool(items) or ready
        yield from serial_map(fn, items, setup=setup if first else None, setup_args=setup_args)

    yield over


class _Team:
    """The worker processes of one map; they start with their first item and are replaced when they die."""

    def __init__(self, task: tuple[Any, ...]) -> None:
        self._task = task
        self._workers: list[_Worker] = []
        self._stillborn = 0

    def work(self, items: Iterator[tuple[int, Any]], jobs: int) -> Iterator[tuple[int, Any, Any]]:
        """(index, item, result) of every item, ``jobs`` at once; a WorkerDied for one whose worker has died."""
        self._keep(jobs)
        while True:
            self._hand_out(items, jobs)
            # by connection: wait() gives back some of what it is given, which its types do not say
            busy: dict[Any, tuple[_Worker, tuple[int, Any]]] = {
                w.connection: (w, w.at) for w in self._workers if w.at is not None
            }
            if not busy:
                return
            for connection in wait(list(busy)):
                worker, (index, item) = busy[connection]
                said = worker.hear()
                if said is None:
                    yield index, item, self._buried(worker)
                elif said[0] == READY:
                    self._stillborn = 0
                else:
                    worker.at = None
                    yield index, item, _opened(*said)

    def _hand_out(self, items: Iterator[tuple[int, Any]], jobs: int) -> None:
        """Give every free worker an item, and start workers while there are items for them."""
        for worker in [w for w in self._workers if w.at is None]:
            if (pair := next(items, None)) is None:
                return
            worker.give(*pair)
        while len(self._workers) < jobs and (pair := next(items, None)) is not None:
            self._workers.append(_Worker(self._task))
            self._workers[-1].give(*pair)

    def _buried(self, worker: _Worker) -> WorkerDied:
        """Remove the dead ``worker``. Raises MepipeError when workers die before they can work."""
        self._workers.remove(worker)
        how = worker.end()
        self._stillborn += 0 if worker.ready else 1
        if self._stillborn == STILLBORN:
            raise MepipeError(f"worker processes cannot start ({how})", do=f"what is finished is kept; {_remedy()}")
        return WorkerDied(f"its worker process died twice ({how}: out of memory, or a crash in a decoder)")

    def _keep(self, count: int) -> None:
        """End all workers but ``count``."""
        while len(self._workers) > count:
            self._workers.pop().end()

    def end(self) -> None:
        self._keep(0)


class _Worker:
    """One process that works on what it is given, one item at a time.  at: (index, item) at hand, None when free."""

    def __init__(self, task: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.at: tuple[int, Any] | None = None
        self.ready = False
        self._process = context.Process(target=_serve, args=(theirs, *task), daemon=True)
        try:
            with undisturbed():
                self._process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()  # else the pipe stays open when the process dies

    def give(self, index: int, item: Any) -> None:
        self.at = (index, item)
        with contextlib.suppress(OSError):  # it died while idle; hear() will find the closed pipe
            self.connection.send(item)

    def hear(self) -> tuple[str, Any] | None:
        """What it says; None when it has died."""
        try:
            said = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(DYING)
            return None
        self.ready = True
        return said

    def end(self) -> str:
        """Stop the process, at work or not. Returns how it had ended: "SIGKILL", "exit code 1"."""
        code = self._process.exitcode
        self._process.kill()
        self._process.join()
        self.connection.close()
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


class _InWorker(Exception):
    """The traceback of an error, from the process in which it was raised."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _opened(kind: str, content: Any) -> Any:
    """The value a worker sent, or a WorkerDied where memory ran out; raises any other error it sent."""
    if kind == VALUE:
        return content
    error, trace = content
    if isinstance(error, MemoryError):  # what the kernel would have killed it for, said politely
        return WorkerDied("it ran out of memory twice")
    raise error from _InWorker(trace)


def _serve(
    connection: Connection, fn: Callable[[Any], Any], setup: Callable[..., None] | None, setup_args: tuple[Any, ...]
) -> None:
    """What a worker process does: set up, say so, then work on what comes until nothing does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, once
    die_with_parent()
    failed = _tried(setup, *setup_args) if setup is not None else (READY, None)
    connection.send((READY, None))
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        said = failed if failed[0] == ERROR else _tried(fn, item)
        try:
            connection.send(said)
        except OSError:  # the parent has gone
            return
        except Exception as e:  # a result or an error that cannot be pickled is a bug of ours
            connection.send((ERROR, (TypeError(f"{e} ({said[1]!r:.200})"), traceback.format_exc())))


def _tried(fn: Callable[..., Any], *args: Any) -> tuple[str, Any]:
    try:
        return VALUE, fn(*args)
    except Exception as e:
        return ERROR, (e, traceback.format_exc())


def die_with_parent() -> None:
    """On Linux, let the kernel kill this process when its parent dies: an orphan must not write on."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C while a process is started, here and for good in the process: it is the parent's to handle.

    A terminal sends it to all processes at once, and one that is only just starting would answer with a traceback.
    """
    resource_tracker.ensure_running()  # started within, it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
