"""`upc`: the unimodal-pattern-constrained spotter of ME-PLAN (Zhao et al. 2022, 10.1016/j.neunet.2022.06.024).

Verified in the authors' published code: brightness matched to the onset's; Farneback flow from the onset;
optical strain sqrt(ux^2 + vy^2 + (uy + vx)^2 / 2); the nose's mean flow and strain removed; mean curves of
flow and strain in four regions (brows, mouth corners) placed by landmarks, over the face without eyes,
brows and mouth, and around the eyes, the last used only where the others have no peak.

Not published: how the apex is decided.  Our reading: each region's curves of flow magnitude and of strain,
smoothed, are fitted by least squares by unimodal ones (isotonic up to a mode, antitonic after it); of the
curves whose mode lies inside the clip the one with the smallest residual relative to its variance wins, of
equal ones the higher; its mode is the apex.  Then the eyes, then the peak over the face, then the middle.
Also ours: the landmarks are the template's, one step of a region's outline is 1 % of the crop's width,
frames are halved (the authors' SMIC crops are about as small).  About 6 ms a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mepipe.apex import regions
from mepipe.apex.base import flat, smooth, spotter
from mepipe.apex.flows import onset_flow, without_head
from mepipe.faces.align import SIZE, mean_face

STEP = SIZE / 100
TIE = 0.01  # relative residuals this close count as equal: 1 % of the curve's variance is noise

# corners of a region: (landmark, steps right, steps down), as in the authors' code
OUTLINES = (
    ((17, -6, 0), (19, 0, -6), (21, 6, 0), (37, 0, -10)),  # right brow
    ((22, -6, 0), (24, 0, -6), (26, 6, 0), (44, 0, -10)),  # left brow
    ((48, -12, 0), (49, 0, -12), (59, 0, 12)),  # right mouth corner
    ((53, 0, -12), (54, 12, 0), (55, 0, 12)),  # left mouth corner
)


@spotter("upc")
def upc(crops: np.ndarray) -> np.ndarray:
    """The unimodal fit of the region that decides, (N,), in the unit of its curve (flow px, or strain)."""
    flow = without_head(onset_flow(crops))
    maps = np.hypot(flow[..., 0], flow[..., 1]), without_head(strain(flow))
    for group in (expressive(), around_eyes()):
        fit = decide([smooth(m[:, region].mean(1).astype(np.float64)) for m in maps for region in group])
        if fit is not None:
            return fit
    return smooth(maps[0][:, rest_of_face()].mean(1).astype(np.float64))


def strain(flow: np.ndarray) -> np.ndarray:
    """Magnitude of the optical strain, (N, H, W), of flow (N, H, W, 2): forward differences, zero at the far edges."""
    dx = np.diff(flow, axis=2, append=flow[:, :, -1:])
    dy = np.diff(flow, axis=1, append=flow[:, -1:])
    return np.sqrt(dx[..., 0] ** 2 + dy[..., 1] ** 2 + 0.5 * (dy[..., 0] + dx[..., 1]) ** 2)


def decide(curves: Sequence[np.ndarray]) -> np.ndarray | None:
    """The unimodal fit (N,) of the most unimodal of ``curves`` with its mode inside the clip; None without one."""
    candidates: list[tuple[int, float, int, np.ndarray]] = []
    for curve in curves:
        fit = unimodal(curve)
        if not flat(curve) and 0 < int(np.argmax(fit)) < len(fit) - 1:
            left = ((curve - fit) ** 2).sum() / ((curve - curve.mean()) ** 2).sum()
            candidates.append((round(left / TIE), -float(fit.max()), len(candidates), fit))
    return min(candidates)[3] if candidates else None


def unimodal(curve: np.ndarray) -> np.ndarray:
    """The least-squares fit (N,) that rises up to some frame and falls after it.

    Two passes of the pool-adjacent-violators algorithm give the error of a rise over every beginning and
    of a fall over every rest; the best cut joins them (Stout 2008, section 3).
    """
    rise, fall = isotonic_errors(curve), isotonic_errors(curve[::-1])[::-1]
    cut = int(np.argmin(rise + np.append(fall[1:], 0.0)))
    return np.concatenate([isotonic(curve[: cut + 1]), isotonic(curve[cut + 1 :][::-1])[::-1]])


def isotonic_errors(curve: np.ndarray) -> np.ndarray:
    """(N,): the squared error of the best non-decreasing fit of curve[: i + 1], for every i."""
    out, blocks = np.zeros(len(curve)), Blocks()
    for i, value in enumerate(curve):
        blocks.add(float(value))
        out[i] = blocks.error
    return out


def isotonic(curve: np.ndarray) -> np.ndarray:
    """The least-squares non-decreasing fit of ``curve`` (N,)."""
    blocks = Blocks()
    for value in curve:
        blocks.add(float(value))
    return np.repeat([b[0] for b in blocks.blocks], [b[1] for b in blocks.blocks])


class Blocks:
    """The state of pool-adjacent-violators: runs of equal fit, (mean, length, squared error) each."""

    def __init__(self) -> None:
        self.blocks: list[tuple[float, int, float]] = []
        self.error = 0.0  # sum of the blocks' squared errors

    def add(self, value: float) -> None:
        mean, length, error = value, 1, 0.0
        while self.blocks and self.blocks[-1][0] >= mean:
            m, n, e = self.blocks.pop()
            self.error -= e
            error += e + (m - mean) ** 2 * n * length / (n + length)
            mean, length = (m * n + mean * length) / (n + length), n + length
        self.blocks.append((mean, length, error))
        self.error += error


@lru_cache(maxsize=1)
def expressive() -> tuple[np.ndarray, ...]:
    """The four regions, (112, 112) bool each."""
    points = mean_face()
    corners = ([points[i] + (right * STEP, down * STEP) for i, right, down in outline] for outline in OUTLINES)
    return tuple(regions.halved(regions.polygon(c)) for c in corners)


@lru_cache(maxsize=1)
def around_eyes() -> tuple[np.ndarray, ...]:
    """Each eye with its margin, (112, 112) bool."""
    both = regions.halved(regions.eyes())
    left = np.arange(both.shape[1]) < both.shape[1] // 2
    return both & left, both & ~left


@lru_cache(maxsize=1)
def rest_of_face() -> np.ndarray:
    """(112, 112) bool: the face without eyes, brows and mouth."""
    points = mean_face()
    parts = regions.eyes() | regions.polygon(points[48:60])
    for brow in (points[17:22], points[22:27]):
        parts |= regions.polygon(np.concatenate([brow, brow + np.array([0, 3 * STEP])]))
    return regions.halved(regions.face() & ~parts)
