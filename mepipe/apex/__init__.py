"""Finding the apex of a clip whose annotation has none, on its aligned frames.

A spotter takes grey crops (N, H, W) uint8, crop 0 being the onset and crop N-1 the offset, and gives
the index of the apex, 1 <= index <= N-1: the apex lies after the onset and not after the offset.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mepipe.registry import Registry

Spotter = Callable[[np.ndarray], int]
SPOTTERS: Registry[Spotter] = Registry("apex spotter")

DEFAULT = "residual"
_BLUR = 2.0  # px sigma: below the size of a moving brow, above that of sensor noise
_STEP = 2  # every second pixel carries the blurred image; a quarter of the work


def spot(crops: np.ndarray, method: str = DEFAULT) -> int:
    """Index of the apex among ``crops`` (N, H, W) uint8, N >= 2, by the spotter ``method``.

    Raises UsageError for an unknown method, ValueError for fewer than two crops.
    """
    if len(crops) < 2:
        raise ValueError("an apex needs at least one frame after the onset")
    return int(np.clip(SPOTTERS.get(method)(crops), 1, len(crops) - 1))


@SPOTTERS.register("residual")
def residual(crops: np.ndarray) -> int:
    """Peak of the difference to the onset that affine head motion and lighting cannot explain (ours).

    For every frame, I_i - I_0 is fitted by least squares with the optical-flow terms of an affine
    motion, a gain and an offset (Ix, Iy, xIx, yIx, xIy, yIy, I, 1); the mean square of what is left is
    the curve, smoothed over time.
    """
    images = _blurred(crops)
    basis = _rigid_basis(images[0])
    q, _ = np.linalg.qr(basis)
    differences = (images - images[0]).reshape(len(images), -1)
    left = differences - (differences @ q) @ q.T
    return int(np.argmax(smooth((left**2).mean(1))))


@SPOTTERS.register("framediff")
def framediff(crops: np.ndarray) -> int:
    """Peak of the mean absolute difference to the onset, the common recipe of public code."""
    return int(np.argmax(np.abs(crops.astype(np.float32) - crops[0]).mean((1, 2))))


@SPOTTERS.register("midpoint")
def midpoint(crops: np.ndarray) -> int:
    """The middle of onset and offset, the convention of several published SMIC results."""
    return (len(crops) - 1) // 2


def smooth(curve: np.ndarray) -> np.ndarray:
    """``curve`` (N,) filtered by a Gaussian of N/24 frames (at least 0.8), ends repeated."""
    sigma = max(len(curve) / 24, 0.8)
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(curve, reach, mode="edge"), weights / weights.sum(), mode="valid")


def _blurred(crops: np.ndarray) -> np.ndarray:
    import cv2

    blurred = [cv2.GaussianBlur(c, (0, 0), _BLUR)[::_STEP, ::_STEP] for c in crops.astype(np.float32)]
    return np.stack(blurred)


def _rigid_basis(image: np.ndarray) -> np.ndarray:
    """(pixels, 8) float32: what an affine motion, a gain and an offset add to ``image``, to first order."""
    iy, ix = np.gradient(image)
    y, x = np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j].astype(np.float32)
    terms = (ix, iy, x * ix, y * ix, x * iy, y * iy, image, np.ones_like(image))
    return np.stack([t.ravel() for t in terms], axis=1).astype(np.float32)
