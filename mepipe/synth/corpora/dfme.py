"""DFME-public, made up: 200, 300 and 500 fps, 1024x768 colour PNG, three parts with different people.

Layout   train_data/train_data/sub0003_01/00109.png     also test_data_A/, test_data_B/; no subject folders
Sheets   full_release_annotation/full_release_annotation/{training,testA,testB}_full_with_AU.xlsx
         header in row 1
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from mepipe.datasets.manifests import published_counts
from mepipe.synth.corpora.base import WRITERS, ClipPlan, Writer, draw_frames, spread
from mepipe.synth.corpora.sheets import cell, write_sheet
from mepipe.synth.identity import Camera
from mepipe.synth.seeds import stream

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

# The part of a clip's sheet, its people and how many of its clips were filmed at 500, 300 and 200 fps, as published
# (the annotation of the release); emotions and totals are in data_manifests/counts.csv.
REAL = {"train": ("train_data", 176, (695, 605, 556)), "testA": ("test_data_A", 42, (215, 143, 116)),
        "testB": ("test_data_B", 41, (83, 57, 159))}  # fmt: skip
SHEETS = PurePosixPath("full_release_annotation", "full_release_annotation")
COLUMNS = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion", "EmotionId", "Fps", "AU")
PARTS = {"train_data": "training", "test_data_A": "testA", "test_data_B": "testB"}  # folder -> sheet
EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")  # EmotionId is the place
LENGTHS = (10, 14)  # frames from onset to offset: far shorter than real ones, since a PNG takes 1.3 MB
_TURNS = ("train_data", "test_data_A", "test_data_B", "train_data", "train_data")  # the part of each person


class Dfme(Writer):
    name = "dfme"
    camera = Camera(size=(1024, 768), scale=(4.0, 4.5))
    camera_like_real = Camera(size=(512, 384), scale=(2.0, 2.25))  # at full size 2629 clips would take 10 GB
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

    def like_real(self, seed: int) -> list[ClipPlan]:
        """2629 clips of 259 people under invented names, three frames each: parts, emotions and rates as published."""
        numbers = iter(stream(seed, self.name, "people").permutation(sum(people for _, people, _ in REAL.values())) + 1)
        plans: list[ClipPlan] = []
        for part, (folder, people, rates) in REAL.items():
            counts = {c.emotion: c.clips for c in published_counts(self.name) if c.part == part and c.emotion}
            emotions = spread(seed, self.name, counts)
            fps = stream(seed, self.name, part, "fps").permutation(np.repeat((500, 300, 200), rates))
            mine = [int(next(numbers)) for _ in range(people)]
            for n, emotion in enumerate(emotions):
                who, what = f"sub{mine[n % people]:04d}", f"sub{mine[n % people]:04d}_{n // people + 1:02d}"
                rng = stream(seed, self.name, len(plans), "real")
                onset = int(rng.integers(0, 200))
                plans.append(self.lay(seed, mine[n % people] - 1, len(plans), who, what, emotion,
                                      (onset, onset + 1, onset + 2), folder=PurePosixPath(folder, folder, what),
                                      fps=int(fps[n])))  # fmt: skip
        return sorted(plans, key=lambda plan: plan.name)  # a person's clips together: a face is painted once

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
