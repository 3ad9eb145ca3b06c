"""How good the intervals found are: the spotting rule of the Micro-Expression Grand Challenges (MEGC 2019 to 2022).

An interval found is true when it overlaps a true one with intersection over union of at least 0.5 and neither is
counted twice; F1 = 2 TP / (2 TP + FP + FN), pooled over all videos.  Intervals are frames onset..offset, both inside.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mepipe.errors import DataError
from mepipe.limits import TABLE_BYTES, read_file

IOU = 0.5
MICRO = "micro"  # in a truth file's column kind: the rows that count
NAMES = {"onset": ("onset", "onset_frame", "onset frame", "onsetframe"),
         "offset": ("offset", "offset_frame", "offset frame", "offsetframe")}  # fmt: skip

Interval = tuple[int, int]  # first and last frame


@dataclass(frozen=True)
class Score:
    """tp, fp, fn counts; pairs: (index of the interval found, index of the true one)."""

    tp: int
    fp: int
    fn: int
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0

    @property
    def f1(self) -> float:
        """0 where there is nothing to find and nothing was found, as in the challenge's own sums."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp + self.fp + self.fn else 0.0

    def __add__(self, other: Score) -> Score:
        """Two videos pooled."""
        return Score(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    def as_dict(self) -> dict[str, Any]:
        return {"tp": self.tp, "fp": self.fp, "fn": self.fn, "precision": self.precision, "recall": self.recall,
                "f1": self.f1, "iou": IOU}  # fmt: skip

    def __str__(self) -> str:
        return (
            f"F1 {self.f1:.3f} (IoU >= {IOU:g}): {self.tp} found, {self.fp} false, {self.fn} missed; "
            f"precision {self.precision:.2f}, recall {self.recall:.2f}"
        )


def iou(a: Interval, b: Interval) -> float:
    """Frames in both over frames in either."""
    both = min(a[1], b[1]) - max(a[0], b[0]) + 1
    return max(both, 0) / (a[1] - a[0] + b[1] - b[0] + 2 - max(both, 0))


def score(found: Sequence[Interval], true: Sequence[Interval], least: float = IOU) -> Score:
    """Count by the spotting rule, with as many one-to-one pairs as can be made (augmenting paths).

    Parameters
    ----------
    found, true
        Intervals (first frame, last frame), both ends inside.
    least
        The intersection over union that a pair needs.

    Returns
    -------
    Score
        TP, FP, FN, the pairs, F1; scores of several videos are pooled by adding them.
    """
    near = [[j for j, t in enumerate(true) if iou(f, t) >= least] for f in found]
    owner: dict[int, int] = {}

    def place(i: int, tried: set[int]) -> bool:
        for j in near[i]:
            if j not in tried:
                tried.add(j)
                if j not in owner or place(owner[j], tried):
                    owner[j] = i
                    return True
        return False

    tp = sum(place(i, set()) for i in range(len(found)))
    pairs = tuple(sorted((i, j) for j, i in owner.items()))
    return Score(tp, len(found) - tp, len(true) - tp, pairs)


@dataclass(frozen=True)
class Truth:
    """One known event. kind: what the file says, "micro" where it does not."""

    onset: int
    offset: int
    kind: str = MICRO
    label: str = ""


def read_truth(path: Path, video: str | None = None) -> list[Truth]:
    """Read known events from a CSV with the columns onset and offset (frame numbers).

    Parameters
    ----------
    path
        The file; the columns kind (``micro`` counts, the default), emotion and video are read where there are any.
    video
        Keep the rows of this video, where there is such a column.

    Returns
    -------
    list
        A ``Truth`` per row.

    Raises
    ------
    DataError
        The file cannot be read, or a row is no event; it names the row.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_file(path, TABLE_BYTES).decode("utf-8-sig"))))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", do="give a CSV with the columns onset and offset") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path} is no CSV text ({e})", do="give a CSV with the columns onset and offset") from e
    out = []
    for number, row in enumerate(rows, start=2):
        cells = {(name or "").strip().lower(): value for name, value in row.items() if isinstance(value, str)}
        if video is not None and cells.get("video", video) not in ("", video):
            continue
        onset, offset = (_frame(path, number, cells, NAMES[name]) for name in ("onset", "offset"))
        if offset < onset:
            raise DataError(f"{path} row {number}: offset {offset} is before onset {onset}")
        out.append(Truth(onset, offset, cells.get("kind") or MICRO, cells.get("emotion", "")))
    if not out:
        raise DataError(f"{path} has no row" + (f" for {video}" if rows else ""), do="columns: onset, offset")
    return out


def _frame(path: Path, number: int, cells: dict[str, str], names: Sequence[str]) -> int:
    text = next((cells[n] for n in names if n in cells), None)
    if text is None:
        raise DataError(f"{path} row {number} has no {names[0]}", do="columns: onset, offset (frame numbers)")
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{path} row {number}: {names[0]} is {text!r}, not a frame number") from None
