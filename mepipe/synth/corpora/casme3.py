"""CAS(ME)^3 part A, made up: 30 fps, 1280x720 colour JPEG, one expression to a video.

Layout   part_A/spNO.1/a/color/166.jpg
Sheet    cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx, sheet "label", header in row 1
The real videos hold several expressions each and frames on either side of them; here there are a few frames
before and after.  The picture size is from memory of the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mepipe.synth.corpora.base import DEFECTIVE, WRITERS, ClipPlan, Defect, Writer, balanced, draw_frames
from mepipe.synth.corpora.sheets import cell, write_sheet
from mepipe.synth.identity import Camera
from mepipe.synth.seeds import stream

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

SHEET = "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"
COLUMNS = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion")
LENGTHS = (8, 13)  # frames from onset to offset
AROUND = 2  # frames on disk before the onset and after the offset
EMOTIONS = {"negative": ("disgust", "fear", "anger", "sad"), "positive": ("happy",), "surprise": ("surprise",)}


class Casme3(Writer):
    name = "casme3"
    camera = Camera(size=(1280, 720), scale=(3.4, 4.0))
    fps = 30
    subjects, clips = 4, 4

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        words = EMOTIONS.get(balanced(subject, clip), ("others",))
        frames = draw_frames(rng, int(rng.integers(AROUND, 900)), LENGTHS)
        return self._clip(seed, subject, clip, _letters(clip), words[clip // 3 % len(words)], frames)

    def _clip(
        self, seed: int, subject: int, clip: int, video: str, emotion: str, frames: Sequence[int], **cells: object
    ) -> ClipPlan:
        """A clip is called by its video and the onset that the sheet gives."""
        who, what = f"spNO.{subject + 1}", f"{video}_{cells.get('onset', frames[0])}"
        return self.lay(seed, subject, clip, who, what, emotion, frames, first=frames[0] - AROUND,
                        last=frames[2] + AROUND, cells=cells)  # fmt: skip

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("part_A", who, what.split("_")[0], "color")

    def defects(self, seed: int) -> Iterator[Defect]:
        """The kinds of the published rows 128, 749, 796 and of the 55 with apex = onset."""
        for n, (frames, cells, finding, says) in enumerate((
            ((112, 118, 124), {"apex": 83}, "odd order", "the sheet's apex lies before the onset"),
            ((212, 218, 224), {"apex": 212}, "odd order", "the sheet's apex is the onset"),
            ((312, 318, 324), {"offset": 0}, "row repaired", "the sheet's offset is 0"),
            ((2660, 2668, 2675), {"onset": 3647}, "offset not after onset", "the sheet's onset lies after its offset"),
        )):  # fmt: skip
            clip = DEFECTIVE + n
            yield Defect(self._clip(seed, 0, clip, _letters(clip), "disgust", frames, **cells), finding, says)
        yield from super().defects(seed)

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"{number}.jpg"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        rows = [(c.plan.subject, c.plan.folder.parts[2], *map(c.plan.cell, ("onset", "apex", "offset")), cell(c.units),
                 7, c.plan.cell("emotion")) for c in clips]  # fmt: skip
        write_sheet(out / SHEET, "label", [COLUMNS, *rows])


def _letters(clip: int) -> str:
    """a, b, ..., z, ba, bb, ...: how videos are called."""
    return (_letters(clip // 26) if clip >= 26 else "") + chr(ord("a") + clip % 26)


WRITERS.register(Casme3.name)(Casme3())
