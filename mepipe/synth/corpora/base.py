"""What every made-up corpus has in common: the plan of a clip, and the writer that lays it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mepipe.registry import Registry
from mepipe.synth.identity import Camera

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

_ENCODING = {
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    # noise hardly compresses: higher levels cost time for nothing, and matching strings for nothing at all
    ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY],
}


@dataclass(frozen=True)
class ClipPlan:
    """One clip before it is drawn: what it is called, what it shows, which frames it has."""

    corpus: str
    seed: int
    subject_index: int  # 0-based, with clip_index what the API counts by
    clip_index: int
    subject: str  # the corpus's spelling: "sub01", "006", "s1"
    name: str  # the clip's folder
    folder: PurePosixPath  # of its frames, below the corpus's folder
    expression: str  # a key of motion.EXPRESSIONS
    emotion: str  # the corpus's own word
    label3: str  # negative | positive | surprise, or "" for a clip outside the three
    fps: int
    first: int  # first and last frame on disk
    onset: int
    apex: int
    offset: int
    last: int


class Writer(ABC):
    """Lays out a made-up corpus as the real one is: folders, frame names, pictures, annotation file.

    Class attributes state the defaults; ``plan`` must depend on its arguments alone, so that a clip is
    the same whatever else the corpus holds.
    """

    name: str
    camera: Camera
    subjects = 6
    clips = 9  # per subject

    @abstractmethod
    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        """The plan of clip number ``clip`` of person number ``subject``, both from 0."""

    def extras(self, seed: int, subject: int) -> list[ClipPlan]:
        """Clips of a person that the real corpus has beside its micro-expressions; no row of truth.csv."""
        return []

    @abstractmethod
    def frame_name(self, plan: ClipPlan, number: int) -> str:
        """File name of a frame, with its suffix."""

    @abstractmethod
    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        """Write what comes with the frames (a sheet, or nothing) below ``out``."""

    def encode(self, name: str, image: np.ndarray) -> bytes:
        """The bytes of the frame file ``name``."""
        suffix = name[name.rindex(".") :]
        return cv2.imencode(suffix, image, _ENCODING.get(suffix, []))[1].tobytes()


WRITERS: Registry[Writer] = Registry("made-up corpus")


def balanced(subject: int, clip: int) -> str:
    """The class of a clip: negative, positive and surprise in turn, and now and then ``others``.

    Every second subject has one ``others`` among the first nine clips.  Which of the last three of them
    that is goes round the subjects, so the three classes stay equally frequent.
    """
    if subject % 2 == 1 and clip == 6 + (subject // 2) % 3:
        return "others"
    return ("negative", "positive", "surprise")[clip % 3]


def draw_frames(rng: np.random.Generator, onset: int, lengths: tuple[int, int]) -> tuple[int, int, int]:
    """(onset, apex, offset): ``lengths`` bounds the number of frames, the apex lies 0.3 to 0.7 on the way."""
    offset = onset + int(rng.integers(lengths[0] - 1, lengths[1]))
    apex = onset + round(float(rng.uniform(0.3, 0.7)) * (offset - onset))
    return onset, apex, offset
