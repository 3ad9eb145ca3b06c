"""From the prepared crops to the two images of a pair: which files, their hash, and the mean of neighbouring frames."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mepipe.cliptable import read_records
from mepipe.clipwork import Record, grey
from mepipe.errors import DataError, MepipeError
from mepipe.flow.images import average_frames
from mepipe.frames import decode_image, read_bytes
from mepipe.shards import Sample
from mepipe.workspace import MACHINE, Workspace, digest, machine_error


@dataclass(frozen=True)
class Pair:
    """A sample to be, still without its key, and the files its two images are made of, rising by frame number."""

    sample: Sample
    onset: tuple[Path, ...]
    apex: tuple[Path, ...]


@dataclass(frozen=True)
class Loaded:
    """A pair whose files have been read: once, for the key and for the images."""

    sample: Sample
    pair: Pair
    onset: tuple[bytes, ...]
    apex: tuple[bytes, ...]

    def images(self, average: bool) -> tuple[np.ndarray, np.ndarray]:
        """(onset, apex), (H, W) each: uint8 grey, or with ``average`` float32 in 0..1. Raises DataError."""
        pairs = ((self.onset, self.pair.onset), (self.apex, self.pair.apex))
        try:
            onset, apex = (
                [grey(decode_image(data, path, always_colour=False)) for data, path in zip(read, paths, strict=True)]
                for read, paths in pairs
            )
        except DataError as e:
            raise _unreadable(self.sample, e) from e
        return (average_frames(np.stack(onset)), average_frames(np.stack(apex))) if average else (onset[0], apex[0])


def plan(ws: Workspace, corpus: str, average: int = 0) -> list[Pair]:
    """The pairs of one corpus in the order of its clips.csv; refused clips have none.

    average: how many neighbours on either side of onset and apex are averaged into them.
    Raises DataError for a clip whose crops, or neighbours of crops, are not there.
    """
    return paired(ws, corpus, [r for r in read_records(ws.prepared(corpus)) if r.status != "refused"], average)


def paired(ws: Workspace, corpus: str, records: Sequence[Record], average: int) -> list[Pair]:
    """The pairs of ``records``, whose crops are looked for. Raises DataError as ``plan``."""
    return [_pair(ws.prepared(corpus), r, average) for r in records]


def _pair(folder: Path, record: Record, average: int) -> Pair:
    onset, apex = record.onset, record.apex
    crops = folder / record.subject / record.clip
    name = f"{record.corpus} {record.subject}/{record.clip}"
    for number in (onset, apex):
        if not (crops / f"{number}.png").is_file():
            do = f"run mepipe prepare {record.corpus} RAW again"
            raise DataError(f"{name}: cannot read its crops (there is no {crops / f'{number}.png'})", do=do)
    assert onset is not None, "a file of that name is there"
    assert apex is not None, "a file of that name is there"
    reach = reach_of(onset, apex, average)
    around_onset, around_apex = (_around(crops, number, reach) for number in (onset, apex))
    _check_neighbours(name, record, reach, around_onset, around_apex)
    facts: dict[str, Any] = {f.name: getattr(record, f.name) for f in fields(Sample) if hasattr(record, f.name)}
    facts |= {"key": "", "onset_frames": len(around_onset), "apex_frames": len(around_apex)}
    paths = (tuple(crops / f"{n}.png" for n in numbers) for numbers in (around_onset, around_apex))
    return Pair(Sample(**facts), *paths)


def reach_of(onset: int, apex: int, average: int) -> int:
    """How many neighbours on either side can be averaged so that no frame counts for both onset and apex."""
    return min(average, max((apex - onset - 1) // 2, 0))


def _around(crops: Path, number: int, reach: int) -> list[int]:
    """The frames within ``reach`` of ``number`` that are there."""
    numbers = range(number - reach, number + reach + 1)
    return [n for n in numbers if n == number or (crops / f"{n}.png").is_file()]


def _check_neighbours(name: str, record: Record, reach: int, onset: Sequence[int], apex: Sequence[int]) -> None:
    """A clip begins or ends somewhere, but it was prepared with too few frames where none is ``reach`` away."""
    around = ((record.onset, onset), (record.apex, apex))
    farthest = max(abs(n - middle) for middle, numbers in around for n in numbers if middle is not None)
    if farthest >= reach:
        return
    there = "no lossless crop beside onset and apex" if farthest == 0 else f"crops only {farthest} from onset and apex"
    frames = "around" if reach == 1 else "all"
    raise DataError(
        f"{name}: {there}, and --average wants {reach} on either side",
        do=f"run mepipe prepare {record.corpus} RAW --frames {frames}",
    )


def load(pair: Pair, settings: Sequence[Any]) -> Loaded:
    """Read the files of ``pair`` and give its sample its key: the hash of their bytes and of ``settings``."""
    try:
        onset, apex = (tuple(read_bytes(path) for path in paths) for paths in (pair.onset, pair.apex))
    except DataError as e:
        raise _unreadable(pair.sample, e) from e
    hashes = [[hashlib.sha256(data).hexdigest() for data in read] for read in (onset, apex)]
    one_each = len(onset) == len(apex) == 1  # the key it always had
    key = digest([*hashes[0], *hashes[1], *settings] if one_each else [*hashes, *settings])
    return Loaded(replace(pair.sample, key=key), pair, onset, apex)


def _unreadable(sample: Sample, error: DataError) -> MepipeError:
    """What to raise for crops that are gone or damaged, which prepare makes again, or that the machine holds back."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in MACHINE:
        return machine_error(cause)
    return DataError(
        f"{sample}: cannot read its crops ({error.what})", do=f"run mepipe prepare {sample.corpus} RAW again"
    )
