"""Flow shards: HDF5 files of samples, written whole or not at all, checked before they are read.

    <corpus>-<NNNNN>.h5, format "mepipe.flow", version 1
    flow        (N, 3, 224, 224) float32 or float16: u (px, right), v (px, down), magnitude (px); chunk = one sample
    corpus, subject, clip, emotion, label3, label7, split, key    (N,) UTF-8
    onset, apex, offset                                           (N,) int32 frame numbers
    checksum    (N,) uint32: CRC-32 of the sample's stored bytes
    attributes  format, version, normalised=false, engine, parameters (JSON), versions (JSON), complete=true

Other programs may read them with any HDF5 library.  Nothing in them is normalised or clipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.workspace import atomic_file, hash_file, write_failed

FORMAT = "mepipe.flow"
VERSION = 1
FLOW_SHAPE = (3, 224, 224)
MAX_SAMPLES = 512  # 300 MB of float32: what a crash can lose, and what one read of a whole shard needs
DTYPES = ("float32", "float16")  # float16 rounds flow of a few px by at most 0.002 px and halves the file
COMPRESSIONS = (None, "gzip")  # float flow shrinks by a fifth and then reads 20 times slower: off by default
CHECKSUM = "checksum"
_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE)  # all that every HDF5 build can read
_NAME = re.compile(r"(?P<corpus>.+)-\d{5}\.h5")
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Sample:
    """What is known of one flow.  Labels are "" where there is none; frames are those of the corpus.

    key: hash of the crops and settings the flow was made from, given by who made it.
    """

    corpus: str
    subject: str
    clip: str
    emotion: str = ""
    label3: str = ""
    label7: str = ""
    split: str = ""
    onset: int = 0
    apex: int = 0
    offset: int = 0
    key: str = ""

    def __str__(self) -> str:
        return f"{self.corpus} {self.subject}/{self.clip}"


_TEXTS = tuple(f.name for f in fields(Sample) if f.type == "str")
_NUMBERS = tuple(f.name for f in fields(Sample) if f.type == "int")


@dataclass(frozen=True)
class Finding:
    """Something wrong with a shard.  index: the sample in the file, None for the file as a whole."""

    path: Path
    index: int | None
    sample: str
    problem: str

    def __str__(self) -> str:
        where = "" if self.index is None else f" sample {self.index} ({self.sample})"
        return f"{self.path}{where}: {self.problem}"


# --- writing ---------------------------------------------------------------------------------------


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
        dtype: str = "float32",
        compression: str | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise UsageError(f"shard dtype {dtype!r}", do=f"valid: {', '.join(DTYPES)}")
        if compression not in COMPRESSIONS:
            raise UsageError(f"shard compression {compression!r}", do="valid: gzip or none")
        self.path = Path(path)
        self._attributes = {
            "format": FORMAT,
            "version": VERSION,
            "normalised": False,
            "engine": engine,
            "parameters": json.dumps(parameters, sort_keys=True),
            "versions": json.dumps(versions, sort_keys=True),
        }
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._filters = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if compression else {}
        self._samples: list[Sample] = []
        self._checksums: list[int] = []

    def __enter__(self) -> ShardWriter:
        self._stack = contextlib.ExitStack()
        temp = self._stack.enter_context(atomic_file(self.path))
        try:
            with self._disk_errors():
                self._file = h5py.File(temp, "w")
                self._flow = self._file.create_dataset(
                    "flow",
                    shape=(0, *FLOW_SHAPE),
                    maxshape=(MAX_SAMPLES, *FLOW_SHAPE),
                    chunks=(1, *FLOW_SHAPE),
                    dtype=self._dtype,
                    **self._filters,
                )
        except MepipeError as e:
            self.__exit__(type(e), e, None)
            raise
        return self

    def append(self, sample: Sample, flow: np.ndarray) -> None:
        """Add ``sample`` with its ``flow`` (3, 224, 224) in px."""
        index = len(self._samples)
        if index == MAX_SAMPLES:
            raise UsageError(f"more than {MAX_SAMPLES} samples for {self.path}", do="start the next shard")
        stored = self._stored(sample, np.asarray(flow))
        with self._disk_errors():
            self._flow.resize(index + 1, axis=0)
            self._flow[index] = stored
        self._checksums.append(zlib.crc32(stored.tobytes()))
        self._samples.append(sample)

    def _stored(self, sample: Sample, flow: np.ndarray) -> np.ndarray:
        if flow.shape != FLOW_SHAPE or flow.dtype.kind != "f":
            raise DataError(f"{sample}: flow is {flow.dtype} {flow.shape}", do=f"give floats of shape {FLOW_SHAPE}")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(flow, dtype=self._dtype)
        if not np.isfinite(stored).all():
            raise DataError(f"{sample}: flow holds NaN, infinity, or more than {self._dtype} can")
        for name in _TEXTS:
            _check_text(sample, name)
        return stored

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                with self._disk_errors():
                    self._finish()
            except MepipeError as e:
                self._abandon(type(e), e, e.__traceback__)
                raise
            self._stack.close()
        else:
            self._abandon(kind, error, trace)

    def _finish(self) -> None:
        text = h5py.string_dtype("utf-8")
        for name in _TEXTS:
            self._file.create_dataset(name, data=[getattr(s, name) for s in self._samples], dtype=text)
        for name in _NUMBERS:
            self._file.create_dataset(name, data=[getattr(s, name) for s in self._samples], dtype="<i4")
        self._file.create_dataset(CHECKSUM, data=self._checksums, dtype="<u4")
        self._file.attrs.update(self._attributes)
        self._file.flush()
        self._file.attrs["complete"] = True
        self._file.close()

    def _abandon(
        self, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what can be closed (HDF5 fails again on a full disk) and let atomic_file remove the temporary."""
        with contextlib.suppress(Exception):
            self._file.close()
        self._stack.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """HDF5 reports a failed write as OSError, RuntimeError or ValueError, as the moment has it."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as e:
            raise write_failed(self.path, e if isinstance(e, OSError) else OSError(str(e))) from e


def write_shard(
    path: PathLike,
    samples: Sequence[Sample],
    flows: Iterable[np.ndarray],
    *,
    engine: str,
    parameters: dict[str, Any],
    versions: dict[str, Any],
    dtype: str = "float32",
    compression: str | None = None,
) -> None:
    """Write ``samples`` and their ``flows`` (one (3, 224, 224) after the other) as a shard.

    Raises as :class:`ShardWriter`, and DataError when there are more or fewer flows than samples.
    """
    options = {"engine": engine, "parameters": parameters, "versions": versions}
    with ShardWriter(path, **options, dtype=dtype, compression=compression) as shard:
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


# --- reading ---------------------------------------------------------------------------------------


class ShardFile:
    """One shard: its attributes and samples, read and checked at once; flow is read on demand.

    Raises DataError, naming the file, for anything that is not a complete shard of this version.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self._handle: tuple[int, h5py.Dataset] | None = None  # (pid, dataset): see _dataset
        with _reading(self.path), _open(self.path) as file:
            self.attributes = _checked_attributes(file)
            self.engine = str(self.attributes["engine"])
            self.parameters: dict[str, Any] = json.loads(self.attributes["parameters"])
            self.versions: dict[str, Any] = json.loads(self.attributes["versions"])
            flow = _checked_flow(file)
            self.dtype = flow.dtype.newbyteorder("=").name
            self.compression = flow.compression
            self.samples = _read_samples(file, len(flow))
            self.checksums = _column(file, CHECKSUM, len(flow), "u")[()]

    def __len__(self) -> int:
        return len(self.samples)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def flow(self, index: int) -> np.ndarray:
        """(3, 224, 224) float32, px."""
        out = np.empty(FLOW_SHAPE, np.float32)
        self.read_into(index, out)
        return out

    def read_into(self, index: int, out: np.ndarray) -> None:
        """Read sample ``index`` into ``out``, C-ordered (3, 224, 224) float32 or the stored type."""
        with _reading(self.path):
            self._dataset().read_direct(out, np.s_[index])

    def stored(self, index: int) -> np.ndarray:
        """The sample as it is stored, float32 or float16."""
        out = np.empty(FLOW_SHAPE, np.dtype(self.dtype).newbyteorder("<"))
        self.read_into(index, out)
        return out

    def _dataset(self) -> h5py.Dataset:
        """The open dataset of this process; a handle inherited by a fork is left to the parent."""
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), _open(self.path)["flow"])
        return self._handle[1]

    def close(self) -> None:
        if self._handle and self._handle[0] == os.getpid():
            self._handle[1].file.close()
        self._handle = None


