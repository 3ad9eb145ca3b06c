"""One or many shards as one read-only sequence of samples."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mepipe.errors import DataError
from mepipe.shards.apart import headers_apart
from mepipe.shards.content import AnyContent, Content, flow_content, maker
from mepipe.shards.file import ShardFile
from mepipe.shards.sample import PathLike, Sample
from mepipe.workspace import hash_file

_NAME = re.compile(r"(?P<corpus>[^.].*)-\d{5}\.h5")


class Shards(Sequence[tuple[np.ndarray, Sample]]):
    """Samples of one or many shards, in order: ``shards[i]`` is (flow (C, 224, 224) float32 in px, Sample).

    C is 3, or 4 where the strain is stored too.  channels: read only so many, from the first on.
    Metadata is in memory (``samples``); flow is read when asked for.  May be pickled, and used by threads, after
    fork and in spawned processes.
    """

    def __init__(
        self, files: Sequence[ShardFile], corpora: Sequence[str] | None = None, channels: int | None = None
    ) -> None:
        self.files = list(files)
        self._channels = channels
        self._where = [
            (file, i)
            for file in self.files
            for i, sample in enumerate(file.samples)
            if corpora is None or sample.corpus in corpora
        ]
        self.samples = [file.samples[i] for file, i in self._where]
        self._refuse_doubles()

    def _refuse_doubles(self) -> None:
        seen: dict[tuple[str, str, str], Path] = {}
        for (file, _), s in zip(self._where, self.samples, strict=True):
            other = seen.setdefault((s.corpus, s.subject, s.clip), file.path)
            if other != file.path:
                do = f"remove the copy, or run {maker(file.path)}, which does"
                raise DataError(f"{s} is both in {other} and in {file.path}", do=do)

    def damaged(self) -> list[str]:
        """The samples whose bytes no longer match their checksum, each as a line; reads everything once."""
        return [f"{file.path} sample {i} ({file.samples[i]})" for file, i in self._where if not file.intact(i)]

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

    @property
    def content(self) -> AnyContent:
        """What the samples hold. Raises DataError where normalised arrays lie beside flow in px, images beside
        sequences.
        """
        first = self.files[0]
        for file in self.files[1:]:
            if file.content.first(self._channels) != first.content.first(self._channels):
                raise DataError(
                    f"{first.path} holds {first.content}, {file.path} holds {file.content}",
                    do="keep them in workspaces of their own (-w), or name corpora of one kind",
                )
        return first.content.first(self._channels)

    @property
    def flow_content(self) -> Content:
        """``content`` of samples that are to be flow. Raises DataError for faces, and as ``content`` does."""
        return flow_content(self.files[0].path, self.content)

    def _common(self, name: str) -> Any:
        """What all files have in common. Raises DataError where they differ."""
        first = self.files[0]
        for file in self.files[1:]:
            if getattr(file, name) != getattr(first, name):
                raise DataError(
                    f"{first.path} and {file.path} were made with different {name}",
                    do=f"run {maker(file.path)} again with one set of settings",
                )
        return getattr(first, name)

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.flow(index), self.samples[index]

    def flow(self, index: int) -> np.ndarray:
        """(C, 224, 224) float32, px."""
        file, i = self._where[index]
        return file.flow(i, self._channels)

    def frame(self, index: int, t: int) -> np.ndarray:
        """Frame ``t`` of a sequence of faces, (224, 224, 3) uint8 RGB, without reading the others."""
        file, i = self._where[index]
        return file.frame(i, t)

    def beside(self, name: str, index: int) -> np.ndarray:
        """What is stored beside a sample, float32: of faces "landmarks" (68, 2) in px of the crop, or "votes" (K,)."""
        file, i = self._where[index]
        return file.beside(name, i)

    def read_all(self) -> np.ndarray:
        """All flow in memory, (N, C, 224, 224) float32, px."""
        return self.read_many(range(len(self)))

    def read_many(self, indices: Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        """The flow of samples ``indices``, (len(indices), C, 224, 224) float32, px, in ``out`` where it is given.

        Of faces (len(indices), 224, 224, 3) or (len(indices), T, 224, 224, 3) uint8, RGB.

        Into one array again and again it runs at the speed of the memory; new arrays cost the system as much again.
        """
        if out is None:
            content = self.content
            out = np.empty((len(indices), *content.shape), np.uint8 if "uint8" in content.dtypes else np.float32)
        for n, index in enumerate(indices):
            file, i = self._where[index]
            file.read_into(i, out[n])
        return out

    def close(self) -> None:
        for file in self.files:
            file.close()


def open_shards(
    source: PathLike | Sequence[PathLike], corpora: Sequence[str] | None = None, channels: int | None = None
) -> Shards:
    """The samples of a folder of shards, one file or several, as a read-only sequence.

    Parameters
    ----------
    source
        A folder, a file, or several files.
    corpora
        Only of these.
    channels
        How many of each sample, from the first on; None for all.

    Returns
    -------
    Shards
        ``shards[i]`` is the flow (C, 224, 224) float32 and the Sample; safe to pickle, to fork and to spawn.

    Raises
    ------
    DataError
        A file is no complete shard, or there is nothing to read.
    """
    if isinstance(source, str | os.PathLike):
        folder = Path(source)
        paths = list_shards(folder, corpora) if folder.is_dir() else [folder]
        if not paths:
            there = ", ".join(sorted({p.name[:-9] for p in list_shards(folder)})) or "nothing"
            wanted = f" of {', '.join(corpora)}" if corpora else ""
            command = maker(folder / "any")
            kind = "flow shards" if command.endswith("flow") else "shards of faces"
            raise DataError(f"no {kind}{wanted} in {folder} (there: {there})", do=f"run {command}")
    else:
        paths = [Path(p) for p in source]
    headers = headers_apart(paths)  # of all at once: one process serves them
    return Shards([ShardFile(p, h) for p, h in zip(paths, headers, strict=True)], corpora, channels)


def list_shards(folder: PathLike, corpora: Sequence[str] | None = None) -> list[Path]:
    """The files in ``folder`` named like shards. They are not opened.

    Parameters
    ----------
    folder
        ``Workspace.flow``, say.
    corpora
        Only of these.

    Returns
    -------
    list[Path]
        In order of name.
    """
    named = [(p, _NAME.fullmatch(p.name)) for p in sorted(Path(folder).glob("*.h5"))]
    return [p for p, m in named if m and (corpora is None or m["corpus"] in corpora)]


def readable_shards(paths: Sequence[Path]) -> list[ShardFile]:
    """The complete shards among ``paths``; what is damaged is made again and so passed over.

    Their files are open: one that is replaced later in the run can still be read.
    """
    shards = []
    for path in paths:
        try:
            shards.append(ShardFile(path))
        except DataError:
            continue
    return shards


def shard_hash(path: PathLike) -> str:
    """The sha256 of a file, as sha256sum prints it.

    Parameters
    ----------
    path
        The shard.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return hash_file(Path(path))
