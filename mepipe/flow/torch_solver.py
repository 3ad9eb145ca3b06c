"""DualTVL1 in plain torch operations, written for reading: the reference that the faster engines are tested against.

The order of operations is that of OpenCV's tvl1flow.cpp; symbols are those of IPOL 2013.26:
rho the linearised residual, p the dual of the flow's total variation, v the auxiliary flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mepipe.flow.images import level_sizes
from mepipe.flow.params import TVL1Params
from mepipe.flow.torch_ops import (
    central_gradient,
    divergence,
    forward_gradient,
    median,
    resize,
    squared_change,
    warp_cubic,
)

FLT_EPSILON = float(np.finfo(np.float32).eps)  # OpenCV: a squared gradient below this counts as none

_ZERO = torch.tensor(0.0)  # to begin a sum with, on any device


@dataclass
class Level:
    """One pyramid level.  u: (B, 2 or 3, H, W) flow and, with gamma, illumination; p: (B, 2 or 3, 2, H, W) its dual.

    I0, I1: (B, H, W) grey 0..255; gradient: (B, 2, H, W) of I1.
    """

    I0: Tensor
    I1: Tensor
    gradient: Tensor
    u: Tensor
    p: Tensor


@dataclass
class Warped:
    """I1 linearised around the current flow: rho(u) = rho_c + Ix*u + Iy*v.  All (B, H, W).

    grad: Ix^2 + Iy^2.
    """

    Ix: Tensor
    Iy: Tensor
    grad: Tensor
    rho_c: Tensor


class Solver:
    """DualTVL1 with ``params``, on batches and any device.

    look_every: iterations between two looks at whether all pairs have stopped.  Iterations in between change no pair
    that has stopped.
    """

    def __init__(self, params: TVL1Params, look_every: int = 1) -> None:
        self.params = params
        self.look_every = look_every
        # OpenCV computes these in float32
        self.l_t = float(np.float32(params.lambda_ * params.theta))
        self.taut = float(np.float32(params.tau / params.theta))
        self.theta = float(np.float32(params.theta))
        self.gamma = float(np.float32(params.gamma))

    def run(self, onset: Tensor, apex: Tensor, initial: Tensor | None) -> Tensor:
        """(B, H, W) grey 0..255 -> (B, 2, H, W) flow, coarse to fine."""
        height, width = onset.shape[1:]
        sizes = level_sizes(height, width, self.params.nscales, self.params.scale_step)
        ratio = 1.0 / self.params.scale_step
        pyramid = [(onset, apex, initial)]
        for size in sizes[1:]:
            I0, I1, u = pyramid[-1]
            smaller = None if u is None else resize(u, size, ratio, self.params.scale_step)
            pyramid.append((resize(I0, size, ratio), resize(I1, size, ratio), smaller))

        I0, I1, start = pyramid[-1]
        u = self._start(I0, start)
        for I0, I1, _ in reversed(pyramid):
            if u.shape[-2:] != I0.shape[-2:]:
                height, width = I0.shape[-2:]
                u = self._upsample(u, (height, width))
            u = self._solve_level(I0, I1, u)
        return u[:, :2]

    def _start(self, I0: Tensor, start: Tensor | None) -> Tensor:
        channels = 3 if self.gamma else 2
        u = I0.new_zeros(len(I0), channels, *I0.shape[1:])
        if start is not None:
            u[:, :2] = start
        return u

    def _upsample(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """``u`` at the next finer level: resized, and the motion (not the illumination) in finer pixels."""
        motion = resize(u[:, :2], size, factor=1.0 / self.params.scale_step)
        return torch.cat([motion, resize(u[:, 2:], size)], dim=1)

    def _solve_level(self, I0: Tensor, I1: Tensor, u: Tensor) -> Tensor:
        p = u.new_zeros(*u.shape[:2], 2, *u.shape[2:])  # kept over the warps of a level
        level = Level(I0, I1, torch.stack(central_gradient(I1), dim=1), u, p)
        for _ in range(self.params.warps):
            self._solve_warp(level, self._linearise(level))
        return level.u

    def _linearise(self, level: Level) -> Warped:
        u, v = level.u[:, 0], level.u[:, 1]
        I1w, Ix, Iy = warp_cubic(torch.cat([level.I1[:, None], level.gradient], dim=1), u, v).unbind(1)
        return Warped(Ix, Iy, grad=Ix * Ix + Iy * Iy, rho_c=I1w - Ix * u - Iy * v - level.I0)

    def _solve_warp(self, level: Level, warped: Warped) -> None:
        """Iterate each image until its own change falls to epsilon, or outer * inner times."""
        height, width = level.I0.shape[1:]
        enough = float(np.float32(self.params.epsilon**2 * height * width))
        active = torch.ones(len(level.I0), dtype=torch.bool, device=level.I0.device)
        for _ in range(self.params.outer):
            self._median(level, active)
            for i in range(self.params.inner):
                change = squared_change(self._iterate(level, warped, active), enough)
                active = active & (change > enough)
                if (i + 1) % self.look_every == 0 and not active.any():
                    return

    def _median(self, level: Level, active: Tensor) -> None:
        if self.params.median > 1:
            for c in (0, 1):
                _update(level.u[:, c], median(level.u[:, c], self.params.median), active)

    def _iterate(self, level: Level, warped: Warped, active: Tensor) -> Tensor:
        """One primal and one dual step of the active images.  Returns the squared change of each pixel."""
        v = self._threshold(level.u, warped)
        change = _ZERO
        for c in range(level.u.shape[1]):
            px, py = level.p[:, c, 0], level.p[:, c, 1]
            u = v[c] + self.theta * divergence(px, py)
            change = change + (u - level.u[:, c]).square()
            _update(level.u[:, c], u, active)
            # the dual step of the iteration that stops is still made
            ux, uy = forward_gradient(u)
            norm = 1.0 + self.taut * torch.hypot(ux, uy)
            _update(px, (px + self.taut * ux) / norm, active)
            _update(py, (py + self.taut * uy) / norm, active)
        return change

    def _threshold(self, u: Tensor, w: Warped) -> list[Tensor]:
        """The pointwise minimiser of the data term, v = u + f*(Ix, Iy, gamma) with f = -rho/grad held to +-l_t."""
        l_t = self.l_t
        rho = w.rho_c + (w.Ix * u[:, 0] + w.Iy * u[:, 1])
        if self.gamma:
            rho = rho + self.gamma * u[:, 2]
        f = torch.where(w.grad > FLT_EPSILON, -rho / w.grad, 0.0)
        f = torch.where(rho < -l_t * w.grad, l_t, torch.where(rho > l_t * w.grad, -l_t, f))
        v = [u[:, 0] + f * w.Ix, u[:, 1] + f * w.Iy]
        return [*v, u[:, 2] + f * self.gamma] if self.gamma else v


def _update(old: Tensor, new: Tensor, active: Tensor) -> Any:
    """Put ``new`` into ``old`` for the images that are ``active``, in place."""
    old.copy_(torch.where(active[:, None, None], new, old))
