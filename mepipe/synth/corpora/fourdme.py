"""4DME, made up: the grey micro clips, 60 fps, 640x480 JPEG; now and then two emotions to a clip.

Layout   gray_micro/S01/001_01_1/0001.jpg       what subjects, clips and frames are called is our reading
Sheet    4DME_Labelling_Micro_release v1.xlsx, header in row 1
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mepipe.synth.corpora.base import WRITERS, ClipPlan, Writer, draw_frames
from mepipe.synth.corpora.sheets import write_sheet
from mepipe.synth.identity import Camera
from mepipe.synth.seeds import stream

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

SHEET = "4DME_Labelling_Micro_release v1.xlsx"
COLUMNS = ("sub_ID", "fold_name", "Emotion", "Onset", "Apex", "Offset", "AUs")
LENGTHS = (12, 20)  # frames from onset to offset
# the sheet's emotion, what is drawn, the class on which its words agree
EMOTIONS = (
    ("Negative", "disgust", "negative"),
    ("Positive", "happiness", "positive"),
    ("Surprise", "surprise", "surprise"),
    ("Negative+Repression", "repression", "negative"),
    ("Positive+Surprise", "surprise", ""),
    ("Others", "others", ""),
)


class FourDme(Writer):
    name = "4dme"
    camera = Camera(size=(640, 480), scale=(2.6, 3.0), grey=True)
    fps = 60
    subjects, clips = 4, 6

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        emotion, expression, label3 = EMOTIONS[clip % len(EMOTIONS)]
        who, what = f"S{subject + 1:02d}", f"{clip + 1:03d}_01_1"
        frames = draw_frames(rng, int(rng.integers(1, 200)), LENGTHS)
        return self.lay(seed, subject, clip, who, what, emotion, frames, expression=expression, label3=label3)

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("gray_micro", who, what)

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"{number:04d}.jpg"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        rows = [(c.plan.subject, c.plan.name, *map(c.plan.cell, ("emotion", "onset", "apex", "offset")),
                 "+".join(f"AU{u}" for u in c.units.split("+"))) for c in clips]  # fmt: skip
        write_sheet(out / SHEET, "Sheet1", [COLUMNS, *rows])


WRITERS.register(FourDme.name)(FourDme())
