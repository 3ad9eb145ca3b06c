"""UF1, UAR, accuracy and weighted F1 on pooled predictions.

Per class c over all predictions of all folds:  F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c),
recall_c = TP_c / n_c.  UF1 and UAR are their means over the full label list, as MEGC2019 and CCAC define them.  Their
means weighted by n_c are the weighted F1 (WF1) and the weighted average recall (WAR), which is the accuracy.  Scores
of single folds are never averaged: many LOSO folds hold one clip and miss classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Uf1Uar(NamedTuple):
    """UF1 and UAR, both in [0, 1]."""

    UF1: float
    UAR: float


def uf1_uar(true: Sequence[Hashable], pred: Sequence[Hashable], labels: Sequence[Hashable]) -> Uf1Uar:
    """UF1 and UAR of ``pred`` against ``true`` over the full list ``labels``.

    A class absent from truth and prediction scores 0, with a warning.

    Parameters
    ----------
    true, pred
        One label per clip, of all folds together.
    labels
        All classes of the task.

    Returns
    -------
    Uf1Uar
        ``UF1`` and ``UAR``, in [0, 1].

    Raises
    ------
    ValueError
        Unequal lengths, no prediction at all, or a value outside ``labels``.
    """
    scores = Scores.of(true, pred, labels)
    return Uf1Uar(scores.uf1, scores.uar)


@dataclass(frozen=True)
class Scores:
    """All scores of one set of predictions. matrix[i, j]: clips of true class i predicted as class j."""

    labels: tuple[Hashable, ...]
    matrix: np.ndarray

    @classmethod
    def of(cls, true: Sequence[Hashable], pred: Sequence[Hashable], labels: Sequence[Hashable]) -> Scores:
        matrix = confusion_matrix(true, pred, labels)
        absent = [str(c) for c, n in zip(labels, matrix.sum(0) + matrix.sum(1), strict=True) if n == 0]
        if absent:
            warnings.warn(f"absent from truth and prediction, scored 0: {', '.join(absent)}", stacklevel=3)
        return cls(tuple(labels), matrix)

    @property
    def f1(self) -> np.ndarray:
        hits = self.matrix.diagonal()
        return ratio(2 * hits, self.matrix.sum(0) + self.matrix.sum(1))

    @property
    def recall(self) -> np.ndarray:
        return ratio(self.matrix.diagonal(), self.matrix.sum(1))

    @property
    def uf1(self) -> float:
        return float(self.f1.mean())

    @property
    def uar(self) -> float:
        return float(self.recall.mean())

    @property
    def precision(self) -> np.ndarray:
        return ratio(self.matrix.diagonal(), self.matrix.sum(0))

    @property
    def wf1(self) -> float:
        """F1 of the classes, each counting as its clips."""
        return float((self.f1 * self.matrix.sum(1)).sum() / self.matrix.sum())

    @property
    def acc(self) -> float:
        """Accuracy: the weighted average recall (WAR), recalls of the classes that each count as its clips."""
        return float(self.matrix.trace() / self.matrix.sum())

    def as_dict(self) -> dict[str, Any]:
        names = [str(c) for c in self.labels]
        return {
            "UF1": self.uf1,
            "UAR": self.uar,
            "ACC": self.acc,
            "WAR": self.acc,
            "WF1": self.wf1,
            "clips": int(self.matrix.sum()),
            "per_class": {
                name: {"F1": float(f), "recall": float(r), "precision": float(p), "clips": int(n)}
                for name, f, r, p, n in zip(
                    names, self.f1, self.recall, self.precision, self.matrix.sum(1), strict=True
                )
            },
            "confusion": {"labels": names, "matrix": self.matrix.tolist()},
        }


def confusion_matrix(true: Sequence[Hashable], pred: Sequence[Hashable], labels: Sequence[Hashable]) -> np.ndarray:
    """How often each class was taken for each.

    Parameters
    ----------
    true, pred
        One label per clip.
    labels
        The classes, in the order of rows and columns.

    Returns
    -------
    np.ndarray
        (C, C) int64 counts, rows the truth.

    Raises
    ------
    ValueError
        As ``uf1_uar``.
    """
    if len(true) != len(pred):
        raise ValueError(f"{len(true)} truths and {len(pred)} predictions")
    if not len(true):
        raise ValueError("no predictions")
    place = {label: i for i, label in enumerate(labels)}
    matrix = np.zeros((len(place), len(place)), np.int64)
    np.add.at(matrix, (_places(true, place), _places(pred, place)), 1)
    return matrix


def _places(values: Iterable[Any], place: dict[Any, int]) -> list[int]:
    try:
        return [place[v.item() if isinstance(v, np.generic) else v] for v in values]
    except KeyError as e:
        raise ValueError(f"{e.args[0]!r} is not among the labels {list(place)}") from e


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part over whole, 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
