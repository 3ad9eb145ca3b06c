"""Writing a shard: sample by sample, under its name only when it is whole."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.shards.content import PX, AnyContent
from mepipe.shards.sample import (
    AVERAGED,
    CHECKSUM,
    COMPRESSIONS,
    FACTS,
    MAX_SAMPLES,
    NUMBERS,
    TEXTS,
    VERSION,
    PathLike,
    Sample,
    checksum_of,
    facts_checksum,
)
from mepipe.workspace import atomic_file, write_failed

SYNC_EVERY = 64  # samples, 40 MB: what is left to bring to the disk at the end takes no second, even when interrupted


class ShardWriter:
    """Writes one shard sample by sample; the file appears under its name when the ``with`` block ends well.

        with ShardWriter(path, engine=..., parameters=..., versions=...) as shard:
            shard.append(sample, flow)

    Raises UsageError for wrong options, DataError for a flow or text that cannot be stored, MepipeError when
    the disk is full or refuses; then no file, half file or temporary is left.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        engine: str,
        parameters: dict[str, Any],
        versions: dict[str, Any],
        dtype: str | None = None,
        compression: str | None = None,
        content: AnyContent = PX,
    ) -> None:
        dtype = dtype or content.dtypes[0]
        if dtype not in content.dtypes:
            raise UsageError(f"shard dtype {dtype!r}", do=f"valid: {', '.join(content.dtypes)}")
        if compression not in COMPRESSIONS:
            raise UsageError(f"shard compression {compression!r}", do="valid: gzip or none")
        self.path = Path(path)
        self._attributes = {
            "format": content.format,
            "version": VERSION,
            **content.attributes(),
            "engine": engine,
            "parameters": json.dumps(parameters, sort_keys=True),
            "versions": json.dumps(versions, sort_keys=True),
        }
        self._content, self._shape = content, content.shape
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._filters = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if compression else {}
        self._samples: list[Sample] = []
        self._checksums: list[int] = []

    def __enter__(self) -> ShardWriter:
        self._stack = contextlib.ExitStack()
        temp = self._stack.enter_context(atomic_file(self.path))
        try:
            self._disk = self._stack.enter_context(_PatientFile(temp))
        except OSError as e:
            raise write_failed(self.path, e) from e
        self._file = h5py.File(self._disk, "w")
        self._data = self._dataset(self._content.dataset, self._shape, self._dtype, **self._filters)
        self._beside = {n: self._dataset(n, shape, np.dtype("<f4")) for n, shape in self._content.beside.items()}
        return self

    def _dataset(self, name: str, shape: tuple[int, ...], dtype: np.dtype, **filters: Any) -> h5py.Dataset:
        return self._file.create_dataset(
            name, shape=(0, *shape), maxshape=(MAX_SAMPLES, *shape), chunks=(1, *shape), dtype=dtype, **filters
        )

    def __len__(self) -> int:
        """Samples appended so far."""
        return len(self._samples)

    def append(self, sample: Sample, flow: np.ndarray, **beside: np.ndarray) -> None:
        """Add ``sample`` with its ``flow`` (C, 224, 224) in px.

        Of faces: with its RGB crops, (224, 224, 3) or (T, 224, 224, 3) uint8, and beside them landmarks=(68, 2) in px
        of the crop, all NaN where none were found, and votes=(K,) where the content has them.
        """
        index = len(self._samples)
        if index == MAX_SAMPLES:
            raise UsageError(f"more than {MAX_SAMPLES} samples for {self.path}", do="start the next shard")
        stored = self._stored(sample, np.asarray(flow))
        others = {name: self._stored_beside(sample, name, beside.get(name)) for name in self._beside}
        self._data.resize(index + 1, axis=0)
        if self._filters:
            self._data[index] = stored
        else:  # past HDF5's cache of chunks, which would only copy it once more
            self._data.id.write_direct_chunk((index, *[0] * stored.ndim), stored)
        for name, values in others.items():
            self._beside[name].resize(index + 1, axis=0)
            self._beside[name][index] = values
        self._checksums.append(checksum_of([stored, *others.values()]))
        self._samples.append(sample)
        if len(self._samples) % SYNC_EVERY == 0:
            self._disk.sync()
        self._check_disk()

    def _stored(self, sample: Sample, flow: np.ndarray) -> np.ndarray:
        name, kind = self._content.dataset, self._dtype.kind
        if flow.shape != self._shape or flow.dtype.kind != kind:
            do = f"give {'floats' if kind == 'f' else 'uint8'} of shape {self._shape}"
            raise DataError(f"{sample}: {name} is {flow.dtype} {flow.shape}", do=do)
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(flow, dtype=self._dtype)
        if not np.isfinite(stored).all():
            raise DataError(f"{sample}: flow holds NaN, infinity, or more than {self._dtype} can")
        for name in TEXTS:
            _check_text(sample, name)
        return stored

    def _stored_beside(self, sample: Sample, name: str, values: np.ndarray | None) -> np.ndarray:
        shape = self._content.beside[name]
        found = () if values is None else np.shape(values)
        if values is None or found != shape:
            raise DataError(f"{sample}: {name} is {found}", do=f"give floats of shape {shape}")
        return np.ascontiguousarray(values, dtype="<f4")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException:
            self._abandon()
            raise
        self._stack.close()

    def _abandon(self) -> None:
        """Close everything and have atomic_file remove the temporary; who saw the error raises it."""
        self._file.close()
        self._stack.__exit__(MepipeError, MepipeError("unfinished"), None)

    def _check_disk(self) -> None:
        if self._disk.error is not None:
            raise write_failed(self.path, self._disk.error) from self._disk.error

    def _finish(self) -> None:
        averaged = [name for name in AVERAGED if any(getattr(s, name) != 1 for s in self._samples)]
        columns = {name: [getattr(s, name) for s in self._samples] for name in (*TEXTS, *NUMBERS, *averaged)}
        for name, column in columns.items():
            dtype = h5py.string_dtype("utf-8") if name in TEXTS else "<i4"
            self._file.create_dataset(name, data=column, dtype=dtype)
        self._file.create_dataset(CHECKSUM, data=self._checksums, dtype="<u4")
        self._file.attrs.update({**self._attributes, FACTS: facts_checksum(self._attributes, columns)})
        self._file.flush()
        self._file.attrs["complete"] = True
        self._file.close()
        self._check_disk()


