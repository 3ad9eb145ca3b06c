"""Engine ``torch`` on the CPU: the Solver of torch_solver for one pair, arranged for speed; it is its tested oracle.

What is done about each cost of plain torch operations
  memory      a level is worked on in strips of rows that stay in the cache while some 20 operations pass over them
  allocation  every operation writes into an array that is made once for a level
  rows        follow each other in memory, some zeros between them, so that an operation is one long loop and a
                  neighbour is an offset; what is computed right of the image is set to 0 again where it matters
  count       P = theta p is kept instead of p, so that no operation is there only to scale:
                  U += F D + div P     with F = clamp(c + A.U, -l_t, l_t)
                  P = (P + tau grad U) / (1 + taut |grad U|)
              where D = (Ix, Iy[, gamma]), A = -D / |grad I|^2 and c = -rho_c / |grad I|^2
One pass over the strips is one iteration: the dual step of a row needs the new flow of the next row, so it follows one
row behind the primal step, which needs the old dual of the row before.

Resizing, warping, the median and the sum that ends a warp round as OpenCV does; iterations round differently, and
each has some 5e-8 px of that.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import ceil, inf

import numpy as np
import torch
from torch import Tensor

from mepipe.flow.images import level_sizes
from mepipe.flow.params import TVL1Params
from mepipe.flow.torch_median import Median
from mepipe.flow.torch_ops import NEAR, central_gradient, sum_in_order
from mepipe.flow.torch_scratch import Scratch
from mepipe.flow.torch_solver import FLT_EPSILON, Solver
from mepipe.flow.torch_warp import Sources, Warp

# Channels x rows x width of a strip, 128 KiB an array.  With fewer, the 2 us of calling an operation count; with more,
# torch would share the sum of the change among threads, and its rounding would depend on how many there are.
STRIP = 32_768
SOON = 2.0  # times the sum that ends a warp: from here on every pixel's share is kept, see NEAR

FLAT = 1e-30  # |grad I|^2 where there is none: F is then +-l_t by the sign of rho alone, and 0 where that is 0

_ONE = torch.tensor(1.0)


class StripSolver(Solver):
    """DualTVL1 with ``params``, one pair after the other; equal to Solver up to rounding.

    Keeps the arrays of each level for the next pair, so one thread at a time may use it.
    """

    def __init__(self, params: TVL1Params) -> None:
        super().__init__(params)
        self.level: type[Level] = Level
        self.levels: dict[tuple[int, int], Level] = {}

    def run(self, onset: Tensor, apex: Tensor, initial: Tensor | None) -> Tensor:
        """(B, H, W) grey 0..255 -> (B, 2, H, W) flow."""
        height, width = onset.shape[1:]
        sizes = level_sizes(height, width, self.params.nscales, self.params.scale_step)
        if sizes[0] not in self.levels:  # images of another size: let go of the arrays for the former
            channels, scratch = (3 if self.gamma else 2), Scratch()
            self.levels = {size: self.level(self, channels, *size, scratch) for size in sizes}
        run = super().run
        starts = [None] * len(onset) if initial is None else initial[:, None]
        return torch.cat([run(*pair) for pair in zip(onset[:, None], apex[:, None], starts, strict=True)])

    def _solve_level(self, I0: Tensor, I1: Tensor, u: Tensor) -> Tensor:
        height, width = I0.shape[1:]
        return self.levels[height, width].solve(I0[0], I1, u[0])[None]


class Level:
    """One pyramid level of ``channels`` (2, or 3 with the illumination term of gamma) and its arrays."""

    def __init__(self, solver: Solver, channels: int, height: int, width: int, scratch: Scratch) -> None:
        self.scratch = scratch
        self.params, self.taut, self.gamma = solver.params, solver.taut, solver.gamma
        self.tau, self.limit, self.width = solver.taut * solver.theta, solver.l_t, width
        self.sources = Sources(3, height, width)
        pitch = self.sources.pitch
        self.U = torch.zeros(channels, height + 1, pitch)  # and a row of zeros below
        self.P = torch.zeros(2, channels, 1 + height, pitch)[:, :, 1:]  # along x and along y, and zeros above
        self.A, self.D = torch.zeros(2, channels, height, pitch)
        self.I0, self.c, self.changes = torch.zeros(3, height, pitch)
        self.flow = self.U[:, :height, :width]
        self.median: Callable[[], None] | None = None
        if self.params.median > 1:
            self.median = Median(self.flow[:2], self.params.median, scratch)
        self.strips = self._strips()

    def _strips(self) -> list[Strip]:
        channels, height, pitch = self.D.shape
        rows = max(2, ceil(height / ceil(channels * height * pitch / STRIP)))
        edges = [*range(0, height - 1, rows), height]  # a last row alone goes to the strip before
        works = {bottom - top: Work(self, bottom - top) for top, bottom in pairwise(edges)}
        return [Strip(self, works[bottom - top], top, bottom) for top, bottom in pairwise(edges)]

    def solve(self, I0: Tensor, I1: Tensor, u: Tensor) -> Tensor:
        """Onset (H, W) and apex (1, H, W) grey, the flow (C, H, W) to start from -> the flow of this level."""
        self.I0[:, : self.width] = I0
        self.sources.set(torch.cat([I1, *central_gradient(I1)]))
        self.flow.copy_(u)
        self.P.zero_()  # and then kept over the warps of the level
        self.D[2:, :, : self.width] = self.gamma
        enough = float(np.float32(self.params.epsilon**2 * I0.numel()))  # OpenCV computes this in float32
        for _ in range(self.params.warps):
            self._linearise()
            self._solve_warp(enough)
        return self.flow.clone()

    def _linearise(self) -> None:
        for strip in self.strips:
            strip.linearise()

    def _solve_warp(self, enough: float) -> None:
        change = inf
        for _ in range(self.params.outer):
            if self.median:
                self.median()
            for _ in range(self.params.inner):
                keep = change < SOON * enough
                # the dual step of the iteration that stops is still made
                change = self._iterate(keep)
                if keep and abs(change - enough) <= NEAR * enough:
                    change = sum_in_order(self.changes[:, : self.width])
                if change <= enough:
                    return

    def _iterate(self, keep: bool) -> float:
        """One iteration: the sum of the squared change of U.  keep: leave that of each pixel in ``changes``."""
        return sum([strip.iterate(keep) for strip in self.strips])


def plane(rows: Tensor, shift: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """The memory of ``rows``, (H, pitch), from ``shift`` elements further on, as that many rows or in ``shape``."""
    return rows.as_strided(shape or rows.shape, rows.stride(), rows.storage_offset() + shift)


class Work:
    """The arrays that strips of ``rows`` rows work in, one strip after the other."""

    def __init__(self, level: Level, rows: int) -> None:
        channels, _, pitch = level.D.shape
        self.warp = Warp(level.sources, rows, level.scratch)
        one_more = (channels, (rows + 1) * pitch)
        self.f, self.norm, self.grad = level.scratch.take((rows * pitch,), one_more, (2, *one_more))
        # the same memory twice, to stay in the cache: the change of U has been summed when the norm is computed
        self.delta = self.norm.flatten()[: channels * rows * pitch].view(channels, rows * pitch)


class Strip:
    """Rows ``top`` to ``bottom`` of a level: flat views (..., rows * pitch) of what an iteration reads and writes."""

    def __init__(self, level: Level, work: Work, top: int, bottom: int) -> None:
        self.level, self.work, self.top = level, work, top
        rows = slice(top, bottom)
        self.U, self.A, self.D = (array[:, rows].flatten(1) for array in (level.U, level.A, level.D))
        self.c, self.I0, self.changes = (array[rows].flatten() for array in (level.c, level.I0, level.changes))
        self.channels = list(zip(self.A, self.U, strict=True))
        self.outside = level.D[:2, rows, level.width :], level.c[rows, level.width :]
        self._primal_views()
        self._dual_views(max(top - 1, 0), bottom if bottom == len(level.c) else bottom - 1)

    def _primal_views(self) -> None:
        self.f, self.delta = self.work.f, self.work.delta
        self.flat = self.delta.flatten()
        self.px, self.py = self._flat(self.level.P, self.top, len(self.f))
        self.px_left = self._flat(self.level.P, self.top, len(self.f), -1)[0]
        self.py_above = self._flat(self.level.P, self.top - 1, len(self.f))[1]

    def _dual_views(self, first: int, last: int) -> None:
        level, pitch = self.level, self.level.sources.pitch
        size = (last - first) * pitch
        self.here = self._flat(level.U, first, size)
        at = level.U.storage_offset() + first * pitch + 1
        # the neighbours to the right and, pitch - 1 further, below
        self.there = level.U.as_strided((2, len(level.U), size), (pitch - 1, level.U.stride(0), 1), at)
        self.P = self._flat(level.P, first, size)
        self.norm, self.grad = self.work.norm[:, :size], self.work.grad[..., :size]
        self.gx, self.gy = self.grad
        self.no_dx = self.gx.unflatten(1, (last - first, pitch))[..., level.width - 1 :]
        self.no_dy = self.gy[:, -pitch:] if last == len(level.c) else None

    def _flat(self, planes: Tensor, first: int, size: int, shift: int = 0) -> Tensor:
        """(..., size) from row ``first`` of ``planes`` (..., H, pitch) on, ``shift`` elements further."""
        at = planes.storage_offset() + first * planes.stride(-2) + shift
        return planes.as_strided((*planes.shape[:-2], size), (*planes.stride()[:-2], 1), at)

    def iterate(self, keep: bool) -> float:
        """A primal step, and a dual step one row behind.  Returns the sum of the squared change of U.

        keep: leave the squared change of each pixel in the level's ``changes``.
        """
        f, delta, limit = self.f, self.delta, self.level.limit
        (a, u), *others = self.channels
        torch.addcmul(self.c, a, u, out=f)
        for a, u in others:
            f.addcmul_(a, u)
        f.clamp_(-limit, limit)
        torch.sub(self.px, self.px_left, out=delta).add_(self.py).sub_(self.py_above)
        delta.addcmul_(self.D, f)
        self.U.add_(delta)
        change = float(torch.linalg.vector_norm(self.flat)) ** 2
        if keep:
            torch.mul(delta[0], delta[0], out=self.changes)
            for other in delta[1:]:
                self.changes.addcmul_(other, other)

        torch.sub(self.there, self.here, out=self.grad)
        self.no_dx.zero_()
        if self.no_dy is not None:
            self.no_dy.zero_()
        norm = torch.mul(self.gx, self.gx, out=self.norm).addcmul_(self.gy, self.gy).sqrt_()
        torch.add(_ONE, norm, alpha=self.level.taut, out=norm)
        self.P.add_(self.grad, alpha=self.level.tau).div_(norm)
        return change

    def warp_to(self, I1w: Tensor) -> None:
        """Set D and ``I1w``, (H, pitch), of these rows from the images warped by the flow so far."""
        warped = self.work.warp(self.top, self.U[:2])
        I1w[self.top : self.top + self.work.warp.rows] = warped[0].view(self.work.warp.rows, -1)
        self.D[:2] = warped[1:]
        for array in self.outside:
            array.zero_()

    def linearise(self) -> None:
        """Set A, D and c of these rows from the images warped by the flow so far."""
        f, c, (u, v) = self.work.warp.t[0], self.c, self.U[:2]
        I1w, Ix, Iy = warped = self.work.warp(self.top, self.U[:2])
        torch.sub(I1w, torch.mul(Ix, u, out=f), out=c).sub_(torch.mul(Iy, v, out=f)).sub_(self.I0)
        self.D[:2] = warped[1:]
        for array in self.outside:
            array.zero_()
        minus_grad = torch.threshold_(torch.mul(Ix, Ix, out=f).addcmul_(Iy, Iy), FLT_EPSILON, FLAT).neg_()
        torch.div(self.D, minus_grad, out=self.A)
        c.div_(minus_grad)
