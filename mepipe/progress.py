"""Progress on stderr with rate and ETA; silent off a terminal and under --no-progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
_wanted = True


def switch_off() -> None:
    """What --no-progress does."""
    global _wanted
    _wanted = False


@contextmanager
def bar(what: str, unit: str) -> Iterator[Progress]:
    """A progress(done, total) callback that draws one line for ``what`` in ``unit`` per second."""
    if not _wanted or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, file=sys.stderr, dynamic_ncols=True) as line:

        def progress(done: int, total: int) -> None:
            line.total = total
            line.update(done - line.n)

        yield progress


def say(text: str) -> None:
    """A line for the reader, on stderr: results that scripts read go to stdout."""
    print(text, file=sys.stderr, flush=True)
