"""Engine ``torch`` on the CPU with ``compile=True``: torch_strips with its loops compiled by torch, ahead of time.

torch's compiler writes C++ and needs a C++ compiler at the user's.  The first use on a machine compiles for two minutes
of CPU time; later processes open what was made, in two seconds, most of which is importing torch's compiler.  A step of
the algorithm is then one pass over a level: what strips do for operations, so that their results stay in the cache, a
compiled loop does in registers.  That leaves room to round as OpenCV does everywhere, iterations included, which strips
cannot afford.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from math import floor

import torch
from torch import Tensor

from mepipe.flow import torch_loops as loops
from mepipe.flow.params import TVL1Params
from mepipe.flow.torch_ahead import Call, load
from mepipe.flow.torch_loops import WINDOW, Loop
from mepipe.flow.torch_scratch import Scratch
from mepipe.flow.torch_strips import Level, StripSolver, plane
from mepipe.flow.torch_warp import REACH

# x + u is rounded, to 2^-13 px at 2048, so that it can be in the next pixel when u alone is not
ROUNDING = 1e-3  # px


class CompiledSolver(StripSolver):
    """DualTVL1 with ``params``: StripSolver with compiled loops."""

    def __init__(self, params: TVL1Params) -> None:
        super().__init__(params)
        self.level = CompiledLevel
        self._calls: dict[str, Call] = {}

    def call(self, loop: Loop) -> Call:
        """``loop`` compiled; made or opened at its first use.  Raises MepipeError when the compiler fails."""
        if loop.name not in self._calls:
            self._calls[loop.name] = load(loop)
        return self._calls[loop.name]


class CompiledLevel(Level):
    """A level whose warp, median and iterations are compiled; each call gets the same tensors, but for the warp's."""

    def __init__(self, solver: CompiledSolver, channels: int, height: int, width: int, scratch: Scratch) -> None:
        super().__init__(solver, channels, height, width, scratch)
        pitch = self.sources.pitch
        self.rho_c, self.I1w = torch.zeros(2, height, pitch)
        self.columns, self.rows = torch.arange(pitch), torch.arange(height)[:, None]
        self.inside = (self.columns < width).float()
        self._warp = solver.call(loops.warp())
        planes = [self.I0, self.I1w, *self.D[:2], *self.U[:2, :height], self.rho_c]
        self._set_rho = partial(solver.call(loops.linearise()), planes)
        self._primal = partial(solver.call(loops.primal(channels)), self._primal_planes(solver))
        step = solver.call(loops.dual())
        self._dual = [partial(step, planes) for planes in self._dual_planes()]
        if self.median:
            self.median = CompiledMedian(self.flow[:2], self.params.median, scratch, solver)

    def _primal_planes(self, solver: CompiledSolver) -> list[Tensor]:
        numbers = [torch.tensor([solver.l_t]), torch.tensor([solver.theta])]
        duals = [[px, plane(px, -1), py, plane(py, -self.sources.pitch)] for px, py in self.P.transpose(0, 1)]
        first = (self.columns == 0).float()
        return [*numbers, first, self.rho_c, *self.D, *chain(*duals), *self.U[:, : self.sources.height], self.changes]

    def _dual_planes(self) -> list[list[Tensor]]:
        height, pitch = self.sources.height, self.sources.pitch
        given = [torch.tensor([self.taut]), (self.columns < self.width - 1).float(), (self.rows < height - 1).float()]
        pairs = zip(self.U[:, :height], self.P.transpose(0, 1), strict=True)
        return [[*given, u, plane(u, 1), plane(u, pitch), px, py] for u, (px, py) in pairs]

    def _iterate(self, keep: bool) -> float:
        (change,) = self._primal()
        for step in self._dual:
            step()
        return float(change)

    def _linearise(self) -> None:
        """Set D and rho_c: in one call where all shifts along an axis fit the window, else strip by strip."""
        low = [floor(v) for v in (self.flow[:2].amin((1, 2)) - ROUNDING).tolist()]
        high = [floor(v) for v in (self.flow[:2].amax((1, 2)) + ROUNDING).tolist()]
        wide = any(b - a > WINDOW - 4 for a, b in zip(low, high, strict=True))
        if wide or min(low) < 2 - REACH or max(high) > REACH - 3:
            for strip in self.strips:
                strip.warp_to(self.I1w)
        else:
            s, numbers = self.sources, [torch.tensor([float(v)]) for v in (0, *low)]
            places = [*numbers, s.x, s.y, self.inside, *self.U[:2, : s.height]]
            self._warp([*places, *self._taps(*low), self.I1w, *self.D[:2]])
        self._set_rho()

    def _taps(self, dx: int, dy: int) -> list[Tensor]:
        """The planes of the window of pixels that are shifted by dx, dy: five of I1, of Ix and of Iy."""
        s = self.sources
        first = (dy + REACH) * s.pitch + dx - 1  # one row and one column before
        shape = s.height + WINDOW - 1, s.pitch
        return [plane(image, first + i, shape) for image in s.padded for i in range(WINDOW)]


class CompiledMedian:
    """torch_median.Median with compiled loops: two rows at once, since a row's neighbours lie further on in memory."""

    def __init__(self, images: Tensor, k: int, scratch: Scratch, solver: CompiledSolver) -> None:
        channels, height, width = images.shape
        self.images, self.reach = images, k // 2
        pairs, pitch = (height + 1) // 2, width + k - 1
        shape = rows, columns = 2 * pairs + k - 1, channels * pitch
        # one row more: what is right of the last row's end is read, and not used
        padded, *store = scratch.take((rows + 1, columns), *[shape] * k)
        self.padded = padded.unflatten(1, (channels, pitch))
        taps, keys = [plane(padded, i, shape) for i in range(k)], [array.view(torch.int32) for array in store]
        halves = [key[top : top + 2 * pairs].unflatten(0, (pairs, 2)) for top in range(0, k, 2) for key in keys]
        self._sort = partial(solver.call(loops.sort_rows(k)), [*taps, *keys])
        self._pick = partial(solver.call(loops.pick_median(k)), halves)

    def __call__(self) -> None:
        self._pad()
        self._sort()
        for parity, medians in enumerate(self._pick()):
            rows = self.images[:, parity::2]
            channels, height, width = rows.shape
            rows.copy_(medians.unflatten(1, (channels, -1))[:height, :, :width].transpose(0, 1))

    def _pad(self) -> None:
        """Copy the images to ``padded``, (rows, C, pitch), edges replicated."""
        r, (_, height, width) = self.reach, self.images.shape
        rows = self.padded[r : r + height]
        rows[..., r : r + width] = self.images.transpose(0, 1)
        rows[..., :r] = rows[..., r : r + 1]
        rows[..., r + width :] = rows[..., r + width - 1 : r + width]
        self.padded[:r], self.padded[r + height :] = rows[0], rows[-1]
