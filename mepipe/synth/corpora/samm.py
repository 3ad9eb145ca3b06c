"""SAMM, made up: 200 fps, 960x650 grey JPEG.

Layout   SAMM/006/006_1_2/006_05562.jpg    frame numbers of a long video; 4 or 5 digits, clip by clip
Sheet    SAMM_Micro_FACS_Codes_v2.xlsx, sheet MICRO_ONLY, 13 rows of preamble, Subject as text
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

SHEET = "SAMM_Micro_FACS_Codes_v2.xlsx"
COLUMNS = ("Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame", "Duration",
           "Micro", "Action Units", "Estimated Emotion", "Objective Classes", "Notes")  # fmt: skip
PREAMBLE = 13
LENGTHS = (24, 40)  # frames from onset to offset; the real ones run from 30 to 101
EMOTIONS = {
    "negative": ("Anger", "Contempt", "Disgust", "Fear", "Sadness"),
    "positive": ("Happiness",),
    "surprise": ("Surprise",),
}
OBJECTIVE = {"Happiness": 1, "Surprise": 2, "Anger": 3, "Disgust": 4, "Sadness": 5, "Fear": 6}  # 7: all else


class Samm(Writer):
    name = "samm"
    camera = Camera(size=(960, 650), scale=(3.4, 4.0), grey=True)
    subjects, clips = 5, 6

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        kind = balanced(subject, clip)
        words = EMOTIONS.get(kind, ("Other",))
        emotion = words[(subject + clip // 3) % len(words)]
        who = f"{subject + 6:03d}"
        what = f"{who}_{_inducement(seed, subject, clip)}_{clip // 7 + 1}"
        onset, apex, offset = draw_frames(rng, int(rng.integers(300, 9000)), LENGTHS)
        return ClipPlan(
            self.name, seed, subject, clip,
            subject=who, name=what, folder=PurePosixPath("SAMM", who, what),
            expression="others" if emotion == "Other" else emotion.lower(), emotion=emotion,
            label3=kind if kind in EMOTIONS else "", fps=200,
            first=onset, onset=onset, apex=apex, offset=offset, last=offset,
        )  # fmt: skip

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        digits = 4 + stream(plan.seed, self.name, plan.subject_index, plan.clip_index, "digits").integers(2)
        return f"{plan.subject}_{number:0{digits}d}.jpg"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        preamble = [("Made-up data in the layout of SAMM",), *[(None,)] * (PREAMBLE - 1)]
        write_sheet(out / SHEET, "MICRO_ONLY", [*preamble, COLUMNS, *map(_row, clips)])


def _inducement(seed: int, subject: int, clip: int) -> int:
    """Which of the seven films provoked the clip: each once before any comes again."""
    return int(stream(seed, "samm", subject, "films").permutation(7)[clip % 7]) + 1


def _row(clip: SyntheticClip) -> tuple[object, ...]:
    plan = clip.plan
    film = int(plan.name.split("_")[1])
    return (plan.subject, plan.name, film, clip.onset, clip.apex, clip.offset, clip.offset - clip.onset + 1,
            "Micro - 1/2", cell(clip.units), clip.emotion, OBJECTIVE.get(clip.emotion, 7), None)  # fmt: skip


WRITERS.register(Samm.name)(Samm())
