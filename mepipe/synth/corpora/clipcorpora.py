"""DFEW and FERV39k, made up: aligned frames of short sequences, in folders, and their lists.

Layout   DFEW: Clip/clip_224x224_16f/00001/00001_00001.jpg, EmoLabel_DataSplit/{train,test}(single-labeled)/set_1.csv
         FERV39k: 2_ClipsforFaceCrop/Action/Happy/0001/00001.jpg, 4_setups/All_scenes/{train,test}_All.csv
The folds of the made-up DFEW hold different people.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mepipe.datasets.dfew import FOLDS
from mepipe.synth.corpora.base import WRITERS, ClipPlan
from mepipe.synth.corpora.faces import FaceWriter
from mepipe.workspace import write_text

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

DFEW = ("Happy", "Sad", "Neutral", "Angry", "Surprise", "Disgust", "Fear")  # labels 1 to 7
FERV39K = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
SCENES = ("Action", "Crime", "DailyLife", "Speech", "War")  # five of its 22


class Dfew(FaceWriter):
    name = "dfew"
    words = DFEW
    side = 224
    length = 16
    subjects = 10

    def clip_name(self, subject: int, clip: int, word: str) -> str:
        return f"{subject * 500 + clip + 1:05d}"

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("Clip", "clip_224x224_16f", what)

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"{plan.name}_{number + 1:05d}.jpg"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        for fold in range(FOLDS):
            for part in ("train", "test"):
                mine = [c.plan for c in clips if (c.plan.subject_index % FOLDS == fold) == (part == "test")]
                rows = ["video_name,label", *(f"{p.name},{DFEW.index(p.emotion) + 1}" for p in mine)]
                path = out / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold + 1}.csv"
                write_text(path, "\n".join(rows) + "\n")


class Ferv39k(FaceWriter):
    name = "ferv39k"
    words = FERV39K
    side = 224
    length = 12

    def clip_name(self, subject: int, clip: int, word: str) -> str:
        return f"{SCENES[subject % len(SCENES)]}-{word}-{subject * 100 + clip + 1:04d}"

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("2_ClipsforFaceCrop", *what.split("-"))

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"{number + 1:05d}.jpg"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        for part in ("train", "test"):
            mine = [c.plan for c in clips if self.part(c.plan) == part]
            lines = [f"{p.name.replace('-', '/')} {p.emotion}\n" for p in mine]
            write_text(out / "4_setups" / "All_scenes" / f"{part}_All.csv", "".join(lines))


WRITERS.register(Dfew.name)(Dfew())
WRITERS.register(Ferv39k.name)(Ferv39k())
