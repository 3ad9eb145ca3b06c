"""DFME-public, made up: 200, 300 and 500 fps, 1024x768 colour PNG, three parts with different people.

Layout   train_data/train_data/sub0003_01/00109.png     also test_data_A/, test_data_B/; no subject folders
Sheets   full_release_annotation/full_release_annotation/{training,testA,testB}_full_with_AU.xlsx
         header in row 1
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mepipe.synth.corpora.base import WRITERS, ClipPlan, Writer, draw_frames
from mepipe.synth.corpora.sheets import cell, write_sheet
from mepipe.synth.identity import Camera
from mepipe.synth.seeds import stream

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

SHEETS = PurePosixPath("full_release_annotation", "full_release_annotation")
COLUMNS = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion", "EmotionId", "Fps", "AU")
PARTS = {"train_data": "training", "test_data_A": "testA", "test_data_B": "testB"}  # folder -> sheet
EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")  # EmotionId is the place
LENGTHS = (10, 14)  # frames from onset to offset: far shorter than real ones, since a PNG takes 1.3 MB
_TURNS = ("train_data", "test_data_A", "test_data_B", "train_data", "train_data")  # the part of each person


class Dfme(Writer):
    name = "dfme"
    camera = Camera(size=(1024, 768), scale=(4.0, 4.5))
    fps = 200
    subjects, clips = 4, 7

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        part = _TURNS[subject % len(_TURNS)]
        who = f"sub{subject + 1:04d}"
        what = f"{who}_{clip + 1:02d}"
        order = stream(seed, self.name, subject, clip // len(EMOTIONS), "order").permutation(len(EMOTIONS))
        emotion = EMOTIONS[order[clip % len(EMOTIONS)]]
        onset, apex, offset = draw_frames(rng, int(rng.integers(0, 4)), LENGTHS)
        fps = (500, 300, 200)[rng.integers(3)]
        last = offset + int(rng.integers(0, 3))
        folder = PurePosixPath(part, part, what)
        return self.lay(seed, subject, clip, who, what, emotion, (onset, apex, offset),
                        folder=folder, fps=fps, first=0, last=last)  # fmt: skip

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("train_data", "train_data", what)

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"{number:05d}.png"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        for part, sheet in PARTS.items():
            rows = [_row(clip) for clip in clips if clip.plan.folder.parts[0] == part]
            write_sheet(out / SHEETS / f"{sheet}_full_with_AU.xlsx", "Sheet1", [COLUMNS, *rows])


def _row(clip: SyntheticClip) -> tuple[object, ...]:
    plan = clip.plan
    return (plan.subject, plan.name, *map(plan.cell, ("onset", "apex", "offset", "emotion")),
            EMOTIONS.index(clip.emotion), plan.fps, cell(clip.units))  # fmt: skip


WRITERS.register(Dfme.name)(Dfme())
