"""SAMM, made up: 200 fps, 960x650 grey JPEG.

Layout   SAMM/006/006_1_2/006_05562.jpg    frame numbers of a long video; 4 or 5 digits, clip by clip
Sheet    SAMM_Micro_FACS_Codes_v2.xlsx, sheet MICRO_ONLY, 13 rows of preamble, Subject as text
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mepipe.synth.corpora.base import (
    DEFECTIVE,
    WRITERS,
    ClipPlan,
    Defect,
    Writer,
    balanced,
    draw_frames,
    sparse,
    spread,
)
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
NEGATIVE = {"Anger": 57, "Contempt": 12, "Disgust": 9, "Fear": 8, "Sadness": 6}  # of the 92 negative members
UNNAMED = {"Other": 26}  # the rows that are no members of the composite
PEOPLE = [n for n in range(6, 38) if n not in (8, 27, 29)]
OBJECTIVE = {"Happiness": 1, "Surprise": 2, "Anger": 3, "Disgust": 4, "Sadness": 5, "Fear": 6}  # 7: all else


class Samm(Writer):
    name = "samm"
    camera = Camera(size=(960, 650), scale=(3.4, 4.0), grey=True)
    fps = 200
    subjects, clips = 5, 6

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        words = EMOTIONS.get(balanced(subject, clip), ("Other",))
        emotion = words[(subject + clip // 3) % len(words)]
        who = f"{subject + 6:03d}"
        what = f"{who}_{_inducement(seed, subject, clip)}_{clip // 7 + 1}"
        return self.lay(
            seed, subject, clip, who, what, emotion, draw_frames(rng, int(rng.integers(300, 9000)), LENGTHS)
        )

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("SAMM", who, what)

    def defects(self, seed: int) -> Iterator[Defect]:
        for n, what, emotion, frames, wrong, says in (
            (0, "028_4_1", "Contempt", (1071, 1103, 1134), 1143, "the sheet's apex lies after its offset"),
            (1, "032_3_1", "Anger", (4896, 4930, 4970), 1930, "the sheet's apex has a wrong digit"),
        ):
            plan = self.lay(
                seed, int(what[:3]) - 6, DEFECTIVE + n, what[:3], what, emotion, frames, cells={"apex": wrong}
            )
            yield Defect(plan, "correction applied", says)
        yield from super().defects(seed)

    def like_real(self, seed: int) -> list[ClipPlan]:
        """159 clips of 29 subjects: the composite's 133 by name, the 26 of ``Other`` under invented names."""
        from mepipe.datasets.composite import of_corpus

        negative = iter(spread(seed, self.name, NEGATIVE))
        words = {"positive": "Happiness", "surprise": "Surprise"}
        listed = {m.clip: words.get(m.label3) or next(negative) for m in of_corpus(self.name)["3db"]}
        # subject 025 first: all its clips are Other. There are seven films, so none is called 8
        people = sorted(PEOPLE, key=lambda n: n != 25)
        listed |= {f"{who:03d}_8_1": word for who, word in zip(people, spread(seed, self.name, UNNAMED), strict=False)}
        return [self._real(seed, n, what, emotion) for n, (what, emotion) in enumerate(sorted(listed.items()))]

    def _real(self, seed: int, n: int, what: str, emotion: str) -> ClipPlan:
        rng = stream(seed, self.name, n, "real")
        frames = sparse(rng, int(rng.integers(300, 9000)))
        return self.lay(seed, int(what[:3]) - 6, n, what[:3], what, emotion, frames)

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
    onset, apex, offset = map(plan.cell, ("onset", "apex", "offset"))
    return (plan.subject, plan.name, film, onset, apex, offset, plan.offset - plan.onset + 1,
            "Micro - 1/2", cell(clip.units), plan.cell("emotion"), OBJECTIVE.get(clip.emotion, 7), None)  # fmt: skip


WRITERS.register(Samm.name)(Samm())
