"""CASME II, made up: 200 fps, 640x480 colour JPEG, a face of about 280x340 px.

Layout   CASME2_RAW_selected/sub01/EP02_01f/img46.jpg     frame numbers unpadded, onset to offset only
Sheet    CASME2-coding-20140508.xlsx, header in row 1, two blank columns, Subject as text
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

SHEET = "CASME2-coding-20140508.xlsx"
COLUMNS = ("Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units",
           "Estimated Emotion")  # fmt: skip
LENGTHS = (24, 48)  # frames from onset to offset; the real ones run from 24 to 141
EMOTIONS = {"negative": ("disgust", "repression"), "positive": ("happiness",), "surprise": ("surprise",)}


class Casme2(Writer):
    name = "casme2"
    camera = Camera(size=(640, 480), scale=(2.6, 3.0))

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        kind = balanced(subject, clip)
        words = EMOTIONS.get(kind, ("others",))
        emotion = words[clip // 3 % len(words)]
        who, what = f"sub{subject + 1:02d}", _clip_name(seed, subject, clip)
        onset, apex, offset = draw_frames(rng, int(rng.integers(1, 250)), LENGTHS)
        return ClipPlan(
            self.name, seed, subject, clip,
            subject=who, name=what, folder=PurePosixPath("CASME2_RAW_selected", who, what),
            expression=emotion, emotion=emotion, label3=kind if kind in EMOTIONS else "", fps=200,
            first=onset, onset=onset, apex=apex, offset=offset, last=offset,
        )  # fmt: skip

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"img{number}.jpg"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        rows = [(c.plan.subject[3:], c.plan.name, None, c.onset, c.apex, c.offset, None, cell(c.units), c.emotion)
                for c in clips]  # fmt: skip
        write_sheet(out / SHEET, "Sheet1", [COLUMNS, *rows])


def _clip_name(seed: int, subject: int, clip: int) -> str:
    """An episode name as irregular as the real ones (EP02_01f, EP03_02, EP06_02_01, EP01_2), once per subject."""
    episodes = stream(seed, "casme2", subject, "episodes").permutation(19) + 1
    rng = stream(seed, "casme2", subject, clip, "name")
    turn, place = divmod(clip, len(episodes))
    take = 2 * turn + int(rng.integers(1, 3))
    form = ("{:02d}", "{:02d}", "{:02d}f", "{:02d}f", "{:02d}_01", "{}")[rng.integers(6)]
    return f"EP{episodes[place]:02d}_{form.format(take)}"


WRITERS.register(Casme2.name)(Casme2())
