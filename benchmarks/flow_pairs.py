"""Face pairs with known motion, for the flow tests and benchmarks.

Texture  the face of scikit-image's astronaut (NASA, public domain), grey, enlarged 1.3x to 224 px
Motion   Gaussian bumps where brows and mouth corners move in micro-expressions
Truth    exact: the apex is the photograph and the onset is sampled from it at x + flow(x), by cubic spline
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.ndimage import map_coordinates, zoom
from skimage.data import astronaut

SIDE = 224
_FACE = (slice(16, 188), slice(138, 310))  # rows, columns of the 512x512 photograph
_GREY = np.array([0.299, 0.587, 0.114])
# (x, y, direction x, direction y, weight), positions in parts of the side: two brows up and inwards, two mouth
# corners outwards and up, one lid
_BUMPS = (
    (0.36, 0.36, 0.45, -0.9, 1.0),
    (0.62, 0.36, -0.45, -0.9, 1.0),
    (0.38, 0.72, -0.8, -0.6, 0.8),
    (0.62, 0.72, 0.8, -0.6, 0.8),
    (0.50, 0.45, 0.0, 1.0, 0.5),
)
_BUMP_WIDTH = 0.09  # standard deviation, in parts of the side: 20 px of 224


@cache
def face(side: int = SIDE) -> np.ndarray:
    """(side, side) float64 grey 0..255."""
    grey = astronaut()[_FACE] @ _GREY
    return np.clip(zoom(grey, side / grey.shape[0], order=3), 0, 255)[:side, :side]


def motion(side: int, peak: float) -> np.ndarray:
    """(2, side, side) float64: u, v in px with magnitude ``peak`` where it is largest."""
    y, x = np.mgrid[:side, :side] / side
    flow = np.zeros((2, side, side))
    for cx, cy, dx, dy, weight in _BUMPS:
        bump = weight * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * _BUMP_WIDTH**2))
        flow += np.array([dx, dy])[:, None, None] * bump
    return flow * (peak / np.hypot(*flow).max())


def pair(peak: float, noise: float = 0.0, side: int = SIDE, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(onset, apex, flow): uint8 (side, side) twice and the true (2, side, side) flow.

    noise: standard deviation of Gaussian sensor noise in grey levels, drawn for each frame.
    """
    apex, flow = face(side), motion(side, peak)
    y, x = np.mgrid[:side, :side]
    onset = map_coordinates(apex, [y + flow[1], x + flow[0]], order=3, mode="nearest")
    rng = np.random.default_rng(seed)
    return _frame(onset, noise, rng), _frame(apex, noise, rng), flow


def _frame(image: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    noisy = image + noise * rng.standard_normal(image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def end_point_error(flow: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(..., 2 or 3, H, W) against (..., 2, H, W) -> (..., H, W) px."""
    difference = flow[..., :2, :, :] - truth[..., :2, :, :]
    return np.hypot(difference[..., 0, :, :], difference[..., 1, :, :])
