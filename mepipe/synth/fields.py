"""Smooth displacement fields: sums of Gaussian bumps, on a grid or at points, and their inverse.

A picture is drawn by looking backward: output(y) = source(y + b(y)).  What a viewer sees move is the
forward field d with d(x) = -b(x + d(x)).  Bumps here state the forward motion; whoever draws negates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np


class Bumps(NamedTuple):
    """n Gaussian pushes: centres (n, 2) px, vectors (n, 2) px at the centre, radii (n,) px (one sigma)."""

    centres: np.ndarray
    vectors: np.ndarray
    radii: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """The summed field at ``points`` (m, 2); returns (m, 2) float64."""
        away = points[:, None, :] - self.centres[None]
        weight = np.exp(-0.5 * (away**2).sum(-1) / self.radii**2)
        return weight @ self.vectors

    def on_grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The summed field on the grid of column positions x (w,) and row positions y (h,).

        x and y float32; returns (h, w, 2) float32.
        """
        centres, vectors, radii = (column.astype(np.float32) for column in self)
        across = np.exp(-0.5 * ((x[None] - centres[:, :1]) / radii[:, None]) ** 2)
        down = np.exp(-0.5 * ((y[None] - centres[:, 1:]) / radii[:, None]) ** 2)
        return np.stack([(down * vectors[:, axis, None]).T @ across for axis in (0, 1)], -1)


LATTICE = 4  # px between the points where motion is computed; it bends over 10 px and more, the rest is linear


def lattice(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Column and row positions about every LATTICE px of a (width, height) frame, float32.

    They lie so that ``cv2.resize`` of values on them to the frame's size puts each where it belongs.
    """
    counts = tuple(-(-side // LATTICE) for side in size)
    x, y = ((np.arange(n) + 0.5) * (side / n) - 0.5 for side, n in zip(size, counts, strict=True))
    return x.astype(np.float32), y.astype(np.float32)


def grid(width: int, height: int) -> np.ndarray:
    """The pixel positions of a width x height image, (height, width, 2) float32, x then y."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.stack([x, y], -1)


def sampled(image: np.ndarray, where: np.ndarray, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """``image`` (H, W[, C]) at the positions ``where`` (h, w, 2) float32, bilinearly. border: OpenCV's, beyond it."""
    linear = cv2.INTER_LINEAR
    return cv2.remap(image, where, None, linear, borderMode=border)  # type: ignore[call-overload]  # cv2's stub lacks None


def weighted_sum(parts: Iterable[tuple[float, np.ndarray]]) -> np.ndarray:
    """The sum of float32 arrays, each times its weight; of one at least."""
    weighted = [np.float32(weight) * array for weight, array in parts]
    return sum(weighted, start=np.zeros_like(weighted[0]))


def forward_of(backward: np.ndarray) -> np.ndarray:
    """The forward field d of a backward field b, both (H, W, 2) float32 px: d(x) = -b(x + d(x)).

    Fixed-point iteration.  The fields here bend by 0.1 px per px at most, so eight rounds converge; what
    is left, under 0.002 px, is cv2.remap's rounding of positions to 1/32 px.
    """
    height, width = backward.shape[:2]
    here = grid(width, height)
    forward = -backward
    for _ in range(8):
        forward = -sampled(backward, here + forward)
    return forward


def points_before(bumps: Bumps, points: np.ndarray) -> np.ndarray:
    """Where q must lie so that q - bumps(q) = points: where features at ``points`` are pushed to; (m, 2)."""
    moved = points.copy()
    for _ in range(30):
        moved = points + bumps.at(moved)
    return moved
