"""Parsers that do what none may do, for inputs that do not begin as the sound one: the harness must say so."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from mepipe.errors import DataError
from security.fuzzing import Target

SOUND = b"A" * 8


def raises() -> None:
    raise ZeroDivisionError("x")


def says_two_lines() -> None:
    error = DataError("a")
    error.args = ("a\nb",)
    raise error


def refuses() -> None:
    raise DataError("no")


def target(do) -> Target:
    def parse(path: Path) -> None:
        if path.read_bytes()[:4] != SOUND[:4]:
            do()

    return Target(lambda folder: [SOUND], ".bin", parse)


TARGETS = {
    "raises": target(raises),
    "crashes": target(lambda: ctypes.string_at(0)),
    "exits": target(lambda: os._exit(3)),
    "hangs": target(lambda: time.sleep(60)),
    "two lines": target(says_two_lines),
    "refuses": target(refuses),
}
