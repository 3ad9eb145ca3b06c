"""The format of a shard, and what is known of one sample."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

FORMAT = "mepipe.flow"
VERSION = 1
SIDE = 224
FLOW_SHAPE = (3, SIDE, SIDE)
MAX_SAMPLES = 512  # 300 MB of float32: what a crash can lose, and what one read of a whole shard needs
DTYPES = ("float32", "float16")  # float16 rounds flow of a few px by at most 0.002 px and halves the file
COMPRESSIONS = (None, "gzip")  # float flow shrinks by a fifth and then reads 20 times slower: off by default
CHECKSUM = "checksum"
FACTS = "facts_checksum"  # attribute: of all that the file says beside the flow; absent from the oldest shards
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Sample:
    """What is known of one flow.  Labels are "" where there is none; frames are those of the corpus.

    key: hash of the crops and settings the flow was made from, given by who made it.
    onset_frames, apex_frames: how many crops were averaged into the onset and the apex image.
    """

    corpus: str
    subject: str
    clip: str
    emotion: str = ""
    label3: str = ""
    label7: str = ""
    split: str = ""
    onset: int = 0
    apex: int = 0
    offset: int = 0
    key: str = ""
    onset_frames: int = 1
    apex_frames: int = 1

    def __str__(self) -> str:
        return f"{self.corpus} {self.subject}/{self.clip}"


@dataclass(frozen=True)
class Content:
    """What the channels of a shard's samples hold: three, or four where the strain was asked for beside them.

    normalised: values someone else scaled, not px; span: then the lowest and the highest value there can be.
    """

    channels: tuple[str, ...] = ("u", "v", "magnitude")
    normalised: bool = False
    span: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one sample."""
        return len(self.channels), SIDE, SIDE

    def first(self, count: int | None) -> Content:
        """What the first ``count`` channels hold; None for all."""
        return replace(self, channels=self.channels[:count])

    @property
    def mirror(self) -> float:
        """A mirrored face has u' = mirror - u: -u in px, the other end of its span where u was min-max scaled."""
        return 0.0 if self.span is None else sum(self.span)

    def __str__(self) -> str:
        unit = "normalised" if self.normalised else "px"
        return f"{', '.join(self.channels)} ({unit})"


PX = Content()
PX_STRAIN = Content((*PX.channels, "strain"))
CONTENTS_PX = (PX, PX_STRAIN)
AVERAGED = ("onset_frames", "apex_frames")  # datasets that are there only where a number differs from 1
TEXTS = tuple(f.name for f in fields(Sample) if f.type == "str")
NUMBERS = tuple(f.name for f in fields(Sample) if f.type == "int" and f.name not in AVERAGED)


def facts_checksum(attributes: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]) -> int:
    """CRC-32 of a shard's attributes and of its samples' names, labels and frames, whatever their order in the file."""
    said = {name: value for name, value in attributes.items() if name not in (FACTS, "complete")}
    facts = [said, {name: list(column) for name, column in columns.items()}]
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())
