"""CASME II, made up: 200 fps, 640x480 colour JPEG, a face of about 280x340 px.

Layout   CASME2_RAW_selected/sub01/EP02_01f/img46.jpg     frame numbers unpadded, onset to offset only
Sheet    CASME2-coding-20140508.xlsx, header in row 1, two blank columns, Subject as text
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

SHEET = "CASME2-coding-20140508.xlsx"
COLUMNS = ("Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units",
           "Estimated Emotion")  # fmt: skip
LENGTHS = (24, 48)  # frames from onset to offset; the real ones run from 24 to 141
EMOTIONS = {"negative": ("disgust", "repression"), "positive": ("happiness",), "surprise": ("surprise",)}

# The sheet of 2014 beyond the 145 members of the composite: these five by name, the rest by numbers.
PEOPLE = 26
NO_MEMBERS = {"sub04/EP12_01f": "disgust", "sub05/EP09_05f": "disgust", "sub24/EP07_01": "sadness",
              "sub24/EP07_04f": "sadness", "sub24/EP10_03": "sadness"}  # fmt: skip
UNNAMED = {"others": 99, "sadness": 4, "fear": 2}
NEGATIVE = {"disgust": 61, "repression": 27}  # of the 88 negative members


class Casme2(Writer):
    name = "casme2"
    camera = Camera(size=(640, 480), scale=(2.6, 3.0))
    fps = 200

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        words = EMOTIONS.get(balanced(subject, clip), ("others",))
        emotion = words[clip // 3 % len(words)]
        who, what = f"sub{subject + 1:02d}", _clip_name(seed, subject, clip)
        return self.lay(seed, subject, clip, who, what, emotion, draw_frames(rng, int(rng.integers(1, 250)), LENGTHS))

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("CASME2_RAW_selected", who, what)

    def label3(self, emotion: str) -> str:
        """MEGC2019 leaves out the sadness and fear of this corpus."""
        return "" if emotion in ("sadness", "fear") else super().label3(emotion)

    def defects(self, seed: int) -> Iterator[Defect]:
        def plan(
            n: int, subject: int, what: str, emotion: str, frames: tuple[int, int, int], **facts: object
        ) -> ClipPlan:
            return self.lay(seed, subject - 1, DEFECTIVE + n, f"sub{subject:02d}", what, emotion, frames, **facts)

        fixed, says = "correction applied", "the sheet's"
        yield Defect(
            plan(0, 4, "EP12_01f", "disgust", (261, 291, 321), cells={"apex": "/"}), fixed, f"{says} apex is /"
        )
        yield Defect(
            plan(1, 5, "EP09_05f", "disgust", (69, 96, 123), cells={"apex": 69}), fixed, f"{says} apex is the onset"
        )
        yield Defect(plan(2, 16, "EP01_08", "repression", (73, 94, 96), cells={"offset": 110}), fixed,
                     f"{says} offset is 110, the last file 96")  # fmt: skip
        yield Defect(plan(3, 24, "EP02_07", "disgust", (61, 91, 106), in_sheet=False), "clip on disk without a row",
                     "the folder has no row")  # fmt: skip
        yield from super().defects(seed)

    def like_real(self, seed: int) -> list[ClipPlan]:
        """255 clips of 26 subjects: the composite's 145 by name, five others by name, 105 under invented names."""
        from mepipe.datasets.composite import of_corpus

        negative = iter(spread(seed, self.name, NEGATIVE))
        words = {"positive": "happiness", "surprise": "surprise"}
        listed = {f"{m.subject}/{m.clip}": words.get(m.label3) or next(negative) for m in of_corpus(self.name)["3db"]}
        listed |= NO_MEMBERS
        for n, emotion in enumerate(spread(seed, self.name, UNNAMED)):  # EP20 and up: no real episode is called so
            listed[f"sub{n % PEOPLE + 1:02d}/EP{20 + n // PEOPLE}_{n % 9 + 1:02d}"] = emotion
        return [self._real(seed, n, ident, emotion) for n, (ident, emotion) in enumerate(sorted(listed.items()))]

    def _real(self, seed: int, n: int, ident: str, emotion: str) -> ClipPlan:
        who, what = ident.split("/")
        rng = stream(seed, self.name, n, "real")
        return self.lay(seed, int(who[3:]) - 1, n, who, what, emotion, sparse(rng, int(rng.integers(1, 250))))

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"img{number}.jpg"

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        rows = [(c.plan.subject[3:], c.plan.name, None, *map(c.plan.cell, ("onset", "apex", "offset")), None,
                 cell(c.units), c.plan.cell("emotion")) for c in clips]  # fmt: skip
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
