"""What every made-up corpus has in common: the plan of a clip, and the writer that lays it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mepipe.errors import UsageError
from mepipe.registry import Registry
from mepipe.synth.identity import Camera
from mepipe.synth.seeds import stream
from mepipe.workspace import replace_folder, temp_beside, write_failed

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
    suffix: str = ""  # of its frame files, where it is not the corpus's usual one
    amplitude: tuple[float, float] | None = None  # peak motion in px at 224x224; None: a micro-expression's
    in_sheet: bool = True  # False: a folder without a row, no micro-expression of the corpus
    absent: frozenset[int] = frozenset()  # frames that have no file
    cells: Mapping[str, object] = field(default_factory=dict, hash=False)  # what the sheet says instead of the truth

    def cell(self, name: str) -> object:
        """What the sheet says of ``name`` (onset, apex, offset, emotion): the truth, or a planted defect."""
        return self.cells.get(name, getattr(self, name))


@dataclass(frozen=True)
class Defect:
    """A clip with a defect that is published of the real corpus.

    finding: the name under which ``mepipe verify`` reports it.  what: the defect in words.
    """

    plan: ClipPlan
    finding: str
    what: str


class Writer(ABC):
    """Lays out a made-up corpus as the real one is: folders, frame names, pictures, annotation file.

    Class attributes state the defaults; ``plan`` must depend on its arguments alone, so that a clip is
    the same whatever else the corpus holds.
    """

    name: str
    camera: Camera
    camera_like_real: Camera | None = None  # where --like-real takes smaller frames than the corpus has
    fps: int
    subjects = 6
    clips = 9  # per subject

    @abstractmethod
    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        """The plan of clip number ``clip`` of person number ``subject``, both from 0."""

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        """Where the frames of a clip lie, below the corpus's folder."""
        raise NotImplementedError

    def label3(self, emotion: str) -> str:
        """MEGC2019's class of the corpus's word ``emotion``, as far as it has one."""
        return LABEL3.get(emotion.casefold(), "negative")

    def lay(
        self, seed: int, subject: int, clip: int, who: str, what: str, emotion: str, frames: Sequence[int], **facts: Any
    ) -> ClipPlan:
        """The plan of a clip by name. frames: onset, apex, offset; facts: fields of the plan that differ."""
        onset, apex, offset = frames
        usual: dict[str, Any] = {
            "subject": who, "name": what, "folder": self.folder(who, what, emotion), "emotion": emotion,
            "expression": EXPRESSION.get(emotion.casefold(), emotion.casefold()), "label3": self.label3(emotion),
            "fps": self.fps, "first": onset, "onset": onset, "apex": apex, "offset": offset, "last": offset,
        }  # fmt: skip
        return ClipPlan(self.name, seed, subject, clip, **usual | facts)

    def defects(self, seed: int) -> Iterator[Defect]:
        """Clips with the defects that are published of the corpus; by default an apex that has no file."""
        plan = self.plan(seed, 0, DEFECTIVE + 50)  # below are those of the corpora themselves
        yield Defect(replace(plan, absent=frozenset({plan.apex})), "frame nearest", "the apex frame has no file")

    def like_real(self, seed: int) -> list[ClipPlan]:
        """All clips of the real annotation by name, with few frames each. Raises UsageError."""
        raise UsageError(f"the clip names of {self.name} are not published", do="valid: casme2, samm, smic-hs, dfme")

    def extras(self, seed: int, subject: int) -> list[ClipPlan]:
        """Clips of a person that the real corpus has beside its micro-expressions; no row of truth.csv."""
        return []

    @abstractmethod
    def frame_name(self, plan: ClipPlan, number: int) -> str:
        """File name of a frame, with its suffix."""

    @abstractmethod
    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        """Write what comes with the frames (a sheet, or nothing) below ``out``."""

    def is_there(self, out: Path, plan: ClipPlan) -> bool:
        """Whether the clip is drawn already."""
        return (out / plan.folder).is_dir()

    def draw(self, clip: SyntheticClip, out: Path) -> None:
        """Draw one clip into its folder, which appears when its last frame is written. Raises MepipeError."""
        plan = clip.plan
        final = out / plan.folder
        temp = temp_beside(final)
        try:
            temp.mkdir(parents=True)
            for number in sorted(set(clip.numbers) - plan.absent):
                name = self.frame_name(plan, number)
                (temp / name).write_bytes(self.encode(name, clip.sensor(number)))
            replace_folder(temp, final)
        except OSError as e:
            raise write_failed(final, e) from e

    def encode(self, name: str, image: np.ndarray) -> bytes:
        """The bytes of the frame file ``name``."""
        suffix = name[name.rindex(".") :]
        return cv2.imencode(suffix, image, _ENCODING.get(suffix, []))[1].tobytes()


WRITERS: Registry[Writer] = Registry("made-up corpus")

DEFECTIVE = 900  # clip numbers from here on are those of clips with planted defects
LABEL3 = {"happiness": "positive", "happy": "positive", "positive": "positive", "surprise": "surprise",
          "other": "", "others": ""}  # fmt: skip
EXPRESSION = {"other": "others", "happy": "happiness", "sad": "sadness", "positive": "happiness"}


def sparse(rng: np.random.Generator, onset: int) -> tuple[int, int, int]:
    """(onset, apex, offset) of a clip of five frames: as little as face, apex spotting and flow need."""
    return onset, onset + int(rng.integers(1, 4)), onset + 4


def spread(seed: int, corpus: str, counts: Mapping[str, int]) -> list[str]:
    """Every word of ``counts`` as often as it says, in an order that ``seed`` draws."""
    words = [word for word, n in counts.items() for _ in range(n)]
    return [words[i] for i in stream(seed, corpus, "words", *counts).permutation(len(words))]


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