class Shards(Sequence[tuple[np.ndarray, Sample]]):
    """Samples of one or many shards, in order: ``shards[i]`` is (flow (3, 224, 224) float32 in px, Sample).

    Metadata is in memory (``samples``); flow is read when asked for, by a handle of the process that asks,
    so it may be pickled and used across fork and spawn.
    """

    def __init__(self, files: Sequence[ShardFile], corpora: Sequence[str] | None = None) -> None:
        self.files = list(files)
        self._where = [
            (file, i)
            for file in self.files
            for i, sample in enumerate(file.samples)
            if corpora is None or sample.corpus in corpora
        ]
        self.samples = [file.samples[i] for file, i in self._where]

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]

    @property
    def engine(self) -> str:
        return self._common("engine")

    @property
    def parameters(self) -> dict[str, Any]:
        return self._common("parameters")

    @property
    def versions(self) -> dict[str, Any]:
        return self._common("versions")

    @property
    def dtype(self) -> str:
        return self._common("dtype")

    @property
    def compression(self) -> str | None:
        return self._common("compression")

    def _common(self, name: str) -> Any:
        """What all files have in common. Raises DataError where they differ."""
        first = self.files[0]
        for file in self.files[1:]:
            if getattr(file, name) != getattr(first, name):
                raise DataError(
                    f"{first.path} and {file.path} were made with different {name}",
                    do="run mepipe flow again with one set of settings",
                )
        return getattr(first, name)

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.flow(index), self.samples[index]

    def flow(self, index: int) -> np.ndarray:
        """(3, 224, 224) float32, px."""
        file, i = self._where[index]
        return file.flow(i)

    def read_all(self) -> np.ndarray:
        """All flow in memory, (N, 3, 224, 224) float32, px."""
        out = np.empty((len(self), *FLOW_SHAPE), np.float32)
        for n, (file, i) in enumerate(self._where):
            file.read_into(i, out[n])
        return out

    def close(self) -> None:
        for file in self.files:
            file.close()


