"""The loops of TV-L1 as vector code for the CPU; :mod:`mepipe.flow.native` calls them.

Planes   an image is a flat float32 array with guards around it: pixel (y, x) is at (y + 1) * pitch + LEFT + x,
         with pitch = W rounded up to LANES + 2 * LEFT.  Vectors run over the columns W.. up to the next multiple;
         what is computed there is never used, see ``theta_row``.
Fusing   row y takes its primal step and row y - 1 its dual step in one pass: the dual step of a row needs the new
         flow of the row below, the primal step the old dual of the row above.  Planes are updated in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from mepipe.flow.simd import (
    LANES,
    cubic_weights,
    higher,
    load,
    lower,
    median_operations,
    root,
    splat,
    store,
    sum_lanes,
    sum_pixels,
)

LEFT = LANES  # guard columns on each side; a vector that starts at the last pixel still ends in the plane
MARGIN = 4  # zero pixels around the packed image: positions further out read only zeros
FLT_EPSILON = np.float32(np.finfo(np.float32).eps)
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)

_A = -0.75  # OpenCV's INTER_CUBIC on the CPU
# the cubic weights of the taps at -1, 0, 1, 2 as polynomials of the offset, highest power first
_CUBIC = tuple(
    np.float32(c)
    for tap in ((_A, -2 * _A, _A, 0.0), (_A + 2, -(_A + 3), 0.0, 1.0), (-(_A + 2), 2 * _A + 3, -_A, 0.0), (-_A, _A, 0.0, 0.0))
    for c in tap
)


def kernel(**options: Any) -> Any:
    """numba's njit, cached on disk where numba finds a folder for it, so that only the first process compiles."""

    def decorate(function: Any) -> Any:
        try:
            return njit(nogil=True, error_model="numpy", cache=True, **options)(function)
        except RuntimeError:  # neither the package nor the home folder is writable
            return njit(nogil=True, error_model="numpy", **options)(function)

    return decorate


# --- iterations ------------------------------------------------------------------------------------


@kernel(forceinline=True)
def _threshold_row(f, u1, u2, u3, Ix, Iy, rho_c, inverse, gamma, l_t, o, width):
    """f = -rho / |grad|^2 held to +-l_t, for the row that starts at ``o``. inverse: -1 / |grad|^2."""
    most, least, gammas = splat(l_t), splat(-l_t), splat(gamma)
    for x in range(0, width, LANES):
        i = o + x
        rho = load(rho_c, i) + (load(Ix, i) * load(u1, i) + load(Iy, i) * load(u2, i))
        if gamma != ZERO:
            rho = rho + gammas * load(u3, i)
        store(f, x, lower(most, higher(least, rho * load(inverse, i))))


@kernel(forceinline=True)
def _first_row(u, px, py, f, slope, theta_row, o, width):
    """Primal step of the first row: u += theta * div p + f * slope. Returns the squared change, by lane."""
    change = splat(ZERO)
    for x in range(0, width, LANES):
        i = o + x
        step = load(theta_row, x) * ((load(px, i) - load(px, i - 1)) + load(py, i)) + load(f, x) * load(slope, i)
        store(u, i, load(u, i) + step)
        change = change + step * step
    return change


@kernel(forceinline=True)
def _next_row(u, px, py, f, slope, theta_row, taut, o, above, width):
    """Primal step of the row at ``o`` and dual step of the row at ``above``. Returns the squared change, by lane."""
    change, tauts, one = splat(ZERO), splat(taut), splat(ONE)
    for x in range(0, width, LANES):
        i, j = o + x, above + x
        py_above = load(py, j)
        div = (load(px, i) - load(px, i - 1)) + (load(py, i) - py_above)
        step = load(theta_row, x) * div + load(f, x) * load(slope, i)
        below = load(u, i) + step
        store(u, i, below)
        change = change + step * step
        here = load(u, j)
        dx, dy = tauts * (load(u, j + 1) - here), tauts * (below - here)
        scale = one / (one + root(dx * dx + dy * dy))
        store(px, j, (load(px, j) + dx) * scale)
        store(py, j, (py_above + dy) * scale)
    return change


@kernel(forceinline=True)
def _last_row(u, px, py, taut, o, width):
    """Dual step of the last row, whose derivative downwards is 0."""
    tauts, one = splat(taut), splat(ONE)
    for x in range(0, width, LANES):
        i = o + x
        dx = tauts * (load(u, i + 1) - load(u, i))
        scale = one / (one + root(dx * dx))
        store(px, i, (load(px, i) + dx) * scale)
        store(py, i, load(py, i) * scale)


