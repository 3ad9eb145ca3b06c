"""Engine ``native``: DualTVL1 compiled by numba for the CPU at hand, an order of magnitude faster than OpenCV.

One image at a time through :mod:`mepipe.flow.native_kernels`, several images in parallel threads.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache

import numpy as np

from mepipe.errors import MepipeError
from mepipe.flow.engine import Engine, for_each
from mepipe.flow.images import grey_levels, level_sizes
from mepipe.flow.params import TVL1Params
from mepipe.flow.registry import cpu_only
from mepipe.settings import cores

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
    depends_on = ("numba", "llvmlite")

    def __init__(self, device: str | None = None, threads: int | None = None) -> None:
        cpu_only(self.name, device)
        self.threads = threads or cores()
        self.callers = self.threads
        self.batch = 64 * self.threads  # the threads idle at the end of a batch, for half a pair each

    def solve(self, onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
        out = np.empty((len(onset), 2, *onset.shape[1:]), np.float32)

        def one(i: int) -> None:
            start = None if initial is None else initial[i]
            out[i] = solve_pair(grey_levels(onset[i]), grey_levels(apex[i]), params, start)

        for_each(one, len(onset), self.threads)
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
    # u, v, and with gamma the illumination term
    flow = np.zeros((3 if params.gamma else 2, *pyramid[-1][0].shape), np.float32)
    if start is not None:
        flow[:2] = start
    memory = _memory(*onset.shape)
    for I0, I1, _ in reversed(pyramid):
        if flow.shape[1:] != I0.shape:
            factors = (ratio, ratio, 1.0)  # motion grows with the image, illumination does not
            flow = np.stack([resize(c, I0.shape, None, k) for c, k in zip(flow, factors, strict=False)])
        flow = Level(I0, I1, flow, memory).solve(params)
    return flow[:2]


PLANES = 16  # a level has at most 14, and two scratch ones
ROWS = kernels.TABLE + 4  # and of rows: those of the median, 2 of parameters; alignment takes less than 2


class Memory:
    """One block for all levels of a pair, and for the next: new memory costs more than a median filter."""

    def __init__(self, height: int, width: int) -> None:
        pitch = _pitch(width)
        sampled = 7 * (height + 2 * MARGIN + 1) * (width + 2 * MARGIN + 1)  # four packed and three planes
        self._block = np.empty(PLANES * (height + 2) * pitch + sampled + ROWS * pitch + 48 * LANES, np.float32)
        self._used = 0
        self.size = (height, width)

    def restart(self) -> None:
        """Give everything taken so far free."""
        self._used = 0

    def take(self, size: int, clear: bool = True) -> np.ndarray:
        """``size`` float32, zeros if ``clear``, on a 64-byte boundary: a vector that crosses a cache line costs two."""
        start = self._used + (-(self._block.ctypes.data // 4 + self._used)) % LANES
        self._used = start + size
        assert self._used <= len(self._block)
        taken = self._block[start : self._used]
        if clear:
            taken.fill(0.0)
        return taken


_kept = threading.local()  # the Memory that this thread used last


def _memory(height: int, width: int) -> Memory:
    """Memory for a pair of this size, kept by the thread: the system clears every page that it gives anew."""
    kept = getattr(_kept, "memory", None)
    if kept is None or kept.size != (height, width):
        kept = _kept.memory = Memory(height, width)
    return kept


class Level:
    """The planes of one pyramid level, see native_kernels."""

    def __init__(self, I0: np.ndarray, I1: np.ndarray, flow: np.ndarray, memory: Memory) -> None:
        height, width = I0.shape
        pitch = _pitch(width)
        self.shape = (height, width, pitch)
        self.memory = memory
        memory.restart()
        self.scratch = (self._scratch(), self._scratch(), memory.take(kernels.TABLE * pitch, clear=False))
        self.channels = len(flow)
        unused = [self.scratch[0]]  # the kernels take a third channel, but touch it only with gamma
        self.u = tuple([self._plane(c) for c in flow] + unused * (3 - len(flow)))
        self.p = tuple([self._plane() for _ in range(2 * len(flow))] + unused * (6 - 2 * len(flow)))
        self.warped = tuple(self._scratch() for _ in range(3))
        self.reference = self._plane(I0)
        packed = (height + 2 * MARGIN, width + 2 * MARGIN, 4)
        planes = (3, height + 2 * MARGIN + 1, width + 2 * MARGIN + 1)
        self.packed = memory.take(math.prod(packed))
        flat = memory.take(math.prod(planes) + 2 * LANES)  # vectors may end behind the last pixel
        kernels.pack(I1, self.packed.reshape(packed), flat[: math.prod(planes)].reshape(planes))
        self.samples = (flat, np.zeros(LANES, np.int32), memory.take(8 * LANES), memory.take(4 * LANES))

    def _scratch(self) -> np.ndarray:
        """A plane that is written before it is read."""
        height, _, pitch = self.shape
        return self.memory.take((height + 2) * pitch, clear=False)

    def _plane(self, image: np.ndarray | None = None) -> np.ndarray:
        height, _, pitch = self.shape
        plane = self.memory.take((height + 2) * pitch)
        if image is not None:
            self._pixels(plane)[...] = image
        return plane

    def _pixels(self, plane: np.ndarray) -> np.ndarray:
        """The (H, W) image in ``plane``."""
        height, width, pitch = self.shape
        return plane.reshape(height + 2, pitch)[1:-1, LEFT : LEFT + width]

    def _row(self, value: float) -> np.ndarray:
        _, width, pitch = self.shape
        row = self.memory.take(pitch)
        row[:width] = value
        return row

    def solve(self, params: TVL1Params) -> np.ndarray:
        """All warps of the level. Returns the flow (2 or 3, H, W)."""
        height, width, _ = self.shape
        rows = self._row(params.theta), self._row(params.gamma)
        l_t, taut = np.float32(params.lambda_ * params.theta), np.float32(params.tau / params.theta)
        enough = float(np.float32(params.epsilon**2 * height * width))
        for _ in range(params.warps):
            kernels.linearise(self.packed, self.reference, *self.u[:2], self.warped, *self.samples, self.shape)
            kernels.solve_warp(
                *self.u, self.p, self.warped, rows, self.scratch, self.shape,
                l_t, taut, params.gamma > 0, enough, params.inner, params.outer, params.median,
            )  # fmt: skip
        return np.stack([self._pixels(plane) for plane in self.u[: self.channels]])


def _pitch(width: int) -> int:
    return -(-width // LANES) * LANES + 2 * LEFT


def resize(image: np.ndarray, size: tuple[int, int], scale: float | None, factor: float = 1.0) -> np.ndarray:
    """cv2.resize, INTER_LINEAR, times ``factor``; scale: source pixels per target pixel, None for the sizes' ratio."""
    out = np.empty(size, np.float32)
    rows = _taps(image.shape[0], size[0], scale or image.shape[0] / size[0])
    columns = _taps(image.shape[1], size[1], scale or image.shape[1] / size[1])
    kernels.resize(image, out, *rows, *columns, float(factor))
    return out


@lru_cache(maxsize=64)
def _taps(source: int, target: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(left index, weight of its right neighbour) for each target pixel: half-pixel centres, clamped at the ends."""
    at = ((np.arange(target) + 0.5) * scale - 0.5).clip(0, source - 1)
    left = np.floor(at).astype(np.intp)
    return left, (at - left).astype(np.float32)


def warm_up() -> None:
    """Compile every kernel (10-20 s, once a machine) or load it from the cache (half a second): a small solve."""
    image = np.zeros((32, 32), np.float32)
    solve_pair(image, image, TVL1Params(nscales=2, warps=1, inner=1, outer=1), None)
