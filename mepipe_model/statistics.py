"""How far scores can be trusted: intervals over subjects, and paired comparisons of two runs.

Subjects, not clips, are resampled: clips of one face are not independent.  The training itself is not repeated,
so the randomness of seeds is not in any of these figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mepipe.errors import DataError
from mepipe_model.metrics import ratio
from mepipe_model.runs import Prediction

RESAMPLES = 2000  # of the bootstrap: its 2.5 % quantile then rests on 50 resamples
FEWEST = 5  # subjects: resampling fewer says nothing
FIGURES = ("UF1", "UAR", "ACC", "WF1")
Interval = tuple[float, float]


def intervals(rows: Sequence[Prediction], classes: Sequence[str]) -> dict[str, Interval] | None:
    """95 % bootstrap intervals of FIGURES over subjects (Efron; percentile method), None for few subjects."""
    each = _matrices(rows, classes)
    if len(each) < FEWEST:
        return None
    drawn = _figures(np.tensordot(_draws(len(each)), each, axes=1))
    return {name: _interval(drawn[:, i]) for i, name in enumerate(FIGURES)}


@dataclass(frozen=True)
class Mcnemar:
    """Clips that only one of two runs gets right. p: two-sided, exact."""

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Difference:
    """A figure of the first run minus that of the second. p: two-sided, by the bootstrap; None for few subjects."""

    first: float
    second: float
    difference: float
    interval: Interval | None
    p: float | None


@dataclass(frozen=True)
class Comparison:
    """Two runs over the same clips.  settings: what else of them differs; None where one is not a run of mepipe's."""

    clips: int
    subjects: int
    mcnemar: Mcnemar
    differences: dict[str, Difference]
    settings: tuple[str, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p value of McNemar's test (McNemar 1947; binomial with probability 1/2).

    It takes clips as independent, which clips of one subject are not: read it beside the bootstrap.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    return min(1.0, 2 * tail)


def compare(first: Sequence[Prediction], second: Sequence[Prediction], classes: Sequence[str]) -> Comparison:
    """Two sets of predictions of the same clips: McNemar's test, and the bootstrap of their differences.

    The bootstrap is paired: each resample draws subjects once, for both runs (Efron; percentile method).  Its p is
    twice the share of resamples on the smaller side of 0, with one added to count and total so that it is never 0.
    Raises DataError unless both hold the same clips with the same truth.
    """
    second = _same_clips(first, second)
    right = [(a.true == a.pred, b.true == b.pred) for a, b in zip(first, second, strict=True)]
    only = right.count((True, False)), right.count((False, True))
    each = [_matrices(rows, classes) for rows in (first, second)]
    now = _figures(np.stack([matrices.sum(0) for matrices in each]))
    subjects = len(each[0])
    drawn = None
    if subjects >= FEWEST:
        weights = _draws(subjects)
        ours, theirs = (_figures(np.tensordot(weights, matrices, axes=1)) for matrices in each)
        drawn = ours - theirs
    differences = {
        name: Difference(
            first=float(now[0, i]),
            second=float(now[1, i]),
            difference=float(now[0, i] - now[1, i]),
            interval=None if drawn is None else _interval(drawn[:, i]),
            p=None if drawn is None else _two_sided(drawn[:, i]),
        )
        for i, name in enumerate(FIGURES)
    }
    return Comparison(len(first), subjects, Mcnemar(*only, mcnemar(*only)), differences)


def _same_clips(first: Sequence[Prediction], second: Sequence[Prediction]) -> list[Prediction]:
    """``second`` in the order of ``first``."""
    by_clip = {(r.corpus, r.subject, r.clip): r for r in second}
    mine = {(r.corpus, r.subject, r.clip): r.true for r in first}
    only = sorted(mine.keys() ^ by_clip.keys())
    if only:
        where = "first" if only[0] in mine else "second"
        what = f"{len(only)} clips are in one of the two alone, such as {' '.join(only[0])} in the {where}"
        raise DataError(what, do="compare runs over the same clips, with all folds finished")
    for clip, true in mine.items():
        if by_clip[clip].true != true:
            raise DataError(f"{' '.join(clip)} is {true} in the first and {by_clip[clip].true} in the second")
    return [by_clip[clip] for clip in mine]


def _matrices(rows: Sequence[Prediction], classes: Sequence[str]) -> np.ndarray:
    """(subjects, C, C) float64: a confusion matrix per subject, subjects in sorted order."""
    place = {c: i for i, c in enumerate(classes)}
    subjects = {s: i for i, s in enumerate(sorted({(r.corpus, r.subject) for r in rows}))}
    each = np.zeros((len(subjects), len(classes), len(classes)))
    for r in rows:
        each[subjects[r.corpus, r.subject], place[r.true], place[r.pred]] += 1
    return each


def _draws(subjects: int) -> np.ndarray:
    """(RESAMPLES, subjects): how often each subject is drawn; the same in every call, so figures can be repeated."""
    return np.random.default_rng(0).multinomial(subjects, np.full(subjects, 1 / subjects), RESAMPLES)


def _figures(matrices: np.ndarray) -> np.ndarray:
    """(R, 4) FIGURES of (R, C, C) confusion matrices, as ``Scores`` has them of one."""
    hits = matrices.diagonal(axis1=1, axis2=2)
    true, called = matrices.sum(2), matrices.sum(1)
    f1, recall, clips = ratio(2 * hits, true + called), ratio(hits, true), matrices.sum((1, 2))
    return np.stack([f1.mean(1), recall.mean(1), hits.sum(1) / clips, (f1 * true).sum(1) / clips], 1)


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _two_sided(differences: np.ndarray) -> float:
    beyond = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * (float(beyond) + 1) / (len(differences) + 1))
