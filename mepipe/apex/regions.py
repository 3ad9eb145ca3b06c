"""Where things lie in an aligned crop: masks and boxes from the template that all crops are aligned to.

Alignment is one transform per clip, so an individual's brow or mouth lies within a few px of the
template's; regions are drawn that much larger.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from mepipe.faces.align import SIZE, mean_face

FOREHEAD = 26  # px above the brows that still count as face
EYE_MARGIN = 10  # px around the lids: a blink moves the fold above the lid too (ME-PLAN's eye RoIs: 10 px)


@lru_cache(maxsize=1)
def face() -> np.ndarray:
    """(224, 224) bool: the hull of the template with the lower forehead."""
    points = mean_face()
    return polygon([*points, *(points[17:27] - (0, FOREHEAD))])


@lru_cache(maxsize=1)
def eyes() -> np.ndarray:
    """(224, 224) bool: both eyes with what a blink moves around them."""
    import cv2

    points, side = mean_face(), 2 * EYE_MARGIN + 1
    both = polygon(points[36:42]) | polygon(points[42:48])
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.dilate(both.astype(np.uint8), disc).astype(bool)


def polygon(points: Iterable[np.ndarray]) -> np.ndarray:
    """(224, 224) bool: the convex hull of ``points`` (x, y)."""
    import cv2

    mask = np.zeros((SIZE, SIZE), np.uint8)
    outline = cv2.convexHull(np.round(np.array(list(points))).astype(np.int32))
    return cv2.fillConvexPoly(mask, outline, 1).astype(bool)


def box(points: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the box around ``points`` (n, 2), ``margin`` px larger on every side."""
    (x0, y0), (x1, y1) = np.floor(points.min(0)) - margin, np.ceil(points.max(0)) + margin + 1
    rows, columns = (slice(max(int(a), 0), min(int(b), SIZE)) for a, b in ((y0, y1), (x0, x1)))
    return rows, columns


def halved(mask: np.ndarray) -> np.ndarray:
    """``mask`` (224, 224) at half the resolution: bool (112, 112), true where most of a 2x2 block is."""
    return mask.reshape(SIZE // 2, 2, SIZE // 2, 2).mean((1, 3)) > 0.5
