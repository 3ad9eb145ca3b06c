"""Running one function over many items in worker processes that may die.

A worker that is killed (out of memory, a crash in a decoder) costs one item, not the run: every item
that was in flight is tried once more alone, and what kills its worker again comes back as WorkerDied.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from mepipe.errors import MepipeError

AHEAD = 4  # items queued per worker: enough to keep it busy, few enough to keep memory flat


class WorkerDied(MepipeError):
    """The process that worked on an item was killed twice."""


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
    threads deadlocks).  An exception of ``fn`` is raised here; a worker that dies twice on an item yields
    a WorkerDied in place of the result.
    """
    initargs = (setup, setup_args)
    todo = iter(enumerate(items))
    while True:
        suspects = yield from _run_pool(fn, todo, jobs, initargs)
        if not suspects:
            return
        for index, item in suspects:
            yield index, _alone(fn, item, initargs)


def _run_pool(
    fn: Callable[[Any], Any], todo: Iterator[tuple[int, Any]], jobs: int, initargs: tuple[Any, ...]
) -> Iterator[tuple[int, Any]]:
    """Work until ``todo`` is empty or a worker dies. Returns the items that were in flight at that moment."""
    pool = _pool(jobs, initargs)
    flying: dict[Future[Any], tuple[int, Any]] = {}
    died = False
    try:
        while True:
            died = died or not _fill(pool, fn, todo, flying, jobs * AHEAD)
            if not flying:
                return []
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    result = future.result()
                except BrokenProcessPool:
                    died = True
                    continue
                index, _item = flying.pop(future)
                yield index, result
            if died:
                return sorted(flying.values(), key=lambda pair: pair[0])
    except BaseException:
        _kill(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _fill(
    pool: ProcessPoolExecutor,
    fn: Callable[[Any], Any],
    todo: Iterable[tuple[int, Any]],
    flying: dict[Future[Any], tuple[int, Any]],
    limit: int,
) -> bool:
    """Submit until ``limit`` items are in flight. False when the pool is already broken."""
    for index, item in islice(todo, max(limit - len(flying), 0)):
        try:
            flying[pool.submit(fn, item)] = (index, item)
        except BrokenProcessPool:
            lost: Future[Any] = Future()
            lost.set_exception(BrokenProcessPool())
            flying[lost] = (index, item)
            return False
    return True


def _alone(fn: Callable[[Any], Any], item: Any, initargs: tuple[Any, ...]) -> Any:
    with _pool(1, initargs) as pool:
        try:
            return pool.submit(fn, item).result()
        except BrokenProcessPool:
            return WorkerDied("the worker process died twice on it (out of memory, or a crash in a decoder)")


def _pool(jobs: int, initargs: tuple[Any, ...]) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=initargs)


def _start_worker(setup: Callable[..., None] | None, setup_args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, once
    die_with_parent()
    if setup is not None:
        setup(*setup_args)


def die_with_parent() -> None:
    """On Linux, let the kernel kill this process when its parent dies: an orphan must not write on."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _kill(pool: ProcessPoolExecutor) -> None:
    """Stop the workers now. The standard library has a public call for this only from Python 3.14 on."""
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.kill()
