"""Flow as colours: direction is hue, length is saturation; no drawing library is needed here.

The wheel: right (+u) is red, down (+v) yellow-green, left cyan, up violet, as HSV places them at 0, 90, 180
and 270 degrees.  No motion is white, ``limit`` px and more is full colour.  A picture without its limit says
nothing about strength, so every picture made from this shows the limit in px.
"""

from __future__ import annotations

import numpy as np

LIMIT_PERCENTILE = 99.5  # a few wild pixels at the chin or hair must not bleach the face
MIN_LIMIT = 0.05  # px; TV-L1 on 8-bit frames wanders by about this where nothing moves: do not paint it as a storm
UNKNOWN = 128  # grey of pixels whose flow is not finite


def magnitude(flow: np.ndarray) -> np.ndarray:
    """Length of (u, v) in px, (H, W), from flow (2 or 3, H, W). Raises ValueError for another shape."""
    if flow.ndim != 3 or flow.shape[0] not in (2, 3):
        raise ValueError(f"flow has the shape {flow.shape}, not (2 or 3, H, W)")
    return np.hypot(flow[0], flow[1])


def flow_limit(flow: np.ndarray) -> float:
    """The length in px that is drawn in full colour: the 99.5th percentile of ``flow``, at least 0.05."""
    length = magnitude(flow)
    finite = length[np.isfinite(length)]
    return max(float(np.percentile(finite, LIMIT_PERCENTILE)), MIN_LIMIT) if finite.size else MIN_LIMIT


def flow_picture(flow: np.ndarray, limit: float | None = None) -> np.ndarray:
    """A flow as a picture: direction is the hue, length the saturation.

    Parameters
    ----------
    flow
        (2 or 3, H, W) in px. Pixels that are not finite are grey.
    limit
        Length in px of full colour; None is ``flow_limit(flow)``.

    Returns
    -------
    np.ndarray
        (H, W, 3) uint8 RGB.

    Raises
    ------
    ValueError
        Another shape or a limit that is not positive.
    """
    length = magnitude(flow)
    limit = flow_limit(flow) if limit is None else float(limit)
    if not limit > 0:
        raise ValueError(f"limit is {limit}, not a positive length in px")
    finite = np.isfinite(length)
    hue = np.arctan2(np.where(finite, flow[1], 0), np.where(finite, flow[0], 0)) / (2 * np.pi)
    rgb = _hue_to_rgb(hue)
    saturation = np.clip(np.where(finite, length, 0) / limit, 0, 1)[..., None]
    picture = np.rint(255 * (1 - saturation * (1 - rgb))).astype(np.uint8)
    picture[~finite] = UNKNOWN
    return picture


def wheel(size: int) -> np.ndarray:
    """The colour wheel, (size, size, 4) uint8 RGBA: white centre, full colour at the rim, transparent outside."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    u, v = np.meshgrid(axis, axis)
    inside = np.clip((1 - np.hypot(u, v)) * size / 2 + 0.5, 0, 1)  # one pixel of soft edge
    return np.dstack([flow_picture(np.stack([u, v]), limit=1.0), np.rint(255 * inside).astype(np.uint8)])


def _hue_to_rgb(hue: np.ndarray) -> np.ndarray:
    """Pure colours in [0, 1], (..., 3), of a hue in turns (any real number): HSV with S = V = 1."""
    offsets = np.array([0.0, 2 / 3, 1 / 3])  # where red, green and blue have their middle
    return np.clip(np.abs((hue[..., None] + offsets) % 1 * 6 - 3) - 1, 0, 1)
