"""The selective scan as two fused CPU kernels compiled by numba: opt-in, ``backend="numba"``.

One pass over memory per direction instead of the dozen of eager torch (benchmarks/scan_cpu.py has
the factor over ``recompute``).  The price is a package that is no requirement of mepipe and
a compilation of some seconds, once per machine: the result is cached beside this file.

The same formulas as in ``scan_recompute``, and its chunks: the forward keeps the state before each, the backward
rebuilds one at a time, which stays in the cache whatever the length.  Inner loops run over channels, contiguous and
without aliasing checks beyond what LLVM accepts, or they would not become vector instructions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor
from torch.autograd.function import once_differentiable

from mepipe_model.ops.scan_recompute import CHUNK

# Work is cut into this many parts whatever the number of threads, and their shares of gA are added in
# order, so that results do not depend on the machine.
PARTS = 16

# Reordered sums and fused multiply-adds; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz"}
_jit = njit(fastmath=FAST, nogil=True, cache=True, error_model="numpy")

# 2^z in float32: z = k + r, |r| <= 1/2, Taylor of e^(r ln 2) to r^6 (error 1.2e-7, one unit in the
# last place), exponent bits of k.
LN2, LOG2_E = math.log(2), 1 / math.log(2)
C0, C1, C2, C3, C4, C5, C6 = (np.float32(LN2**i / math.factorial(i)) for i in range(7))
LOWEST, HIGHEST = np.float32(-126), np.float32(127)  # where 2^k is a normal float32
# log1p(w) = 2 artanh(w / (2 + w)); series to the 13th power, error 5e-9 at w = 1
TWO = np.float32(2)
O1, O3, O5, O7, O9, O11, O13 = (np.float32(1 / i) for i in range(1, 15, 2))


@intrinsic
def _power_of_two(context: Any, k: Any) -> Any:
    """2^k as float32 for an int32 k in [-126, 127]."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        biased = builder.add(arguments[0], ir.Constant(word, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.int32), build


def _exp2(z: float) -> float:
    return math.exp(z * LN2)


