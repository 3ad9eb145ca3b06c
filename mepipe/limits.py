"""How much is read of a file that a stranger made: every limit once, with its reason, and how to change it.

``MEPIPE_MAX_<NAME>`` in the environment replaces a default, in this process and in its workers.  SECURITY.md lists
them; a file beyond one is refused in one line that names file, limit and variable.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, UsageError

# FIFOs block whoever opens them for reading, unless he says that he will not wait; Windows has neither
_OPENING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Limit:
    """The most there may be of something. Calling it gives the number in force. Raises UsageError for a bad variable.

    default, unit: how much of what; why: where the number comes from.
    """

    name: str
    default: int
    unit: str
    why: str

    @property
    def variable(self) -> str:
        return f"MEPIPE_MAX_{self.name.upper()}"

    def __call__(self) -> int:
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not (text.isascii() and text.isdigit() and 0 < len(text) < 19 and int(text)):
            raise UsageError(f"{self.variable} is {text!r}", do=f"give a whole number of {self.unit}, above 0")
        return int(text)

    def exceeded(self, what: str, found: int | str) -> DataError:
        """The error to raise when ``what`` has ``found`` of it."""
        do = f"if it is sound, allow more with {self.variable}"
        return DataError(f"{what}: {found} {self.unit}, and at most {self()} are read", do=do)

    def check(self, what: str, found: int) -> None:
        """Raises DataError when ``found`` is more than the limit."""
        if found > self():
            raise self.exceeded(what, found)


IMAGE_BYTES = Limit("image_bytes", 256 << 20, "bytes", "an uncompressed frame of the pixel limit")
IMAGE_PIXELS = Limit("image_pixels", 1 << 26, "px", "67 million, 200 MB decoded; DFME's frames have 0.8 million")
IMAGE_SCANS = Limit("image_scans", 64, "JPEG scans", "a progressive JPEG has about 10, each a pass over all pixels")
VIDEO_FRAMES = Limit("video_frames", 1_000_000, "frames", "half an hour at 500 fps")
CLIP_FRAMES = Limit("clip_frames", 10_000, "frames", "20 s at 500 fps, 1.5 GB of crops")
SHEET_BYTES = Limit("sheet_bytes", 32 << 20, "bytes", "annotations have under 1 MB")
SHEET_UNPACKED = Limit("sheet_unpacked", 64 << 20, "unpacked bytes", "an xlsx of 2600 rows unpacks to under 3 MB")
SHEET_CELLS = Limit("sheet_cells", 500_000, "cells", "DFME has 2600 rows of 9; some copies have wide empty borders")
TABLE_BYTES = Limit("table_bytes", 512 << 20, "bytes", "clips.csv, predictions.csv: 300 bytes a row, a million rows")
JSON_BYTES = Limit("json_bytes", 64 << 20, "bytes", "a run's config.json with 1000 folds has 0.1 MB")
SETTINGS_BYTES = Limit("settings_bytes", 64 << 10, "bytes", "mepipe.toml with every option has 8 kB")
ARRAYS_BYTES = Limit("arrays_bytes", 4 << 30, "unpacked bytes", "an .npz of 2000 clips in float32 has 1.2 GB")
WEIGHTS_BYTES = Limit("weights_bytes", 8 << 30, "bytes", "20 times MERba's 0.4 GB")
SHARD_SECONDS = Limit("shard_seconds", 20, "seconds", "the structure of a shard of 512 samples is read in under 0.1 s")
SHARD_MEMORY = Limit("shard_memory", 4 << 30, "bytes of memory", "reading the structure of a shard takes 0.1 GB")

LIMITS = (
    IMAGE_BYTES, IMAGE_PIXELS, IMAGE_SCANS, VIDEO_FRAMES, CLIP_FRAMES, SHEET_BYTES, SHEET_UNPACKED, SHEET_CELLS,
    TABLE_BYTES, JSON_BYTES, SETTINGS_BYTES, ARRAYS_BYTES, WEIGHTS_BYTES, SHARD_SECONDS, SHARD_MEMORY,
)  # fmt: skip


def read_file(path: Path, limit: Limit, do: str = "check the path and its permissions") -> bytes:
    """The bytes of a regular file. Raises FileNotFoundError when it is absent, DataError for all else.

    Pipes, sockets and devices are refused before a byte is read: some of them never end, others never begin.
    do: what to do when the system refuses it.
    """
    try:
        descriptor = os.open(path, _OPENING)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor, which no Path is
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{path} is no file but {kind_of(status.st_mode)}", do="put a copy of the file there")
            limit.check(str(path), status.st_size)
            return file.read()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        raise DataError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}", do=do) from e


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any] | None:
    """A JSON object from a file of ours. Raises DataError when it is damaged, absent, or no regular file."""
    do = "remove it and run the command again"
    try:
        value = json.loads(read_file(path, JSON_BYTES).decode("utf-8"))
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a character ("\\ud800") can be shown to nobody
    except FileNotFoundError:
        if missing_ok:
            return None
        raise DataError(f"{path} is missing") from None
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path} cannot be read ({e})", do=do) from e
    if not isinstance(value, dict):
        raise DataError(f"{path} does not hold a JSON object", do=do)
    return value


def kind_of(mode: int) -> str:
    """What a ``st_mode`` that is no regular file's says, in words."""
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((words for test, words in kinds.items() if test(mode)), "a device")
