"""The selective scan with a backward of its own that rebuilds the states instead of keeping them.

Autograd through the plain loop keeps three (S, L, E, N) tensors; here the forward keeps only its
inputs and the state before every CHUNK-th step, and the backward walks the sequence again, chunk by chunk
from its end, so that at any length it holds the states of one chunk.  Sequences are worked in blocks whose
state stays in a CPU's cache.  A block lies time first and as N planes: state (N, s, E), step inputs (s, E), maps
(N, s, 1).  With channels innermost every broadcast runs over contiguous floats; of the layouts
tried, (s, E, N) is half as fast and (s, N, E) falls behind where E < 64 (benchmarks/scan_cpu.py).

Backward, with g_t the gradient of h_t, a_t = exp(delta_t A) and x = delta u:
    g_t     = C_t gy_t + a_{t+1} g_{t+1}
    gC_t[n] = sum_e h_t gy_t        gB_t[n] = sum_e g_t x_t        gx_t[e] = sum_n g_t B_t
    q_t     = g_t a_t h_{t-1}       gdelta_t[e] = u_t gx_t + sum_n q_t A       gA = sum_t q_t delta_t
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of a block's state.  CPU: 64k floats are 256 kB, which with one scratch tensor of that size
# fits a core's L2 cache; half or twice as many were slower.  Elsewhere only memory limits a block,
# since the backward holds 2 CHUNK states: 2 x 64 x 4M floats = 2.1 GB.
FORWARD_BLOCK = {"cpu": 1 << 16, "other": 1 << 28}
BACKWARD_BLOCK = {"cpu": 1 << 16, "other": 1 << 22}
# Steps whose states the backward holds at once.  A window of 7 x 7 is one chunk and keeps no state at all; what longer
# sequences keep takes N / CHUNK of u's memory.
CHUNK = 64


def scan_recompute(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor | None) -> Tensor:
    """Shapes as in ``mepipe_model.ops.scan.selective_scan``; float32 or float64, any device."""
    return _Scan.apply(u, dt if dt_bias is None else dt + dt_bias, A, B, C, D)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        kept = u.new_empty(len(_chunks(u.shape[1])) - 1, A.shape[1], len(u), A.shape[0])
        for block in _blocks(u.shape[0], A.numel(), FORWARD_BLOCK, u.device):
            steps = _steps(u[block], dt[block], A, B[block], C[block])
            y[block] = _forward_block(steps, kept[:, :, block]).transpose(0, 1)
        ctx.save_for_backward(u, dt, A, B, C, D, kept)
        return y.addcmul_(u, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        u, dt, A, B, C, D, kept = ctx.saved_tensors
        gu, gdt, gB, gC = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (u, dt, B, C))
        gA = torch.zeros(A.t().shape, dtype=A.dtype, device=A.device)
        for block in _blocks(u.shape[0], A.numel(), BACKWARD_BLOCK, u.device):
            steps = _steps(u[block], dt[block], A, B[block], C[block])
            gx, gdelta, gb, gc = _backward_block(steps, _time_first(gy[block]), gA, kept[:, :, block])
            gu[block], gdt[block] = (t.transpose(0, 1) for t in (gx * steps.delta, gdelta.addcmul_(gx, steps.u)))
            gB[block], gC[block] = (t.permute(2, 0, 1) for t in (gb, gc))
        gu.addcmul_(gy, D)
        gdt.mul_(torch.sigmoid(dt))  # softplus'
        return gu, gdt, gA.t(), gB, gC, (gy * u).sum((0, 1))


class _Steps(NamedTuple):
    """A block of s sequences, time first."""

    u: Tensor  # (L, s, E)
    delta: Tensor  # (L, s, E)
    x: Tensor  # (L, s, E): delta u
    A: Tensor  # (N, 1, E)
    B: Tensor  # (L, N, s, 1)
    C: Tensor  # (L, N, s, 1)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What changes from step to step and reaches the state."""
        return self.delta, self.x, self.B, self.C

    def part(self, steps: slice) -> _Steps:
        """The same block, fewer steps."""
        return self._replace(**{name: getattr(self, name)[steps] for name in ("u", "delta", "x", "B", "C")})


