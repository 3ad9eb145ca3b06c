"""SMIC, made up: HS 100 fps, VIS and NIR 25 fps, 640x480 BMP (NIR grey), no annotation file and no apex.

Layout   SMIC_all_raw/HS/s1/micro/negative/s1_ne_01/image559740.bmp    a camera's running count, 6 or 7 digits
         SMIC_all_raw/HS/s1/non_micro/s1_n1/...                        no expression; no row of truth.csv
Labels   the emotion folder; onset and offset are the first and the last image of a folder
Defects  are those of SMIC-E, so its folders and its sheet are made too: HS_long/SMIC-HS-E/s18/s18_sur_03/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mepipe.synth.corpora.base import DEFECTIVE, WRITERS, ClipPlan, Defect, Writer, draw_frames, sparse
from mepipe.synth.corpora.sheets import write_sheet
from mepipe.synth.identity import Camera
from mepipe.synth.seeds import stream

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

KINDS = (("negative", "ne"), ("positive", "po"), ("surprise", "sur"))
EXPRESSIONS = {
    "negative": ("disgust", "sadness", "anger", "fear"),  # SMIC tells no more than "negative"
    "positive": ("happiness",),
    "surprise": ("surprise",),
}
SHEET = "SMIC-HS-E_annotation.xlsx"
COLUMNS = ("Subject", "Filename", None, "OnsetF", "OffsetF", "Onset2F", "Offset2F", "Onset3F", "Offset3F", None,
           "FirstF", "LastF", "TotalMF1", "TotalMF2", "TotalMF3", "TotalVL", "Emotion")  # fmt: skip
AROUND = 12  # frames that an extended clip has on either side of its expression; the real ones have hundreds


class Smic(Writer):
    """One of SMIC's three cameras; the numbers of its people are the real corpus's."""

    people: tuple[int, ...]
    lengths: tuple[int, int]  # frames; a BMP takes 0.9 MB
    subjects, clips = 4, 6

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        emotion, short = KINDS[clip % 3]
        expression = EXPRESSIONS[emotion][int(rng.integers(len(EXPRESSIONS[emotion])))]
        who = self._person(subject)
        frames = draw_frames(rng, self._count(seed, subject, clip), self.lengths)
        what = f"{who}_{short}_{clip // 3 + 1:02d}"
        return self.lay(seed, subject, clip, who, what, emotion, frames, expression=expression)

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        below = f"micro/{emotion}" if emotion else "non_micro"
        return PurePosixPath("SMIC_all_raw", self.name[5:].upper(), who, below, what)

    def extras(self, seed: int, subject: int) -> list[ClipPlan]:
        """One clip without an expression; that its folder is called s1_n1 is known from one source only."""
        rng = stream(seed, self.name, subject, "non_micro")
        who = self._person(subject)
        frames = draw_frames(rng, self._count(seed, subject, _NO_CLIP), self.lengths)
        return [
            self.lay(
                seed, subject, _NO_CLIP, who, f"{who}_n1", "", frames, expression="neutral", label3="", in_sheet=False
            )
        ]

    def defects(self, seed: int) -> Iterator[Defect]:
        """A folder that lost its images, as s18_sur_03 did in the published crops."""
        plan = self.plan(seed, 0, DEFECTIVE)
        absent = frozenset(range(plan.first, plan.last + 1))
        yield Defect(replace(plan, absent=absent), "no readable frame", "the folder is empty")

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"image{number:06d}{plan.suffix or '.bmp'}"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        """The real corpus has none either; SMIC-E has, and it is written when one of its clips is here."""
        rows = [_row(c.plan) for c in clips if c.plan.folder.parts[0].startswith("SMIC-E")]
        if rows:
            write_sheet(out / SHEET, "HS", [COLUMNS, *rows])

    def _person(self, subject: int) -> str:
        return f"s{self.people[subject] if subject < len(self.people) else subject + 5}"

    def _count(self, seed: int, subject: int, clip: int) -> int:
        """The camera's count at the first image: it runs on from clip to clip, past a million in later sessions."""
        start = int(stream(seed, self.name, subject, "count").integers(100_000, 250_000)) + 400_000 * (subject % 5)
        return start + 1000 * (clip % 997) + int(stream(seed, self.name, subject, clip, "gap").integers(500))


class SmicHs(Smic):
    name = "smic-hs"
    camera = Camera(size=(640, 480), scale=(2.15, 2.6))
    fps = 100
    people = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20)
    lengths = (11, 18)  # the real ones run from 11 to 58

    def defects(self, seed: int) -> Iterator[Defect]:
        """Extended clips whose rows are wrong. Their apexes are ours: the real corpus has none."""
        for n, (what, emotion, frames, cells, says) in enumerate((
            ("s18_sur_03", "surprise", (1695782, 1695795, 1695809), {"emotion": "negative"}, "the sheet says negative"),
            ("s3_ne_16", "negative", (409046, 409054, 409063), {"offset": 409062}, "the sheet ends a frame too early"),
            ("s3_po_08", "positive", (402194, 402209, 402225), {"offset": 402223}, "the sheet ends 2 frames too early"),
        )):  # fmt: skip
            who = what.split("_")[0]
            number = int(who[1:])
            expression = EXPRESSIONS[emotion][0]
            folder = PurePosixPath("SMIC-E_raw image", "HS_long", "SMIC-HS-E", f"s{number:02d}", what)
            plan = self.lay(
                seed, self.people.index(number), DEFECTIVE + n, who, what, emotion, frames, expression=expression,
                folder=folder, first=frames[0] - AROUND, last=frames[2] + AROUND, suffix=".jpg", cells=cells,
            )  # fmt: skip
            yield Defect(plan, "correction applied", says)
        yield from super().defects(seed)

    def like_real(self, seed: int) -> list[ClipPlan]:
        """All 164 clips of 16 subjects by name; as JPEG, for 164 clips of BMP would take 750 MB."""
        from mepipe.datasets.composite import of_corpus

        return [self._real(seed, n, m.subject, m.clip, m.label3) for n, m in enumerate(of_corpus(self.name)["3db"])]

    def _real(self, seed: int, n: int, who: str, what: str, emotion: str) -> ClipPlan:
        rng = stream(seed, self.name, n, "real")
        subject = self.people.index(int(who[1:]))
        expression = EXPRESSIONS[emotion][int(rng.integers(len(EXPRESSIONS[emotion])))]
        frames = sparse(rng, self._count(seed, subject, n))
        return self.lay(seed, subject, n, who, what, emotion, frames, expression=expression, suffix=".jpg")


class SmicVis(Smic):
    name = "smic-vis"
    camera = Camera(size=(640, 480), scale=(2.15, 2.6))
    fps = 25
    people = (11, 12, 13, 14, 15, 18, 19, 20)  # those of the last ten recorded who showed something
    lengths = (4, 10)


class SmicNir(SmicVis):
    name = "smic-nir"
    camera = Camera(size=(640, 480), scale=(2.15, 2.6), grey=True)


_NO_CLIP = 10**6  # the clip number of what is no micro-expression


def _row(plan: ClipPlan) -> tuple[object, ...]:
    onset, offset = plan.cell("onset"), plan.cell("offset")
    return (int(plan.subject[1:]), plan.name, None, onset, offset, None, None, None, None, None, plan.first, plan.last,
            plan.offset - plan.onset + 1, None, None, plan.last - plan.first + 1, plan.cell("emotion"))  # fmt: skip


for _writer in (SmicHs(), SmicVis(), SmicNir()):
    WRITERS.register(_writer.name)(_writer)
