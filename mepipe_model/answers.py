"""What ``mepipe predict`` answers: of one clip, of many, and what it refused; as text and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answer:
    """What ``predict_clip`` found. probabilities: by class name, they sum to 1."""

    clip: str
    run: str
    onset: int
    apex: int
    apex_source: str
    align: str
    prediction: str
    probabilities: dict[str, float]
    folds: tuple[str, ...]
    largest_motion: float
    picture: str | None
    warnings: tuple[str, ...] = ()
    reader: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "folds": list(self.folds), "warnings": list(self.warnings)}

    def line(self) -> str:
        """The answer in short."""
        return f"{self.clip}: {self.prediction} {self.probabilities[self.prediction]:.1%}, apex {self.apex}"

    def lines(self) -> list[str]:
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        out = [f"{self.clip}: {self.prediction}"]
        out += [f"  {name:10} {p:6.1%}" for name, p in ranked]
        out.append(f"  onset {self.onset}, apex {self.apex} ({self.apex_source}), crop by {self.align}, "
                   f"largest motion {self.largest_motion:.2f} px at 224x224")  # fmt: skip
        models = "one model" if len(self.folds) == 1 else f"mean of {len(self.folds)} models"
        out.append(f"  {models} of {self.run}; read by {self.reader}")
        out += [f"  warning: {w}" for w in self.warnings]
        return out + ([f"  picture {self.picture}"] if self.picture else [])


@dataclass(frozen=True)
class FaceAnswer:
    """What a run that reads faces says of one input. probabilities: by class name, they sum to 1.

    frames: how many were looked at.  landmarks: whether they were found.
    """

    clip: str
    run: str
    frames: int
    crop: str
    landmarks: bool
    prediction: str
    probabilities: dict[str, float]
    folds: tuple[str, ...]
    reader: str
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "folds": list(self.folds), "warnings": list(self.warnings)}

    def line(self) -> str:
        """The answer in short."""
        return f"{self.clip}: {self.prediction} {self.probabilities[self.prediction]:.1%}"

    def lines(self) -> list[str]:
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        out = [f"{self.clip}: {self.prediction}", *(f"  {name:10} {p:6.1%}" for name, p in ranked)]
        many = "1 picture" if self.frames == 1 else f"{self.frames} frames"
        found = "68 landmarks" if self.landmarks else "no landmarks"
        out.append(f"  {many}, crop {self.crop}, {found}; mean of {len(self.folds)} models of {self.run}")
        return out + [f"  warning: {w}" for w in self.warnings]


@dataclass(frozen=True)
class Shown:
    """An answer with its pictures: onset and apex crops (224, 224, 3) uint8, flow (3, 224, 224) in px."""

    answer: Answer
    onset: np.ndarray = field(repr=False)
    apex: np.ndarray = field(repr=False)
    flow: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Refused:
    """An input that gave no answer, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Predictions:
    """What ``predict_many`` found; every input is in one of the two. shown: answers with pictures, where asked for."""

    run: str
    classes: tuple[str, ...]
    answers: tuple[Answer, ...] | tuple[FaceAnswer, ...]
    refused: tuple[Refused, ...]
    shown: tuple[Shown, ...] = field(default=(), repr=False)

    def lines(self) -> list[str]:
        """One line for each input; of a single one, everything."""
        if len(self.answers) == 1 and not self.refused:
            return self.answers[0].lines()
        out = [a.line() for a in self.answers]
        out += [f"refused  {r.name}  {r.reason}" for r in self.refused]
        out.append(f"{len(self.answers)} classified, {len(self.refused)} refused")
        notes = dict.fromkeys(w for a in self.answers for w in a.warnings)
        return out + [f"  warning: {w}" for w in notes]

    def as_dict(self) -> dict[str, Any]:
        """One clip's answer as it is; of several, a list."""
        if len(self.answers) == 1 and not self.refused:
            return self.answers[0].as_dict()
        return {"run": self.run, "answers": [a.as_dict() for a in self.answers],
                "refused": [vars(r) for r in self.refused]}  # fmt: skip


@dataclass(frozen=True)
class FacePredictions(Predictions):
    """What ``predict_faces`` found: its answers are ``FaceAnswer``."""
