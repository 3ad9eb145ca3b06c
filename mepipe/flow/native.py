"""Engine ``native``: DualTVL1 compiled by numba for the CPU at hand, an order of magnitude faster than OpenCV.

One image at a time through :mod:`mepipe.flow.native_kernels`, several images in parallel threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

from mepipe.errors import MepipeError
from mepipe.flow.engine import Engine, usable_cores
from mepipe.flow.images import grey_levels, level_sizes
from mepipe.flow.params import TVL1Params
from mepipe.flow.registry import cpu_only

try:
    import llvmlite
    import numba

    from mepipe.flow import native_kernels as kernels
    from mepipe.flow.simd import LANES
except ImportError as e:
    raise MepipeError(f"engine native needs numba ({e})", do="pip install numba, or use engine opencv") from e

LEFT, MARGIN = kernels.LEFT, kernels.MARGIN


class NativeEngine(Engine):
    """TV-L1 in vector code.  threads: pairs at once; None is every core this process may use."""

    name = "native"

    def __init__(self, device: str | None = None, threads: int | None = None) -> None:
        cpu_only(self.name, device)
        self.threads = threads or usable_cores()
        self.batch = 16 * self.threads  # enough pairs to keep the threads busy, few enough to report progress

    def solve(
        self, onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None
    ) -> np.ndarray:
        out = np.empty((len(onset), 2, *onset.shape[1:]), np.float32)

        def one(i: int) -> None:
            start = None if initial is None else initial[i]
            out[i] = solve_pair(grey_levels(onset[i]), grey_levels(apex[i]), params, start)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(one, range(len(onset))))
        return out

    def versions(self) -> dict[str, str | None]:
        return {**super().versions(), "numba": numba.__version__, "llvmlite": llvmlite.__version__}


def solve_pair(onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
    """(H, W) float32 grey 0..255 twice -> (2, H, W) float32 u, v."""
    ratio = 1.0 / params.scale_step
    pyramid = [(onset, apex, initial)]
    for size in level_sizes(*onset.shape, params.nscales, params.scale_step)[1:]:
        I0, I1, u = pyramid[-1]
        smaller = None if u is None else np.stack([resize(c, size, ratio, params.scale_step) for c in u])
        pyramid.append((resize(I0, size, ratio), resize(I1, size, ratio), smaller))

    start = pyramid[-1][2]
    flow = np.zeros((3, *pyramid[-1][0].shape), np.float32)  # u, v, and the illumination term of gamma
    if start is not None:
        flow[:2] = start
    for I0, I1, _ in reversed(pyramid):
        if flow.shape[1:] != I0.shape:
            factors = (ratio, ratio, 1.0)  # motion grows with the image, illumination does not
            flow = np.stack([resize(c, I0.shape, None, k) for c, k in zip(flow, factors, strict=True)])
        flow = Level(I0, I1, flow).solve(params)
    return flow[:2]


class Level:
    """The planes of one pyramid level, see native_kernels."""

    def __init__(self, I0: np.ndarray, I1: np.ndarray, flow: np.ndarray) -> None:
        height, width = I0.shape
        pitch = -(-width // LANES) * LANES + 2 * LEFT
        self.shape = (height, width, pitch)
        self.u = tuple(self._plane(c) for c in flow)
        self.p = tuple(self._plane() for _ in range(6))
        self.warped = tuple(self._plane() for _ in range(5))
        self.reference = self._plane(I0)
        self.scratch = (self._plane(), np.zeros(5 * pitch, np.float32))
        # a vector that starts at the last pixel ends outside the margin, so the flat array is a little longer
        size = (height + 2 * MARGIN) * (width + 2 * MARGIN) * 4
        self.packed = np.zeros(size + LANES, np.float32)
        kernels.pack(I1, self.packed[:size].reshape(height + 2 * MARGIN, width + 2 * MARGIN, 4))

    def _plane(self, image: np.ndarray | None = None) -> np.ndarray:
        height, _, pitch = self.shape
        plane = np.zeros((height + 2) * pitch, np.float32)
        if image is not None:
            self._pixels(plane)[...] = image
        return plane

    def _pixels(self, plane: np.ndarray) -> np.ndarray:
        """The (H, W) image in ``plane``."""
        height, width, pitch = self.shape
        return plane.reshape(height + 2, pitch)[1:-1, LEFT : LEFT + width]

    def solve(self, params: TVL1Params) -> np.ndarray:
        """All warps of the level. Returns the flow (3, H, W)."""
        height, width, pitch = self.shape
        gamma = np.float32(params.gamma)
        self._pixels(self.warped[4])[...] = gamma
        theta_row = np.zeros(pitch - 2 * LEFT, np.float32)
        theta_row[:width] = params.theta
        f = np.zeros_like(theta_row)
        l_t, taut = np.float32(params.lambda_ * params.theta), np.float32(params.tau / params.theta)
        enough = float(np.float32(params.epsilon**2 * height * width))
        for _ in range(params.warps):
            kernels.linearise(self.packed, self.reference, self.u[0], self.u[1], self.warped, self.shape)
            kernels.solve_warp(
                *self.u, self.p, self.warped, f, theta_row, self.scratch, self.shape,
                l_t, taut, gamma, enough, params.inner, params.outer, params.median,
            )  # fmt: skip
        return np.stack([self._pixels(plane) for plane in self.u])


def resize(image: np.ndarray, size: tuple[int, int], scale: float | None, factor: float = 1.0) -> np.ndarray:
    """cv2.resize, INTER_LINEAR, times ``factor``; scale: source pixels per target pixel, None for the sizes' ratio."""
    out = np.empty(size, np.float32)
    rows = _taps(image.shape[0], size[0], scale or image.shape[0] / size[0])
    columns = _taps(image.shape[1], size[1], scale or image.shape[1] / size[1])
    kernels.resize(image, out, *rows, *columns, np.float32(factor))
    return out


@lru_cache(maxsize=64)
def _taps(source: int, target: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(left index, weight of its right neighbour) for each target pixel: half-pixel centres, clamped at the ends."""
    at = ((np.arange(target) + 0.5) * scale - 0.5).clip(0, source - 1)
    left = np.floor(at).astype(np.intp)
    return left, (at - left).astype(np.float32)


def warm_up() -> Any:
    """Compile, or load from the cache, every kernel: a small solve."""
    image = np.zeros((32, 32), np.float32)
    return solve_pair(image, image, TVL1Params(nscales=2, warps=1, inner=1, outer=1), None)
