"""AffectNet, made up, in its release with lists: whole pictures, a box and 68 landmarks for each.

Layout   Manually_Annotated_Images/<folder>/<file>.jpg, Manually_Annotated_file_lists/{training,validation}.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mepipe.datasets.affectnet import BOX, CLASSES, COLUMNS
from mepipe.synth.corpora.base import WRITERS
from mepipe.synth.corpora.faces import FaceWriter
from mepipe.workspace import write_text

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

LISTS = {"train": "training.csv", "test": "validation.csv"}


class AffectNet(FaceWriter):
    name = "affectnet"
    words = CLASSES
    clips = 8

    def clip_name(self, subject: int, clip: int, word: str) -> str:
        return f"{subject + 1}-{clip + 1:05d}"

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("Manually_Annotated_Images", *f"{what}.jpg".split("-"))

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        for part, name in LISTS.items():
            rows = [",".join((*COLUMNS, "valence", "arousal"))]
            rows += [_row(clip) for clip in clips if self.part(clip.plan) == part]
            write_text(out / "Manually_Annotated_file_lists" / name, "\n".join(rows) + "\n")


def _row(clip: SyntheticClip) -> str:
    left, top, right, bottom = clip.face_box
    box = (left, top, right - left, bottom - top)
    assert len(box) == len(BOX)
    points = ";".join(f"{x:.2f};{y:.2f}" for x, y in clip.landmarks)
    file = clip.plan.folder.relative_to("Manually_Annotated_Images")
    return ",".join((f"{file}", *(f"{v:.0f}" for v in box), points, str(CLASSES.index(clip.emotion)), "0", "0"))


WRITERS.register(AffectNet.name)(AffectNet())
