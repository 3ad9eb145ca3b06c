"""Class folders, made up: ``image-folder`` has whole pictures, ``clip-folder`` sequences, parts with other people.

Layout   train/happiness/p01_01.jpg, and train/happiness/p01_01/00000.jpg; test/ likewise
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mepipe.synth.corpora.base import WRITERS, ClipPlan, Defect
from mepipe.synth.corpora.faces import TEST, FaceWriter

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip


class ImageFolder(FaceWriter):
    name = "image-folder"
    words = ("anger", "happiness", "sadness", "surprise")
    clips = 8

    def clip_name(self, subject: int, clip: int, word: str) -> str:
        return f"{self.person(subject)}_{clip + 1:02d}"

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        part = "test" if int(who[1:]) % TEST == 0 else "train"
        return PurePosixPath(part, emotion, f"{what}.jpg" if self.length == 1 else what)

    def defects(self, seed: int) -> Iterator[Defect]:
        """What is not there is not missed: the folders are the annotation."""
        yield from ()

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        """The folders are the annotation."""

    def frame_name(self, plan: ClipPlan, number: int) -> str:
        return f"{number:05d}.jpg"


class ClipFolder(ImageFolder):
    name = "clip-folder"
    length = 12


WRITERS.register(ImageFolder.name)(ImageFolder())
WRITERS.register(ClipFolder.name)(ClipFolder())
