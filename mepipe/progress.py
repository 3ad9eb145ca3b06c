"""Progress on stderr with rate and ETA; silent off a terminal and under --no-progress.

One line for each stage.  The log (``mepipe.logs``) is told of every stage too, on a terminal or off it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, int], None]
LOG_EVERY = 30.0  # seconds between two lines of a stage in the log: a night's run stays readable
SAID = {"said": True}  # marks a log record whose text the reader has seen already

_log = logging.getLogger("mepipe.progress")
_wanted = True
_line: Any = None  # the bar being drawn


def switch_off(off: bool = True) -> None:
    """What --no-progress does."""
    global _wanted
    _wanted = not off


@contextmanager
def bar(what: str, unit: str) -> Iterator[Progress]:
    """A progress(done, total) callback that draws one line for ``what`` in ``unit``, with rate and time left."""
    global _line
    stage = _Stage(what, unit)
    if not _wanted or not sys.stderr.isatty():
        yield stage.tick
        stage.end()
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, file=sys.stderr, dynamic_ncols=True) as line:

        def progress(done: int, total: int) -> None:
            line.total = total
            line.update(done - line.n)
            stage.tick(done, total)

        _line = line
        try:
            yield progress
        finally:
            _line = None
    stage.end()


def say(text: str) -> None:
    """A line for the reader, on stderr: results that scripts read go to stdout."""
    write(text)
    _log.info(text, extra=SAID)


def write(text: str) -> None:
    """A line on stderr, above the bar where one is drawn."""
    if _line is None:
        print(text, file=sys.stderr, flush=True)
    else:
        _line.write(text, file=sys.stderr)


class _Stage:
    """What the log is told of a stage: how far it is every LOG_EVERY seconds, and its end."""

    def __init__(self, what: str, unit: str) -> None:
        self.what, self.unit = what, unit
        self.started = self.told = time.monotonic()
        self.done = self.total = 0

    def tick(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        now = time.monotonic()
        if now - self.told >= LOG_EVERY:
            self.told = now
            left = (now - self.started) / max(done, 1) * (total - done)
            _log.info("%s: %s, about %.0f s left", self.what, self._so_far(), left)

    def end(self) -> None:
        if self.total:
            _log.info("%s: %s", self.what, self._so_far())

    def _so_far(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-9)
        return f"{self.done} of {self.total} {self.unit}s in {seconds:.1f} s ({self.done / seconds:.3g}/s)"
