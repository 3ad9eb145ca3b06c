"""RAF-DB (basic), made up: aligned 100x100 faces and the list of labels; every fourth person is of the test part.

Layout   basic/Image/aligned/train_00001_aligned.jpg, basic/EmoLabel/list_patition_label.txt
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mepipe.datasets.rafdb import CLASSES
from mepipe.synth.corpora.base import WRITERS
from mepipe.synth.corpora.faces import TEST, FaceWriter
from mepipe.workspace import write_text

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip


class RafDb(FaceWriter):
    name = "rafdb"
    words = CLASSES
    side = 100

    def clip_name(self, subject: int, clip: int, word: str) -> str:
        part = "test" if subject % TEST == TEST - 1 else "train"
        return f"{part}_{subject * 500 + clip + 1:05d}"

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("basic", "Image", "aligned", f"{what}_aligned.jpg")

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        lines = [f"{c.plan.name}.jpg {CLASSES.index(c.emotion) + 1}\n" for c in clips]
        write_text(out / "basic" / "EmoLabel" / "list_patition_label.txt", "".join(lines))


WRITERS.register(RafDb.name)(RafDb())