def open_shards(source: PathLike | Sequence[PathLike], corpora: Sequence[str] | None = None) -> Shards:
    """The samples of a folder of shards, one file or several; of ``corpora`` only, if given.

    Raises DataError for a file that is no complete shard, and when there is nothing to read.
    """
    if isinstance(source, str | os.PathLike):
        folder = Path(source)
        paths = list_shards(folder, corpora) if folder.is_dir() else [folder]
        if not paths:
            there = ", ".join(sorted({p.name[:-9] for p in list_shards(folder)})) or "nothing"
            wanted = f" of {', '.join(corpora)}" if corpora else ""
            raise DataError(f"no flow shards{wanted} in {folder} (there: {there})", do="run mepipe flow")
    else:
        paths = [Path(p) for p in source]
    return Shards([ShardFile(p) for p in paths], corpora)


def list_shards(folder: PathLike, corpora: Sequence[str] | None = None) -> list[Path]:
    """The files in ``folder`` named like shards (of ``corpora``), in order. They are not opened."""
    named = [(p, _NAME.fullmatch(p.name)) for p in sorted(Path(folder).glob("*.h5"))]
    return [p for p, m in named if m and (corpora is None or m["corpus"] in corpora)]


def shard_hash(path: PathLike) -> str:
    """The sha256 of the file, as sha256sum prints it."""
    return hash_file(Path(path))


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


