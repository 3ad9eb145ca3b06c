"""Triton kernels of the selective scan and of the conv before it; ``scan_triton`` launches them.

A scan program owns a block of channels and walks in time; parallel are windows, directions and
channels, of which there are far more than a GPU has threads.  The state is a tile (N, channels).  In
the forward a thread has one channel (BLOCK_E = 32 num_warps) and all N, so nothing crosses threads.
The backward also sums over channels at every step, for B and C; its tile lies over the warp as its
loads ask, four channels per thread and N over four threads, where both sums cross few.
Inputs are converted to STATE (float32, or float64) in registers.

Directions are rows of ``order`` (K, L): step t of direction k is token order[k, t].  Sequence
s = m K + k is direction k of window m.  What follows the path (u, dt, B, C) is stored by step; what
belongs to a token (the merged output and its gradient) is addressed through the row, so that no
permuted copy exists.  ``inverse`` gives the step at which a token is visited.

No atomics: each program writes its own share of a sum, and torch adds the shares in a fixed order.
"""
# The bodies are Triton's language, which reads annotations as its own and does not know (*before, h).
# ruff: noqa: ANN001, ANN201, ANN202, RUF005
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)  # 2^(z LOG2_E) = e^z: the hardware has exp2
LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def _softplus(z):
    """Softplus of z and its derivative, the logistic function; both accurate where z is very negative."""
    w = tl.exp2(-tl.abs(z) * LOG2_E)
    if z.dtype == tl.float64:
        rest = tl.log(1 + w)
    else:  # log1p(w) = 2 artanh(w / (2 + w)); series to the 13th power, error 5e-9 at w = 1
        r = w / (2 + w)
        q = r * r
        p = 1 / 11 + q * (1 / 13)
        p = 1 / 7 + q * (1 / 9 + q * p)
        p = 1 / 3 + q * (1 / 5 + q * p)
        rest = 2 * r * (1 + q * p)
    return tl.maximum(z, 0) + rest, tl.where(z > 0, 1, w) / (1 + w)


@triton.jit
def _decay_rates(A, e, at_e, E, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, STATE: tl.constexpr):
    """A log2(e) as (BLOCK_N, BLOCK_E), zeros past N, from A (N, E).

    One row at a time: a load of the whole tile would lay the tile over the threads as the load likes
    it, with N on several of them, and every sum over N would cross threads.
    """
    n = tl.arange(0, BLOCK_N)[:, None]
    rates = tl.zeros((BLOCK_N, BLOCK_E), STATE)
    for i in tl.static_range(N):
        row = tl.load(A + i * E + e, mask=at_e, other=0).to(STATE)
        rates = tl.where(n == i, row[None, :], rates)
    return rates * LOG2_E


