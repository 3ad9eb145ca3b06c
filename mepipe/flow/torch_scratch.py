"""The memory that engine ``torch`` works in on the CPU: one block, for one thing after the other.

Warping, the median and the iterations of all levels of a pair never overlap in time.  On arrays of their own they
would touch some 70 MB a pair, and each would find its own gone from the cache.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

_LINE = 16  # float32 in a cache line, on which every array begins


class Scratch:
    """A block of float32 that everybody who takes from it uses from its beginning."""

    def __init__(self) -> None:
        self.block = torch.empty(0)

    def take(self, *shapes: tuple[int, ...]) -> list[Tensor]:
        """Arrays of these shapes, one after the other; nothing stays in them from one use to the next."""
        sizes = [-(-prod(shape) // _LINE) * _LINE for shape in shapes]
        if sum(sizes) > len(self.block):  # what was taken before keeps the former block
            self.block = torch.empty(sum(sizes))
        parts = self.block[: sum(sizes)].split(sizes)
        return [part[: prod(shape)].view(shape) for part, shape in zip(parts, shapes, strict=True)]