def _open(path: Path) -> h5py.File:
    # shards never change under their name, so no lock is needed, and network file systems often have none
    return h5py.File(path, "r", locking=False)


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


def _dataset_inside(file: h5py.File, name: str) -> h5py.Dataset:
    """Dataset ``name`` whose data lies in this very file: a link could make us read any other file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"it has no dataset {name!r} of its own")
    data = file[name]
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise DataError(f"{name!r} is not a dataset inside the file")
    return data


def _checked_flow(file: h5py.File) -> h5py.Dataset:
    flow = _dataset_inside(file, "flow")
    if flow.shape[1:] != FLOW_SHAPE or flow.dtype.newbyteorder("=").name not in DTYPES:
        raise DataError(f"flow is {flow.dtype} {flow.shape}", do=f"expected float32 or float16 (N, {FLOW_SHAPE})")
    plan = flow.id.get_create_plist()
    if any(plan.get_filter(i)[0] not in _FILTERS for i in range(plan.get_nfilters())):
        raise DataError("flow is compressed with something else than gzip")
    return flow


def _column(file: h5py.File, name: str, count: int, kind: str) -> h5py.Dataset:
    """The (count,) dataset ``name``; kind: "i" or "u" numbers, "O" UTF-8 text."""
    column = _dataset_inside(file, name)
    text = h5py.check_string_dtype(column.dtype) is not None
    if column.shape != (count,) or text != (kind == "O") or (not text and column.dtype.kind != kind):
        raise DataError(f"{name} is {column.dtype} {column.shape}, for {count} samples")
    return column


def _read_samples(file: h5py.File, count: int) -> list[Sample]:
    columns = {name: _column(file, name, count, "O").asstr()[()].tolist() for name in _TEXTS}
    columns |= {name: _column(file, name, count, "i")[()].tolist() for name in _NUMBERS}
    return [Sample(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


# --- verifying -------------------------------------------------------------------------------------


def verify_shards(source: PathLike | Sequence[PathLike]) -> list[Finding]:
    """Read every sample of a folder, a file or files, and list what is wrong; an empty list is good news.

    Checks that the file is a complete shard, the checksum of each sample, NaN and infinity, and that the
    magnitude is that of u and v.
    """
    if isinstance(source, str | os.PathLike):
        paths = list_shards(source) if Path(source).is_dir() else [Path(source)]
    else:
        paths = [Path(p) for p in source]
    return [finding for path in paths for finding in _verify(path)]


def _verify(path: Path) -> Iterator[Finding]:
    try:
        shard = ShardFile(path)
    except DataError as e:
        yield Finding(path, None, "", str(e).removeprefix(f"{path}: "))
        return
    with contextlib.closing(shard):
        for i, sample in enumerate(shard.samples):
            problem = _sample_problem(shard, i)
            if problem:
                yield Finding(path, i, str(sample), problem)


def _sample_problem(shard: ShardFile, i: int) -> str | None:
    try:
        stored = shard.stored(i)
    except DataError as e:
        return str(e).removeprefix(f"{shard.path}: ")
    if zlib.crc32(stored.tobytes()) != shard.checksums[i]:
        return "its bytes do not match their checksum"
    u, v, magnitude = stored.astype(np.float64)
    if not np.isfinite(stored).all():
        return "it holds NaN or infinity"
    # each of the three was rounded to the stored type
    if not np.allclose(magnitude, np.hypot(u, v), rtol=4 * np.finfo(stored.dtype).eps, atol=1e-6):
        return "its magnitude is not that of u and v"
    return None
