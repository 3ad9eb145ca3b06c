"""Local binary patterns (Ojala et al. 2002) with 8 neighbours at radius 1, as the texture spotters use them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

UNIFORM = 59  # patterns with at most two changes around the circle (58), and all others together
_AROUND = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))  # clockwise from the upper left


def codes(crops: np.ndarray) -> np.ndarray:
    """Pattern of every inner pixel: crops (N, H, W) uint8 -> (N, H-2, W-2) uint8, bit k set where neighbour
    k is at least as bright as the centre.
    """
    h, w = crops.shape[1] - 2, crops.shape[2] - 2
    centre = crops[:, 1:-1, 1:-1]
    out = np.zeros(centre.shape, np.uint8)
    for bit, (dy, dx) in enumerate(_AROUND):
        out |= (crops[:, dy : dy + h, dx : dx + w] >= centre).astype(np.uint8) << np.uint8(bit)
    return out


@lru_cache(maxsize=1)
def uniform_bins() -> np.ndarray:
    """(256,) uint8: the bin of each code, 0 to 57 for the uniform ones in order, 58 for the rest."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    uniform = (bits != np.roll(bits, 1, axis=1)).sum(1) <= 2
    return np.where(uniform, np.cumsum(uniform) - 1, UNIFORM - 1).astype(np.uint8)


def histograms(binned: np.ndarray, blocks: int) -> np.ndarray:
    """Histograms of ``blocks`` x ``blocks`` parts, joined: (N, h, w) uint8 bins -> (N, blocks^2 * 59) float64."""
    n = len(binned)
    offsets = np.arange(n)[:, None, None] * UNIFORM
    parts = [p for row in np.array_split(binned, blocks, axis=1) for p in np.array_split(row, blocks, axis=2)]
    counts = [np.bincount((p + offsets).ravel(), minlength=n * UNIFORM).reshape(n, UNIFORM) for p in parts]
    return np.concatenate([c / p[0].size for c, p in zip(counts, parts, strict=True)], axis=1)
