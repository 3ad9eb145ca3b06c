"""What a training batch may go through besides the flip: small shifts and noise of flow, erased rectangles of faces.

All take scaled input, touch training batches alone, and are off in the paper's recipe.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

AREA = (0.02, 0.1)  # of a face that is erased: FERMam's
ASPECT = 10 / 3  # of the rectangle at most, and its inverse at least (Zhong et al. 2020)


def augmented(x: Tensor, shift: float, noise: float, generator: torch.Generator, erase: float = 0.0) -> Tensor:
    """``x`` shifted, with noise, then with rectangles erased; where all are 0 ``x`` itself, and nothing is drawn.

    x (B, C, H, W): scaled flow, or (B, ..., H, W) scaled faces, which are neither shifted nor given noise.
    shift: the most a clip moves, as a share of the side, see ``shifted``.
    noise: standard deviation of what is added to every value, in units of ``x``.
    erase: the odds that a sample loses a rectangle, see ``erased``.
    generator: of the CPU, for shifts and rectangles; noise comes from torch's global generator of ``x``'s device.
    """
    if shift:
        x = shifted(x, shift, generator)
    if noise:
        x = torch.randn_like(x).mul_(noise).add_(x)
    return erased(x, erase, generator) if erase else x


def shifted(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Every sample of x (B, C, H, W) moved by whole pixels, as far as ``share`` of each side and drawn evenly.

    No value changes, for a motion that is elsewhere is the same motion; what comes in repeats the border.
    """
    most = [round(share * side) for side in x.shape[-2:]]
    if not any(most):
        return x
    height, width = x.shape[-2:]
    dy, dx = (torch.randint(0, 2 * m + 1, (len(x),), generator=generator).tolist() for m in most)
    wide = F.pad(x, (most[1], most[1], most[0], most[0]), mode="replicate")
    return torch.stack([one[:, y : y + height, x0 : x0 + width] for one, y, x0 in zip(wide, dy, dx, strict=True)])


def erased(x: Tensor, odds: float, generator: torch.Generator) -> Tensor:
    """Samples of x (B, ..., H, W) with a rectangle of zeros, each with probability ``odds``: scaled, 0 is the mean.

    Zhong et al., "Random Erasing Data Augmentation", AAAI 2020: its area is drawn evenly from AREA, the logarithm of
    its aspect evenly up to ASPECT, its place evenly.  A sequence loses the same rectangle in every frame.
    generator: of the CPU.
    """
    height, width = x.shape[-2:]
    chosen, area, aspect, down, right = torch.rand(5, len(x), generator=generator, dtype=torch.float64).tolist()
    out = x.clone()
    for i in (i for i, luck in enumerate(chosen) if luck < odds):
        pixels = (AREA[0] + (AREA[1] - AREA[0]) * area[i]) * height * width
        longer = math.exp((2 * aspect[i] - 1) * math.log(ASPECT) / 2)  # the root of height / width
        h = min(max(1, round(math.sqrt(pixels) * longer)), height)
        w = min(max(1, round(math.sqrt(pixels) / longer)), width)
        top, left = int(down[i] * (height - h + 1)), int(right[i] * (width - w + 1))
        out[i, ..., top : top + h, left : left + w] = 0
    return out
