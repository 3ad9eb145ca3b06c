"""The TV-L1 of one pyramid level as one CUDA kernel, in Triton: a program holds a pair until its level is solved.

A program takes one pair through all warps of a level: linearise, medians, iterations, stop.  So each pair stops by
its own change, nothing about it depends on the batch, a pair that is done frees its place on the GPU for the next,
and neither the host nor a flag in memory is asked in between.

Sweeps   The iterations are limited by memory, so one sweep down the rows makes up to STAGES of them: stage t takes
         row s - t of step s, just left by stage t - 1, through its primal step, and row s - t - 1 through its dual
         step.  A whole row lies in registers; the neighbours to the left and right pass through shared memory
         (tl.gather), those above and below stay in registers.  One sweep reads 36 B a pixel (u, p, Ix, Iy, rho_c)
         and writes 24 B, for STAGES iterations instead of one.
Stop     The squared change is summed by column in row order and then over the columns in a fixed tree: the same
         bits in every run.  A sweep reads one buffer and writes another; when an iteration before its last
         turns out to be the one that stops, the sweep is made again, that long, from what it had read.
Memory   ``work`` has ``planes(CHANNELS)`` planes a pair: u twice, p twice (all px, then all py), Ix, Iy, rho_c, and
         the gradient of the apex image.

Symbols are those of mepipe/flow/torch_engine.py, the readable form of the same algorithm.
"""

# The arguments of kernels have Triton's types, which annotations cannot say; tuples grow by + there, not by *.
# ruff: noqa: ANN001, RUF005
# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from mepipe.flow.triton_images import gradient, linearise, median_filter

FLT_EPSILON = tl.constexpr(1.1920929e-07)  # OpenCV: a squared gradient below this counts as none
# Iterations of the first sweep after a median.  Most warps but the first of a level stop at the second iteration, and
# 2 + 7 * 4 are the 30 between two medians.
FIRST = tl.constexpr(2)


def planes(channels: int) -> int:
    """Planes of work memory for a pair."""
    return 6 * channels + 5


@triton.jit
def _exchange(a, b, place) -> Any:
    """``a`` and ``b`` at the columns ``place``; as halves of one 64-bit value, as an exchange costs two barriers."""
    low = a.to(tl.uint32, bitcast=True).to(tl.uint64)
    high = b.to(tl.uint32, bitcast=True).to(tl.uint64)
    both = tl.gather(low | (high << 32), place, 0)
    return both.to(tl.uint32).to(tl.float32, bitcast=True), (both >> 32).to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def _neighbours(values, place, CHANNELS: tl.constexpr) -> Any:
    """The channels of ``values`` at the columns ``place``."""
    there = _exchange(values[0], values[1], place)
    if CHANNELS == 3:
        there = (there[0], there[1], tl.gather(values[2], place, 0))
    return there


@triton.jit
def _load_planes(base, plane, at, mask, N: tl.constexpr) -> Any:
    values = ()
    for c in tl.static_range(N):
        values = values + (tl.load(base + c * plane + at, mask=mask, other=0.0),)
    return values


@triton.jit
def _load_row(u, p, warped, plane, at, mask, CHANNELS: tl.constexpr) -> Any:
    """(u, px, py, (Ix, Iy, rho_c)) of one row."""
    return (
        _load_planes(u, plane, at, mask, CHANNELS),
        _load_planes(p, plane, at, mask, CHANNELS),
        _load_planes(p + CHANNELS * plane, plane, at, mask, CHANNELS),
        _load_planes(warped, plane, at, mask, 3),
    )


@triton.jit
def _store_row(u, p, plane, at, mask, row, CHANNELS: tl.constexpr) -> None:
    for c in tl.static_range(CHANNELS):
        tl.store(u + c * plane + at, row[0][c], mask=mask)
        tl.store(p + c * plane + at, row[1][c], mask=mask)
        tl.store(p + (CHANNELS + c) * plane + at, row[2][c], mask=mask)


@triton.jit
def _inverse(loaded) -> Any:
    """``loaded`` with -1 / |grad|^2 behind (Ix, Iy, rho_c); held above FLT_EPSILON, where f follows rho's sign."""
    u, px, py, warped = loaded
    Ix, Iy, rho_c = warped
    return u, px, py, (Ix, Iy, rho_c, -1.0 / tl.maximum(Ix * Ix + Iy * Iy, FLT_EPSILON))


@triton.jit
def _pushes(u, warped, l_t, gamma, CHANNELS: tl.constexpr) -> Any:
    """What the data term adds to each channel: f*(Ix, Iy, gamma) with f = -rho / |grad|^2 held to +-l_t."""
    Ix, Iy, rho_c, inverse = warped
    rho = rho_c + (Ix * u[0] + Iy * u[1])
    if CHANNELS == 3:
        rho += gamma * u[2]
    f = tl.minimum(tl.maximum(rho * inverse, -l_t), l_t)
    pushes = (f * Ix, f * Iy)
    if CHANNELS == 3:
        pushes = pushes + (f * gamma,)
    return pushes


