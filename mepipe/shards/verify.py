"""A full check of shards: every sample is read and compared with its checksum."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mepipe.errors import DataError
from mepipe.shards.content import CONTENTS_PX, SIDE, Faces
from mepipe.shards.file import ShardFile
from mepipe.shards.read import list_shards
from mepipe.shards.sample import PathLike


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


def verify_shards(source: PathLike | Sequence[PathLike]) -> list[Finding]:
    """Read every sample and list what is wrong.

    Checks that the file is a complete shard, the checksum of each sample, NaN and infinity, and that the magnitude
    and the strain are those of u and v (in px; of normalised values nothing is known); of faces, that landmarks are
    near the crop or absent.

    Parameters
    ----------
    source
        A folder, a file or several.

    Returns
    -------
    list[Finding]
        Empty is good news.
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
        stored, intact = shard.stored(i), shard.intact(i)
    except DataError as e:
        return str(e).removeprefix(f"{shard.path}: ")
    if not intact:
        return "its bytes do not match their checksum"
    if isinstance(shard.content, Faces):
        return _face_problem(shard, i)
    if not np.isfinite(stored).all():
        return "it holds NaN or infinity"
    if shard.content not in CONTENTS_PX:
        return None
    flow = stored.astype(np.float32)
    u, v, magnitude = flow[:3]
    with np.errstate(over="ignore"):  # values that large are no flow, and are reported as such
        difference = np.abs(np.sqrt(u * u + v * v) - magnitude)
    # each of the three was rounded to the stored type
    if (difference > 4 * float(np.finfo(stored.dtype).eps) * magnitude + 1e-6).any():
        return "its magnitude is not that of u and v"
    if len(flow) > 3 and not _is_strain(flow, float(np.finfo(stored.dtype).eps)):
        return "its strain is not that of u and v"
    return None


FAR = 4 * SIDE  # px from the crop: landmarks of a face that is partly outside it lie nearer


def _face_problem(shard: ShardFile, i: int) -> str | None:
    points = shard.beside("landmarks", i)
    if not np.isnan(points).all() and not (np.abs(points) <= FAR).all():
        return f"its landmarks are neither all absent (NaN) nor all within {FAR} px"
    if "votes" in shard.content.beside:
        votes = shard.beside("votes", i)
        if not np.isnan(votes).all() and not ((votes >= 0).all() and abs(float(votes.sum()) - 1) < 1e-4):
            return "its votes are neither absent (NaN) nor shares that sum to 1"
    return None


def _is_strain(flow: np.ndarray, eps: float) -> bool:
    """Whether channel 3 is the strain of u and v, as far as rounding of all of them to ``eps`` lets one tell."""
    from mepipe.flow.strain import strain

    rounding = eps * (4 * float(np.abs(flow[:2]).max()) + 4 * flow[3])  # strain is a sum of differences of them
    return bool((np.abs(strain(flow[:3]) - flow[3]) <= rounding + 1e-6).all())
