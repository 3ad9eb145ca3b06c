"""SMIC-HS, made up: 100 fps, 640x480 colour BMP, no annotation file and no apex.

Layout   SMIC_all_raw/HS/s1/micro/negative/s1_ne_01/image559740.bmp    a camera's running count, 6 or 7 digits
         SMIC_all_raw/HS/s1/non_micro/s1_n1/...                        no expression; no row of truth.csv
Labels   the emotion folder; onset and offset are the first and the last image of a folder
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from mepipe.synth.corpora.base import WRITERS, ClipPlan, Writer, draw_frames
from mepipe.synth.identity import Camera
from mepipe.synth.seeds import stream

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

LENGTHS = (11, 18)  # frames; the real ones run from 11 to 58, but a BMP takes 0.9 MB
KINDS = (("negative", "ne"), ("positive", "po"), ("surprise", "sur"))
EXPRESSIONS = {
    "negative": ("disgust", "sadness", "anger", "fear"),  # SMIC tells no more than "negative"
    "positive": ("happiness",),
    "surprise": ("surprise",),
}
_PEOPLE = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20)  # the numbers of the real corpus


class SmicHs(Writer):
    name = "smic-hs"
    camera = Camera(size=(640, 480), scale=(2.15, 2.6))
    subjects, clips = 4, 6

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        emotion, short = KINDS[clip % 3]
        expression = EXPRESSIONS[emotion][int(rng.integers(len(EXPRESSIONS[emotion])))]
        what = f"{_person(subject)}_{short}_{clip // 3 + 1:02d}"
        return self._plan(rng, seed, subject, clip, what, f"micro/{emotion}", expression, emotion)

    def extras(self, seed: int, subject: int) -> list[ClipPlan]:
        """One clip without an expression; that its folder is called s1_n1 is known from one source only."""
        rng = stream(seed, self.name, subject, "non_micro")
        return [self._plan(rng, seed, subject, _NO_CLIP, f"{_person(subject)}_n1", "non_micro", "neutral", "")]

    def _plan(
        self, rng: np.random.Generator, seed: int, subject: int, clip: int, what: str, below: str,
        expression: str, emotion: str,
    ) -> ClipPlan:  # fmt: skip
        onset, apex, offset = draw_frames(rng, _count(seed, subject, clip), LENGTHS)
        return ClipPlan(
            self.name, seed, subject, clip, subject=_person(subject), name=what,
            folder=PurePosixPath("SMIC_all_raw", "HS", _person(subject), below, what),
            expression=expression, emotion=emotion, label3=emotion, fps=100,
            first=onset, onset=onset, apex=apex, offset=offset, last=offset,
        )  # fmt: skip

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"image{number:06d}.bmp"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        """The real corpus has none either."""


_NO_CLIP = 10**6  # the clip number of what is no micro-expression


def _person(subject: int) -> str:
    return f"s{_PEOPLE[subject] if subject < len(_PEOPLE) else subject + 5}"


def _count(seed: int, subject: int, clip: int) -> int:
    """The camera's count at the first image: it runs on from clip to clip and passes a million in later sessions."""
    start = int(stream(seed, "smic-hs", subject, "count").integers(100_000, 250_000)) + 400_000 * (subject % 5)
    return start + 1000 * (clip % 997) + int(stream(seed, "smic-hs", subject, clip, "gap").integers(500))


WRITERS.register(SmicHs.name)(SmicHs())