class _PatientFile(io.FileIO):
    """A file for HDF5 that keeps the first failed write to itself, in ``error``.

    HDF5 that learns of a full disk can no longer close the file: it prints tracebacks and may crash the process.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest and self.error is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as e:
                self.error = e
        return size

    def sync(self) -> None:
        """Have what was written so far on the disk."""
        try:
            os.fsync(self.fileno())
        except OSError as e:
            self.error = self.error or e

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as e:
            self.error = self.error or e
            return self.tell() if size is None else size


def write_shard(
    path: PathLike,
    samples: Sequence[Sample],
    flows: Iterable[np.ndarray],
    *,
    engine: str,
    parameters: dict[str, Any],
    versions: dict[str, Any],
    dtype: str | None = None,
    compression: str | None = None,
    content: AnyContent = PX,
) -> None:
    """Write ``samples`` and their ``flows`` as a shard: whole, or not at all.

    Parameters
    ----------
    path
        The file.
    samples
        Who and what each flow is of.
    flows
        One (C, 224, 224) float32 after the other.
    engine, parameters, versions
        What made them, for the record.
    dtype
        "float32" or "float16"; None is the first that the content may have.
    compression
        None or "gzip".
    content
        What the channels hold; by default u, v and magnitude in px.

    Raises
    ------
    DataError
        More or fewer flows than samples; otherwise as ``ShardWriter``.
    """
    with ShardWriter(
        path,
        engine=engine,
        parameters=parameters,
        versions=versions,
        dtype=dtype,
        compression=compression,
        content=content,
    ) as shard:
        remaining = iter(flows)
        for i, sample in enumerate(samples):
            flow = next(remaining, None)
            if flow is None:
                raise DataError(f"{path}: {len(samples)} samples but {i} flows")
            shard.append(sample, flow)
        if next(remaining, None) is not None:
            raise DataError(f"{path}: {len(samples)} samples but more flows")


def _check_text(sample: Sample, name: str) -> None:
    text = getattr(sample, name)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{sample}: {name} {text!r} is not valid text") from None
    if "\0" in text:
        raise DataError(f"{sample}: {name} {text!r} holds a NUL")