@kernel()
def iterate(u1, u2, u3, p, warped, f, theta_row, shape, l_t, taut, gamma):
    """One iteration over an image. Returns the sum of the squared change of the flow (and of u3, with gamma).

    p: the six dual planes p11, p12, p21, p22, p31, p32.  warped: Ix, Iy, rho_c, inverse, and a plane of gamma.
    f: a row.  theta_row: theta in columns 0..W-1 and 0 beyond, where u then stays what it is.
    shape: (H, W, pitch).  The sum is float32 within a row, in a fixed order, and float64 over the rows.
    """
    p11, p12, p21, p22, p31, p32 = p
    Ix, Iy, rho_c, inverse, gammas = warped
    height, columns, pitch = shape
    width = pitch - 2 * LEFT
    o = pitch + LEFT
    total = 0.0
    for y in range(height):
        above = o - pitch
        _threshold_row(f, u1, u2, u3, Ix, Iy, rho_c, inverse, gamma, l_t, o, width)
        if y == 0:
            change = _first_row(u1, p11, p12, f, Ix, theta_row, o, width)
            change = change + _first_row(u2, p21, p22, f, Iy, theta_row, o, width)
            if gamma != ZERO:
                change = change + _first_row(u3, p31, p32, f, gammas, theta_row, o, width)
        else:
            change = _next_row(u1, p11, p12, f, Ix, theta_row, taut, o, above, width)
            change = change + _next_row(u2, p21, p22, f, Iy, theta_row, taut, o, above, width)
            if gamma != ZERO:
                change = change + _next_row(u3, p31, p32, f, gammas, theta_row, taut, o, above, width)
        total += sum_lanes(change)
        # the derivative to the right is 0 in the last column
        for u in (u1, u2, u3):
            u[o + columns] = u[o + columns - 1]
        o += pitch
    o -= pitch
    _last_row(u1, p11, p12, taut, o, width)
    _last_row(u2, p21, p22, taut, o, width)
    if gamma != ZERO:
        _last_row(u3, p31, p32, taut, o, width)
    return total


@kernel()
def solve_warp(u1, u2, u3, p, warped, f, theta_row, scratch, shape, l_t, taut, gamma, enough, inner, outer, median):
    """Median and iterations of one warp until the squared change falls to ``enough``. Returns the iterations run.

    scratch: (a plane, five rows) for the median; median: 5, 3, or less for none.
    """
    plane, columns = scratch
    done = 0
    for _ in range(outer):
        if median == 5:
            median5(u1, plane, columns, shape)
            median5(u2, plane, columns, shape)
        elif median == 3:
            median3(u1, plane, columns, shape)
            median3(u2, plane, columns, shape)
        for _ in range(inner):
            change = iterate(u1, u2, u3, p, warped, f, theta_row, shape, l_t, taut, gamma)
            done += 1
            if change <= enough:
                return done
    return done


# --- median ----------------------------------------------------------------------------------------

_sort3, _median3 = median_operations(3)
_sort5, _median5 = median_operations(5)


@kernel()
def _replicate_columns(u, shape):
    """Fill two guard columns on each side of every row with the edge pixel."""
    height, columns, pitch = shape
    for y in range(height):
        o = (y + 1) * pitch + LEFT
        for guard in (1, 2):
            u[o - guard] = u[o]
            u[o + columns - 1 + guard] = u[o + columns - 1]


@kernel()
def median5(u, plane, columns, shape):
    """cv2.medianBlur(u, 5) in place; ``plane`` and ``columns`` (5 * pitch) are overwritten."""
    height, _, pitch = shape
    _replicate_columns(u, shape)
    for y in range(height):
        rows = (max(y - 2, 0), max(y - 1, 0), y, min(y + 1, height - 1), min(y + 2, height - 1))
        first = (rows[0] + 1) * pitch
        for x in range(0, pitch, LANES):
            at = first + x
            where = (
                at,
                at + (rows[1] - rows[0]) * pitch,
                at + (rows[2] - rows[0]) * pitch,
                at + (rows[3] - rows[0]) * pitch,
                at + (rows[4] - rows[0]) * pitch,
            )
            _sort5(columns, x, pitch, u, where)
        o = (y + 1) * pitch
        for x in range(LEFT, pitch - LEFT, LANES):
            store(plane, o + x, _median5(columns, x, pitch))
    u[pitch : (height + 1) * pitch] = plane[pitch : (height + 1) * pitch]


