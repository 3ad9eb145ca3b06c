"""Optical flow from the onset to every frame at half resolution, for the spotters that use it; `flow-peak`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mepipe.apex import regions
from mepipe.apex.base import smooth, spotter
from mepipe.faces.align import SIZE, mean_face

# pyramid scale, levels, window, iterations, poly_n, poly_sigma: OpenCV's example and ME-PLAN's code, whose
# face crops are about as wide as ours at half resolution
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)
NOSE = 28  # landmark on the bridge of the nose, which no facial muscle of an expression moves much
NOSE_WINDOW = 8  # px at half resolution, as in ME-PLAN's code


def onset_flow(crops: np.ndarray) -> np.ndarray:
    """Farneback flow from crop 0 to every crop, (N, 112, 112, 2) float32, px at half resolution.

    crops: (N, 224, 224) uint8.  The mean brightness of a frame is first set to the onset's.  About 4 ms
    a frame on one core.
    """
    import cv2

    small = [cv2.resize(c, (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA) for c in crops]
    onset = small[0]
    matched = [np.clip(np.round(s + (onset.mean() - s.mean())), 0, 255).astype(np.uint8) for s in small]
    flows = [
        cv2.calcOpticalFlowFarneback(onset, m, None, *FARNEBACK)  # type: ignore[call-overload]  # cv2's stub lacks None
        for m in matched[1:]
    ]
    return np.stack([np.zeros((*onset.shape, 2), np.float32), *flows])


def nose_window() -> tuple[slice, slice]:
    """Rows and columns of the window on the bridge of the nose, at half resolution."""
    x, y = (round(float(v) / 2) - NOSE_WINDOW // 2 for v in mean_face()[NOSE])
    return slice(y, y + NOSE_WINDOW), slice(x, x + NOSE_WINDOW)


def without_head(values: np.ndarray) -> np.ndarray:
    """``values`` (N, 112, 112[, 2]) less their mean on the nose, frame by frame."""
    rows, columns = nose_window()
    return values - values[:, rows, columns].mean((1, 2), keepdims=True)


@lru_cache(maxsize=1)
def skin() -> np.ndarray:
    """(112, 112) bool: the face without the eyes."""
    return regions.halved(regions.face() & ~regions.eyes())


@spotter("flow-peak")
def flow_peak(crops: np.ndarray) -> np.ndarray:
    """Mean flow magnitude from the onset over the face without the eyes, px at half resolution; its peak.

    Source: common recipe, argmax_i mean sqrt(u^2 + v^2), with the options that public code knows: the
    nose's flow removed and the curve smoothed over time.  About 5 ms a frame.
    """
    flow = without_head(onset_flow(crops))
    return smooth(np.hypot(flow[..., 0], flow[..., 1])[:, skin()].mean(1).astype(np.float64))
