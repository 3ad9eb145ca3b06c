"""FERPlus, made up: 48x48 grey faces as text in fer2013.csv, ten votes for each in fer2013new.csv.

Most annotators see what is shown, some do not; now and then there is no majority, and then the picture has no label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mepipe.datasets.ferplus import CLASSES, OTHERS, SIDE
from mepipe.synth.corpora.base import WRITERS, ClipPlan, Defect
from mepipe.synth.corpora.faces import TEST, FaceWriter, aligned
from mepipe.synth.seeds import stream
from mepipe.workspace import atomic_file, write_text

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

USAGE = {"train": "Training", "test": "PrivateTest", "val": "PublicTest"}
TORN = 0.05  # share of pictures without a majority


class FerPlus(FaceWriter):
    name = "ferplus"
    words = CLASSES
    clips = 8

    def clip_name(self, subject: int, clip: int, word: str) -> str:
        return f"fer{subject * 500 + clip:07d}"

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("fer2013.csv")

    def is_there(self, out: Path, plan: ClipPlan) -> bool:
        """All pictures are one file, which is written with the lists."""
        return True

    def part(self, plan: ClipPlan) -> str:
        return "val" if plan.subject_index % TEST == TEST - 2 and plan.subject_index > TEST else super().part(plan)

    def defects(self, seed: int) -> Iterator[Defect]:
        """A picture without a file cannot be: all are in one."""
        yield from ()

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        with atomic_file(out / "fer2013.csv") as temp, temp.open("w", encoding="ascii") as f:
            f.write("emotion,pixels,Usage\n")
            for clip in clips:
                grey = cv2.cvtColor(aligned(clip, clip.apex, SIDE), cv2.COLOR_BGR2GRAY)
                f.write(f"0,{' '.join(map(str, grey.ravel().tolist()))},{USAGE[self.part(clip.plan)]}\n")
        rows = [",".join(("Usage", "Image name", *CLASSES, *OTHERS))]
        for plan in (clip.plan for clip in clips):
            rows.append(",".join(map(str, (USAGE[self.part(plan)], f"{plan.name}.png", *votes_for(plan)))))
        write_text(out / "fer2013new.csv", "\n".join(rows) + "\n")


def votes_for(plan: ClipPlan) -> list[int]:
    """Ten votes: six to ten for what is shown, the rest anywhere; for some pictures five and five."""
    rng = stream(plan.seed, plan.corpus, plan.subject_index, plan.clip_index, "votes")
    votes = np.zeros(len(CLASSES) + len(OTHERS), int)
    shown = CLASSES.index(plan.emotion)
    if rng.random() < TORN:
        votes[[shown, (shown + 1) % len(CLASSES)]] = 5
        return [int(v) for v in votes]
    agree = int(rng.integers(6, 11))
    np.add.at(votes, rng.integers(0, len(CLASSES), 10 - agree), 1)
    votes[shown] += agree
    return [int(v) for v in votes]


WRITERS.register(FerPlus.name)(FerPlus())
