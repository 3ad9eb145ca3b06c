"""Headers of shards, read in a process of its own, which may crash, hang or run out of memory without harm to ours.

The reader is started once and serves this process as long as it lives; it ends when its input does.  Paths go in and
JSON comes out, one line each: nothing that it says can be code.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, MepipeError
from mepipe.limits import SHARD_MEMORY, SHARD_SECONDS, kind_of
from mepipe.shards.content import again
from mepipe.workspace import MACHINE, machine_error

Header = dict[str, Any]
START = 60.0  # seconds to start a Python that loads numpy and h5py: a second here, many on a busy network disk
LONGEST = 64 << 20  # bytes of an answer: 512 samples with names as long as they may be have under 50 MB


def headers_apart(paths: Sequence[Path]) -> list[Header | DataError]:
    """The header of each shard, or why it has none, in the order of ``paths``.

    Raises MepipeError where the machine lets no process start or no file be opened.
    """
    with _lock:
        return [_header(path) for path in paths]


def _header(path: Path) -> Header | DataError:
    try:
        mode = path.stat().st_mode
    except OSError as e:
        if e.errno in MACHINE:  # the file may be sound: it must not be replaced
            raise machine_error(e, path) from e
        return DataError(f"{path}: there is no such file", do=again(path))
    except ValueError:  # a NUL in the name
        return DataError(f"{path}: there is no such file", do=again(path))
    if not path.is_file():
        return DataError(f"{path}: it is no file but {kind_of(mode)}", do="give files made by mepipe")
    try:
        path.open("rb").close()  # the reader would only say that it cannot be read
    except OSError as e:
        if e.errno in MACHINE:
            raise machine_error(e, path) from e
    try:
        answer = _running_reader().ask(str(path.absolute()))
    except _Lost as e:
        _stop()
        return DataError(f"{path}: its structure {e}", do=again(path))
    if "error" in answer:
        return DataError(answer["error"].replace(str(path.absolute()), str(path)), do=answer["do"])
    return answer["header"]


class _Lost(Exception):
    """The reader did not survive a file: says what the file did to it."""


class _Reader:
    """The process, and one question at a time to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        # no -m, and no "" in the path: the folder one stands in may hold a stranger's files, and json.py among them
        places = [place for place in sys.path if place]
        code = f"import sys; sys.path[:] = {places!r}; from mepipe.shards.reader import serve; serve()"
        command = [sys.executable, "-c", code, str(SHARD_MEMORY())]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as e:
            raise machine_error(e, "the process that reads shards' headers") from e
        self._answers = b""
        try:
            self._read(START, "")
        except _Lost as e:
            self.stop()
            do = f"free memory, or allow more than {SHARD_MEMORY()} bytes with {SHARD_MEMORY.variable}"
            raise MepipeError("the process that reads shards' headers does not start", do=do) from e

    def ask(self, path: str) -> dict[str, Any]:
        """What the reader says of one path. Raises _Lost."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(path).encode() + b"\n")
            self._process.stdin.flush()
        seconds = SHARD_SECONDS()
        return self._read(seconds, f"cannot be read in {seconds} s (more: {SHARD_SECONDS.variable})")

    def _read(self, seconds: float, late: str) -> dict[str, Any]:
        """The next line of the reader."""
        assert self._process.stdout is not None
        descriptor, end = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._answers:
            if not wait([descriptor], max(end - time.monotonic(), 0)):  # select() takes none above 1023
                raise _Lost(late)
            block = os.read(descriptor, 1 << 16)
            if not block:
                raise _Lost("crashes HDF5's library")
            self._answers += block
            if len(self._answers) > LONGEST:
                raise _Lost("says more than a shard can")
        line, self._answers = self._answers.split(b"\n", 1)
        return json.loads(line)

    def stop(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        if self.owner == os.getpid():  # after a fork it is the other process's child
            self._process.kill()
            self._process.wait()


_lock = threading.Lock()
_reader: _Reader | None = None


def _running_reader() -> _Reader:
    global _reader  # one for all shards of this process
    if _reader is not None and _reader.owner != os.getpid():
        _stop()
    if _reader is None:
        _reader = _Reader()
    return _reader


def _stop() -> None:
    global _reader
    if _reader is not None:
        _reader.stop()
        _reader = None


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
