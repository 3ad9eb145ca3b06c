"""What goes into and comes out of every engine: checking, padding, cropping, grey levels.

All engines share these, so a wrong input gives the same message and the border is treated
the same way whichever engine runs.
"""

from __future__ import annotations

import numpy as np

from mepipe.errors import DataError, UsageError
from mepipe.flow.params import MIN_SIDE


def check_pair(onset: np.ndarray, apex: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``onset`` and ``apex`` as (B, H, W) C-ordered arrays, unchanged otherwise.

    Raises UsageError for a wrong type, shape or range and DataError for NaN or infinity.
    """
    onset, apex = np.asarray(onset), np.asarray(apex)
    for name, image in (("onset", onset), ("apex", apex)):
        _check_image(name, image)
    if onset.shape != apex.shape or onset.dtype != apex.dtype:
        raise UsageError(
            f"onset is {onset.dtype} {onset.shape} and apex is {apex.dtype} {apex.shape}",
            do="give two images (or batches) of one size and type",
        )
    shape = onset.shape if onset.ndim == 3 else (1, *onset.shape)
    return np.ascontiguousarray(onset).reshape(shape), np.ascontiguousarray(apex).reshape(shape)


def check_initial(initial: np.ndarray, pair_shape: tuple[int, ...]) -> np.ndarray:
    """The initial flow as (B, 2, H, W) float32; ``pair_shape`` is (H, W) or (B, H, W) as the caller gave it.

    Channels after u and v (a magnitude) are dropped, so the result of an earlier call can be passed.
    """
    initial = np.asarray(initial)
    *lead, height, width = pair_shape
    if initial.shape not in [(*lead, c, height, width) for c in (2, 3)] or initial.dtype != np.float32:
        raise UsageError(
            f"the initial flow is {initial.dtype} {initial.shape}",
            do=f"give float32 {(*lead, 2, height, width)}: u (px, right), v (px, down)",
        )
    if not np.isfinite(initial).all():
        raise DataError("the initial flow holds NaN or infinity")
    batch = initial.reshape(-1, initial.shape[-3], height, width)
    return np.ascontiguousarray(batch[:, :2])


def _check_image(name: str, image: np.ndarray) -> None:
    if image.dtype not in (np.uint8, np.float32):
        raise UsageError(f"{name} is {image.dtype}", do="give uint8, or float32 grey in 0..1")
    if image.ndim not in (2, 3) or 0 in image.shape:
        hint = "convert it to grey first" if image.ndim == 4 else "give (H, W) or a batch (B, H, W)"
        raise UsageError(f"{name} has shape {image.shape}", do=hint)
    if min(image.shape[-2:]) < MIN_SIDE:
        hint = "is it (H, W, 3) colour? convert it to grey" if image.shape[-1] in (3, 4) else "use larger images"
        raise UsageError(f"{name} has shape {image.shape}: a side is under {MIN_SIDE} px", do=hint)
    if image.dtype == np.float32:
        _check_range(name, image)


def _check_range(name: str, image: np.ndarray) -> None:
    low, high = float(image.min()), float(image.max())  # NaN in the image makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{name} holds NaN or infinity", do="check how the frame was read")
    if low < 0.0 or high > 1.0:
        raise UsageError(
            f"{name} is float32 in {low:g}..{high:g}", do="divide by 255, so that grey is in 0..1, or give uint8"
        )


def grey_levels(images: np.ndarray) -> np.ndarray:
    """``images`` (uint8, or float32 in 0..1) as float32 in 0..255, the scale that lambda is meant for."""
    if images.dtype == np.uint8:
        return images.astype(np.float32)
    return images * np.float32(255.0)


def average_frames(frames: np.ndarray) -> np.ndarray:
    """(k, H, W) frames around one moment, aligned alike, uint8 or float32 in 0..1 -> mean, (H, W) float32 in 0..1.

    ``tvl1(average_frames(around_onset), average_frames(around_apex))`` sees 1 / sqrt(k) of the noise.  Take so few
    neighbours that nothing moves among them.  Raises UsageError for another shape or type.
    """
    frames = np.asarray(frames)
    if frames.ndim != 3 or 0 in frames.shape or frames.dtype not in (np.uint8, np.float32):
        raise UsageError(f"the frames are {frames.dtype} {frames.shape}", do="give (k, H, W) uint8, or float32 in 0..1")
    mean = frames.mean(axis=0, dtype=np.float64)
    return (mean / 255.0 if frames.dtype == np.uint8 else mean).astype(np.float32)


def gaussian(images: np.ndarray, sigma: float) -> np.ndarray:
    """``images`` (..., H, W) uint8 or float32 in 0..1, filtered: float32 in 0..1; unchanged for sigma 0.

    sigma in px; the kernel ends at 4 sigma, edges are replicated.  Plain numpy in a fixed order, so that every
    engine and every machine gets the same images.
    """
    if sigma == 0:
        return images
    reach = max(1, round(4 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (weights / weights.sum()).astype(np.float32)
    out = grey_levels(images) / np.float32(255.0)
    for axis in (-2, -1):
        out = _along(out, kernel, axis)
    return np.clip(out, 0.0, 1.0)  # the kernel's rounding can reach 1e-7 beyond


def _along(images: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    """Correlation with ``kernel`` along one axis, edges replicated."""
    reach, length = len(kernel) // 2, images.shape[axis]
    ends = [(0, 0)] * images.ndim
    ends[axis] = (reach, reach)
    padded = np.moveaxis(np.pad(images, ends, mode="edge"), axis, 0)
    total = sum(weight * padded[i : i + length] for i, weight in enumerate(kernel))
    return np.moveaxis(np.asarray(total), 0, axis)


def pad_replicate(images: np.ndarray, pad: int) -> np.ndarray:
    """``images`` (..., H, W) with ``pad`` px of edge values on each side."""
    if pad == 0:
        return images
    *lead, height, width = images.shape
    out = np.empty((*lead, height + 2 * pad, width + 2 * pad), images.dtype)  # np.pad takes five times as long
    inner = out[..., pad:-pad, :]
    inner[..., pad:-pad] = images
    inner[..., :pad], inner[..., -pad:] = images[..., :1], images[..., -1:]
    out[..., :pad, :], out[..., -pad:, :] = inner[..., :1, :], inner[..., -1:, :]
    return out


def crop(flow: np.ndarray, pad: int) -> np.ndarray:
    """Undo :func:`pad_replicate`."""
    return flow[..., pad : flow.shape[-2] - pad, pad : flow.shape[-1] - pad]


def with_magnitude(flow: np.ndarray) -> np.ndarray:
    """(B, 2, H, W) u, v -> (B, 3, H, W) float32 u, v, sqrt(u^2 + v^2), all px."""
    out = np.empty((flow.shape[0], 3, *flow.shape[2:]), np.float32)
    out[:, :2] = flow
    np.hypot(out[:, 0], out[:, 1], out=out[:, 2])
    return out


def linear_taps(source: int, target: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(left index, right index, weight of the right one) of each target pixel, int64 and float32: cv2.resize's.

    INTER_LINEAR: half-pixel centres, clamped at the ends.  scale: source pixels per target pixel.  Behind the last
    pixel OpenCV 5 takes that one alone where an image grows, and where it shrinks the last two, weighted 0 and 1: the
    same but for the rounding of a + (b - a).
    """
    at = ((np.arange(target) + 0.5) * scale - 0.5).clip(0, source - 1)
    left = np.minimum(np.floor(at).astype(np.int64), source - 2 if scale > 1 else source - 1)
    return left, np.minimum(left + 1, source - 1), (at - left).astype(np.float32)


def level_sizes(height: int, width: int, nscales: int, scale_step: float) -> list[tuple[int, int]]:
    """(H, W) of each pyramid level, finest first, as OpenCV rounds them (half to even).

    The pyramid ends before a side gets smaller than 16 px.
    """
    sizes = [(height, width)]
    while len(sizes) < nscales:
        smaller = round(sizes[-1][0] * scale_step), round(sizes[-1][1] * scale_step)
        if min(smaller) < MIN_SIDE:
            break
        sizes.append(smaller)
    return sizes
