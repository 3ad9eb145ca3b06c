"""Engine ``torch``: DualTVL1 on batches, on the CPU or a GPU, and the reference for other engines.

The order of operations is that of OpenCV's tvl1flow.cpp; symbols are those of IPOL 2013.26:
rho the linearised residual, p the dual of the flow's total variation, v the auxiliary flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mepipe.flow.engine import Engine
from mepipe.flow.images import grey_levels, level_sizes
from mepipe.flow.params import TVL1Params
from mepipe.flow.torch_ops import (
    central_gradient,
    divergence,
    forward_gradient,
    median,
    resize,
    sum_per_image,
    warp_cubic,
)

FLT_EPSILON = float(np.finfo(np.float32).eps)  # OpenCV: a squared gradient below this counts as none
# Pairs at once.  On the CPU one keeps the working set in the cache; a GPU needs many to be busy.
BATCH = {"cpu": 1, "cuda": 64}
# Iterations between two looks at whether all pairs have stopped.  A look waits for the GPU to finish
# what is queued; on the CPU it is free.  Iterations in between change no pair that has stopped.
LOOK_EVERY = {"cpu": 1, "cuda": 4}


class TorchEngine(Engine):
    """TV-L1 in plain torch operations.  device: "cpu", "cuda", "cuda:1"; batch: pairs at once."""

    name = "torch"
    depends_on = ("torch",)

    def __init__(self, device: str | None = None, batch: int | None = None) -> None:
        self.device = device or "cpu"
        self._kind = torch.device(self.device).type
        self.batch = batch or BATCH[self._kind]

    @torch.inference_mode()
    def solve(self, onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
        start = None if initial is None else self._tensor(initial)
        solver = Solver(params, LOOK_EVERY[self._kind])
        return solver.run(self._tensor(grey_levels(onset)), self._tensor(grey_levels(apex)), start).cpu().numpy()

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def versions(self) -> dict[str, str | None]:
        found: dict[str, str | None] = {**super().versions(), "torch": torch.__version__}
        if self._kind == "cuda":
            found |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name(self.device)}
        return found


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

    grad: Ix^2 + Iy^2, held above FLT_EPSILON: flat pixels then follow OpenCV's sign rule without a division by 0.
    """

    Ix: Tensor
    Iy: Tensor
    grad: Tensor
    rho_c: Tensor


class Solver:
    """DualTVL1 with ``params``; ``look_every``: see LOOK_EVERY."""

    def __init__(self, params: TVL1Params, look_every: int = 1) -> None:
        self.params = params
        self.look_every = look_every
        # OpenCV computes these three in float32
        self.l_t = float(np.float32(params.lambda_ * params.theta))
        self.taut = float(np.float32(params.tau / params.theta))
        self.theta = float(np.float32(params.theta))
        self.gamma = float(np.float32(params.gamma))

    def run(self, onset: Tensor, apex: Tensor, initial: Tensor | None) -> Tensor:
        """(B, H, W) grey 0..255 -> (B, 2, H, W) flow, coarse to fine."""
        sizes = level_sizes(*onset.shape[1:], self.params.nscales, self.params.scale_step)
        ratio = 1.0 / self.params.scale_step
        pyramid = [(onset, apex, initial)]
        for size in sizes[1:]:
            I0, I1, u = pyramid[-1]
            smaller = None if u is None else resize(u, size, ratio) * self.params.scale_step
            pyramid.append((resize(I0, size, ratio), resize(I1, size, ratio), smaller))

        I0, I1, start = pyramid[-1]
        u = self._start(I0, start)
        for I0, I1, _ in reversed(pyramid):
            if u.shape[-2:] != I0.shape[-2:]:
                u = self._upsample(u, I0.shape[-2:])
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
        u = resize(u, size)
        u[:, :2] *= 1.0 / self.params.scale_step
        return u

    def _solve_level(self, I0: Tensor, I1: Tensor, u: Tensor) -> Tensor:
        p = u.new_zeros(*u.shape[:2], 2, *u.shape[2:])  # kept over the warps of a level
        level = Level(I0, I1, torch.stack(central_gradient(I1), dim=1), u, p)
        for _ in range(self.params.warps):
            self._solve_warp(level, self._linearise(level))
        return level.u

    def _linearise(self, level: Level) -> Warped:
        u, v = level.u[:, 0], level.u[:, 1]
        I1w, Ix, Iy = warp_cubic(torch.cat([level.I1[:, None], level.gradient], dim=1), u, v).unbind(1)
        return Warped(Ix, Iy, grad=(Ix * Ix + Iy * Iy).clamp(min=FLT_EPSILON), rho_c=I1w - Ix * u - Iy * v - level.I0)

    def _solve_warp(self, level: Level, warped: Warped) -> None:
        """Iterate each image until its own change falls to epsilon, or outer * inner times."""
        height, width = level.I0.shape[1:]
        enough = float(np.float32(self.params.epsilon**2 * height * width))
        active = torch.ones(len(level.I0), dtype=torch.bool, device=level.I0.device)
        for _ in range(self.params.outer):
            self._median(level, active)
            for i in range(self.params.inner):
                change = self._iterate(level, warped, active)
                active = active & (change > enough)
                if (i + 1) % self.look_every == 0 and not active.any():
                    return

    def _median(self, level: Level, active: Tensor) -> None:
        if self.params.median > 1:
            for c in (0, 1):
                _update(level.u[:, c], median(level.u[:, c], self.params.median), active)

    def _iterate(self, level: Level, warped: Warped, active: Tensor) -> Tensor:
        """One primal and one dual step of the active images.  Returns (B,) float64: sum of the squared change."""
        v = self._threshold(level.u, warped)
        change: Tensor | float = 0.0
        for c in range(level.u.shape[1]):
            px, py = level.p[:, c, 0], level.p[:, c, 1]
            u = v[c] + self.theta * divergence(px, py)
            change = change + (u - level.u[:, c]).square()
            _update(level.u[:, c], u, active)
            # the dual step of the iteration that stops is still made
            ux, uy = forward_gradient(u)
            norm = 1.0 + self.taut * torch.sqrt(ux * ux + uy * uy)
            _update(px, (px + self.taut * ux) / norm, active)
            _update(py, (py + self.taut * uy) / norm, active)
        return sum_per_image(change)

    def _threshold(self, u: Tensor, w: Warped) -> list[Tensor]:
        """The pointwise minimiser of the data term, v = u + f*(Ix, Iy, gamma) with f = -rho/grad held to +-l_t."""
        rho = w.rho_c + (w.Ix * u[:, 0] + w.Iy * u[:, 1])
        if self.gamma:
            rho = rho + self.gamma * u[:, 2]
        f = (-rho / w.grad).clamp(-self.l_t, self.l_t)
        v = [u[:, 0] + f * w.Ix, u[:, 1] + f * w.Iy]
        return [*v, u[:, 2] + f * self.gamma] if self.gamma else v


def _update(old: Tensor, new: Tensor, active: Tensor) -> Any:
    """Put ``new`` into ``old`` for the images that are ``active``, in place."""
    old.copy_(torch.where(active[:, None, None], new, old))
