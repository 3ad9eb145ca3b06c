"""``mepipe shards import``: arrays that others prepared and published, as shards marked ``normalised``.

The values stay as they are.  An array smaller than 224x224 is enlarged by repeating each value, so that averaging
the repeated squares gives it back exactly: 28x28, the size of STSTNet's and HTNet's input, becomes 8x8 squares.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mepipe.errors import DataError, UsageError
from mepipe.limits import ARRAYS_BYTES
from mepipe.shards.content import Content
from mepipe.shards.read import list_shards
from mepipe.shards.sample import FLOW_SHAPE, Sample
from mepipe.shards.write import write_shard
from mepipe.workspace import digest, hash_file, make_folder, safe_name, versions

PER_SHARD = 64  # samples, as mepipe flow writes them
THIRD = ("magnitude", "strain")  # what may stand beside u and v
SPANS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))  # scalings in use: unit, signed unit, 8-bit images
CORPUS_NAMES = {"casmeii": "casme2", "casme ii": "casme2", "smic": "smic-hs", "smic_hs": "smic-hs"}
LABEL3 = ("negative", "positive", "surprise")  # MEGC2019's numbers 0, 1, 2


@dataclass(frozen=True)
class Imported:
    """What ``import_npz`` wrote: clips per corpus, and what the shards' channels hold."""

    file: Path
    clips: dict[str, int]
    content: Content
    size: tuple[int, int]

    def lines(self) -> list[str]:
        per_corpus = ", ".join(f"{c} {n}" for c, n in self.clips.items())
        low, high = self.content.span or (0, 0)
        return [
            f"{sum(self.clips.values())} clips of {self.file.name}: {per_corpus}",
            f"  {self.content}, {low:g} to {high:g}, {self.size[0]}x{self.size[1]} repeated to 224x224",
        ]


def import_npz(
    folder: Path, file: Path, channels: Sequence[str] = ("u", "v", "strain"), force: bool = False
) -> Imported:
    """Write the samples of an .npz into ``folder``, one set of shards per corpus.

    The file holds ``corpus, subject, clip, label3`` (N,) text (label3 may be 0, 1, 2) and one array (N, 3, h, w) or
    (N, h, w, 3), uint8 or float, h and w dividing 224.  channels: what its channels are, in its order: u, v and
    strain or magnitude.  Corpora, subjects and clips take the spelling of the composite lists.
    force: replace shards of the same corpora.
    Raises UsageError for wrong channels, DataError for a file that is not like this or shards that are there.
    """
    order = _order(channels)
    columns, values = _read(file)
    span = _span(values, file)
    content = Content(("u", "v", channels[order[2]]), normalised=True, span=span)
    samples = _samples(columns, values, file)
    clips = {c: sum(s.corpus == c for s in samples) for c in sorted({s.corpus for s in samples})}
    old, new = _replaced(folder, list(clips), force), []
    make_folder(folder)
    made_from = {"file": file.name, "sha256": hash_file(file), "size": list(values.shape[2:])}
    about: dict[str, Any] = {"engine": "import", "parameters": made_from, "versions": versions("numpy", "h5py")}
    for corpus in clips:
        mine = [i for i, s in enumerate(samples) if s.corpus == corpus]
        for n, start in enumerate(range(0, len(mine), PER_SHARD)):
            part = mine[start : start + PER_SHARD]
            flows = (enlarged(values[i][order]) for i in part)
            # repeated values shrink to a hundredth of their size, and are read once per training
            new.append(folder / f"{corpus}-{n:05d}.h5")
            write_shard(new[-1], [samples[i] for i in part], flows, compression="gzip", content=content, **about)
    for path in set(old) - set(new):
        path.unlink()
    return Imported(file, clips, content, values.shape[2:])


