"""``--shard I/N``: one command's work cut into N parts that run anywhere, at once or in turn, on one workspace.

Every part owns whole clips, shards or folds, and writes nothing else, so parts need no word from each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from mepipe.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Part ``number`` (from 1) of ``of``."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str | None) -> Share | None:
        """``2/8`` as a share; None for None. Raises UsageError for anything else."""
        if text is None:
            return None
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        share = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= share.number <= share.of:
            raise UsageError(f"--shard is {text!r}", do="write I/N with 1 <= I <= N, for example 2/4")
        return share

    def owns(self, place: int) -> bool:
        """Whether what stands at ``place`` (from 0) is this part's."""
        return place % self.of == self.number - 1

    def pick(self, things: Sequence[T]) -> list[T]:
        """Its things: every N-th, so that parts are equally long."""
        return list(things[self.number - 1 :: self.of])

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def word(self) -> str:
        """As it stands in the name of a file."""
        return f"{self.number}of{self.of}"


def picked(things: Sequence[T], share: Share | None) -> list[T]:
    """The things of ``share``; all without one."""
    return list(things) if share is None else share.pick(things)