@triton.jit
def _iterate(row, above, y, H, x, numbers, CHANNELS: tl.constexpr, BLOCK: tl.constexpr) -> Any:
    """One iteration, for a row: the primal step of ``row`` y and the dual step of row y - 1.

    row: (u, px, py, warped) before the iteration.  above: the same of row y - 1, with u after its primal step.
    numbers: (theta, taut_x, taut, l_t, gamma); theta and gamma are 0 right of the image, taut_x from its last column.
    Returns row y - 1 after the iteration, what is ``above`` for the next row, and the squared change by column.
    Rows -1 and H do not exist: the dual of row -1 is 0, row H repeats row H - 1.
    """
    u, px, py, warped = row
    u_above, px_above, py_above, warped_above = above
    theta, taut_x, taut, l_t, gamma = numbers
    taut_y = tl.where(y > 0, taut, 0.0)
    pushes = _pushes(u, warped, l_t, gamma, CHANNELS)
    squares = theta * 0.0
    # Column 0 gets the px of the last of the block, and that is 0, as it must be left of the image: p does not change
    # where taut_x is 0.  What the last column gets for u is multiplied by 0.
    px_left = _neighbours(px, (x + (BLOCK - 1)) % BLOCK, CHANNELS)
    u_right = _neighbours(u_above, (x + 1) % BLOCK, CHANNELS)
    u_new, px_new, py_new = (), (), ()
    for c in tl.static_range(CHANNELS):
        divergence = (px[c] - px_left[c]) + (py[c] - py_above[c])
        change = theta * divergence + pushes[c]
        squares += change * change
        below = tl.where(y < H, u[c] + change, u_above[c])
        dx = taut_x * (u_right[c] - u_above[c])
        dy = taut_y * (below - u_above[c])
        scale = 1.0 / (1.0 + tl.sqrt(dx * dx + dy * dy))
        u_new = u_new + (below,)
        px_new = px_new + ((px_above[c] + dx) * scale,)
        py_new = py_new + ((py_above[c] + dy) * scale,)
    done = (u_above, px_new, py_new, warped_above)
    return done, (u_new, px, py, warped), tl.where(y < H, squares, 0.0)


@triton.jit
def _sweep(
    u, p, u_to, p_to, warped, plane, n, H, pitch, x, numbers,
    CHANNELS: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr,
) -> Any:  # fmt: skip
    """Make n <= STAGES iterations of the whole image, from u, p to u_to, p_to.  Returns the squared change of each."""
    mask = x < pitch
    coming = _load_row(u, p, warped, plane, x, mask, CHANNELS)
    zero = tl.zeros([BLOCK], tl.float32)
    nothing = (zero, zero, zero)
    rows, sums = (), ()
    for _ in tl.static_range(STAGES):
        rows = rows + ((nothing[:CHANNELS], nothing[:CHANNELS], nothing[:CHANNELS], (zero, zero, zero, zero)),)
        sums = sums + (zero,)
    for step in range(H + n):
        row = _inverse(coming)
        # asked for one step ahead; behind the last row any row will do
        coming = _load_row(u, p, warped, plane, tl.minimum(step + 1, H - 1) * pitch + x, mask, CHANNELS)
        next_rows, next_sums = (), ()
        for t in tl.static_range(STAGES):
            above, squares = rows[t], zero
            if t < n:
                row, above, squares = _iterate(row, above, step - t, H, x, numbers, CHANNELS, BLOCK)
            next_rows = next_rows + (above,)
            next_sums = next_sums + (sums[t] + squares,)
        rows, sums = next_rows, next_sums
        if step >= n:
            _store_row(u_to, p_to, plane, (step - n) * pitch + x, mask, row, CHANNELS)
    changes = ()
    for t in tl.static_range(STAGES):
        changes = changes + (tl.sum(sums[t], 0),)
    tl.debug_barrier()  # what follows may read other columns
    return changes


@triton.jit
def _stops_at(changes, n, enough, STAGES: tl.constexpr) -> Any:
    """(how many of the n iterations a pair makes: up to the first whose change is ``enough``; that one's change)."""
    made, change = n, changes[0]
    for t in tl.static_range(STAGES):
        change = tl.where(t + 1 == n, changes[t], change)
    for t in tl.static_range(STAGES - 1, -1, -1):
        stops = (t < n) & (changes[t] <= enough)
        made = tl.where(stops, t + 1, made)
        change = tl.where(stops, changes[t], change)
    return made, change


@triton.jit
def _medians(
    source, target, plane, H, W, pitch, x, CHANNELS: tl.constexpr, MEDIAN: tl.constexpr
) -> None:  # fmt: skip
    """Filter u and v of ``source`` to ``target``; the illumination as it is."""
    for c in range(2):
        median_filter(source + c * plane, target + c * plane, H, W, pitch, x, MEDIAN)
    if CHANNELS == 3:
        for y in range(H):
            at = 2 * plane + (y * pitch + x)
            tl.store(target + at, tl.load(source + at, mask=x < pitch), mask=x < pitch)
    tl.debug_barrier()  # what follows may read other columns