@kernel()
def median3(u, plane, columns, shape):
    """cv2.medianBlur(u, 3) in place; ``plane`` and ``columns`` (3 * pitch or more) are overwritten."""
    height, _, pitch = shape
    _replicate_columns(u, shape)
    for y in range(height):
        up, down = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(0, pitch, LANES):
            _sort3(columns, x, pitch, u, ((up + 1) * pitch + x, (y + 1) * pitch + x, (down + 1) * pitch + x))
        o = (y + 1) * pitch
        for x in range(LEFT, pitch - LEFT, LANES):
            store(plane, o + x, _median3(columns, x, pitch))
    u[pitch : (height + 1) * pitch] = plane[pitch : (height + 1) * pitch]


# --- warping ---------------------------------------------------------------------------------------


@kernel()
def pack(image, packed):
    """``image`` (H, W) and its gradient, half the difference of the neighbours with edges replicated, as pixels
    (I, Ix, Iy, 0) in ``packed`` (H + 2 * MARGIN, W + 2 * MARGIN, 4), whose margin is left at 0."""
    height, width = image.shape
    for y in range(height):
        up, down = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            packed[y + MARGIN, x + MARGIN, 0] = image[y, x]
            packed[y + MARGIN, x + MARGIN, 1] = HALF * (image[y, right] - image[y, left])
            packed[y + MARGIN, x + MARGIN, 2] = HALF * (image[down, x] - image[up, x])


@kernel(forceinline=True)
def _tap(position, size):
    """(index in the packed image of the first of four taps, offset from the second) along one axis."""
    floor = np.floor(position)
    first = min(max(int(floor), 1 - MARGIN), size + MARGIN - 3)
    return first + MARGIN - 1, position - floor


@kernel(forceinline=True)
def _weight(t, tap):
    c3, c2, c1, c0 = _CUBIC[4 * tap], _CUBIC[4 * tap + 1], _CUBIC[4 * tap + 2], _CUBIC[4 * tap + 3]
    return ((c3 * t + c2) * t + c1) * t + c0


@kernel()
def linearise(packed, reference, u1, u2, warped, shape):
    """Sample the packed image at x + u (cv2.remap, INTER_CUBIC, zeros outside) and linearise it around u.

    Writes Ix, Iy, rho_c = I1 - Ix*u - Iy*v - reference and inverse = -1 / max(Ix^2 + Iy^2, FLT_EPSILON).
    packed: flat; reference: plane of I0.
    """
    Ix, Iy, rho_c, inverse, _ = warped
    height, columns, pitch = shape
    stride = 4 * (columns + 2 * MARGIN)
    for y in range(height):
        o = (y + 1) * pitch + LEFT
        for x in range(columns):
            i = o + x
            row, ty = _tap(np.float32(y) + u2[i], height)
            column, tx = _tap(np.float32(x) + u1[i], columns)
            at = row * stride + 4 * column
            four = splat(_weight(ty, 0)) * load(packed, at)
            four = four + splat(_weight(ty, 1)) * load(packed, at + stride)
            four = four + splat(_weight(ty, 2)) * load(packed, at + 2 * stride)
            four = four + splat(_weight(ty, 3)) * load(packed, at + 3 * stride)
            rho_c[i], Ix[i], Iy[i] = sum_pixels(four * cubic_weights(tx, _CUBIC))
        for x in range(0, pitch - 2 * LEFT, LANES):
            i = o + x
            gx, gy = load(Ix, i), load(Iy, i)
            store(rho_c, i, load(rho_c, i) - gx * load(u1, i) - gy * load(u2, i) - load(reference, i))
            store(inverse, i, splat(-ONE) / higher(gx * gx + gy * gy, splat(FLT_EPSILON)))


# --- resizing --------------------------------------------------------------------------------------


@kernel()
def resize(image, out, rows, row_weights, columns, column_weights, factor):
    """Bilinear: pixel (y, x) of ``out`` from rows[y], rows[y] + 1 and columns[x], columns[x] + 1, times ``factor``.

    The weights are those of the second row and column; the index behind the last is held to the last.
    """
    height, width = image.shape
    for y in range(out.shape[0]):
        top, wy = rows[y], row_weights[y]
        bottom = min(top + 1, height - 1)
        for x in range(out.shape[1]):
            left, wx = columns[x], column_weights[x]
            right = min(left + 1, width - 1)
            upper = image[top, left] * (ONE - wx) + image[top, right] * wx
            under = image[bottom, left] * (ONE - wx) + image[bottom, right] * wx
            out[y, x] = factor * (upper * (ONE - wy) + under * wy)
