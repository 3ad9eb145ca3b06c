"""MERba's local mixer: MambaVision's mixer along several scan directions at once (eqs. 2 and 3).

x and z are the halves of in_proj(X).  Along each direction both pass a depthwise conv of width 3
("same" padding, not causal) and SiLU; x then drives a selective scan, z does not, and the two are
concatenated, not multiplied.  The directions are put back in token order and summed, and one
Linear follows.  in_proj acts per token, so it runs once, before the sequence is permuted.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mepipe_model.ops.directions import parse_scans, scan_inverse, scan_order
from mepipe_model.ops.scan import scan_backend, selective_scan

CONV_WIDTH = 3
CHANNELS_PER_RANK = 16  # dt_proj's rank is ceil(D / 16), as in Mamba
DT_RANGE = (1e-3, 1e-1)  # Mamba's initial step sizes, log-uniform


class LocalMixer(nn.Module):
    """Tokens (M, h*w, D) of M windows of size (h, w) -> (M, h*w, D).  Windows never mix.

    sharing: "shared" one set of weights for all directions, "ssm" conv and scan parameters per
    direction, "full" in_proj per direction as well.  The out Linear is always one.
    """

    def __init__(self, dim: int, scans: str, sharing: str = "shared", d_state: int = 8, backend: str = "auto") -> None:
        super().__init__()
        names = parse_scans(scans)
        self.groups = (names,) if sharing == "shared" else tuple((name,) for name in names)
        self.in_proj = nn.ModuleList(
            nn.Linear(dim, dim, bias=False) for _ in range(len(names) if sharing == "full" else 1)
        )
        self.cores = nn.ModuleList(ScanCore(dim, d_state, backend) for _ in self.groups)
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        projected = [proj(x) for proj in self.in_proj]
        total: Tensor | None = None
        for i, (group, core) in enumerate(zip(self.groups, self.cores, strict=True)):
            part = core(projected[i % len(projected)], *path_orders(group, *size, x.device))
            total = part if total is None else total + part
        return self.out_proj(total)


class ScanWeights(nn.Module):
    """What a selective scan of E channels reads beside its input: x_proj, dt_proj, A_log (E, N), D (E,).

    ``make`` adds them; a subclass may have parameters of its own before.
    """

    def make(self, channels: int, rank: int, d_state: int) -> None:
        """rank: of dt's projection."""
        self.channels, self.rank, self.d_state = channels, rank, d_state
        self.x_proj = nn.Linear(channels, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, channels)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(channels, 1))
        self.D = nn.Parameter(torch.ones(channels))

    def scan_inputs(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """From u (..., E): dt (..., E), A (E, N), B and C (..., N), D (E,), dt's bias (E,)."""
        dt, b, c = self.x_proj(u).split((self.rank, self.d_state, self.d_state), -1)
        dt = F.linear(dt, self.dt_proj.weight)  # its bias joins in the scan, in float32
        return dt, -self.A_log.exp(), b, c, self.D, self.dt_proj.bias

    def init_mamba(self) -> None:
        """Mamba's start: dt log-uniform in DT_RANGE, its weight uniform in +-rank^-1/2."""
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        low, high = (math.log(v) for v in DT_RANGE)
        dt = torch.exp(torch.rand(self.channels) * (high - low) + low)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus^-1


class ScanCore(ScanWeights):
    """Conv, SiLU and selective scan along K directions with one set of weights, summed over them."""

    def __init__(self, dim: int, d_state: int, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.conv = nn.Parameter(torch.empty(dim, CONV_WIDTH))  # rows :E for x, E: for z; no bias
        self.make(dim // 2, math.ceil(dim / CHANNELS_PER_RANK), d_state)
        nn.init.uniform_(self.conv, -(CONV_WIDTH**-0.5), CONV_WIDTH**-0.5)  # fan-in, as nn.Conv1d

    def forward(self, xz: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        """Tokens xz (M, L, D), order and inverse (K, L) -> (M, L, D)."""
        if scan_backend(xz.device, self.backend)[0] == "triton":
            return self._fused(xz, order, inverse)
        m, length, dim = xz.shape
        paths = ReadAlong.apply(xz, order, inverse).view(-1, length, dim)
        u, z = F.silu(SequenceConv.apply(paths, self.conv)).split(self.channels, -1)
        y = selective_scan(u, *self.scan_inputs(u), self.backend)
        merged = (PutBack.apply(t.unflatten(0, (m, -1)), order, inverse) for t in (y, z))
        return torch.cat(tuple(merged), -1)

    def _fused(self, xz: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        """The same with the directions inside the kernels: no copy in scan order, no sum of copies.

        u itself is written out along every direction: the conv runs along the direction, and x_proj
        needs all channels of its result.
        """
        from mepipe_model.ops.scan_triton import conv_along, scan_along

        u, z = conv_along(xz, self.conv, order, inverse)
        return torch.cat((scan_along(u, *self.scan_inputs(u), order), z), -1)


class ReadAlong(torch.autograd.Function):
    """Tokens (M, L, D) read along K orders -> (M, K, L, D).  Adjoint of PutBack."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return _read_along(x, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return _put_back(g, ctx.saved_tensors[0]), None, None


class PutBack(torch.autograd.Function):
    """K sequences (M, K, L, E) put back in token order and summed -> (M, L, E), eq. (3)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return _put_back(y, inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return _read_along(g, ctx.saved_tensors[0]), None, None


def _read_along(x: Tensor, order: Tensor) -> Tensor:
    return x.index_select(1, order.view(-1)).unflatten(1, order.shape)


def _put_back(y: Tensor, inverse: Tensor) -> Tensor:
    total = y[:, 0].index_select(1, inverse[0])
    for k in range(1, len(inverse)):
        total += y[:, k].index_select(1, inverse[k])
    return total


class SequenceConv(torch.autograd.Function):
    """Depthwise conv of width 3 along L of (S, L, D) with zeros beyond both ends; weight (D, 3).

    Channel-last shifted multiply-adds: conv1d would need two transposed copies.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        before, here, after = weight.to(x.dtype).unbind(1)
        return _shifted(x, before, here, after)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        before, here, after = weight.to(g.dtype).unbind(1)
        gx = _shifted(g, after, here, before)
        pairs = ((g[:, 1:], x[:, :-1]), (g, x), (g[:, :-1], x[:, 1:]))
        gw = torch.stack([(a * b).sum((0, 1)) for a, b in pairs], 1)
        return gx, gw.to(weight.dtype)


def _shifted(x: Tensor, before: Tensor, here: Tensor, after: Tensor) -> Tensor:
    """The sum before * x_{t-1} + here * x_t + after * x_{t+1} along axis 1."""
    y = x * here
    y[:, 1:].addcmul_(x[:, :-1], before)
    y[:, :-1].addcmul_(x[:, 1:], after)
    return y


@lru_cache(maxsize=64)
def path_orders(scans: tuple[str, ...], height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Orders and inverses (K, L) int64 on ``device``."""
    both = ([make(s, height, width) for s in scans] for make in (scan_order, scan_inverse))
    with torch.inference_mode(mode=False):  # whoever asks first: training uses them too
        order, inverse = (torch.stack([torch.tensor(row) for row in rows]).to(device) for rows in both)
    return order, inverse
