"""What a shard says of itself, read through HDF5: attributes, samples, and where the bytes of each lie.

HDF5's C library was written for files that their owner made.  One changed byte in a file's structure can send it into
an endless loop or a crash (see SECURITY.md), so this runs in a process of its own: see ``apart``.
All that comes back are JSON values.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mepipe.errors import DataError
from mepipe.shards.content import CONTENTS, again, content_of, maker
from mepipe.shards.sample import (
    AVERAGED,
    CHECKSUM,
    FACTS,
    MAX_SAMPLES,
    NUMBERS,
    TEXTS,
    VERSION,
    facts_checksum,
)

MAX_TEXT = 10_000  # characters of a name or attribute; parameters and versions have some hundred
MAX_ATTRIBUTES = 100
KNOWN_FILTERS = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE)


def read_header(path: Path) -> dict[str, Any]:
    """The header of the shard at ``path``: JSON values only, as ShardFile takes them.

    Raises DataError, naming the file, for anything that is no complete shard of this version.
    """
    # shards never change under their name: no lock is needed, and network file systems often have none
    with reading(path), h5py.File(path, "r", locking=False) as file:
        attributes = _checked_attributes(file)
        content = content_of(attributes)
        main = _checked_data(file, content.dataset, content.shape, content.dtypes)
        samples = _read_samples(file, len(main))
        _check_facts(attributes, samples)
        beside = {n: _checked_data(file, n, shape, ("float32",), len(main)) for n, shape in content.beside.items()}
        size = path.stat().st_size
        return {
            "attributes": attributes,
            "dtype": main.dtype.newbyteorder("=").name,
            "compression": main.compression,
            "samples": samples,
            "checksums": _column(file, CHECKSUM, len(main), "u")[()].tolist(),
            "layout": _layout(main, size),
            "beside": {name: _layout(data, size) for name, data in beside.items()},
        }


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever HDF5 says of a missing or damaged file, as one DataError that names it."""
    try:
        yield
    except DataError as e:
        what = e.what if str(path) in e.what else f"{path}: {e.what}"
        raise DataError(what, do=e.do and e.do.replace("mepipe flow", maker(path))) from e
    except MemoryError as e:
        raise DataError(f"{path}: its structure asks for more memory than a shard needs", do="get it again") from e
    except Exception as e:  # h5py raises a dozen kinds for damaged files, AttributeError and SystemError among them
        what = "there is no such file" if not path.exists() else f"cannot be read as a shard ({e})"
        raise DataError(f"{path}: {what}", do=again(path)) from e


def _checked_attributes(file: h5py.File) -> dict[str, Any]:
    if len(file.attrs) > MAX_ATTRIBUTES:
        raise DataError(f"it has {len(file.attrs)} attributes", do="give files made by mepipe flow")
    found = {name: _plain(name, file.attrs.get_id(name), file.attrs) for name in file.attrs}
    if found.get("format") not in CONTENTS:
        what = f"its format is {found.get('format')!r}, not {' or '.join(map(repr, CONTENTS))}"
        raise DataError(what, do="give files made by mepipe flow")
    if found.get("version") != VERSION:
        raise DataError(
            f"it has version {found.get('version')} and this mepipe reads version {VERSION}",
            do="update mepipe, or run mepipe flow again",
        )
    if not found.get("complete"):
        raise DataError("it is not complete: its writer was stopped", do="run mepipe flow again")
    for name in ("engine", "parameters", "versions"):
        if not isinstance(found.get(name), str):
            raise DataError(f"its attribute {name} is no text", do="give files made by mepipe flow")
    for name in ("parameters", "versions"):
        if not isinstance(json.loads(found[name]), dict):
            raise DataError(f"its attribute {name} is no JSON object", do="give files made by mepipe flow")
    return found


def _plain(name: str, stored: h5py.h5a.AttrID, attributes: h5py.AttributeManager) -> Any:
    """An attribute as a JSON value. Its size is looked at before it is read."""
    if math.prod(stored.shape) > 1 or stored.get_storage_size() > MAX_TEXT:
        raise DataError(f"its attribute {name} has {stored.shape} values", do="give files made by mepipe flow")
    value = attributes[name]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if not isinstance(value, str | int | float | bool) or len(str(value)) > MAX_TEXT:
        raise DataError(f"its attribute {name} is {type(value).__name__}", do="give files made by mepipe flow")
    return value


