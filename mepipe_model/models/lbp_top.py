"""LBP-TOP: local binary patterns on three orthogonal planes of the aligned clip, and a linear SVM.

Source     Zhao, Pietikainen: Dynamic texture recognition using local binary patterns with an application to facial
           expressions, TPAMI 29(6), 2007; in micro-expressions since Pfister et al. 2011, and the baseline of MEGC2019.
Features   At every pixel of the grey clip, on each of the planes XY, XT, YT, P neighbours on an ellipse with the radii
           of the plane's axes; the bits "neighbour >= centre" form a pattern.  Patterns with at most two changes
           between 0 and 1 around the circle have a bin each, all others share one: P (P - 1) + 3 bins.  A histogram
           per plane and block, divided by its sum.  Neighbours between pixels are interpolated linearly on both axes.
           Pixels without all their neighbours are left out.
Settings   5x5 blocks of the face, one in time, 8 neighbours, radii 1, 1 and 4 frames, C = 10000: ours, close to what
           is common; those of the MEGC2019 baseline are not verified.  No temporal interpolation (TIM): all frames.
Published  on 3DB, 3 classes: UF1 0.5882, UAR 0.5785 (SMIC 0.2000, 0.5280; CASME II 0.7026, 0.7429; SAMM 0.3954,
           0.4102), the MEGC2019 baseline.  What its evaluation chose, and on which clips, is not known to us.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mepipe.errors import DataError
from mepipe_model.models.svm import FittedModel, SvmHead

if TYPE_CHECKING:
    from mepipe_model.models.handcrafted import LbpTopConfig

T, Y, X = 0, 1, 2  # axes of a clip
PLANES = ((X, Y), (X, T), (Y, T))  # (cosine axis, sine axis); rows and time grow against the sine
ON_GRID = 1e-6  # an offset this close to a whole number is one: cos(pi/2) is not 0 in floating point


class LbpTop(FittedModel):
    """(B, T, H, W) grey values of B clips of T frames -> scores (B, num_classes)."""

    def __init__(self, name: str, config: LbpTopConfig) -> None:
        super().__init__({"name": name, **config.as_dict()})
        self.neighbours, self.radii, self.blocks = config.neighbours, config.radii, config.blocks
        self.c, self.standardise = config.c, config.standardise
        bins = len(PLANES) * math.prod(config.blocks) * uniform_bins(config.neighbours)
        self.head = SvmHead(bins, config.num_classes)

    @property
    def shortest(self) -> int:
        """Frames a clip needs."""
        return 2 * self.radii[2] + self.blocks[2]

    def prepare(self, x: Tensor) -> Tensor:
        """(B, T, H, W) grey, any dtype -> (B, planes * blocks * bins) histograms, each of sum 1.

        Raises DataError for clips with too few frames.
        """
        if x.shape[1] < self.shortest:
            do = f"--set radii=[1,1,1] needs {2 + self.blocks[2]}"
            raise DataError(f"{x.shape[1]} frames: LBP-TOP needs {self.shortest} with these radii and blocks", do=do)
        return torch.stack([self._features(clip) for clip in x.float()])

    def _features(self, clip: Tensor) -> Tensor:
        bins = uniform_bins(self.neighbours)
        radii = (self.radii[2], self.radii[1], self.radii[0])
        table = torch.from_numpy(uniform_table(self.neighbours)).to(clip.device)
        where = _block_index([n - 2 * r for n, r in zip(clip.shape, radii, strict=True)], self.blocks) * bins
        count = math.prod(self.blocks) * bins
        parts = []
        for plane in PLANES:
            code = table[patterns(clip, plane, radii, self.neighbours).int()]
            histogram = torch.bincount((where.to(clip.device) + code).view(-1), minlength=count).view(-1, bins).float()
            parts.append(histogram / histogram.sum(1, keepdim=True))
        return torch.cat(parts).view(-1)


def patterns(clip: Tensor, plane: tuple[int, int], radii: tuple[int, ...], neighbours: int) -> Tensor:
    """Patterns of a clip (T, H, W) on one plane at all pixels that have their neighbours on every plane.

    radii: in frames, rows, columns.  Returns (T - 2 rt, H - 2 ry, W - 2 rx) uint8; bit p is the neighbour at the
    angle 2 pi p / neighbours.
    """
    centre = _shifted(clip, (0, 0, 0), radii)
    code = torch.zeros_like(centre, dtype=torch.uint8)
    for p in range(neighbours):
        angle = 2 * math.pi * p / neighbours
        offset = [0.0, 0.0, 0.0]
        offset[plane[0]] = radii[plane[0]] * math.cos(angle)
        offset[plane[1]] = -radii[plane[1]] * math.sin(angle)
        code += (_sampled(clip, offset, radii) >= centre).view(torch.uint8) << p
    return code


def _sampled(clip: Tensor, offset: list[float], radii: tuple[int, ...]) -> Tensor:
    """Values at ``offset`` from each pixel, interpolated along every axis whose offset lies between two pixels.

    As a + f (b - a), which is exact where the picture is flat: a sum of weighted values is not, and would turn
    rounding into patterns.
    """
    for axis, o in enumerate(offset):
        if abs(o - round(o)) > ON_GRID:
            low = [*offset[:axis], math.floor(o), *offset[axis + 1 :]]
            high = [*offset[:axis], math.floor(o) + 1, *offset[axis + 1 :]]
            a = _sampled(clip, low, radii)
            return torch.lerp(a, _sampled(clip, high, radii), o - math.floor(o))
    return _shifted(clip, tuple(round(o) for o in offset), radii)


def _shifted(clip: Tensor, offset: tuple[int, ...], radii: tuple[int, ...]) -> Tensor:
    """The clip without its margins of ``radii``, moved by ``offset``."""
    return clip[tuple(slice(r + o, n - r + o) for n, r, o in zip(clip.shape, radii, offset, strict=True))]


def _block_index(size: list[int], blocks: tuple[int, ...]) -> Tensor:
    """(T, H, W) int64: each pixel's block; blocks are (rows, columns, times) and share no pixel."""
    rows, columns, times = blocks
    t, y, x = (torch.arange(n) * k // n for n, k in zip(size, (times, rows, columns), strict=True))
    return (t[:, None, None] * rows + y[:, None]) * columns + x


def uniform_bins(neighbours: int) -> int:
    """59 for 8 neighbours, 15 for 4."""
    return neighbours * (neighbours - 1) + 3


def uniform_table(neighbours: int) -> np.ndarray:
    """(2^P,) int64: the bin of a pattern; patterns with more than two changes around the circle share the last."""
    codes = np.arange(1 << neighbours)
    turned = (codes >> 1) | ((codes & 1) << (neighbours - 1))
    changes = np.array([int(c).bit_count() for c in codes ^ turned])
    table = np.full(len(codes), uniform_bins(neighbours) - 1)
    table[changes <= 2] = np.arange(uniform_bins(neighbours) - 1)
    return table
