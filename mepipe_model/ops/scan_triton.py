"""The selective scan on CUDA by our own Triton kernels: the default there.

``scan_triton`` is the backend of ``selective_scan``.  ``conv_along`` and ``scan_along`` are the same
for a mixer that reads a window along several directions: the directions are an argument of the
kernels, so nothing is permuted in memory, and the sum over the directions is taken where it arises.

Inputs of any floating dtype are read as they are; the state and all sums are float32 (float64 for
float64 inputs).  With bfloat16 inputs only reading and writing round, which is less than the other
backends do along several directions: they round each direction before the sum.

Nothing of size L x E x N is kept for the backward; only the inputs are, and the states are rebuilt.
Results do not vary between runs: no atomics, no tuning by timing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from mepipe_model.ops import scan_triton_kernels as kernels

WARP = 32  # threads; a block of channels has one for each thread of its program

# Warps of a forward program.  They share nothing but the loads of B and C; two keep 32 programs, the
# most an SM takes, from being too few threads.
FORWARD_WARPS = 2
# The backward sums over the channels of a program at every step: within one warp that needs no barrier.
BACKWARD_WARPS = 1
# States rebuilt at a time in the backward, in registers: steps x N floats per thread.  At 4 x 8 ptxas
# spills nothing (sm_80, sm_90), at 7 x 8, a row of a window, it does.
REBUILT = 32
# Programs a backward launch is cut into; more would only add shares of gA, gD and the bias to write
# and sum.  An H100 holds about 1300 of them at a time.
PROGRAMS = 4096
# Rows of a tile of the conv, by one warp's channels: 7 x 8 rows waste least of a window's 49, and 16
# would take the backward from 128 registers to all 255.
TOKENS = 8
OPTIONS = {"enable_fp_fusion": True}  # multiply-add in one instruction; Triton's default changes in 3.10


def scan_triton(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor | None) -> Tensor:
    """Shapes as in ``mepipe_model.ops.scan.selective_scan``; any floating dtypes, CUDA.

    Raises ValueError for shapes that do not fit.
    """
    _check(u, dt, A, B, C, D, dt_bias)
    return _Scan.apply(u, dt, A, B, C, D, dt_bias, None)


def scan_along(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor | None, order: Tensor
) -> Tensor:
    """Scan M windows along K directions with one set of parameters; sum in token order.

    u, dt (M, K, L, E) and B, C (M, K, L, N): by step.  order (K, L) int64: the token at each step.
    The others as in ``selective_scan``.  Returns (M, L, E) in u's dtype, by token.
    Raises ValueError for shapes that do not fit.
    """
    if order.shape != u.shape[1:3]:
        raise ValueError(f"order {tuple(order.shape)} does not fit u {tuple(u.shape)}, which is (M, K, L, E)")
    u, dt, B, C = (t.flatten(0, 1) for t in (u, dt, B, C))
    _check(u, dt, A, B, C, D, dt_bias)
    return _Scan.apply(u, dt, A, B, C, D, dt_bias, order.contiguous())


def conv_along(xz: Tensor, weight: Tensor, order: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Depthwise conv of width 3 along K directions, zeros beyond both ends, then SiLU.

    xz (M, L, 2 E): tokens.  weight (2 E, 3).  order, inverse (K, L) int64.  Returns u (M, K, L, E) of
    the first half of the channels by step, and z (M, L, E) of the second half, summed over the
    directions, by token; both in xz's dtype.  Raises ValueError for shapes that do not fit.
    """
    if xz.shape[2] % 2 or weight.shape != (xz.shape[2], 3):
        raise ValueError(f"weight {tuple(weight.shape)} does not fit tokens {tuple(xz.shape)}")
    if order.shape != inverse.shape or order.shape[1:] != xz.shape[1:2]:
        raise ValueError(f"order {tuple(order.shape)} does not fit tokens {tuple(xz.shape)}")
    return _Conv.apply(xz, weight, order.contiguous(), inverse.contiguous())


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
        bias: Tensor | None, order: Tensor | None,
    ) -> Tensor:  # fmt: skip
        u, dt, B, C = (_rows(t) for t in (u, dt, B, C))
        A, D = A.t().contiguous(), D.contiguous()
        bias = None if bias is None else bias.contiguous()
        ctx.save_for_backward(u, dt, A, B, C, D, bias, order)
        directions = 1 if order is None else len(order)
        windows, (length, channels) = len(u) // directions, u.shape[1:]
        y = u.new_empty(windows, length, channels)
        state = _state(u)
        total = y if directions == 1 or y.dtype == state else torch.empty_like(y, dtype=state)
        block = WARP * min(FORWARD_WARPS, triton.next_power_of_2(triton.cdiv(channels, WARP)))
        with _on(u):
            kernels.scan_forward[(windows, triton.cdiv(channels, block))](
                u, dt, A, B, C, D, bias, order, y, total,
                *(s for t in (u, dt, B, C) for s in t.stride()[:2]),
                directions, length, channels, **_shape(A, bias, order, state, block),
            )  # fmt: skip
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, A, B, C, D, bias, order = ctx.saved_tensors
        gy = _rows(gy)
        (sequences, length, channels), states = u.shape, len(A)
        state, block = _state(u), BACKWARD_WARPS * WARP
        blocks = triton.cdiv(channels, block)
        group = max(1, sequences * blocks // PROGRAMS)
        groups = triton.cdiv(sequences, group)
        chunk = max(1, REBUILT // triton.next_power_of_2(states))
        chunks = triton.cdiv(length, chunk)
        shape = _shape(A, bias, order, state, block)

        def share(*size: int) -> Tensor:
            return torch.empty(size, dtype=state, device=u.device)

        gu, gdt = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (u, dt))
        gB, gC = (share(blocks, *B.shape) for _ in range(2))
        gA, gD, gbias = share(groups, states, channels), share(groups, channels), share(groups, channels)
        starts = share(groups, blocks, chunks, shape["BLOCK_N"], block)
        with _on(u):
            kernels.scan_backward[(groups, blocks)](
                u, dt, A, B, C, D, bias, order, gy, gu, gdt, gB, gC, gA, gD, gbias, starts,
                *(s for t in (u, dt, B, C, gy) for s in t.stride()[:2]),
                sequences, 1 if order is None else len(order), length, channels, group, chunks,
                CHUNK=chunk, **shape,
            )  # fmt: skip
        gB, gC = (g.sum(0).to(t.dtype) for g, t in ((gB, B), (gC, C)))
        gA, gD = gA.sum(0).t().to(A.dtype), gD.sum(0).to(D.dtype)
        return gu, gdt, gA, gB, gC, gD, None if bias is None else gbias.sum(0).to(bias.dtype), None


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, xz: Tensor, weight: Tensor, order: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        xz, weight = _rows(xz), weight.contiguous()
        ctx.save_for_backward(xz, weight, order, inverse)
        (windows, length, width), directions = xz.shape, len(order)
        u = xz.new_empty(windows, directions, length, width // 2)
        z = xz.new_empty(windows, length, width // 2)
        grid = (windows, triton.cdiv(length, TOKENS), 2 * triton.cdiv(width // 2, WARP))
        with _on(xz):
            kernels.conv_forward[grid](
                xz, weight, order, inverse, u, z, *xz.stride()[:2], directions, length, width // 2,
                STATE=_triton_type(_state(xz)), BLOCK_T=TOKENS, BLOCK_E=WARP, num_warps=1, **OPTIONS,
            )  # fmt: skip
        return u, z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gu: Tensor, gz: Tensor) -> tuple[Tensor | None, ...]:
        xz, weight, order, inverse = ctx.saved_tensors
        gu, gz = gu.contiguous(), _rows(gz)
        (windows, length, width), state = xz.shape, _state(xz)
        blocks = 2 * triton.cdiv(width // 2, WARP)
        group = max(1, windows * blocks // PROGRAMS)
        groups = triton.cdiv(windows, group)
        gxz = torch.empty(xz.shape, dtype=xz.dtype, device=xz.device)
        gweight = torch.empty((groups, 3, width), dtype=state, device=xz.device)
        with _on(xz):
            kernels.conv_backward[(groups, blocks)](
                xz, weight, order, inverse, gu, gz, gxz, gweight, *xz.stride()[:2], *gz.stride()[:2],
                windows, len(order), length, width // 2, group,
                STATE=_triton_type(state), BLOCK_T=TOKENS, BLOCK_E=WARP, num_warps=1, **OPTIONS,
            )  # fmt: skip
        return gxz, gweight.sum(0).t().to(weight.dtype), None, None


def _check(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor | None) -> None:
    """A kernel reads beyond its inputs where others would raise."""
    if not u.numel():
        raise ValueError(f"u is empty: {tuple(u.shape)}")
    sequences, length, channels = u.shape
    maps, per_channel = (sequences, length, A.shape[1]), (channels,)
    wanted = {"dt": (dt, u.shape), "A": (A, (channels, A.shape[1])), "B": (B, maps), "C": (C, maps)}
    wanted |= {"D": (D, per_channel)} | ({} if bias is None else {"dt_bias": (bias, per_channel)})
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != torch.Size(shape):
            raise ValueError(f"{name} is {tuple(tensor.shape)}, not {tuple(shape)} as u {tuple(u.shape)} and A ask")
        if tensor.device != u.device:
            raise ValueError(f"{name} is on {tensor.device}, u on {u.device}")


def _shape(A: Tensor, bias: Tensor | None, order: Tensor | None, state: torch.dtype, block: int) -> dict[str, Any]:
    """The compile-time arguments both scan kernels have; A is (N, E)."""
    return {
        "N": len(A),
        "HAS_BIAS": bias is not None,
        "HAS_ORDER": order is not None,
        "STATE": _triton_type(state),
        "BLOCK_N": triton.next_power_of_2(len(A)),
        "BLOCK_E": block,
        "num_warps": block // WARP,
        **OPTIONS,
    }


def _state(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def _triton_type(dtype: torch.dtype) -> Any:
    return triton.language.float64 if dtype == torch.float64 else triton.language.float32


def _rows(t: Tensor) -> Tensor:
    """Copies only where the last axis is strided: a slice of a wider tensor is taken as it is."""
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def _on(t: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on torch's current device, which need not be the tensor's."""
    return torch.cuda.device(t.device) if t.is_cuda else nullcontext()