def _dataset_inside(file: h5py.File, name: str) -> h5py.Dataset:
    """Dataset ``name`` whose data lies in this very file: a link could make us read any other file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"it has no dataset {name!r} of its own")
    data = file[name]
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise DataError(f"{name!r} is not a dataset inside the file")
    return data


def _checked_data(
    file: h5py.File, name: str, shape: tuple[int, ...], dtypes: Sequence[str], count: int | None = None
) -> h5py.Dataset:
    """The dataset of samples ``name``, (N, *shape), stored one by one. count: N, where it is known."""
    data = _dataset_inside(file, name)
    if data.shape[1:] != shape or data.dtype.newbyteorder("=").name not in dtypes:
        raise DataError(f"{name} is {data.dtype} {data.shape}", do=f"expected {' or '.join(dtypes)} (N, {shape})")
    if data.chunks != (1, *shape) or file.userblock_size:
        raise DataError(f"{name} is stored in pieces of {data.chunks}", do="expected one sample each")
    if len(data) > MAX_SAMPLES:
        raise DataError(f"it says that it has {len(data)} samples", do=f"a shard has at most {MAX_SAMPLES}")
    if count not in (None, len(data)):
        raise DataError(f"{name} has {len(data)} samples for {count}")
    return data


def _column(file: h5py.File, name: str, count: int, kind: str) -> h5py.Dataset:
    """The (count,) dataset ``name``; kind: "i" or "u" numbers, "O" UTF-8 text."""
    column = _dataset_inside(file, name)
    text = h5py.check_string_dtype(column.dtype) is not None
    if column.shape != (count,) or text != (kind == "O") or (not text and column.dtype.kind != kind):
        raise DataError(f"{name} is {column.dtype} {column.shape}, for {count} samples")
    if column.dtype.itemsize > MAX_TEXT or (column.chunks is not None and math.prod(column.chunks) > MAX_TEXT):
        raise DataError(f"{name} is stored in pieces of {column.chunks} of {column.dtype}")
    return column


def _read_samples(file: h5py.File, count: int) -> list[list[Any]]:
    """The columns of the samples' facts, in the order of Sample's fields."""
    columns = {name: _column(file, name, count, "O").asstr()[()].tolist() for name in TEXTS}
    for text in (text for column in columns.values() for text in column):
        if len(text) > MAX_TEXT or not text.isprintable():
            raise DataError(f"a name in it has {len(text)} characters or some that cannot be shown: {text[:80]!r}")
    numbers = [*NUMBERS, *(name for name in AVERAGED if name in file)]
    columns |= {name: _column(file, name, count, "i")[()].tolist() for name in numbers}
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def _check_facts(attributes: dict[str, Any], samples: list[list[Any]]) -> None:
    """Refuse names, labels, frames and attributes in which a bit has changed since they were written."""
    names, *rows = samples
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    if FACTS in attributes and attributes[FACTS] != facts_checksum(attributes, columns):
        raise DataError("what it says of its samples does not match its checksum", do="run mepipe flow again")


def _layout(data: h5py.Dataset, file_size: int) -> dict[str, Any]:
    """Byte order, filters, and offset, size and skipped filters of each sample. Raises DataError for absent data."""
    plan = data.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if any(f not in KNOWN_FILTERS for f in filters):
        raise DataError(f"{data.name[1:]} is compressed with something else than gzip")
    chunks = [data.id.get_chunk_info_by_coord((i, *[0] * (data.ndim - 1))) for i in range(len(data))]
    size = data.dtype.itemsize * math.prod(data.shape[1:])
    for i, chunk in enumerate(chunks):
        if chunk.byte_offset is None or (not filters and chunk.size != size):
            raise DataError(f"sample {i} was never written")
        if chunk.byte_offset + chunk.size > file_size:
            raise DataError(f"it ends inside sample {i}")
    return {
        "order": data.dtype.str,
        "filters": filters,
        "offsets": [c.byte_offset for c in chunks],
        "sizes": [c.size for c in chunks],
        "skipped": [c.filter_mask for c in chunks],
    }
