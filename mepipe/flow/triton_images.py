"""Image operations of the engine ``triton``: padding, resizing, sampling, medians, magnitude.

Images   planes of H rows, ``pitch`` floats apart; the columns W..pitch-1 are never read as pixels.  Planes of a
         batch follow one another; their offsets are 64-bit, those within a plane 32-bit.
Kernels  ``pad``, ``resize`` and ``finish`` run over the pixels of all planes.  ``linearise`` and ``median_filter``
         are called by the kernel of :mod:`mepipe.flow.triton_kernels` for the one pair that its program holds;
         they go down the rows with a whole row in registers: ``x`` is 0..BLOCK-1, BLOCK >= pitch.

What each must give is written down, readably, in :mod:`mepipe.flow.torch_ops`.
"""

# The arguments of kernels have Triton's types, which annotations cannot say; tuples grow by + there, not by *.
# ruff: noqa: ANN001, RUF005
# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from mepipe.flow.median import median_program

Flat = tuple[tuple[int, int, bool, bool], ...]


def window_network(k: int) -> tuple[Flat, int]:
    """(exchanges on k*k wires, wire of the median) for the window whose cell (i, j) is wire i*k + j.

    :func:`median_program` with the sort of each of the k columns written out.
    """
    columns, rest, wire = median_program(k)
    sorts = [(e.low * k + j, e.high * k + j, True, True) for j in range(k) for e in columns]
    return (*sorts, *((e.low, e.high, e.keep_low, e.keep_high) for e in rest)), wire


_network3, _wire3 = window_network(3)
_network5, _wire5 = window_network(5)
NETWORK3, WIRE3 = tl.constexpr(_network3), tl.constexpr(_wire3)
NETWORK5, WIRE5 = tl.constexpr(_network5), tl.constexpr(_wire5)
CUBIC = tl.constexpr(-0.75)  # OpenCV's INTER_CUBIC on the CPU
MARGIN = tl.constexpr(4)  # positions further outside than this sample zeros only


# --- over all planes ---------------------------------------------------------------------------------


@triton.jit
def _pixel(W, pixels, BLOCK: tl.constexpr) -> Any:
    """(plane, row, column, whether it exists) of this program's pixels, program (i, j) being block i of plane j."""
    plane = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return plane, index // W, index % W, index < pixels