@triton.jit
def _solve_warp(
    us, ps, u_at, p_at, warped, plane, H, W, pitch, x, numbers, enough, inner, outer,
    CHANNELS: tl.constexpr, MEDIAN: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr,
) -> Any:  # fmt: skip
    """Medians and iterations until the change falls to ``enough``.  Returns which buffers hold u and p then.

    us, ps: two buffers each; u_at, p_at: which of them holds u, p.
    """
    u_size, p_size = CHANNELS * plane, 2 * CHANNELS * plane
    medians, change = 0, 2.0 * enough + 1.0
    while (medians < outer) & (change > enough):
        if MEDIAN > 1:
            _medians(us + u_at * u_size, us + (1 - u_at) * u_size, plane, H, W, pitch, x, CHANNELS, MEDIAN)
            u_at = 1 - u_at
        medians += 1
        made = 0
        n = tl.minimum(tl.minimum(FIRST, STAGES), inner)
        while (made < inner) & (change > enough):
            u, p = us + u_at * u_size, ps + p_at * p_size
            u_to, p_to = us + (1 - u_at) * u_size, ps + (1 - p_at) * p_size
            if n == STAGES:  # compiled for itself: without a choice at each stage it is a fifth shorter
                changes = _sweep(u, p, u_to, p_to, warped, plane, STAGES, H, pitch, x, numbers, CHANNELS, STAGES, BLOCK)
            else:
                changes = _sweep(u, p, u_to, p_to, warped, plane, n, H, pitch, x, numbers, CHANNELS, STAGES, BLOCK)
            wanted, last = _stops_at(changes, n, enough, STAGES)
            if wanted == n:
                u_at, p_at = 1 - u_at, 1 - p_at
                made += n
                change = last
                n = tl.minimum(STAGES, inner - made)
            else:
                n = wanted  # the same sweep again, up to the iteration that stops
    return u_at, p_at


@triton.jit
def _begin(flow, u, p, plane, H, W, pitch, x, CHANNELS: tl.constexpr) -> None:
    """Take u from ``flow``; p = 0."""
    zero = tl.zeros_like(x).to(tl.float32)
    for y in range(H):
        at = y * pitch + x
        start = _load_planes(flow, plane, at, x < W, CHANNELS)
        for c in tl.static_range(CHANNELS):
            tl.store(u + c * plane + at, start[c], mask=x < pitch)
            tl.store(p + c * plane + at, zero, mask=x < pitch)
            tl.store(p + (CHANNELS + c) * plane + at, zero, mask=x < pitch)


@triton.jit
def _end(u, flow, plane, H, W, pitch, x, CHANNELS: tl.constexpr) -> None:
    for y in range(H):
        at = y * pitch + x
        result = _load_planes(u, plane, at, x < W, CHANNELS)
        for c in tl.static_range(CHANNELS):
            tl.store(flow + c * plane + at, result[c], mask=x < W)


@triton.jit
def solve_level(
    images, flow, work, count, H, W, pitch, enough, theta, l_t, taut, gamma, warps, inner, outer,
    CHANNELS: tl.constexpr, MEDIAN: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """All warps of a level for the first count[0] pairs of a batch; one program a pair.

    images: (B, 2, H, pitch) onset and apex, grey 0..255.  flow: (B, CHANNELS, H, pitch), start and result; CHANNELS 3
    with the illumination term.  work: (B, planes(CHANNELS), H, pitch).  enough: squared change at which a warp ends.
    MEDIAN: 5, 3, or less for none.  BLOCK: a power of two, at least pitch.
    """
    pair = tl.program_id(0).to(tl.int64)
    if pair >= tl.load(count):
        return
    plane = tl.cast(H, tl.int64) * pitch
    onset = images + pair * 2 * plane
    apex = onset + plane
    flow += pair * CHANNELS * plane
    us = work + pair * (6 * CHANNELS + 5) * plane
    ps = us + 2 * CHANNELS * plane
    warped = ps + 4 * CHANNELS * plane
    slopes = warped + 3 * plane

    x = tl.arange(0, BLOCK)
    numbers = (tl.where(x < W, theta, 0.0), tl.where(x < W - 1, taut, 0.0), taut, l_t, tl.where(x < W, gamma, 0.0))
    _begin(flow, us, ps, plane, H, W, pitch, x, CHANNELS)
    gradient(apex, slopes, plane, H, W, pitch, x)
    tl.debug_barrier()  # as above
    u_at, p_at = 0, 0
    for _ in range(warps):
        linearise(onset, apex, slopes, us + u_at * CHANNELS * plane, warped, plane, H, W, pitch, x)
        tl.debug_barrier()
        u_at, p_at = _solve_warp(
            us, ps, u_at, p_at, warped, plane, H, W, pitch, x, numbers, enough, inner, outer,
            CHANNELS, MEDIAN, STAGES, BLOCK,
        )  # fmt: skip
    _end(us + u_at * CHANNELS * plane, flow, plane, H, W, pitch, x, CHANNELS)
