"""Engine ``torch`` on the CPU with ``compile=True``: the warp of torch_strips as a few compiled loops.

torch.compile writes C++ and needs a C++ compiler at the user's.  The first use on a machine compiles for half a minute
of CPU time; later processes load the result from torch's cache, but still trace and check for some seconds.  The
iteration and the median stay as they are: compiled they were measured to be no faster.  The iteration waits for memory
and not for instructions; the median gains in a loop of its own what each call of compiled code loses in a pair (0.2 to
0.4 ms to check its inputs and hand them over).

Every index here is a plain sum of a loop's counters and an offset.  Where a view needs a division to find its pixel
(flatten, unflatten), torch's loops are not vector code.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from math import floor

import torch
from torch import Tensor

from mepipe.errors import MepipeError
from mepipe.flow.params import TVL1Params
from mepipe.flow.torch_ops import CUBIC
from mepipe.flow.torch_solver import FLT_EPSILON
from mepipe.flow.torch_strips import FLAT, Level, StripSolver
from mepipe.flow.torch_warp import REACH

WINDOW = 5  # taps along an axis: four of a pixel, and one more for pixels that are shifted by one more than others
# x + u is rounded, to 2^-13 px at 2048, so that it can be in the next pixel when u alone is not
ROUNDING = 1e-3  # px


def check_compiler() -> None:
    """Raise MepipeError when torch.compile would find no C++ compiler."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # torch's own defaults
    name = os.environ.get("CXX", usual)
    if not shutil.which(name):
        raise MepipeError(f"torch.compile needs a C++ compiler, and there is no {name}", do="leave compile out")


class CompiledSolver(StripSolver):
    """DualTVL1 with ``params``: StripSolver with a compiled warp."""

    def __init__(self, params: TVL1Params) -> None:
        super().__init__(params)
        self.level = CompiledLevel


class CompiledLevel(Level):
    def _linearise(self) -> None:
        """The whole level at once where its shifts fit the window, else strip by strip."""
        u, s, w = self.flow[:2], self.sources, self.width
        low = [floor(v) for v in (u.amin((1, 2)) - ROUNDING).tolist()]
        high = [floor(v) for v in (u.amax((1, 2)) + ROUNDING).tolist()]
        if (
            max(b - a for a, b in zip(low, high, strict=True)) > WINDOW - 4
            or min(low) < 2 - REACH
            or max(high) > REACH - 3
        ):
            super()._linearise()
            return
        first = (low[1] - 1 + REACH + 1) * s.pitch + low[0] - 1  # where the window of pixel (0, 0) begins
        compiled_linearise()(
            s.padded, first, s.pitch, s.x[:w], s.y, torch.tensor(low, dtype=u.dtype), u,
            self.I0[:, :w], self.D[..., :w], self.A[..., :w], self.c[:, :w],
        )  # fmt: skip


def linearise(
    padded: Tensor,
    first: int,
    pitch: int,
    x: Tensor,
    y: Tensor,
    least: Tensor,
    flow: Tensor,
    I0: Tensor,
    D: Tensor,
    A: Tensor,
    c: Tensor,
) -> None:
    """Strip.linearise of a whole level whose shifts along an axis are ``least`` or one more; sets D, A and c.

    padded, pitch, x (W,), y (H, 1): of torch_warp.Sources; flow: (2, H, W) px.
    """
    u, v = flow
    at_x, at_y = x + u, y + v
    base_x, base_y = at_x.floor(), at_y.floor()
    wx = window(at_x - base_x, base_x - x > least[0])
    wy = window(at_y - base_y, base_y - y > least[1])
    I1w, Ix, Iy = weighted(padded, first, pitch, wx, wy)
    grad = Ix * Ix + Iy * Iy
    minus_grad = -torch.where(grad > FLT_EPSILON, grad, FLAT)
    D[0].copy_(Ix)
    D[1].copy_(Iy)
    for a, d in zip(A, [Ix, Iy, *D[2:]], strict=True):
        a.copy_(d / minus_grad)
    c.copy_((I1w - Ix * u - Iy * v - I0) / minus_grad)


def weighted(padded: Tensor, first: int, pitch: int, wx: list[Tensor], wy: list[Tensor]) -> Tensor:
    """(3, H, W): the sum of ``padded`` over the window that begins at ``first``, with the weights along x and y."""
    size, stride = (len(padded), *wx[0].shape), (padded.stride(0), pitch, 1)
    total = torch.zeros(())
    for j, down in enumerate(wy):
        line = torch.zeros(())
        for i, right in enumerate(wx):
            line = line + padded.as_strided(size, stride, first + j * pitch + i) * right
        total = total + line * down
    return total


def window(t: Tensor, further: Tensor) -> list[Tensor]:
    """The weights of the five taps: a pixel's four, one tap to the right if it is shifted ``further`` than others."""
    r = 1.0 - t
    w0, w3 = CUBIC * (t * (r * r)), CUBIC * (r * (t * t))
    w1 = ((CUBIC + 2) * t - (CUBIC + 3)) * (t * t) + 1.0
    w2 = 1.0 - w0 - w1 - w3
    none = torch.zeros_like(w0)
    taps = [none, w0, w1, w2, w3, none]
    return [torch.where(further, left, here) for left, here in pairwise(taps)]


@cache
def compiled_linearise() -> Callable[..., None]:
    return torch.compile(linearise, dynamic=True, fullgraph=True)