@triton.jit
def scan_forward(
    u, dt, A, B, C, D, bias, order, y, total,
    u_s, u_l, dt_s, dt_l, B_s, B_l, C_s, C_l, K, L, E,
    N: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_ORDER: tl.constexpr, STATE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Sum over K directions, each put back in token order, y (M, L, E); grid (M, blocks of E).

    u, dt (M K, L, E) and B, C (M K, L, N) with strides *_s, *_l; A (N, E) and the others contiguous.
    ``total`` (M, L, E) of type STATE holds the sum of the directions so far; it may be y.
    """
    m = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    at_e, at_n = e < E, n < N
    A2 = _decay_rates(A, e, at_e, E, N, BLOCK_N, BLOCK_E, STATE)
    skip = tl.load(D + e, mask=at_e, other=0).to(STATE)
    shift = tl.zeros((BLOCK_E,), STATE)
    if HAS_BIAS:
        shift = tl.load(bias + e, mask=at_e, other=0).to(STATE)
    y_row, total_row = y + m * L * E, total + m * L * E
    for k in range(K):
        s = m * K + k
        turn = tl.full((BLOCK_E,), k, tl.int32)  # the interpreter cannot join a mask and a scalar condition
        h = tl.zeros((BLOCK_N, BLOCK_E), STATE)
        # one step ahead: the loads of step t + 1 are on their way while step t is worked
        u_row, dt_row, B_row, C_row = u + s * u_s, dt + s * dt_s, B + s * B_s, C + s * C_s
        u_next = tl.load(u_row + e, mask=at_e, other=0).to(STATE)
        dt_next = tl.load(dt_row + e, mask=at_e, other=0).to(STATE)
        b_next = tl.load(B_row + n, mask=at_n, other=0).to(STATE)
        c_next = tl.load(C_row + n, mask=at_n, other=0).to(STATE)
        for t in range(L):
            u_t, dt_t, b, c = u_next, dt_next, b_next, c_next
            row = tl.minimum(t + 1, L - 1)
            u_next = tl.load(u_row + (row * u_l + e), mask=at_e, other=0).to(STATE)
            dt_next = tl.load(dt_row + (row * dt_l + e), mask=at_e, other=0).to(STATE)
            b_next = tl.load(B_row + (row * B_l + n), mask=at_n, other=0).to(STATE)
            c_next = tl.load(C_row + (row * C_l + n), mask=at_n, other=0).to(STATE)
            delta, _ = _softplus(dt_t + shift)
            h = tl.exp2(delta[None, :] * A2) * h + (delta * u_t)[None, :] * b[:, None]
            out = tl.sum(h * c[:, None], 0) + skip * u_t
            token = t
            if HAS_ORDER:
                token = tl.load(order + k * L + t).to(tl.int32)
            at = token * E + e
            out += tl.load(total_row + at, mask=at_e & (turn > 0), other=0)
            tl.store(total_row + at, out, mask=at_e & (turn < K - 1))
            tl.store(y_row + at, out.to(y.dtype.element_ty), mask=at_e & (turn == K - 1))
        tl.debug_barrier()  # the next direction reads what this one stored


@triton.jit
def scan_backward(
    u, dt, A, B, C, D, bias, order, gy, gu, gdt, gB, gC, gA, gD, gbias, starts,
    u_s, u_l, dt_s, dt_l, B_s, B_l, C_s, C_l, gy_m, gy_l, S, K, L, E, GROUP, CHUNKS,
    N: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_ORDER: tl.constexpr, STATE: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Gradients of GROUP sequences in turn, a block of channels each; grid (S / GROUP, blocks of E).

    Inputs as in the forward; gy (M, L, E), strides gy_m, gy_l.  Written: gu, gdt (S, L, E); shares
    over blocks of channels gB, gC (blocks, S, L, N); shares over groups gA (groups, N, E), gD, gbias
    (groups, E).  ``starts`` (groups, blocks, CHUNKS, BLOCK_N, BLOCK_E) is scratch of one program: the
    states at the start of every CHUNK steps, from which the states between are rebuilt in registers.
    It is used again for every sequence of the group and so stays in cache.  Formulas as in
    ``scan_recompute``.
    """
    group, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, BLOCK_E)
    e = block * BLOCK_E + lane
    n = tl.arange(0, BLOCK_N)
    at_e, at_n = e < E, n < N
    tile = at_n[:, None] & at_e[None, :]
    A2 = tl.load(A + n[:, None] * E + e[None, :], mask=tile, other=0).to(STATE) * LOG2_E
    skip = tl.load(D + e, mask=at_e, other=0).to(STATE)
    shift = tl.zeros((BLOCK_E,), STATE)
    if HAS_BIAS:
        shift = tl.load(bias + e, mask=at_e, other=0).to(STATE)
    own = starts + (group * tl.num_programs(1) + block) * CHUNKS * BLOCK_N * BLOCK_E
    state = n[:, None] * BLOCK_E + lane[None, :]
    zero_e, zero_n = tl.zeros((BLOCK_E,), tl.int32), tl.zeros((BLOCK_N,), tl.int32)
    sum_A = tl.zeros((BLOCK_N, BLOCK_E), STATE)
    sum_D, sum_bias = tl.zeros((BLOCK_E,), STATE), tl.zeros((BLOCK_E,), STATE)
    for i in range(tl.minimum(GROUP, S - group * GROUP)):
        s = group * GROUP + i
        u_row, dt_row, B_row, C_row = u + s * u_s, dt + s * dt_s, B + s * B_s, C + s * C_s
        gy_row, gu_row, gdt_row = gy + (s // K) * gy_m, gu + s * L * E, gdt + s * L * E
        gB_row, gC_row = gB + (block * S + s) * L * N, gC + (block * S + s) * L * N
        path = order
        if HAS_ORDER:
            path = order + (s % K) * L
        # 1. forward, keeping the state before every chunk; the steps of the last chunk come in 2
        h = tl.zeros((BLOCK_N, BLOCK_E), STATE)
        for chunk in range(CHUNKS - 1):
            tl.store(own + chunk * BLOCK_N * BLOCK_E + state, h)
            for t in range(chunk * CHUNK, chunk * CHUNK + CHUNK):
                u_t = tl.load(u_row + (t * u_l + e), mask=at_e, other=0).to(STATE)
                dt_t = tl.load(dt_row + (t * dt_l + e), mask=at_e, other=0).to(STATE)
                b = tl.load(B_row + (t * B_l + n), mask=at_n, other=0).to(STATE)
                delta, _ = _softplus(dt_t + shift)
                h = tl.exp2(delta[None, :] * A2) * h + (delta * u_t)[None, :] * b[:, None]
        tl.store(own + (CHUNKS - 1) * BLOCK_N * BLOCK_E + state, h)
        tl.debug_barrier()
        # 2. chunks from the last to the first: states rebuilt and held, then the steps backwards
        g = tl.zeros((BLOCK_N, BLOCK_E), STATE)
        for back in range(CHUNKS):
            chunk = CHUNKS - 1 - back
            h = tl.load(own + chunk * BLOCK_N * BLOCK_E + state)
            before, us, deltas, slopes, gys = (), (), (), (), ()
            for q in tl.static_range(CHUNK):
                t = chunk * CHUNK + q
                row = tl.minimum(t, L - 1)
                live = zero_e + t < L  # past the end nothing decays, drives or is asked for
                token = row
                if HAS_ORDER:
                    token = tl.load(path + row).to(tl.int32)
                gy_t = tl.load(gy_row + (token * gy_l + e), mask=at_e & live, other=0).to(STATE)
                u_t = tl.load(u_row + (row * u_l + e), mask=at_e, other=0).to(STATE)
                dt_t = tl.load(dt_row + (row * dt_l + e), mask=at_e, other=0).to(STATE)
                b = tl.load(B_row + (row * B_l + n), mask=at_n, other=0).to(STATE)
                delta, slope = _softplus(dt_t + shift)
                delta, slope = tl.where(live, delta, 0), tl.where(live, slope, 0)
                before, gys, us = before + (h,), gys + (gy_t,), us + (u_t,)
                deltas, slopes = deltas + (delta,), slopes + (slope,)
                h = tl.exp2(delta[None, :] * A2) * h + (delta * u_t)[None, :] * b[:, None]
            for q in tl.static_range(CHUNK - 1, -1, -1):
                t = chunk * CHUNK + q
                row = tl.minimum(t, L - 1)
                live_e, live_n = at_e & (zero_e + t < L), at_n & (zero_n + t < L)
                u_t, delta, gy_t = us[q], deltas[q], gys[q]
                b = tl.load(B_row + (row * B_l + n), mask=at_n, other=0).to(STATE)
                c = tl.load(C_row + (row * C_l + n), mask=at_n, other=0).to(STATE)
                g_c = tl.sum(h * gy_t[None, :], 1)
                g += gy_t[None, :] * c[:, None]
                g_b = tl.sum(g * (delta * u_t)[None, :], 1)
                g_x = tl.sum(g * b[:, None], 0)
                g *= tl.exp2(delta[None, :] * A2)
                h = before[q]
                sum_A += g * h * delta[None, :]
                g_dt = (tl.sum(g * h * A2, 0) * LN_2 + g_x * u_t) * slopes[q]
                sum_D += gy_t * u_t
                sum_bias += g_dt
                tl.store(gB_row + (row * N + n), g_b, mask=live_n)
                tl.store(gC_row + (row * N + n), g_c, mask=live_n)
                tl.store(gu_row + (row * E + e), (g_x * delta + gy_t * skip).to(gu.dtype.element_ty), mask=live_e)
                tl.store(gdt_row + (row * E + e), g_dt.to(gdt.dtype.element_ty), mask=live_e)
        tl.debug_barrier()  # the next sequence overwrites the starts
    tl.store(gA + (group * N + n[:, None]) * E + e[None, :], sum_A, mask=tile)
    tl.store(gD + group * E + e, sum_D, mask=at_e)
    tl.store(gbias + group * E + e, sum_bias, mask=at_e)


@triton.jit
def _silu(x):
    """SiLU of x and its derivative."""
    sigmoid = 1 / (1 + tl.exp2(-x * LOG2_E))
    return x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))