@triton.jit
def pad(
    source, target, count, H, W, target_pitch, margin, grey,
    CHANNELS: tl.constexpr, TARGET_CHANNELS: tl.constexpr, SLOT: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """(B, CHANNELS, H, W), any type, times ``grey`` -> planes SLOT.. of (B, TARGET_CHANNELS, H + 2 * margin, pitch).

    The edge is replicated ``margin`` times on each side.  Of the batch the first count[0] are done.
    """
    height, width = H + 2 * margin, W + 2 * margin
    plane, y, x, exists = _pixel(width, height * width, BLOCK)
    image = plane // CHANNELS
    if image >= tl.load(count):
        return
    row = tl.minimum(tl.maximum(y - margin, 0), H - 1)
    column = tl.minimum(tl.maximum(x - margin, 0), W - 1)
    values = tl.load(source + plane * H * W + (row * W + column), mask=exists).to(tl.float32)
    into = image * TARGET_CHANNELS + SLOT + plane % CHANNELS
    tl.store(target + into * height * target_pitch + (y * target_pitch + x), values * grey, mask=exists)


@triton.jit
def resize(
    source, target, count, rows, row_weights, columns, column_weights,
    source_H, source_W, source_pitch, H, W, pitch, factor, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """cv2.resize, INTER_LINEAR, of (B, CHANNELS, source_H, source_pitch) to (B, CHANNELS, H, pitch).

    The first two channels are multiplied by ``factor``: motion grows with the image, illumination does not.
    rows, columns: index of the upper and left of the two taps; weights: of the other, held inside the image.
    """
    plane, y, x, exists = _pixel(W, H * W, BLOCK)
    if plane // CHANNELS >= tl.load(count):
        return
    top, wy = tl.load(rows + y, mask=exists, other=0), tl.load(row_weights + y, mask=exists, other=0.0)
    left, wx = tl.load(columns + x, mask=exists, other=0), tl.load(column_weights + x, mask=exists, other=0.0)
    right = tl.minimum(left + 1, source_W - 1)
    upper = source + plane * source_H * source_pitch + top * source_pitch
    under = source + plane * source_H * source_pitch + tl.minimum(top + 1, source_H - 1) * source_pitch
    first, second = tl.load(upper + left, mask=exists), tl.load(under + left, mask=exists)
    first = tl.fma(wx, tl.load(upper + right, mask=exists) - first, first)
    second = tl.fma(wx, tl.load(under + right, mask=exists) - second, second)
    times = tl.where(plane % CHANNELS < 2, factor, 1.0)
    tl.store(target + plane * H * pitch + (y * pitch + x), times * tl.fma(wy, second - first, first), mask=exists)


@triton.jit
def finish(
    flow, out, count, H, W, pitch, margin, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
) -> None:  # fmt: skip
    """The padded flow (B, CHANNELS, H + 2 * margin, pitch), cropped -> (B, 3, H, W): u, v, magnitude."""
    image, y, x, exists = _pixel(W, H * W, BLOCK)
    if image >= tl.load(count):
        return
    plane = (H + 2 * margin) * pitch
    at = flow + image * CHANNELS * plane + ((y + margin) * pitch + x + margin)
    u, v = tl.load(at, mask=exists), tl.load(at + plane, mask=exists)
    to = out + image * 3 * H * W + (y * W + x)
    tl.store(to, u, mask=exists)
    tl.store(to + H * W, v, mask=exists)
    tl.store(to + 2 * H * W, tl.sqrt(u * u + v * v), mask=exists)


# --- one image, row by row ---------------------------------------------------------------------------


@triton.jit
def gradient(image, into, plane, H, W, pitch, x) -> None:
    """Half the difference of the neighbours, edges replicated: d/dx to plane ``into``, d/dy to the next."""
    left, right = tl.maximum(x - 1, 0), tl.minimum(x + 1, W - 1)
    inside = x < W
    for y in range(H):
        up, down = tl.maximum(y - 1, 0), tl.minimum(y + 1, H - 1)
        row = image + y * pitch
        dx = 0.5 * (tl.load(row + right, mask=inside) - tl.load(row + left, mask=inside))
        dy = 0.5 * (tl.load(image + down * pitch + x, mask=inside) - tl.load(image + up * pitch + x, mask=inside))
        tl.store(into + y * pitch + x, dx, mask=inside)
        tl.store(into + plane + y * pitch + x, dy, mask=inside)


@triton.jit
def _taps(at, size) -> Any:
    """(index of the second of four taps, their cubic weights) for positions ``at`` on an axis of ``size`` pixels."""
    floor = tl.floor(at)
    t = at - floor
    s, squared = 1.0 - t, t * t
    before, last = CUBIC * (t * (s * s)), CUBIC * (s * squared)
    here = tl.fma(tl.fma(t, CUBIC + 2, -(CUBIC + 3)), squared, 1.0)
    index = tl.minimum(tl.maximum(floor, -MARGIN), size + MARGIN).to(tl.int32)
    return index, (before, here, ((1.0 - before) - here) - last, last)


@triton.jit
def linearise(onset, apex, slopes, u, into, plane, H, W, pitch, x) -> None:
    """Sample ``apex`` and its gradient at x + u (cv2.remap, INTER_CUBIC, zeros outside), linearised around u.

    slopes, u: two planes each.  Writes Ix, Iy, rho_c = I1 - Ix*u - Iy*v - onset to three planes at ``into``,
    with zeros right of the image.
    """
    for y in range(H):
        at = y * pitch + x
        inside = x < W
        u1, u2 = tl.load(u + at, mask=inside, other=0.0), tl.load(u + plane + at, mask=inside, other=0.0)
        column, wx = _taps(u1 + x, W)
        row, wy = _taps(u2 + y, H)
        sample = u1 * 0.0
        Ix, Iy = sample, sample
        for j in tl.static_range(4):
            tap_row = row + (j - 1)
            row_exists = inside & (tap_row >= 0) & (tap_row < H)
            of_row, dx_row, dy_row = u1 * 0.0, u1 * 0.0, u1 * 0.0
            for i in tl.static_range(4):
                tap = column + (i - 1)
                exists = row_exists & (tap >= 0) & (tap < W)
                place = tap_row * pitch + tap
                of_row = tl.fma(wx[i], tl.load(apex + place, mask=exists, other=0.0), of_row)
                dx_row = tl.fma(wx[i], tl.load(slopes + place, mask=exists, other=0.0), dx_row)
                dy_row = tl.fma(wx[i], tl.load(slopes + plane + place, mask=exists, other=0.0), dy_row)
            sample, Ix, Iy = tl.fma(wy[j], of_row, sample), tl.fma(wy[j], dx_row, Ix), tl.fma(wy[j], dy_row, Iy)
        reference = tl.load(onset + at, mask=inside, other=0.0)
        rho_c = sample - Ix * u1 - Iy * u2 - reference
        tl.store(into + at, Ix, mask=x < pitch)
        tl.store(into + plane + at, Iy, mask=x < pitch)
        tl.store(into + 2 * plane + at, rho_c, mask=x < pitch)


@triton.constexpr_function
def _length(network) -> int:  # len() itself is unknown to the interpreter
    return len(network)


@triton.jit
def _exchange(wires, low: tl.constexpr, high: tl.constexpr, keep_low: tl.constexpr, keep_high: tl.constexpr) -> Any:
    """``wires`` with the smaller of two on ``low`` and the larger on ``high``; what is not kept is not computed."""
    a, b = wires[low], wires[high]
    if keep_low:
        wires = wires[:low] + (tl.minimum(a, b),) + wires[low + 1 :]
    if keep_high:
        wires = wires[:high] + (tl.maximum(a, b),) + wires[high + 1 :]
    return wires


@triton.jit
def _run_network(wires, NETWORK: tl.constexpr) -> Any:
    for i in tl.static_range(_length(NETWORK)):
        wires = _exchange(wires, NETWORK[i][0], NETWORK[i][1], NETWORK[i][2], NETWORK[i][3])
    return wires


@triton.jit
def _window_row(image, y, H, W, pitch, x, K: tl.constexpr) -> Any:
    """Row y, held inside the image, of the K x K windows around x: K vectors, edges replicated."""
    row = image + tl.minimum(tl.maximum(y, 0), H - 1) * pitch
    cells = ()
    for j in tl.static_range(K):
        cells = cells + (tl.load(row + tl.minimum(tl.maximum(x + (j - K // 2), 0), W - 1)),)
    return cells


@triton.jit
def median_filter(source, target, H, W, pitch, x, K: tl.constexpr) -> None:
    """cv2.medianBlur of one float32 plane, K = 3 or 5.  Windows slide down in registers: K loads a pixel, not K*K."""
    above = ()
    for r in tl.static_range(K - 1):
        above = above + _window_row(source, r - K // 2, H, W, pitch, x, K)
    for y in range(H):
        window = above + _window_row(source, y + K // 2, H, W, pitch, x, K)
        median = _run_network(window, NETWORK3 if K == 3 else NETWORK5)[WIRE3 if K == 3 else WIRE5]
        tl.store(target + y * pitch + x, median, mask=x < pitch)
        above = window[K:]
