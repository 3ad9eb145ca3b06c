"""What made-up corpora of labelled faces share: plain expressions, pictures or sequences, cropped as the real ones are.

These expressions are no micro-expressions: they move the face by 8 to 12 px of a 224x224 crop, so that one picture of a
person nobody has seen before tells the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mepipe.synth.corpora.base import ClipPlan, Defect, Writer
from mepipe.synth.identity import Camera
from mepipe.synth.seeds import stream
from mepipe.workspace import replace_folder, temp_beside, write_bytes, write_failed

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

PLAIN = (8.0, 12.0)  # px at 224x224: what a person shows who means it; faces still look like faces
BASIC = {"happy": "happiness", "sad": "sadness", "angry": "anger", "surprised": "surprise"}  # words -> expressions
TEST = 4  # every so many-th person is of the test part


class FaceWriter(Writer):
    """A made-up corpus of labelled faces. Subclasses say where a picture or sequence lies, and write the lists.

    words: the classes in the corpus's spelling, in turn over the clips of a person.  side: of an aligned crop in px,
    None where whole frames are distributed.  length: frames of a sequence, 1 for pictures.
    """

    camera = Camera(size=(160, 200), scale=(1.05, 1.2))
    fps = 25
    subjects, clips = 12, 7
    words: Sequence[str] = ()
    side: int | None = None
    length = 1

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        """Person ``subject`` shows the classes in turn, in an order of her own."""
        rng = stream(seed, self.name, subject, clip, "plan")
        order = stream(seed, self.name, subject, clip // len(self.words), "order").permutation(len(self.words))
        word = self.words[order[clip % len(self.words)]]
        return self.face(seed, subject, clip, word, rng)

    def face(self, seed: int, subject: int, clip: int, word: str, rng: np.random.Generator, **facts: Any) -> ClipPlan:
        """The plan of a face that shows ``word``. facts: fields of the plan that differ."""
        last = self.length - 1 if self.length > 1 else 1
        apex = int(rng.integers(max(1, last // 2), max(2, (3 * last) // 4 + 1))) if self.length > 1 else 1
        usual: dict[str, Any] = {
            "expression": BASIC.get(word.casefold(), word.casefold()), "amplitude": PLAIN,
            "first": 0 if self.length > 1 else 1, "last": last,
        }  # fmt: skip
        who = self.person(subject)
        name = self.clip_name(subject, clip, word)
        frames = (0, apex, max(last, 2))
        return self.lay(seed, subject, clip, who, name, word, frames, **usual | facts)

    def person(self, subject: int) -> str:
        return f"p{subject + 1:02d}"

    def clip_name(self, subject: int, clip: int, word: str) -> str:
        """What the corpus calls the clip."""
        raise NotImplementedError

    def part(self, plan: ClipPlan) -> str:
        """``train`` or ``test``, whole persons in either."""
        return "test" if plan.subject_index % TEST == TEST - 1 else "train"

    def label3(self, emotion: str) -> str:
        return ""

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"{number:05d}.jpg"

    def defects(self, seed: int) -> Iterator[Defect]:
        """A picture without a file."""
        plan = self.plan(seed, 0, 0)
        yield Defect(replace(plan, absent=frozenset(range(plan.first, plan.last + 1))), "no readable frame", "no file")

    def is_there(self, out: Path, plan: ClipPlan) -> bool:
        return (out / plan.folder).exists() or not set(range(plan.first, plan.last + 1)) - plan.absent

    def picture(self, clip: SyntheticClip, number: int) -> np.ndarray:
        """A frame, or its aligned crop, BGR."""
        if self.side is None:
            return clip.frame(number)
        return aligned(clip, number, self.side)

    def draw(self, clip: SyntheticClip, out: Path) -> None:
        """One picture as a file, a sequence as a folder that appears whole. Raises MepipeError."""
        final = out / clip.plan.folder
        if self.length == 1:
            write_bytes(final, self.encode(final.name, self.picture(clip, clip.apex)))
            return
        temp = temp_beside(final)
        try:
            temp.mkdir(parents=True)
            for number in clip.numbers:
                name = self.frame_name(clip.plan, number)
                (temp / name).write_bytes(self.encode(name, self.picture(clip, number)))
            replace_folder(temp, final)
        except OSError as e:
            raise write_failed(final, e) from e


def aligned(clip: SyntheticClip, number: int, side: int) -> np.ndarray:
    """Frame ``number`` cropped as corpora of aligned faces are: (side, side, 3) BGR."""
    from mepipe.faces import align

    matrix = align.matrix_from_landmarks(clip.landmarks) * (side / align.SIZE)
    return cv2.resize(align.crop(clip.frame(number), matrix, side), (side, side))
