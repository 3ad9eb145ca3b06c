"""The selective scan with a backward of its own that rebuilds the states instead of keeping them.

Autograd through the plain loop keeps three (S, L, E, N) tensors; here the forward keeps only its
inputs, and the backward walks the sequence again.  The state lies as (sequences, N, E): with the
channels innermost every broadcast runs over contiguous floats, which alone makes the forward twice
as fast on CPU as (sequences, E, N).  Sequences are worked in blocks so that the state stays in cache.

Backward, with g_t the gradient of h_t and a_t = exp(delta_t A):
    g_t      = C_t gy_t + a_{t+1} g_{t+1}
    gC_t[n]  = sum_e h_t gy_t          gB_t[n] = sum_e g_t (delta_t u_t)
    gx_t[e]  = sum_n g_t B_t           (x = delta u)
    q_t      = g_t a_t h_{t-1}         gdelta_t[e] = u_t gx_t + sum_n q_t A,   gA = sum_t q_t delta_t
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of one state (sequences x N x E) per block.  CPU: 64k floats are 256 kB, within a core's L2
# cache together with one scratch tensor of the same size; the backward holds 2 L of them, so it takes
# fewer sequences at a time.  Elsewhere only the backward's memory matters: 2 x 49 x 4M floats = 1.6 GB.
FORWARD_BLOCK = {"cpu": 1 << 16, "other": 1 << 30}
BACKWARD_BLOCK = {"cpu": 1 << 16, "other": 1 << 22}


def scan_recompute(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor | None) -> Tensor:
    """Shapes as in ``mepipe_model.ops.scan.selective_scan``; float32 or float64, any device."""
    return _Scan.apply(u, dt if dt_bias is None else dt + dt_bias, A, B, C, D)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        ctx.save_for_backward(u, dt, A, B, C, D)
        delta = F.softplus(dt)
        x = delta * u
        At = A.t().contiguous()
        y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        for block in _blocks(u.shape[0], At.numel(), FORWARD_BLOCK, u.device):
            y[block] = _scan_block(delta[block], x[block], At, B[block], C[block])
        return y.addcmul_(D, u)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        u, dt, A, B, C, D = ctx.saved_tensors
        delta = F.softplus(dt)
        x = delta * u
        At = A.t().contiguous()
        gx, gdelta = (torch.empty(u.shape, dtype=u.dtype, device=u.device) for _ in range(2))
        gB, gC = (torch.empty(B.shape, dtype=B.dtype, device=B.device) for _ in range(2))
        gAt = torch.zeros_like(At)
        for block in _blocks(u.shape[0], At.numel(), BACKWARD_BLOCK, u.device):
            inputs = (t[block] for t in (delta, x, B, C, gy))
            gx[block], gdelta[block], gB[block], gC[block] = _backward_block(*inputs, At, gAt)
        gdelta.addcmul_(u, gx)
        gu = gx.mul_(delta).addcmul_(D, gy)
        gD = (gy * u).sum((0, 1))
        return gu, gdelta.mul_(torch.sigmoid(dt)), gAt.t(), gB, gC, gD


def _blocks(sequences: int, state: int, limits: dict[str, int], device: torch.device) -> list[slice]:
    """Slices of the sequence axis whose states (``state`` elements each) fit the device's limit."""
    limit = limits.get(device.type, limits["other"])
    step = max(1, limit // state)
    return [slice(start, start + step) for start in range(0, sequences, step)]


def _scan_block(delta: Tensor, x: Tensor, At: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Without the skip term: delta, x (s, L, E); At (N, E); B, C (s, L, N) -> y (s, L, E)."""
    s, length, channels = delta.shape
    h = delta.new_zeros(s, *At.shape)
    a = torch.empty_like(h)
    y = delta.new_empty(length, s, 1, channels)  # time first: bmm writes a contiguous slab per step
    steps = zip(_rows(delta), _rows(x), _columns(B), _rows(C), y.unbind(0), strict=True)
    for delta_t, x_t, b_t, c_t, y_t in steps:
        torch.mul(delta_t, At, out=a).exp_()
        h.mul_(a).addcmul_(x_t, b_t)
        torch.bmm(c_t, h, out=y_t)
    return y[:, :, 0].transpose(0, 1)


def _states(delta: Tensor, x: Tensor, At: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Decays a_t and states h_t of every step, both (L, s, N, E)."""
    s, length, _ = delta.shape
    a = delta.new_empty(length, s, *At.shape)
    h = torch.empty_like(a)
    before: Tensor | None = None
    for a_t, h_t, delta_t, x_t, b_t in zip(a, h, _rows(delta), _rows(x), _columns(B), strict=True):
        torch.mul(delta_t, At, out=a_t).exp_()
        torch.mul(x_t, b_t, out=h_t)
        if before is not None:
            h_t.addcmul_(a_t, before)
        before = h_t
    return a, h


def _backward_block(
    delta: Tensor, x: Tensor, B: Tensor, C: Tensor, gy: Tensor, At: Tensor, gAt: Tensor
) -> tuple[Tensor, ...]:
    """(gx, gdelta's share of A, gB, gC) of a block; adds its share to gAt (N, E)."""
    s, length, channels = delta.shape
    a, h = _states(delta, x, At, B)
    gx, gdelta = (delta.new_empty(length, s, 1, channels) for _ in range(2))
    gB, gC = (delta.new_empty(length, s, At.shape[0], 1) for _ in range(2))
    g, q, share = (torch.zeros_like(h[0]) for _ in range(3))
    rows = [_rows(t) for t in (delta, B, gy)]
    columns = [_columns(t) for t in (x, C, gy)]
    for t in reversed(range(length)):
        delta_t, b_t, gy_t = (r[t] for r in rows)
        x_col, c_col, gy_col = (c[t] for c in columns)
        g.addcmul_(gy_t, c_col)
        torch.bmm(h[t], gy_col, out=gC[t])
        torch.bmm(g, x_col, out=gB[t])
        torch.bmm(b_t, g, out=gx[t])
        g.mul_(a[t])  # now a_t g_t, as the step before needs it
        if t == 0:
            gdelta[0].zero_()  # h_{-1} = 0
            break
        torch.mul(g, h[t - 1], out=q)
        share.addcmul_(q, delta_t)
        torch.sum(q.mul_(At), 1, keepdim=True, out=gdelta[t])
    gAt += share.sum(0)
    return tuple(t.squeeze(d).transpose(0, 1) for t, d in ((gx, 2), (gdelta, 2), (gB, 3), (gC, 3)))


def _rows(t: Tensor) -> tuple[Tensor, ...]:
    """(s, L, K) -> L views (s, 1, K)."""
    return t.unsqueeze(2).unbind(1)


def _columns(t: Tensor) -> tuple[Tensor, ...]:
    """(s, L, K) -> L views (s, K, 1)."""
    return t.unsqueeze(3).unbind(1)