@triton.jit
def conv_forward(
    xz, weight, order, inverse, u, z, xz_m, xz_t, K, L, E,
    STATE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Conv of width 3 along K directions and SiLU; grid (M, tiles of L, 2 x blocks of E).

    xz (M, L, 2 E), strides xz_m, xz_t; weight (2 E, 3).  The first half of the channels goes to u
    (M, K, L, E) by step, the second, summed over the directions, to z (M, L, E) by token.
    """
    m, block = tl.program_id(0).to(tl.int64), tl.program_id(2)
    blocks = tl.num_programs(2) // 2
    is_z = block >= blocks
    e = (block % blocks) * BLOCK_E + tl.arange(0, BLOCK_E)
    d = e + tl.where(is_z, E, 0)
    token = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    at_e, at_t = (e < E)[None, :], token < L
    w_before, w_here, w_after = _taps(weight, d, e < E, STATE)
    row = xz + m * xz_m
    here = tl.load(row + (token[:, None] * xz_t + d[None, :]), mask=at_t[:, None] & at_e, other=0).to(STATE)
    total = tl.zeros((BLOCK_T, BLOCK_E), STATE)
    for k in range(K):
        step = tl.load(inverse + k * L + token, mask=at_t, other=0).to(tl.int32)
        before = _at_step(row, d, order + k * L, step - 1, at_t, at_e, xz_t, L, STATE)
        after = _at_step(row, d, order + k * L, step + 1, at_t, at_e, xz_t, L, STATE)
        out, _ = _silu(w_before * before + w_here * here + w_after * after)
        if is_z:
            total += out
        else:
            at = step[:, None] * E + e[None, :]
            tl.store(u + (m * K + k) * L * E + at, out.to(u.dtype.element_ty), mask=at_t[:, None] & at_e)
    if is_z:
        tl.store(z + (m * L + token[:, None]) * E + e[None, :], total.to(z.dtype.element_ty), mask=at_t[:, None] & at_e)


@triton.jit
def _taps(weight, d, at_e, STATE: tl.constexpr):
    """The three taps of channels d, each (1, channels)."""
    before = tl.load(weight + d * 3, mask=at_e, other=0).to(STATE)
    here = tl.load(weight + d * 3 + 1, mask=at_e, other=0).to(STATE)
    after = tl.load(weight + d * 3 + 2, mask=at_e, other=0).to(STATE)
    return before[None, :], here[None, :], after[None, :]


@triton.jit
def _at_step(row, d, path, step, at_t, at_e, row_t, L, STATE: tl.constexpr):
    """Channels d of the tokens at these steps of a path; zeros beyond both ends."""
    inside = at_t & (step >= 0) & (step < L)
    token = tl.load(path + step, mask=inside, other=0).to(tl.int32)
    return tl.load(row + (token[:, None] * row_t + d[None, :]), mask=inside[:, None] & at_e, other=0).to(STATE)


@triton.jit
def conv_backward(
    xz, weight, order, inverse, gu, gz, gxz, gweight, xz_m, xz_t, gz_m, gz_t, M, K, L, E, GROUP,
    STATE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Gradients of GROUP windows in turn; grid (M / GROUP, 2 x blocks of E).

    gu (M, K, L, E) contiguous, gz (M, L, E) with strides gz_m, gz_t.  Written: gxz (M, L, 2 E) and
    shares over groups gweight (groups, 3, 2 E).  A token enters three convs of each direction, at the
    steps before, of and after its own; their pre-activations are worked out again here.
    """
    group, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    blocks = tl.num_programs(1) // 2
    is_z = block >= blocks
    e = (block % blocks) * BLOCK_E + tl.arange(0, BLOCK_E)
    d = e + tl.where(is_z, E, 0)
    at_e = (e < E)[None, :]
    w_before, w_here, w_after = _taps(weight, d, e < E, STATE)
    sum_before, sum_here = tl.zeros((BLOCK_E,), STATE), tl.zeros((BLOCK_E,), STATE)
    sum_after = tl.zeros((BLOCK_E,), STATE)
    for i in range(tl.minimum(GROUP, M - group * GROUP)):
        m = group * GROUP + i
        row, gz_row = xz + m * xz_m, gz + m * gz_m
        for start in range(0, L, BLOCK_T):
            token = start + tl.arange(0, BLOCK_T)
            at_t = token < L
            gx = tl.zeros((BLOCK_T, BLOCK_E), STATE)
            for k in range(K):
                path, gu_row = order + k * L, gu + (m * K + k) * L * E
                step = tl.load(inverse + k * L + token, mask=at_t, other=0).to(tl.int32)
                xs = ()
                for j in tl.static_range(5):
                    xs = xs + (_at_step(row, d, path, step + (j - 2), at_t, at_e, xz_t, L, STATE),)
                gs = ()
                for j in tl.static_range(3):
                    s = step + (j - 1)
                    if is_z:
                        g = _at_step(gz_row, e, path, s, at_t, at_e, gz_t, L, STATE)
                    else:
                        inside = (at_t & (s >= 0) & (s < L))[:, None] & at_e
                        g = tl.load(gu_row + (s[:, None] * E + e[None, :]), mask=inside, other=0).to(STATE)
                    _, slope = _silu(w_before * xs[j] + w_here * xs[j + 1] + w_after * xs[j + 2])
                    gs = gs + (g * slope,)
                gx += w_after * gs[0] + w_here * gs[1] + w_before * gs[2]
                sum_before += tl.sum(gs[1] * xs[1], 0)
                sum_here += tl.sum(gs[1] * xs[2], 0)
                sum_after += tl.sum(gs[1] * xs[3], 0)
            at = token[:, None] * 2 * E + d[None, :]
            tl.store(gxz + m * L * 2 * E + at, gx.to(gxz.dtype.element_ty), mask=at_t[:, None] & at_e)
    share = gweight + group * 6 * E + d
    tl.store(share, sum_before, mask=e < E)
    tl.store(share + 2 * E, sum_here, mask=e < E)
    tl.store(share + 4 * E, sum_after, mask=e < E)