@overload(_exp2, inline="always")
def _exp2_by_type(z: Any) -> Callable[[Any], Any]:
    def double(z: Any) -> Any:
        return math.exp(z * LN2)

    def single(z: Any) -> Any:
        z = LOWEST if z < LOWEST else z  # this way round a NaN stays
        z = HIGHEST if z > HIGHEST else z
        k = np.rint(z)
        r = z - k
        p = C0 + r * (C1 + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
        return p * _power_of_two(np.int32(k))  # type: ignore[call-arg]  # numba passes context itself

    return single if z == types.float32 else double


def _log1p(w: float) -> float:
    return math.log1p(w)


@overload(_log1p, inline="always")
def _log1p_by_type(w: Any) -> Callable[[Any], Any]:
    """For w in [0, 1], all that softplus needs."""

    def double(w: Any) -> Any:
        return math.log1p(w)

    def single(w: Any) -> Any:
        s = w / (TWO + w)
        z = s * s
        p = O1 + z * (O3 + z * (O5 + z * (O7 + z * (O9 + z * (O11 + z * O13)))))
        return TWO * s * p

    return single if w == types.float32 else double


@_jit
def _step_sizes(dt: Any, bias: Any, u: Any, delta: Any, x: Any) -> None:
    """One step: delta = softplus(dt + bias) and x = delta u; rows (E,)."""
    zero, log2_e = delta.dtype.type(0), delta.dtype.type(LOG2_E)
    for e in range(len(dt)):
        z = dt[e] + bias[e]
        delta[e] = _log1p(_exp2(-abs(z) * log2_e)) + (z if z > zero else zero)
    for e in range(len(dt)):
        x[e] = delta[e] * u[e]


@_jit
def _forward(
    first: int, last: int, u: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, bias: Any, y: Any, kept: Any
) -> None:
    """Fill y (S, L, E) and kept (S, chunks - 1, N, E) for sequences first to last; A is (N, E)."""
    states, channels = A.shape
    A2 = A * A.dtype.type(LOG2_E)
    h = np.empty((states, channels), u.dtype)
    delta, x = np.empty(channels, u.dtype), np.empty(channels, u.dtype)
    for s in range(first, last):
        h[:] = 0
        for t in range(u.shape[1]):
            if t > 0 and t % CHUNK == 0:
                kept[s, t // CHUNK - 1] = h
            _step_sizes(dt[s, t], bias, u[s, t], delta, x)
            for e in range(channels):
                y[s, t, e] = D[e] * u[s, t, e]
            for n in range(states):
                b, c = B[s, t, n], C[s, t, n]
                for e in range(channels):
                    v = _exp2(delta[e] * A2[n, e]) * h[n, e] + x[e] * b
                    h[n, e] = v
                    y[s, t, e] += c * v


@_jit
def _rebuild(start: int, stop: int, delta: Any, x: Any, A2: Any, B: Any, a: Any, h: Any) -> None:
    """Decays a (CHUNK, N, E) and states h (CHUNK + 1, N, E) of steps start to stop; h[0] is the state before them.

    delta, x and B are of the whole sequence; A2 = A log2(e).
    """
    for t in range(start, stop):
        i = t - start
        for n in range(A2.shape[0]):
            b = B[t, n]
            for e in range(delta.shape[1]):
                a[i, n, e] = _exp2(delta[t, e] * A2[n, e])
                h[i + 1, n, e] = x[t, e] * b
            for e in range(delta.shape[1]):
                h[i + 1, n, e] += a[i, n, e] * h[i, n, e]


@_jit
def _reverse(
    start: int, stop: int, delta: Any, x: Any, A: Any, B: Any, C: Any, gy: Any, a: Any, h: Any, g: Any,
    gx: Any, gdelta: Any, gB: Any, gC: Any, gA: Any,
) -> None:  # fmt: skip
    """The backward walk over steps start to stop; g is carried on, gx, gdelta are zeros on entry, gA is added to."""
    channels = delta.shape[1]
    for t in range(stop - 1, start - 1, -1):
        i = t - start
        for n in range(A.shape[0]):
            b, c = B[t, n], C[t, n]
            sum_b = sum_c = delta.dtype.type(0)
            for e in range(channels):
                v = g[n, e] + gy[t, e] * c
                sum_c += h[i + 1, n, e] * gy[t, e]
                sum_b += v * x[t, e]
                g[n, e] = v
            gB[t, n], gC[t, n] = sum_b, sum_c
            for e in range(channels):
                gx[t, e] += g[n, e] * b
                g[n, e] *= a[i, n, e]
            if t > 0:  # the first decay meets h = 0
                for e in range(channels):
                    gA[n, e] += g[n, e] * h[i, n, e] * delta[t, e]
                for e in range(channels):
                    gdelta[t, e] += g[n, e] * h[i, n, e] * A[n, e]


@_jit
def _to_inputs(
    u: Any, dt: Any, bias: Any, D: Any, gy: Any, delta: Any, gx: Any, gdelta: Any,
    gu: Any, gdt: Any, gD: Any, gbias: Any,
) -> None:  # fmt: skip
    """From gx and gdelta to u, dt, D and bias, one step, rows (E,); gD and gbias are added to."""
    one, log2_e = delta.dtype.type(1), delta.dtype.type(LOG2_E)
    for e in range(len(u)):
        gu[e] = gx[e] * delta[e] + gy[e] * D[e]
    for e in range(len(u)):
        gdt[e] = (gdelta[e] + gx[e] * u[e]) / (one + _exp2((-dt[e] - bias[e]) * log2_e))  # softplus' = sigmoid
    for e in range(len(u)):
        gD[e] += gy[e] * u[e]
        gbias[e] += gdt[e]


@_jit
def _backward(
    first: int, last: int, u: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, bias: Any, kept: Any, gy: Any,
    gu: Any, gdt: Any, gB: Any, gC: Any, gA: Any, gD: Any, gbias: Any,
) -> None:  # fmt: skip
    """Gradients of sequences first to last; gA, gD and gbias are added to."""
    steps = u.shape[1]
    states, channels = A.shape
    held = min(steps, CHUNK)
    a, h = np.empty((held, states, channels), u.dtype), np.empty((held + 1, states, channels), u.dtype)
    rows = np.empty((4, steps, channels), u.dtype)
    delta, x, gx, gdelta = rows[0], rows[1], rows[2], rows[3]
    g, A2 = np.empty((states, channels), u.dtype), A * A.dtype.type(LOG2_E)
    for s in range(first, last):
        rows[2:] = 0
        for t in range(steps):
            _step_sizes(dt[s, t], bias, u[s, t], delta[t], x[t])
        g[:] = 0
        for chunk in range((steps - 1) // CHUNK, -1, -1):
            start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, steps)
            if chunk > 0:
                h[0] = kept[s, chunk - 1]
            else:
                h[0] = 0
            _rebuild(start, stop, delta, x, A2, B[s], a, h)
            _reverse(start, stop, delta, x, A, B[s], C[s], gy[s], a, h, g, gx, gdelta, gB[s], gC[s], gA)
        for t in range(steps):
            _to_inputs(u[s, t], dt[s, t], bias, D, gy[s, t], delta[t], gx[t], gdelta[t], gu[s, t], gdt[s, t], gD, gbias)


def scan_numba(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor | None) -> Tensor:
    """Shapes as in ``mepipe_model.ops.scan.selective_scan``; float32 or float64, CPU."""
    return _Scan.apply(u, dt, A, B, C, D, torch.zeros_like(D) if dt_bias is None else dt_bias)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        u, dt, A, B, C, D, bias = _arrays(inputs)
        y = np.empty(u.shape, u.dtype)
        kept = np.empty((len(y), max(y.shape[1] - 1, 0) // CHUNK, *A.shape), y.dtype)
        _in_parts(lambda part, first, last: _forward(first, last, u, dt, A, B, C, D, bias, y, kept), len(y))
        ctx.save_for_backward(*inputs, torch.from_numpy(kept))
        return torch.from_numpy(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        arrays = [*_arrays(ctx.saved_tensors), gy.contiguous().numpy()]
        u, dt, A, B, C, D, bias, _, _ = arrays
        per_step = [np.empty_like(v) for v in (u, dt, B, C)]
        shares = [np.zeros((PARTS, *v.shape), v.dtype) for v in (A, D, bias)]

        def work(part: int, first: int, last: int) -> None:
            _backward(first, last, *arrays, *per_step, *(v[part] for v in shares))

        _in_parts(work, len(u))
        gu, gdt, gB, gC = (torch.from_numpy(v) for v in per_step)
        gA, gD, gbias = (torch.from_numpy(v.sum(0)) for v in shares)
        return gu, gdt, gA.t(), gB, gC, gD, gbias


def _arrays(inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    """(u, dt, A, B, C, D, bias), and what follows them, contiguous; A as (N, E)."""
    u, dt, A, *rest = (t.detach() for t in inputs)
    return [t.contiguous().numpy() for t in (u, dt, A.t(), *rest)]


def _in_parts(work: Callable[[int, int, int], None], sequences: int) -> None:
    """Call work(part, first, last) for PARTS slices of the sequences, on torch's number of threads."""
    bounds = [sequences * part // PARTS for part in range(PARTS + 1)]
    parts = [(i, a, b) for i, (a, b) in enumerate(pairwise(bounds)) if a < b]
    threads = min(torch.get_num_threads(), len(parts))
    if threads < 2:
        for part in parts:
            work(*part)
        return
    list(_pool(os.getpid(), threads).map(lambda part: work(*part), parts))


@lru_cache(maxsize=4)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    """Worker threads of this process: a fork inherits the cache but not the threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"scan-{pid}")
