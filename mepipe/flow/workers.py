"""Threads for the work on pairs: results in order, and nobody waits for the rest when the command is stopped."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from mepipe.settings import PAIR_THREAD

In = TypeVar("In")
Out = TypeVar("Out")
PATIENCE = 0.8  # seconds: a pair takes less in the engines that run here, and Ctrl-C has to be done within two


class Workers:
    """``count`` threads that call what they are given, first come, first served.

    Unlike those of concurrent.futures they are daemons: a process that ends does not wait for the calls it gave up.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._calls: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"{PAIR_THREAD}{n}") for n in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., Out], *args: Any) -> Future[Out]:
        future: Future[Out] = Future()
        self._calls.put((future, fn, args))
        return future

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, fn, args = call
            if self._stopped:
                future.cancel()
                continue
            try:
                future.set_result(fn(*args))
            except BaseException as e:  # whoever asks for the result gets it
                future.set_exception(e)

    def stop(self, patience: float = PATIENCE) -> None:
        """Begin nothing more; wait so many seconds at most for what has begun."""
        self._stopped = True
        for _ in self._threads:
            self._calls.put(None)
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def in_order(workers: Workers, fn: Callable[[In], Out], items: Iterable[In], ahead: int) -> Iterator[Out]:
    """fn(item) of every item, in order, with up to ``ahead`` of them under way or waiting to be taken.

    Raises what ``fn`` raises, when it is the turn of that item.
    """
    flying: deque[Future[Out]] = deque()
    for item in items:
        flying.append(workers.submit(fn, item))
        if len(flying) >= ahead:
            yield flying.popleft().result()
    while flying:
        yield flying.popleft().result()