def enlarged(values: np.ndarray) -> np.ndarray:
    """(3, h, w) of any number type -> (3, 224, 224) float32, each value repeated over a rectangle."""
    _, height, width = FLOW_SHAPE
    out = values.astype(np.float32).repeat(height // values.shape[1], axis=1)
    return out.repeat(width // values.shape[2], axis=2)


def _order(channels: Sequence[str]) -> list[int]:
    """Where u, v and the third channel lie in the array."""
    third = [c for c in channels if c not in ("u", "v")]
    if len(channels) != 3 or set(channels) - {*third} != {"u", "v"} or third[0] not in THIRD:
        raise UsageError(f"--channels {','.join(channels)}", do="valid: u, v and strain or magnitude, in any order")
    return [list(channels).index(c) for c in ("u", "v", third[0])]


def _read(file: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The text columns, and the values as (N, 3, h, w)."""
    arrays = read_arrays(file)
    lacking = [c for c in ("corpus", "subject", "clip", "label3") if c not in arrays]
    if lacking:
        raise DataError(f"{file} has no array {', '.join(lacking)} (there: {', '.join(arrays)})")
    pictures = [name for name, a in arrays.items() if a.ndim == 4 and 3 in (a.shape[1], a.shape[3])]
    if len(pictures) != 1:
        found = ", ".join(f"{n} {a.shape}" for n, a in arrays.items())
        raise DataError(f"{file} must hold one array (N, 3, h, w) or (N, h, w, 3), it holds {found}")
    values = arrays[pictures[0]]
    values = values if values.shape[1] == 3 else values.transpose(0, 3, 1, 2)
    columns = {c: arrays[c] for c in ("corpus", "subject", "clip", "label3")}
    for name, column in columns.items():
        if column.shape != (len(values),):
            raise DataError(f"{file}: {name} is {column.shape} for {len(values)} samples")
    if any(FLOW_SHAPE[1] % side for side in values.shape[2:]):
        raise DataError(f"{file}: {values.shape[2]}x{values.shape[3]} does not divide 224x224", do="resize it first")
    return columns, values


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz. Raises DataError for what is none, unpacks to too much, or holds pickled objects."""
    try:
        _check_sizes(file)
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except Exception as e:  # numpy's, zipfile's and the header parser's kinds are a dozen
        raise DataError(f"cannot read {file} as .npz ({type(e).__name__}: {e})") from e


def _check_sizes(file: Path) -> None:
    """Raises DataError for an archive that unpacks to too much, or an array that is not as large as it says."""
    if not file.is_file():
        raise DataError(f"cannot read {file} as .npz (it is no file)")
    with zipfile.ZipFile(file) as archive:
        ARRAYS_BYTES.check(str(file), sum(part.file_size for part in archive.infolist()))
        for part in archive.infolist():
            with archive.open(part) as stored:
                version = np.lib.format.read_magic(stored)
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
                shape, _, dtype = read(stored)
                if dtype.hasobject:
                    raise ValueError(f"{part.filename} holds pickled objects, which could run code")
                if dtype.itemsize * math.prod(shape) + stored.tell() != part.file_size:
                    raise DataError(f"{file}: {part.filename} is not as large as it says", do="save it again")


def _span(values: np.ndarray, file: Path) -> tuple[float, float]:
    """The smallest usual span that holds all values."""
    if values.dtype == np.uint8:
        return SPANS[-1]
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise DataError(f"{file}: its values are {values.dtype}, or some are NaN or infinite", do="give uint8 or float")
    low, high = float(values.min()), float(values.max())
    for span in SPANS:
        if span[0] <= low and high <= span[1]:
            return span
    usual = ", ".join(f"{a:g} to {b:g}" for a, b in SPANS)
    raise DataError(f"{file}: its values run from {low:g} to {high:g}", do=f"scale them to one of {usual}")


def _samples(columns: dict[str, np.ndarray], values: np.ndarray, file: Path) -> list[Sample]:
    spelling = _spelling()
    seen: dict[tuple[str, str, str], int] = {}
    samples = []
    for i, row in enumerate(zip(*columns.values(), strict=True)):
        corpus, subject, clip, label = (str(cell) for cell in row)
        corpus = safe_name(CORPUS_NAMES.get(corpus.lower(), corpus.lower()))
        sample = Sample(corpus, subject, clip, label3=_label(label, file, i), key=digest(values[i].tobytes().hex()))
        sample = _as_listed(sample, spelling)
        identity = (sample.corpus, sample.subject, sample.clip)
        if identity in seen:
            raise DataError(f"{file}: rows {seen[identity]} and {i} are both {sample}")
        seen[identity] = i
        samples.append(sample)
    return samples


def _spelling() -> dict[tuple[str, str, str], tuple[str, str]]:
    """Subject and clip as the corpus itself writes them, for every clip of a composite list."""
    from mepipe.datasets.composite import COMPOSITES, key, members

    return {key(m): (m.subject, m.clip) for name in COMPOSITES for m in members(name)}


def _as_listed(sample: Sample, spelling: dict[tuple[str, str, str], tuple[str, str]]) -> Sample:
    from mepipe.datasets.composite import key

    subject, clip = spelling.get(key(sample), (sample.subject, sample.clip))
    return replace(sample, subject=subject, clip=clip)


def _label(text: str, file: Path, row: int) -> str:
    label = LABEL3[int(text)] if text in ("0", "1", "2") else text
    if label and label not in LABEL3:
        raise DataError(f"{file} row {row}: label3 {text!r}", do=f"valid: {', '.join(LABEL3)}, 0 to 2, or empty")
    return label


def _replaced(folder: Path, corpora: list[str], force: bool) -> list[Path]:
    """The shards of ``corpora`` that are there. Raises DataError when they may not be replaced."""
    there = list_shards(folder, corpora) if folder.is_dir() else []
    if there and not force:
        do = "choose another workspace (-w), or --force to replace them"
        raise DataError(f"{folder} holds shards of {', '.join(corpora)} already ({there[0].name})", do=do)
    return there


__all__ = ["Imported", "enlarged", "import_npz"]
