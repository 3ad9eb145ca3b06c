"""One shard, opened for reading: checked first, then read where its samples lie."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from mepipe.errors import DataError
from mepipe.shards.layout import Layout, widen
from mepipe.shards.sample import (
    AVERAGED,
    CHECKSUM,
    CONTENTS_PX,
    DTYPES,
    FORMAT,
    NUMBERS,
    PX,
    TEXTS,
    VERSION,
    Content,
    PathLike,
    Sample,
)


class ShardFile:
    """One shard: its attributes and samples, read and checked at once; flow is read on demand.

    HDF5 is used once, to learn where each sample lies; samples are then read from the file as they lie there.
    That is 3 times faster than through HDF5, and a plain file descriptor may be shared by threads and forks.
    Raises DataError, naming the file, for anything that is not a complete shard of this version.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        with _reading(self.path):
            self._file: BinaryIO | None = self.path.open("rb", buffering=0)
            self._identity = _identity(self._file)
            # shards never change under their name: no lock is needed, and network file systems often have none
            with h5py.File(self.path, "r", locking=False) as file:
                self._read_header(file)

    def _read_header(self, file: h5py.File) -> None:
        self.attributes = _checked_attributes(file)
        self.engine = str(self.attributes["engine"])
        self.parameters: dict[str, Any] = json.loads(self.attributes["parameters"])
        self.versions: dict[str, Any] = json.loads(self.attributes["versions"])
        self.content = _content(self.attributes)
        flow = _checked_flow(file, self.content)
        self.dtype = flow.dtype.newbyteorder("=").name
        self.compression = flow.compression
        self.samples = _read_samples(file, len(flow))
        self.checksums = _column(file, CHECKSUM, len(flow), "u")[()]
        self._layout = Layout.of(flow)

    def __len__(self) -> int:
        return len(self.samples)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def flow(self, index: int, channels: int | None = None) -> np.ndarray:
        """(C, 224, 224) float32, px: the first ``channels`` of the sample, or all."""
        out = np.empty((channels or len(self.content.channels), *self.content.shape[1:]), np.float32)
        self.read_into(index, out)
        return out

    def read_into(self, index: int, out: np.ndarray) -> None:
        """Read sample ``index`` into ``out``, C-ordered (C, 224, 224) float32: as many of its channels as fit."""
        if self.dtype == "float32" and not self._layout.filters:
            self._read(index, out)
        else:
            widen(self.stored(index)[: len(out)], out)

    def stored(self, index: int) -> np.ndarray:
        """The sample as it is stored, float32 or float16."""
        if self._layout.filters:
            data = np.empty(self._layout.sizes[index], np.uint8)
            self._read(index, data)
            with _reading(self.path):
                return self._layout.decode(index, data.tobytes())
        out = np.empty(self.content.shape, self._layout.dtype)
        self._read(index, out)
        return out

    def _read(self, index: int, out: np.ndarray) -> None:
        """Fill ``out`` with the stored bytes of sample ``index``, from their beginning."""
        with _reading(self.path):
            got = os.preadv(self._opened().fileno(), [out], self._layout.offsets[index])
        if got != out.nbytes:
            raise DataError(f"{self.path}: it ends inside sample {index}", do="run mepipe flow again")

    def _opened(self) -> BinaryIO:
        """The file; opened again in a process that got this object pickled, if it is still the same file."""
        if self._file is None:
            file = self.path.open("rb", buffering=0)
            if _identity(file) != self._identity:
                file.close()
                raise DataError(f"{self.path}: it was replaced while in use", do="open the shards again")
            self._file = file
        return self._file

    def close(self) -> None:
        """Give the file descriptor back; reading opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _identity(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever HDF5 says of a missing or damaged file, as one DataError that names it."""
    try:
        yield
    except DataError as e:
        raise e if str(path) in str(e) else DataError(f"{path}: {e.what}", do=e.do) from e
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, UnicodeDecodeError) as e:
        what = "there is no such file" if not path.exists() else f"cannot be read as a flow shard ({e})"
        raise DataError(f"{path}: {what}", do="run mepipe flow again; it replaces what is damaged") from e


def _checked_attributes(file: h5py.File) -> dict[str, Any]:
    found = dict(file.attrs)
    if found.get("format") != FORMAT:
        raise DataError(f"its format is {found.get('format')!r}, not {FORMAT!r}", do="give files made by mepipe flow")
    if found.get("version") != VERSION:
        raise DataError(
            f"it has version {found.get('version')} and this mepipe reads version {VERSION}",
            do="update mepipe, or run mepipe flow again",
        )
    if not found.get("complete"):
        raise DataError("it is not complete: its writer was stopped", do="run mepipe flow again")
    return found


def _content(found: dict[str, Any]) -> Content:
    """What the channels hold; shards written before the attribute existed hold flow in px."""
    channels = tuple(json.loads(found["channels"])) if "channels" in found else PX.channels
    span = tuple(json.loads(found["span"])) if "span" in found else None
    content = Content(channels, bool(found.get("normalised", False)), span)
    usual = content in CONTENTS_PX or len(channels) == len(PX.channels)
    if not usual or (span is not None and len(span) != 2):
        do = f"expected three names, or {', '.join(CONTENTS_PX[-1].channels)}, and two numbers"
        raise DataError(f"its channels are {channels}, its span {span}", do=do)
    return content


def _dataset_inside(file: h5py.File, name: str) -> h5py.Dataset:
    """Dataset ``name`` whose data lies in this very file: a link could make us read any other file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"it has no dataset {name!r} of its own")
    data = file[name]
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise DataError(f"{name!r} is not a dataset inside the file")
    return data


def _checked_flow(file: h5py.File, content: Content) -> h5py.Dataset:
    flow = _dataset_inside(file, "flow")
    if flow.shape[1:] != content.shape or flow.dtype.newbyteorder("=").name not in DTYPES:
        raise DataError(f"flow is {flow.dtype} {flow.shape}", do=f"expected float32 or float16 (N, {content.shape})")
    if flow.chunks != (1, *content.shape) or file.userblock_size:
        raise DataError(f"flow is stored in pieces of {flow.chunks}", do="expected one sample each")
    return flow


def _column(file: h5py.File, name: str, count: int, kind: str) -> h5py.Dataset:
    """The (count,) dataset ``name``; kind: "i" or "u" numbers, "O" UTF-8 text."""
    column = _dataset_inside(file, name)
    text = h5py.check_string_dtype(column.dtype) is not None
    if column.shape != (count,) or text != (kind == "O") or (not text and column.dtype.kind != kind):
        raise DataError(f"{name} is {column.dtype} {column.shape}, for {count} samples")
    return column


def _read_samples(file: h5py.File, count: int) -> list[Sample]:
    columns = {name: _column(file, name, count, "O").asstr()[()].tolist() for name in TEXTS}
    numbers = [*NUMBERS, *(name for name in AVERAGED if name in file)]
    columns |= {name: _column(file, name, count, "i")[()].tolist() for name in numbers}
    return [Sample(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
