"""MMEW, made up: 90 fps, colour JPEG of 960x540 px (half of what is said of the real one).

Layout   MMEW_Final/Micro_Expression/happiness/S03-01-002/1.jpg     subject, emotion, number; frames from 1
Sheet    MMEW_Micro_Exp.xlsx, header in row 1
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mepipe.synth.corpora.base import WRITERS, ClipPlan, Writer, balanced, draw_frames
from mepipe.synth.corpora.sheets import cell, write_sheet
from mepipe.synth.identity import Camera
from mepipe.synth.seeds import stream

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

SHEET = "MMEW_Micro_Exp.xlsx"
COLUMNS = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion",
           "remarks")  # fmt: skip
LENGTHS = (12, 20)  # frames from onset to offset
EMOTIONS = {"negative": ("disgust", "fear", "anger", "sadness"), "positive": ("happiness",), "surprise": ("surprise",)}
IDS = ("happiness", "surprise", "anger", "disgust", "fear", "sadness", "others")  # only 01 = happiness is published


class Mmew(Writer):
    name = "mmew"
    camera = Camera(size=(960, 540), scale=(3.0, 3.4))
    fps = 90
    subjects, clips = 4, 4

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        words = EMOTIONS.get(balanced(subject, clip), ("others",))
        emotion = words[clip // 3 % len(words)]
        who = f"S{subject + 1:02d}"
        what = f"{who}-{IDS.index(emotion) + 1:02d}-{clip + 1:03d}"
        frames = draw_frames(rng, int(rng.integers(1, 5)), LENGTHS)
        return self.lay(seed, subject, clip, who, what, emotion, frames, first=1, last=frames[2] + 1)

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("MMEW_Final", "Micro_Expression", emotion, what)

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"{number}.jpg"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        rows = [(int(c.plan.subject[1:]), c.plan.name, *map(c.plan.cell, ("onset", "apex", "offset")), cell(c.units),
                 c.plan.cell("emotion"), None) for c in clips]  # fmt: skip
        write_sheet(out / SHEET, "Sheet1", [COLUMNS, *rows])


WRITERS.register(Mmew.name)(Mmew())