def _steps(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> _Steps:
    u, delta = _time_first(u), F.softplus(_time_first(dt))
    planes = (t.permute(1, 2, 0).contiguous().unsqueeze(3) for t in (B, C))
    return _Steps(u, delta, delta * u, A.t().contiguous().unsqueeze(1), *planes)


def _time_first(t: Tensor) -> Tensor:
    return t.transpose(0, 1).contiguous()


def _blocks(sequences: int, state: int, limits: dict[str, int], device: torch.device) -> list[slice]:
    """Slices of the sequence axis whose states (``state`` elements each) fit the device's limit."""
    step = max(1, limits.get(device.type, limits["other"]) // state)
    return [slice(start, start + step) for start in range(0, sequences, step)]


def _chunks(length: int) -> list[slice]:
    """The steps of a sequence, CHUNK at a time."""
    return [slice(start, min(start + CHUNK, length)) for start in range(0, max(length, 1), CHUNK)]


def _forward_block(block: _Steps, kept: Tensor) -> Tensor:
    """The outputs (L, s, E) of a block, without the skip term; the states before all chunks but the first to kept."""
    y = torch.empty_like(block.u)
    h = block.u.new_zeros(block.A.shape[0], *block.u.shape[1:])
    scratch = torch.empty_like(h)
    for i, steps in enumerate(_chunks(len(block.u))):
        if i > 0:
            kept[i - 1] = h
        part = block.part(steps)
        for delta_t, x_t, b_t, c_t, y_t in zip(*part.inputs, y[steps], strict=True):
            h.mul_(torch.mul(delta_t, block.A, out=scratch).exp_()).addcmul_(x_t, b_t)
            torch.sum(torch.mul(h, c_t, out=scratch), 0, out=y_t)
    return y


def _states(part: _Steps, before: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
    """Decays a_t and states h_t of every step of a chunk, each (N, s, E). before: the state before it, None for 0."""
    shape = (len(part.u), part.A.shape[0], *part.u.shape[1:])
    a, h = (part.u.new_empty(shape).unbind(0) for _ in range(2))
    for t, (delta_t, x_t, b_t) in enumerate(zip(part.delta, part.x, part.B, strict=True)):
        torch.mul(delta_t, part.A, out=a[t]).exp_()
        torch.mul(x_t, b_t, out=h[t])
        earlier = h[t - 1] if t > 0 else before
        if earlier is not None:
            h[t].addcmul_(a[t], earlier)
    return list(a), list(h)


def _backward_block(block: _Steps, gy: Tensor, gA: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
    """(gx, gdelta's share through A) (L, s, E) and (gB, gC) (L, N, s); adds to gA (N, E)."""
    gx, gdelta = torch.empty_like(gy), torch.zeros_like(gy)
    gB, gC = (block.B.new_empty(block.B.shape[:3]) for _ in range(2))
    g, share = (gy.new_zeros(block.A.shape[0], *gy.shape[1:]) for _ in range(2))
    for i, steps in reversed([*enumerate(_chunks(len(gy)))]):
        out = (t[steps] for t in (gx, gdelta, gB, gC))
        _backward_chunk(block.part(steps), gy[steps], kept[i - 1] if i > 0 else None, g, share, *out)
    gA += share.sum(1)
    return gx, gdelta, gB, gC


def _backward_chunk(
    part: _Steps, gy: Tensor, before: Tensor | None, g: Tensor, share: Tensor,
    gx: Tensor, gdelta: Tensor, gB: Tensor, gC: Tensor,
) -> None:  # fmt: skip
    """Fill the gradients of a chunk's steps; g, the gradient of the state, and share of gA are carried on."""
    a, h = _states(part, before)
    q, ones = torch.empty_like(g), gy.new_ones(gy.shape[2])
    rows = q.view(-1, len(ones))  # sums over E as a product with ones: half the time of a sum where E is 16
    # unbound once: indexing a tensor costs as much as a small product
    steps = (t.unbind(0) for t in (gy, *part.inputs, gx, gdelta, gB.flatten(1), gC.flatten(1)))
    for t, (gy_t, delta_t, x_t, b_t, c_t, gx_t, gdelta_t, gb_t, gc_t) in reversed(
        [*enumerate(zip(*steps, strict=True))]
    ):
        g.addcmul_(gy_t, c_t)
        torch.mul(h[t], gy_t, out=q)
        torch.mv(rows, ones, out=gc_t)
        torch.mul(g, x_t, out=q)
        torch.mv(rows, ones, out=gb_t)
        torch.sum(torch.mul(g, b_t, out=q), 0, out=gx_t)
        earlier = h[t - 1] if t > 0 else before
        if earlier is None:  # h_{-1} = 0: the first decay has no influence
            return
        g.mul_(a[t])
        share.addcmul_(torch.mul(g, earlier, out=q), delta_t)
        torch.sum(q.mul_(part.A), 0, out=gdelta_t)
