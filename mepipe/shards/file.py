"""One shard, opened for reading: checked first, then read where its samples lie."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mepipe.errors import DataError
from mepipe.shards.apart import Header, headers_apart
from mepipe.shards.content import AnyContent, again, content_of
from mepipe.shards.layout import Layout, widen
from mepipe.shards.sample import PathLike, Sample, checksum_of
from mepipe.workspace import MACHINE, machine_error


class ShardFile:
    """One shard: its attributes and samples, read and checked at once; flow is read on demand.

    HDF5 is used once, in a process of its own, to learn where each sample lies; samples are then read from the file
    as they lie there.  That is 3 times faster than through HDF5, and a plain file descriptor may be shared by threads
    and forks.  header: what ``headers_apart`` said of the file, where it was asked already.
    Raises DataError, naming the file, for anything that is not a complete shard of this version.
    """

    def __init__(self, path: PathLike, header: Header | DataError | None = None) -> None:
        self.path = Path(path)
        header = headers_apart([self.path])[0] if header is None else header
        if isinstance(header, DataError):
            raise header
        with _reading(self.path):
            self._file: BinaryIO | None = self.path.open("rb", buffering=0)
            self._identity = _identity(self._file)
            self._take(header)

    def _take(self, header: Mapping[str, Any]) -> None:
        self.attributes: dict[str, Any] = header["attributes"]
        self.engine = str(self.attributes["engine"])
        self.parameters: dict[str, Any] = json.loads(self.attributes["parameters"])
        self.versions: dict[str, Any] = json.loads(self.attributes["versions"])
        self.content: AnyContent = content_of(self.attributes)
        self.dtype: str = header["dtype"]
        self.compression: str | None = header["compression"]
        columns, *rows = header["samples"]
        self.samples = [Sample(**dict(zip(columns, row, strict=True))) for row in rows]
        self.checksums: list[int] = header["checksums"]
        self._layout = Layout.of(header["layout"], self.content.shape)
        self._beside = {n: Layout.of(header["beside"][n], shape) for n, shape in self.content.beside.items()}

    def __len__(self) -> int:
        return len(self.samples)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def flow(self, index: int, channels: int | None = None) -> np.ndarray:
        """(C, 224, 224) float32, px: the first ``channels`` of the sample, or all."""
        out = np.empty((channels or self.content.shape[0], *self.content.shape[1:]), np.float32)
        self.read_into(index, out)
        return out

    def read_into(self, index: int, out: np.ndarray) -> None:
        """Read sample ``index`` into ``out``, C-ordered (C, 224, 224) float32: as many of its channels as fit.

        Of faces, ``out`` is uint8 and has the shape of ``content``.
        """
        if self.dtype == out.dtype.name and not self._layout.filters:
            self._read(self._layout, index, out)
        elif out.dtype == np.uint8:
            out[...] = self.stored(index)
        else:
            widen(self.stored(index)[: len(out)], out)

    def stored(self, index: int) -> np.ndarray:
        """The sample as it is stored: float32, float16, or of faces uint8."""
        return self._stored(self._layout, index)

    def beside(self, name: str, index: int) -> np.ndarray:
        """What is stored beside sample ``index``, float32: of faces "landmarks" (68, 2) in px of the crop, NaN where
        none were found, or "votes" (K,).
        """
        return self._stored(self._beside[name], index)

    def intact(self, index: int) -> bool:
        """Whether the bytes of sample ``index`` are those that were written."""
        parts = [self.stored(index), *(self.beside(name, index) for name in self._beside)]
        return checksum_of(parts) == self.checksums[index]

    def frame(self, index: int, t: int) -> np.ndarray:
        """Frame ``t`` of sequence ``index``, (224, 224, 3) uint8."""
        if self._layout.filters:
            return self.stored(index)[t]
        out = np.empty(self.content.shape[1:], self._layout.dtype)
        self._read(self._layout, index, out, skip=t * out.nbytes)
        return out

    def _stored(self, layout: Layout, index: int) -> np.ndarray:
        if layout.filters:
            data = np.empty(layout.sizes[index], np.uint8)
            self._read(layout, index, data)
            with _reading(self.path):
                return layout.decode(index, data.tobytes())
        out = np.empty(layout.shape, layout.dtype)
        self._read(layout, index, out)
        return out

    def _read(self, layout: Layout, index: int, out: np.ndarray, skip: int = 0) -> None:
        """Fill ``out`` with the stored bytes of sample ``index``, from their beginning or ``skip`` bytes after it."""
        with _reading(self.path):
            at = layout.offsets[index] + skip
            got = os.preadv(self._opened().fileno(), [out], at)  # type: ignore[list-item]  # numpy's stub: not before 3.12
        if got != out.nbytes:
            raise DataError(f"{self.path}: it ends inside sample {index}", do=again(self.path))

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
    """Whatever the system or a filter says of a missing or damaged file, as one DataError that names it."""
    try:
        yield
    except DataError as e:
        raise e if str(path) in str(e) else DataError(f"{path}: {e.what}", do=e.do) from e
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as e:
        if isinstance(e, OSError) and e.errno in MACHINE:  # the file may be sound: it must not be replaced
            raise machine_error(e, path) from e
        what = "there is no such file" if not path.exists() else f"cannot be read as a shard ({e})"
        raise DataError(f"{path}: {what}", do=again(path)) from e
