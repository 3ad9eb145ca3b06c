"""`residual` (ours): the one smooth motion that a clip's frames share, once head and light are taken out.

A micro-expression of 0.3 px changes a pixel by less than the camera's noise does.  What it has and noise
has not: it moves whole patches of skin together, and the same patches in every frame, only more or less.

1. Frames are blurred by 2 px and halved; the mean of all frames, nearly free of noise, is the reference.
2. Head and light go by least squares: what an affine motion, a gain and an offset (each with a slope over
   the face) and a change of sharpness add to the reference.  Once to bring the frames onto the reference,
   once more to project out what is left.  The eyes are left out: a blink is larger than any expression.
3. In Gaussian windows of 12 px, the products of what is left with the reference's gradient are summed:
   the right-hand side of Lucas and Kanade (1981) for the motion of that patch.  Divided by the root of the
   structure tensor, white noise has variance 1 in every patch and direction.
4. The first left singular vector of frames x patches is how much of the clip's dominant motion every
   frame shows: for a motion of fixed pattern in white noise, the most likely time course.
5. It is smoothed over time, less where it stands clear of its noise, and measured from the onset.

Source: none for the whole; the parts are textbook.  Why the default: docs/apex.md.  About 1 ms a frame.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mepipe.apex import regions
from mepipe.apex.base import smooth, spotter

BLUR = 2.0  # px sigma: below the size of a moving brow, above that of sensor noise
STEP = 2  # every second pixel carries the blurred image; a quarter of the work
WINDOW = 12.0  # px sigma of a patch; 8 to 18 measured alike
SOFT = 3.0  # px sigma of the mask's edge, so that what crosses it does not flash
DAMP = 0.05  # of the median structure tensor, added to all: patches without texture stay silent
CLEAR = 20.0  # time course over its noise above which little smoothing is needed
LITTLE, MUCH = 1 / 48, 1 / 24  # sigma of the smoothing as a share of the clip


@spotter("residual")
def residual(crops: np.ndarray) -> np.ndarray:
    """How far every frame is along the clip's dominant motion, from the onset, (N,); unit: noise sigmas."""
    frames = without_head_and_light(crops)
    return from_onset(time_course(patch_motion(*frames)))


def without_head_and_light(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is left of every frame, (N, h, w) float32 times the mask's root, and the reference (h, w) float32."""
    images = _blurred(crops)
    root = np.sqrt(mask())
    images = _onto(images, images.mean(0), root)
    reference = images.mean(0)
    basis, _ = np.linalg.qr(rigid_terms(reference) * root.reshape(-1, 1))
    differences = ((images - reference) * root).reshape(len(images), -1)
    return (differences - (differences @ basis) @ basis.T).reshape(images.shape), reference


def patch_motion(left: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The whitened Lucas-Kanade sums, (N, patches * 2): noise of variance 1 (in the unit of the frames')."""
    windows = _windows(len(reference))
    root = np.sqrt(mask())
    iy, ix = (g * root for g in np.gradient(reference))
    sums = np.stack([windows @ (left * g) @ windows.T for g in (ix, iy)], -1)
    squared = windows**2  # the noise of a weighted sum adds with the squares of the weights
    tensor = np.stack([squared @ (a * b) @ squared.T for a in (ix, iy) for b in (ix, iy)], -1)
    tensor = tensor.reshape(*tensor.shape[:2], 2, 2)
    trace = np.trace(tensor, axis1=2, axis2=3)
    seen = trace > 1e-3 * trace.max()  # patches that the mask lets through
    if not seen.any():
        return np.zeros((len(left), 2))
    tensor = tensor + DAMP * np.median(trace[seen]) * np.eye(2)
    values, vectors = np.linalg.eigh(tensor)
    inverse_root = vectors @ (values[..., None] ** -0.5 * vectors.swapaxes(-1, -2))
    return np.einsum("xyij,nxyj->nxyi", inverse_root, sums).reshape(len(left), -1)


def time_course(motion: np.ndarray) -> np.ndarray:
    """The first left singular vector of motion (N, D), times its singular value: (N,) float64."""
    values, vectors = np.linalg.eigh((motion @ motion.T).astype(np.float64))
    return vectors[:, -1] * np.sqrt(max(values[-1], 0.0))


def from_onset(course: np.ndarray) -> np.ndarray:
    """``course`` (N,) smoothed, as the distance from its value at the onset in units of its noise."""
    wiggle = np.diff(course, 2)  # of white noise: six times its variance; of a smooth course: next to nothing
    noise = np.sqrt((wiggle**2).mean() / 6) if len(wiggle) else 0.0
    clear = np.ptp(course) > CLEAR * noise
    smoothed = smooth(course, LITTLE if clear else MUCH)
    return np.abs(smoothed - smoothed[0]) / (noise or 1.0)


@lru_cache(maxsize=1)
def mask() -> np.ndarray:
    """(112, 112) float32, 0 to 1: the face without the eyes, with a soft edge."""
    import cv2

    sure = regions.face() & ~regions.eyes()
    soft = cv2.GaussianBlur(sure.astype(np.float32), (0, 0), SOFT)
    # nothing of the eyes themselves: a blink's contrast would shine through the soft edge
    return (soft * ~regions.eyes())[::STEP, ::STEP]


def _blurred(crops: np.ndarray) -> np.ndarray:
    import cv2

    return np.stack([cv2.GaussianBlur(c, (0, 0), BLUR)[::STEP, ::STEP] for c in crops.astype(np.float32)])


def _onto(images: np.ndarray, reference: np.ndarray, root: np.ndarray) -> np.ndarray:
    """``images`` warped by the affine motion that brings each onto ``reference``: one Gauss-Newton step."""
    import cv2

    terms = rigid_terms(reference) * root.reshape(-1, 1)
    differences = ((images - reference) * root).reshape(len(images), -1)
    motion = differences @ np.linalg.pinv(terms).T
    h, w = reference.shape
    # -1..1 coordinates of the terms, back to pixels
    to_unit = np.array([[2 / (w - 1), 0, -1], [0, 2 / (h - 1), -1], [0, 0, 1]])
    out = []
    for image, (u, v, xu, yu, xv, yv) in zip(images, motion[:, :6], strict=True):
        moved = np.array([[xu, yu, u], [xv, yv, v]]) @ to_unit
        matrix = np.eye(2, 3) - moved
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        out.append(cv2.warpAffine(image, matrix, (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE))
    return np.stack(out)


def rigid_terms(image: np.ndarray) -> np.ndarray:
    """(pixels, 15) float32: what head motion and light add to ``image``.

    Columns: ix, iy, x ix, y ix, x iy, y iy (affine motion, to first order); ixx, ixy, iyy (its second order,
    and the sharpness that resampling takes by the fraction of a pixel); I, xI, yI (gain); 1, x, y (offset).
    """
    iy, ix = np.gradient(image)
    ixy, ixx = np.gradient(ix)
    iyy, _ = np.gradient(iy)
    y, x = np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j].astype(np.float32)
    one = np.ones_like(image)
    terms = (ix, iy, x * ix, y * ix, x * iy, y * iy, ixx, ixy, iyy, image, x * image, y * image, one, x, y)
    return np.stack([t.ravel() for t in terms], axis=1).astype(np.float32)


@lru_cache(maxsize=2)
def _windows(side: int) -> np.ndarray:
    """(windows, side) float32: Gaussian weights along one axis, a window every sigma."""
    sigma = WINDOW / STEP
    centres = np.arange(sigma / 2, side, sigma)
    return np.exp(-0.5 * ((centres[:, None] - np.arange(side)) / sigma) ** 2).astype(np.float32)
