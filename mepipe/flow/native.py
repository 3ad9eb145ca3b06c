"""Engine ``native``: DualTVL1 compiled by numba for the CPU at hand, an order of magnitude faster than OpenCV.

One image at a time through :mod:`mepipe.flow.native_kernels`, several images in parallel threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from mepipe.errors import MepipeError
from mepipe.flow.engine import Engine
from mepipe.flow.images import grey_levels, level_sizes, linear_taps
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
        self.callers = threads or cores()

    def solve(self, onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
        out = np.empty((len(onset), 2, *onset.shape[1:]), np.float32)
        for i in range(len(onset)):
            start = None if initial is None else initial[i]
            out[i] = solve_pair(grey_levels(onset[i]), grey_levels(apex[i]), params, start)
        return out

    def versions(self) -> dict[str, str | None]:
        return {**super().versions(), "numba": numba.__version__, "llvmlite": llvmlite.__version__}


def solve_pair(onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
    """(H, W) float32 grey 0..255 twice -> (2, H, W) float32 u, v."""
    ratio = 1.0 / params.scale_step
    height, width = onset.shape
    sizes = level_sizes(height, width, params.nscales, params.scale_step)
    levels = _levels(tuple(sizes), 3 if params.gamma else 2)  # u, v, and with gamma the illumination term
    finest, coarsest = levels[0], levels[-1]
    finest.fill(finest.images, (onset, apex))
    if initial is not None:
        finest.fill(finest.u, initial)
    for fine, coarse in pairwise(levels):
        resize(fine, fine.images, coarse, coarse.images, ratio)
        if initial is not None:
            resize(fine, fine.u[:2], coarse, coarse.u, ratio, (params.scale_step,) * 2)

    for plane in coarsest.u[0 if initial is None else 2 :]:
        plane.fill(0.0)
    coarsest.solve(params)
    for coarse, fine in pairwise(reversed(levels)):
        # motion grows with the image, illumination does not
        resize(coarse, coarse.u, fine, fine.u, None, (ratio, ratio, 1.0))
        fine.solve(params)
    return np.stack([finest.pixels(plane) for plane in finest.u[:2]])


class Memory:
    """One block for all planes of a pair, and for the next: new memory costs more than a median filter."""

    def __init__(self, sizes: Sequence[tuple[int, int]], channels: int) -> None:
        height, width = sizes[0]
        kept = (2 + channels) * sum(_plane_size(*size) for size in sizes)
        work = (2 * channels + 5) * _plane_size(height, width) + (kernels.TABLE + 2) * _pitch(width)
        sampled = 4 * _with_margins(height, width) + 3 * _with_margins(height + 1, width + 1)
        # 14 vectors for the samples, and where the others end within a vector
        block = np.empty(kept + work + sampled + 18 * LANES, np.float32)
        self.block = block[-(block.ctypes.data // 4) % LANES :]
        self.used = 0

    def take(self, size: int) -> np.ndarray:
        """``size`` float32 as they are, on a 64-byte boundary: a vector that crosses a cache line costs two."""
        start, self.used = self.used, self.used + -(-size // LANES) * LANES
        assert self.used <= len(self.block)
        return self.block[start : start + size]


_kept = threading.local()  # the levels that this thread used last


def _levels(sizes: tuple[tuple[int, int], ...], channels: int) -> list[Level]:
    """The levels of a pair, finest first, kept by the thread: the system clears every page that it gives anew."""
    if getattr(_kept, "key", None) != (sizes, channels):
        _kept.key = _kept.levels = None  # before the new ones are made
        memory = Memory(sizes, channels)
        _kept.levels = [Level(size, channels, memory) for size in sizes]
        for level in _kept.levels:
            level.take_work(memory)
        _kept.key = (sizes, channels)
    return _kept.levels


class Level:
    """One level of the pyramid: the images I0 and I1 and the channels of the flow as planes, see native_kernels."""

    def __init__(self, size: tuple[int, int], channels: int, memory: Memory) -> None:
        self.size = size
        self.shape = (*size, _pitch(size[1]))
        self.images = tuple(self._planes(2, memory))
        self.u = tuple(self._planes(channels, memory))

    def _planes(self, count: int, memory: Memory) -> list[np.ndarray]:
        return [memory.take(_plane_size(*self.size)) for _ in range(count)]

    def take_work(self, memory: Memory) -> None:
        """What ``kernels.solve_level`` works in, the same memory for all levels: it is written before it is read."""
        (height, width), (_, _, pitch), before = self.size, self.shape, memory.used
        *scratch, Ix, Iy, rho_c = self._planes(5, memory)
        unused = [scratch[0]] * (3 - len(self.u))  # the kernels take a third channel, but touch it only with gamma
        self.channels = (*self.u, *unused)
        self.p = (*self._planes(2 * len(self.u), memory), *unused, *unused)
        self.warped = (Ix, Iy, rho_c)
        self.rows = (memory.take(pitch), memory.take(pitch))
        self.scratch = (*scratch, memory.take(kernels.TABLE * pitch))
        packed = memory.take(4 * _with_margins(height, width))
        self.packed = packed.reshape(height + 2 * MARGIN, width + 2 * MARGIN, 4)
        # vectors may end behind the last pixel
        flat = memory.take(3 * _with_margins(height + 1, width + 1) + 2 * LANES)
        self.sampled = flat[: -2 * LANES].reshape(3, height + 2 * MARGIN + 1, width + 2 * MARGIN + 1)
        self.samples = (flat, memory.take(8 * LANES), memory.take(4 * LANES))
        self.places = np.zeros(LANES, np.int32)
        memory.used = before

    def fill(self, planes: tuple[np.ndarray, ...], images: Iterable[np.ndarray]) -> None:
        """``images`` (H, W) float32 into ``planes``."""
        for plane, image in zip(planes, images, strict=False):
            kernels.fill(plane, image, self.shape)

    def pixels(self, plane: np.ndarray) -> np.ndarray:
        """The (H, W) image in ``plane``."""
        height, width, pitch = self.shape
        return plane.reshape(height + 2, pitch)[1:-1, LEFT : LEFT + width]

    def solve(self, params: TVL1Params) -> None:
        """All warps of the level; the flow in ``u`` becomes the better one."""
        height, width = self.size
        kernels.solve_level(
            self.images, self.channels, self.p, self.warped, self.rows, self.scratch,
            self.packed, self.sampled, self.samples, self.places, self.shape,
            (params.lambda_ * params.theta, params.tau / params.theta, params.theta, params.gamma),
            float(np.float32(params.epsilon**2 * height * width)),
            (params.warps, params.inner, params.outer),
            params.median,
        )  # fmt: skip


def _pitch(width: int) -> int:
    return -(-width // LANES) * LANES + 2 * LEFT


def _plane_size(height: int, width: int) -> int:
    return (height + 2) * _pitch(width)


def _with_margins(height: int, width: int) -> int:
    return (height + 2 * MARGIN) * (width + 2 * MARGIN)


def resize(
    level: Level,
    planes: tuple[np.ndarray, ...],
    to: Level,
    into: tuple[np.ndarray, ...],
    scale: float | None,
    factors: tuple[float, ...] = (1.0, 1.0),
) -> None:
    """cv2.resize, INTER_LINEAR, of each plane, times its factor.

    scale: source pixels per target pixel, None for the sizes' ratio.
    """
    rows, columns = (
        _taps(source, target, scale or source / target) for source, target in zip(level.size, to.size, strict=True)
    )
    for plane, out, factor in zip(planes, into, factors, strict=False):
        kernels.resize(plane, level.shape, out, to.shape, rows, columns, factor)


@lru_cache(maxsize=64)
def _taps(source: int, target: int, scale: float) -> kernels.Taps:
    """``linear_taps`` with unsigned indices: for signed ones numba looks for negative ones."""
    left, right, weight = linear_taps(source, target, scale)
    return left.astype(np.uintp), right.astype(np.uintp), weight


def warm_up() -> None:
    """Compile every kernel (10-20 s, once a machine) or load it from the cache (half a second): a small solve."""
    image = np.zeros((32, 32), np.float32)
    solve_pair(image, image, TVL1Params(nscales=2, warps=1, inner=1, outer=1), None)
