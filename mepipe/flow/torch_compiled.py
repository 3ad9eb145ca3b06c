"""Engine ``torch`` on the CPU with ``compile=True``: the warp of torch_strips as one compiled loop.

torch.compile writes C++ and needs a C++ compiler at the user's.  The first use on a machine compiles for half a minute
of CPU time; later processes load the result from torch's cache, but still trace and check for some seconds.  The
iteration and the median stay as they are: compiled they were measured to be no faster, since they wait for memory and
not for instructions, and each call of compiled code checks its inputs for about 0.1 ms.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
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
            s.padded.flatten(1), first, s.pitch, s.x[:w], s.y, torch.tensor(low, dtype=u.dtype), u,
            self.I0[:, :w], self.D[..., :w], self.A[..., :w], self.c[:, :w],
        )  # fmt: skip


def linearise(
    flat: Tensor,
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

    flat, pitch, x (W,), y (H, 1): of torch_warp.Sources; flow: (2, H, W) px.
    """
    height, width = I0.shape
    at = torch.stack([x + flow[0], y + flow[1]])
    base = at.floor()
    t = at - base
    shift = torch.stack([base[0] - x - least[0], base[1] - y - least[1]])
    weights = window(t, shift)
    warped = torch.zeros_like(flat[:, : height * width].unflatten(1, (height, width)))
    for j in range(WINDOW):
        line = torch.zeros_like(warped)
        for i in range(WINDOW):
            start = first + j * pitch + i
            image = flat[:, start : start + height * pitch].unflatten(1, (height, pitch))[..., :width]
            line = line + image * weights[i][0]
        warped = warped + line * weights[j][1]
    I1w, Ix, Iy = warped
    grad = Ix * Ix + Iy * Iy
    minus_grad = -torch.where(grad > FLT_EPSILON, grad, FLAT)
    D[0].copy_(Ix)
    D[1].copy_(Iy)
    A.copy_(D / minus_grad)
    c.copy_((I1w - Ix * flow[0] - Iy * flow[1] - I0) / minus_grad)


def window(t: Tensor, mask: Tensor) -> list[Tensor]:
    """The weights of the five taps, as torch_warp.Warp makes them."""
    r = 1.0 - t
    w0, w3 = CUBIC * (t * (r * r)), CUBIC * (r * (t * t))
    w1 = ((CUBIC + 2) * t - (CUBIC + 3)) * (t * t) + 1.0
    w2 = 1.0 - w0 - w1 - w3
    return [w0 - w0 * mask, w1 + mask * (w0 - w1), w2 + mask * (w1 - w2), w3 + mask * (w2 - w3), w3 * mask]


@cache
def compiled_linearise() -> Callable[..., None]:
    return torch.compile(linearise, dynamic=True, fullgraph=True)
