"""What is known of one sample, and how it is stored."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mepipe.shards.content import FLOW_FORMAT, SIDE

FORMAT = FLOW_FORMAT
VERSION = 1  # of either format
FLOW_SHAPE = (3, SIDE, SIDE)
MAX_SAMPLES = 512  # 300 MB of float32: what a crash can lose, and what one read of a whole shard needs
COMPRESSIONS = (None, "gzip")  # float flow shrinks by a fifth and then reads 20 times slower: off by default
CHECKSUM = "checksum"
FACTS = "facts_checksum"  # attribute: of all that the file says beside the flow; absent from the oldest shards
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Sample:
    """What is known of one flow or face.  Labels are "" where there is none; frames are those of the corpus.

    subject: "" where the corpus does not say who is seen.
    key: hash of what the flow or face was made from, given by who made it.
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
        return f"{self.corpus} {self.subject}/{self.clip}" if self.subject else f"{self.corpus} {self.clip}"


AVERAGED = ("onset_frames", "apex_frames")  # datasets that are there only where a number differs from 1
TEXTS = tuple(f.name for f in fields(Sample) if f.type == "str")
NUMBERS = tuple(f.name for f in fields(Sample) if f.type == "int" and f.name not in AVERAGED)


def checksum_of(parts: Sequence[np.ndarray]) -> int:
    """CRC-32 of the stored bytes of a sample and of what is stored beside it."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(np.ascontiguousarray(part).data, crc)
    return crc


def facts_checksum(attributes: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]) -> int:
    """CRC-32 of a shard's attributes and of its samples' names, labels and frames, whatever their order in the file."""
    said = {name: value for name, value in attributes.items() if name not in (FACTS, "complete")}
    facts = [said, {name: list(column) for name, column in columns.items()}]
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())
