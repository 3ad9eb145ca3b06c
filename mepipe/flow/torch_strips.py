"""Engine ``torch`` on the CPU: the Solver of torch_solver for one pair, arranged for speed; it is its tested oracle.

What is done about each cost of plain torch operations
  memory      a level is worked on in strips of rows that stay in the cache while some 20 operations pass over them
  allocation  every operation writes into an array that is made once for a level
  count       U = taut u and P = tau p are kept instead of u and p, so that no operation is there only to scale:
                  U += F D + div P     with F = clamp(c + A.U, -taut l_t, taut l_t)
                  P = (P + tau grad U) / (1 + |grad U|)
              where D = (Ix, Iy[, gamma]), A = -D / |grad I|^2 and c = -taut rho_c / |grad I|^2
One pass over the strips is one iteration: the dual step of a row needs the new flow of the next row, so it follows one
row behind the primal step, which needs the old dual of the row before.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil

import numpy as np
import torch
from torch import Tensor

from mepipe.flow.images import level_sizes
from mepipe.flow.params import TVL1Params
from mepipe.flow.torch_median import Median
from mepipe.flow.torch_ops import central_gradient
from mepipe.flow.torch_solver import FLT_EPSILON, Solver
from mepipe.flow.torch_warp import Sources, Warp

# Channels x rows x width of a strip, 128 KiB an array.  With fewer, the 2 us of calling an operation count; with more,
# torch would share the sum of the change among threads, and its rounding would depend on how many there are.
STRIP = 32_768


class StripSolver(Solver):
    """DualTVL1 with ``params``, one pair after the other; equal to Solver up to rounding.

    Keeps the arrays of each level for the next pair, so one thread at a time may use it.
    """

    def __init__(self, params: TVL1Params) -> None:
        super().__init__(params)
        self.level: type[Level] = Level
        self.levels: dict[tuple[int, int], Level] = {}

    def run(self, onset: Tensor, apex: Tensor, initial: Tensor | None) -> Tensor:
        starts = [None] * len(onset) if initial is None else list(initial)
        return torch.stack([self._pair(torch.stack(i), s) for *i, s in zip(onset, apex, starts, strict=True)])

    def _pair(self, images: Tensor, start: Tensor | None) -> Tensor:
        """Onset and apex (2, H, W), start (2, H, W) or None -> (2, H, W)."""
        step = self.params.scale_step
        sizes = level_sizes(*images.shape[1:], self.params.nscales, step)
        if sizes[0] not in self.levels:
            self.levels.clear()  # images of another size: let go of the arrays for the former
        pyramid = [(images, start)]
        for size in sizes[1:]:
            images, start = pyramid[-1]
            smaller = None if start is None else resize(start, size, step) * step
            pyramid.append((resize(images, size, step), smaller))
        images, start = pyramid[-1]
        u = self._start(images[:1], None if start is None else start[None])[0]
        for size, (images, _) in reversed(list(zip(sizes, pyramid, strict=True))):
            if u.shape[1:] != size:
                u = resize(u, size)
                u[:2] *= 1.0 / step
            if size not in self.levels:
                self.levels[size] = self.level(self, *u.shape)
            u = self.levels[size].solve(images, u)
        return u[:2]


def resize(images: Tensor, size: tuple[int, int], scale: float | None = None) -> Tensor:
    """torch_ops.resize of (C, H, W).  scale: target pixels per source pixel, None for the ratio of the sizes."""
    # torch.nn.functional.interpolate is this, but takes either the size or the scale
    return torch.ops.aten.upsample_bilinear2d(images[None], size, False, scale, scale)[0]


class Level:
    """One pyramid level of ``channels`` (2, or 3 with the illumination term of gamma) and its arrays."""

    def __init__(self, solver: Solver, channels: int, height: int, width: int) -> None:
        self.params, self.taut, self.gamma = solver.params, solver.taut, solver.gamma
        self.tau, self.limit = solver.taut * solver.theta, solver.taut * solver.l_t
        self.U, self.A, self.D = torch.zeros(3, channels, height, width)
        self.P = torch.zeros(2, channels, height, width)  # along x and along y
        self.I0, self.c = torch.zeros(2, height, width)
        self.sources = Sources(3, height, width)
        self.median = Median(self.U[:2], self.params.median) if self.params.median > 1 else None
        self.strips = self._strips()

    def _strips(self) -> list[Strip]:
        channels, height, width = self.U.shape
        rows = max(2, ceil(height / ceil(channels * height * width / STRIP)))
        edges = [*range(0, height - 1, rows), height]  # a last row alone goes to the strip before
        works = {bottom - top: Work(self, bottom - top) for top, bottom in pairwise(edges)}
        return [Strip(self, works[bottom - top], top, bottom) for top, bottom in pairwise(edges)]

    def solve(self, images: Tensor, u: Tensor) -> Tensor:
        """Onset and apex (2, H, W) grey, the flow (C, H, W) to start from -> the flow of this level."""
        # the images are scaled as U is: I1 warped, less I0, then belongs to U without another operation
        torch.mul(images[0], self.taut, out=self.I0)
        dx, dy = central_gradient(images[1:])
        self.sources.set(torch.cat([images[1:] * self.taut, dx, dy]))
        torch.mul(u, self.taut, out=self.U)
        self.P.zero_()  # and then kept over the warps of the level
        self.D[2:] = self.gamma
        # OpenCV computes this in float32
        enough = float(np.float32(self.params.epsilon**2 * self.c.numel())) * self.taut**2
        for _ in range(self.params.warps):
            self._linearise()
            self._solve_warp(enough)
        return self.U / self.taut

    def _linearise(self) -> None:
        for strip in self.strips:
            strip.linearise()

    def _solve_warp(self, enough: float) -> None:
        for _ in range(self.params.outer):
            if self.median:
                self.median()
            for _ in range(self.params.inner):
                # the dual step of the iteration that stops is still made
                if sum([strip.iterate() for strip in self.strips]) <= enough:
                    return


class Work:
    """The arrays that strips of ``rows`` rows work in, one strip after the other."""

    def __init__(self, level: Level, rows: int) -> None:
        channels, _, width = level.U.shape
        self.warp = Warp(level.sources, rows)
        self.f = torch.zeros(rows, width)
        # the same memory twice, to stay in the cache: the change of U has been summed when the norm is computed
        self.norm = torch.zeros(channels, rows + 1, width)
        self.delta = self.norm.flatten()[: channels * rows * width].view(channels, rows, width)
        self.grad = torch.zeros(2, channels, rows + 1, width)


class Strip:
    """Rows ``top`` to ``bottom`` of a level: views of all that an iteration reads and writes."""

    def __init__(self, level: Level, work: Work, top: int, bottom: int) -> None:
        self.level, self.work, self.top = level, work, top
        rows = slice(top, bottom)
        self.U, self.A, self.D, self.c = level.U[:, rows], level.A[:, rows], level.D[:, rows], level.c[rows]
        self.I0, self.grid = level.I0[rows], level.sources.grid[:, rows]
        self.channels = list(zip(self.A, self.U, strict=True))
        self._primal_views(rows)
        self._dual_views(max(top - 1, 0), bottom if bottom == len(level.c) else bottom - 1)

    def _primal_views(self, rows: slice) -> None:
        self.f, self.delta = self.work.f, self.work.delta
        self.flat = self.delta.flatten()
        self.px, self.py = self.level.P[:, :, rows]
        self.px_left, self.right_of_it = self.px[..., :-1], self.delta[..., 1:]
        self.py_above = self.level.P[1, :, max(rows.start - 1, 0) : rows.stop - 1]
        self.below_it = self.delta[:, -self.py_above.shape[1] :]  # nothing is above the first row of the image

    def _dual_views(self, first: int, last: int) -> None:
        u, below = self.level.U[:, first:last], self.level.U[:, first + 1 : last + 1]
        self.P = self.level.P[:, :, first:last]
        self.norm, self.grad = self.work.norm[:, : last - first], self.work.grad[:, :, : last - first]
        self.dx, self.left, self.right = self.grad[0, ..., :-1], u[..., :-1], u[..., 1:]  # the last column stays 0
        self.dy, self.above, self.below = self.grad[1, :, : below.shape[1]], u[:, : below.shape[1]], below
        self.no_dy = self.grad[1, :, below.shape[1] :]  # the last row of the image, if it is among these

    def iterate(self) -> float:
        """A primal step, and a dual step one row behind.  Returns the sum of the squared change of U."""
        f, delta, limit = self.f, self.delta, self.level.limit
        (a, u), *others = self.channels
        torch.addcmul(self.c, a, u, out=f)
        for a, u in others:
            f.addcmul_(a, u)
        f.clamp_(-limit, limit)
        torch.add(self.px, self.py, out=delta)
        self.right_of_it.sub_(self.px_left)
        self.below_it.sub_(self.py_above)
        delta.addcmul_(self.D, f)
        self.U.add_(delta)
        change = float(torch.linalg.vector_norm(self.flat)) ** 2

        torch.sub(self.right, self.left, out=self.dx)
        torch.sub(self.below, self.above, out=self.dy)
        self.no_dy.zero_()
        gx, gy = self.grad
        torch.mul(gx, gx, out=self.norm).addcmul_(gy, gy).sqrt_().add_(1.0)
        self.P.add_(self.grad, alpha=self.level.tau).div_(self.norm)
        return change

    def linearise(self) -> None:
        """Set A, D and c of these rows from the images warped by the flow so far."""
        warp = self.work.warp
        torch.add(self.grid, self.U[:2], alpha=1.0 / self.level.taut, out=warp.positions)
        warped = warp(self.top)
        self.D[:2] = warped[1:]
        Ix, Iy = self.D[:2]
        minus_grad = torch.mul(Ix, Ix, out=self.f).addcmul_(Iy, Iy).clamp_(min=FLT_EPSILON).neg_()
        torch.div(self.D, minus_grad, out=self.A)
        torch.sub(warped[0], self.I0, out=self.c).addcmul_(Ix, self.U[0], value=-1.0)
        self.c.addcmul_(Iy, self.U[1], value=-1.0).div_(minus_grad)
