"""FERPlus: the 35,887 pictures of FER2013 with ten annotators' votes each, eight classes, three parts.

Pixels   fer2013.csv, columns emotion, pixels (48x48 numbers), Usage; taken as they are
Votes    fer2013new.csv, a row for each of its rows: Usage, Image name, then how many of ten voted for neutral,
         happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF (no face)
Label    single votes are dropped; the class with more than half of the rest, none where there is no such class, or
         where it is unknown or NF.  The shares of the eight classes are kept as ``votes``
Parts    Training is train, PublicTest val, PrivateTest test
Source   Barsoum et al., ICMI 2016 (arXiv 1608.01041) and the rules of its released code (docs/corpora/ferplus.md)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, FrameFolders
from mepipe.datasets.facecorpus import FaceClip, FaceCorpus, find_list, lists, table_rows
from mepipe.errors import DataError

CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
OTHERS = ("unknown", "NF")
PARTS = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
SIDE = 48
LONGEST = 8 * SIDE * SIDE  # bytes of a row of fer2013.csv: four for a number, and slack
NOBODY = (float("nan"),) * len(CLASSES)  # shares where nobody voted for a class


@CORPORA.register("ferplus")
class FerPlus(FaceCorpus):
    name = "ferplus"
    title = "FERPlus"
    licence = "FER2013: kaggle.com, challenges in representation learning; votes: github.com/microsoft/FERPlus (MIT)"
    layout = "fer2013.csv + fer2013new.csv"
    class_sets = (CLASSES,)
    has_votes = True

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        path = find_list(folders, sheet, ("fer2013new.csv",), self.title)
        pixels = next(iter(lists(raw, "fer2013.csv", "icml_face_data.csv")), None)
        if pixels is None:
            raise DataError(f"{self.title}: no fer2013.csv in {raw}", do="copy the pixels of FER2013 there")
        rows = table_rows(path, ("Usage", "Image name", *CLASSES, *OTHERS))
        places = pixel_rows(pixels)
        for found, place in zip_longest(rows, places):
            if found is None or place is None:
                which = (path, pixels) if place is None else (pixels, path)
                raise DataError(f"{which[0]} has more rows than {which[1].name}", do="take both from one release")
            (n, row), (number, at, usage) = found, place
            yield self._clip(f"{path.name} row {n}", number, row, pixels, at, usage)

    def _clip(self, where: str, number: int, row: Mapping[str, str], pixels: Path, at: int, usage: str) -> Clip:
        cells = [row[name] for name in CLASSES + OTHERS]
        counts = [int(c) if c.isascii() and c.isdigit() and len(c) < 3 else -1 for c in cells]
        emotion, votes = majority(counts) if min(counts) >= 0 else ("", NOBODY)
        clip = FaceClip(
            self.name, "", f"fer{number:07d}", None, None, None, 0.0, emotion, where=where, frames=pixels,
            split=PARTS.get(row["Usage"], ""), votes=votes, pixels=(at, SIDE),
        )  # fmt: skip
        if row["Usage"] != usage or row["Usage"] not in PARTS:
            return clip.refused(f"{where}: Usage {row['Usage'][:40]!r}, and {usage[:40]!r} in {pixels.name}")
        return clip if min(counts) >= 0 else clip.refused(f"{where}: votes that are no numbers")


def majority(counts: Sequence[int]) -> tuple[str, tuple[float, ...]]:
    """The class that ten annotators' votes make, "" for none, and the shares of the eight classes.

    counts: votes for the eight classes, unknown and NF.
    """
    kept = [c if c > 1 else 0 for c in counts]
    total, classes = sum(kept), sum(kept[: len(CLASSES)])
    shares = tuple(c / classes for c in kept[: len(CLASSES)]) if classes else NOBODY
    most = max(range(len(kept)), key=lambda i: kept[i])
    return (CLASSES[most] if most < len(CLASSES) and 2 * kept[most] > total else ""), shares


def pixel_rows(path: Path) -> Iterator[tuple[int, int, str]]:
    """(number from 0, byte where its pixels begin, usage) of every row of fer2013.csv, read line by line: 300 MB.

    Raises DataError for lines that are too long, or no file.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file", do="copy the pixels of FER2013 there")
    with path.open("rb") as f:
        header = f.readline(LONGEST).decode("utf-8-sig", errors="replace")
        names = [name.strip().casefold() for name in header.split(",")]
        if not {"pixels", "usage"} <= set(names):
            raise DataError(f"{path} has no columns pixels and Usage", do="copy the pixels of FER2013 there")
        at, number = f.tell(), 0
        while line := f.readline(LONGEST):
            cells = line.split(b",")
            if len(line) == LONGEST or len(cells) < len(names):
                raise DataError(f"{path}: row {number + 2} is no row of {len(names)} cells", do="copy it again")
            place = names.index("pixels")
            begin = at + sum(len(c) + 1 for c in cells[:place])
            yield number, begin, cells[names.index("usage")].decode("ascii", errors="replace").strip()
            at, number = at + len(line), number + 1
