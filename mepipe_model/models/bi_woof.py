"""Bi-WOOF: histograms of flow orientation, weighted twice, and a linear SVM; 603 numbers for three classes.

Source     Liong, See, Wong, Phan: Less is more: Micro-expression recognition from video using apex frame, Signal
           Processing: Image Communication 62, 2018.  Features as the authors' public MATLAB function makes them; the
           classifier is not in it.
Features   5x5 blocks; in each a histogram of 8 orientations of the onset-to-apex flow, every pixel counting by its
           magnitude (the local weight), divided by its sum and multiplied by the block's mean optical strain (the
           global weight); all 200 numbers divided by their Euclidean norm.  The MATLAB function sums the strain and
           lets blocks overlap by a pixel; here blocks share no pixel, and the mean makes their size not matter.
Flow       the shards' TV-L1, of 224x224 crops; the authors' crops and flow parameters are others.
Classifier linear SVM, one against one, C = 10000: as the paper is said to have it, not verified.
Published  on 3DB, 3 classes: UF1 0.6296, UAR 0.6227 (SMIC 0.5727, 0.5829; CASME II 0.7805, 0.8026; SAMM 0.5211,
           0.5139), quoted in MERba's Table V.  What chose C and the blocks in that evaluation is not known to us.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mepipe_model.models.maps import optical_strain
from mepipe_model.models.svm import FittedModel, SvmHead

if TYPE_CHECKING:
    from mepipe_model.models.handcrafted import BiWoofConfig

TINY = 1e-12  # px: keeps a block without motion at zero where it would be 0/0


class BiWoof(FittedModel):
    """(B, 3, H, W) flow in px -> scores (B, num_classes)."""

    def __init__(self, name: str, config: BiWoofConfig) -> None:
        super().__init__({"name": name, **config.as_dict()})
        self.third, self.blocks, self.bins = config.third, config.blocks, config.bins
        self.c, self.standardise = config.c, config.standardise
        self.head = SvmHead(config.blocks[0] * config.blocks[1] * config.bins, config.num_classes)

    def prepare(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) flow in px -> (B, rows * columns * bins) features of norm 1, or 0 where nothing moves."""
        u, v = x[:, 0], x[:, 1]
        strain = optical_strain(u, v) if self.third == "magnitude" else x[:, 2]
        histograms = block_means(oriented(u, v, self.bins), self.blocks)
        histograms = histograms / (histograms.sum(1, keepdim=True) + TINY)
        weighted = histograms * block_means(strain[:, None], self.blocks)
        return F.normalize(weighted.permute(0, 2, 3, 1).flatten(1), eps=TINY)


def oriented(u: Tensor, v: Tensor, bins: int) -> Tensor:
    """Flow u, v (B, H, W) -> (B, bins, H, W): each pixel's magnitude, in the bin of its orientation.

    Bin k holds the angles [-pi + k w, -pi + (k + 1) w), w = 2 pi / bins; +pi is -pi.
    """
    angle = torch.atan2(v, u)
    which = ((angle + math.pi) * (bins / (2 * math.pi))).floor() % bins
    magnitude = (u**2 + v**2).sqrt()
    return torch.stack([magnitude * (which == k) for k in range(bins)], 1)


def block_means(x: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) -> (B, C, rows, columns): means over blocks that share no pixel and differ by one at most."""
    rows, columns = (_means(size, n, x) for size, n in zip(x.shape[2:], blocks, strict=True))
    return rows @ x @ columns.T


def _means(size: int, blocks: int, like: Tensor) -> Tensor:
    """(blocks, size): row k averages the k-th of ``blocks`` parts of an axis."""
    cuts = [size * k // blocks for k in range(blocks + 1)]
    place = torch.arange(size, device=like.device)
    parts = [((place >= a) & (place < b)).to(like.dtype) / (b - a) for a, b in pairwise(cuts)]
    return torch.stack(parts)
