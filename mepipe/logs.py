"""What a command did, with time and level: ``-v`` and ``-vv`` on stderr, ``--log-file`` in a file.

Everything is logged under the standard library's logger ``mepipe``, so a script adds handlers of its own:

    logging.getLogger("mepipe").addHandler(...)

INFO (``-v``)   the command line, settings that are not the default, stages with their rates, seconds
DEBUG (``-vv``) all settings and where they came from, versions, peak memory
A file gets both, and also what the command says on stderr and the traceback of an internal error.  It is appended to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import resource
import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from mepipe import progress
from mepipe.errors import MepipeError, one_line
from mepipe.progress import SAID

LOG = logging.getLogger("mepipe")
LOG.addHandler(logging.NullHandler())  # a library says nothing unless asked to
PACKAGES = ("numpy", "opencv-contrib-python", "torch", "numba", "h5py", "dlib-bin", "triton")


class Lines(logging.Formatter):
    """One line per record whatever its text holds; a traceback follows on lines of its own."""

    def __init__(self, with_date: bool) -> None:
        head = "%(asctime)s %(levelname)-7s %(process)d " if with_date else "%(asctime)s %(levelname)-7s "
        super().__init__(head + "%(message)s", "%Y-%m-%dT%H:%M:%S%z" if with_date else "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.msg, record.args = one_line(record.getMessage()), ()
        return super().format(record)


class Stderr(logging.Handler):
    """Lines on stderr, above a progress bar; what the reader was told already is left out."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "said", False):
            progress.write(self.format(record))


class Appended(logging.FileHandler):
    """A log file. A disk that fills up later costs the log, told once, and not the command."""

    def close(self) -> None:
        with contextlib.suppress(OSError):  # told by handleError
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        LOG.removeHandler(self)
        progress.write(f"warning: the log file {self.baseFilename} can no longer be written; it ends here")


class Session:
    """The log of one command, from its command line to its exit code."""

    def __init__(self, args: Sequence[str]) -> None:
        self.args = args
        self.started = time.monotonic()
        self.handlers: list[logging.Handler] = []
        self.level = LOG.level
        self.settings: Path | None = None  # the settings file that the command was given values by

    def open(self, verbose: int = 0, file: Path | None = None) -> None:
        """verbose: 0, 1 or 2, how often -v was given. Raises MepipeError when ``file`` cannot be opened."""
        if verbose:
            self._add(Stderr(), logging.INFO if verbose == 1 else logging.DEBUG, with_date=False)
        if file is not None:
            self._add(_opened(file), logging.DEBUG, with_date=True)
        if self.handlers:
            LOG.setLevel(min(h.level for h in self.handlers))
            LOG.info("command: %s", shlex.join(["mepipe", *self.args]))
            LOG.debug("in %s on %s, pid %d", Path.cwd(), socket.gethostname(), os.getpid())
            LOG.debug("versions: %s", _versions())

    def _add(self, handler: logging.Handler, level: int, with_date: bool) -> None:
        handler.setLevel(level)
        handler.setFormatter(Lines(with_date))
        LOG.addHandler(handler)
        self.handlers.append(handler)

    def end(self, code: int) -> None:
        """The last lines: exit code, seconds, memory."""
        if self.handlers:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
            LOG.debug("peak memory of the command's own process: %.0f MB", peak)
            LOG.info("exit code %d after %.1f s", code, time.monotonic() - self.started)
        for handler in self.handlers:
            LOG.removeHandler(handler)
            handler.close()
        self.handlers = []
        LOG.setLevel(self.level)


def told_error(text: str, internal: bool = False) -> None:
    """Log an error that stands on stderr already. internal: with the traceback being handled."""
    LOG.error("error: %s", text, exc_info=internal, extra=SAID)


def _opened(file: Path) -> logging.Handler:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return Appended(file, encoding="utf-8")
    except OSError as e:
        raise MepipeError(f"--log-file: cannot write {file}: {e.strerror}", do="choose another file") from e


def _versions() -> str:
    from mepipe.workspace import versions

    found = {"python": platform.python_version(), **versions(*PACKAGES)}
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return ", ".join(f"{name} {version}" for name, version in found.items() if version) + f"; {system}"
