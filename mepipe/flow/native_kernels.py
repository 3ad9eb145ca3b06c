"""The loops of TV-L1 as vector code for the CPU; :mod:`mepipe.flow.native` calls them.

Exact    every number is rounded where OpenCV 5 rounds it, on CPUs with FMA: sums in its order, fused products where
         its vector code fuses them (resize, remap) and nowhere else.  TV-L1 turns one wrong bit into 0.1 px at some
         pixel of some pair; the flow here has none.  tests/test_flow_native.py compares bits.

Planes   an image is a flat float32 array with guards around it: pixel (y, x) is at (y + 1) * pitch + LEFT + x,
         with pitch = W rounded up to LANES + 2 * LEFT.  Vectors run over the columns W.. up to the next multiple;
         what is computed there is never used.
Fusing   row y takes its primal step and row y - 1 its dual step in one pass: the dual step of a row needs the new
         flow of the row below, the primal step the old dual of the row above.  Planes are updated in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from mepipe.flow.simd import (
    LANES,
    PairMedian,
    any_less,
    first_lane,
    first_of,
    floor,
    fused,
    fused_scalar,
    higher,
    hypot64,
    load,
    load_channels,
    lower,
    magnitude,
    median_operations,
    neighbour,
    root,
    sample_window,
    splat,
    store,
    store_places,
    store_sampled,
    sum_lanes,
    where_less,
)

# Hash of simd.py and median.py, which a test compares.  numba's cache would not notice a change there; writing the
# new hash here changes this file, and that it notices.
PRIMITIVES = "0a66e513e007c3a6"

Plane = np.ndarray  # flat float32 with guards, see above
Planes = tuple[np.ndarray, ...]
Shape = tuple[int, int, int]  # H, W, pitch
Taps = tuple[np.ndarray, np.ndarray, np.ndarray]  # of each target pixel: two neighbours, the weight of the second
Vector = Any  # 16 float32 in registers
TABLE = PairMedian(5).rows  # of pitch, that median5 needs
LEFT = LANES  # guard columns on each side; a vector that starts at the last pixel still ends in the plane
MARGIN = 4  # zero pixels around the packed image: positions further out read only zeros
FLT_EPSILON = np.float32(np.finfo(np.float32).eps)
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)

_A = np.float32(-0.75)  # OpenCV's INTER_CUBIC on the CPU
_A2, _A3 = np.float32(_A + 2), np.float32(_A + 3)
SOON = 4.0  # times the sum at which a warp stops: from here on every pixel's share is kept, see NEAR
NEAR = 0.01  # share of that sum within which rounding decides: then it is added up in OpenCV's order
HALF_WAY = np.float32(2.0**-44)  # share of the squared root; what float32 neglects there is less than half of it
_COUNT = np.arange(LANES, dtype=np.float32)


def kernel(**options: Any) -> Any:
    """Numba's njit, cached on disk where numba finds a folder for it, so that only the first process compiles."""

    def decorate(function: Any) -> Any:
        try:
            return njit(nogil=True, error_model="numpy", cache=True, **options)(function)
        except RuntimeError:  # neither the package nor the home folder is writable
            return njit(nogil=True, error_model="numpy", **options)(function)

    return decorate


@kernel(forceinline=True)
def _copy(out: np.ndarray, at: int, row: np.ndarray, start: int, count: int) -> None:
    """``out[at : at + count] = row[start : start + count]``, for which numba takes a second to compile."""
    for x in range(count):
        out[at + x] = row[start + x]


@kernel(forceinline=True)
def _set(out: np.ndarray, start: int, end: int, value: float) -> None:
    """``out[start:end] = value``, likewise."""
    for x in range(start, end):
        out[x] = value


# --- iterations ------------------------------------------------------------------------------------


@kernel(forceinline=True)
def _hypot(a: Vector, b: Vector) -> Vector:
    """sqrt(a^2 + b^2) as the C library rounds it: the root of the float32 sum, put right by what that sum is off.

    Where the root lies so close to half way between two numbers that float32 cannot tell the side (once in a million
    pixels), it is computed as the C library does, in float64.
    """
    a2, b2, zero = a * a, b * b, splat(ZERO)
    s = a2 + b2
    off = (fused(zero - a, a, a2) + fused(zero - b, b, b2)) + ((s - higher(a2, b2)) - lower(a2, b2))
    r = root(s)
    above, below = neighbour(r, 1), neighbour(r, -1)
    # r * above is the square of what lies half way to ``above``, but for the square of half a last digit
    to_above, to_below = fused(zero - r, above, s) - off, fused(zero - r, below, s) - off
    if any_less(lower(magnitude(to_above), magnitude(to_below)), splat(HALF_WAY) * s):
        return hypot64(a, b)
    return where_less(zero, to_above, above, where_less(to_below, zero, below, r))


@kernel(forceinline=True)
def _dual_step(px: Plane, py: Plane, ux: Vector, uy: Vector, taut: Vector, j: int) -> None:
    """Dual step at ``j``: p = (p + taut * grad u) / (1 + taut * |grad u|)."""
    norm = splat(ONE) + taut * _hypot(ux, uy)
    store(px, j, (load(px, j) + taut * ux) / norm)
    store(py, j, (load(py, j) + taut * uy) / norm)


@kernel(forceinline=True)
def _dual_above(u: Plane, px: Plane, py: Plane, taut: Vector, j: int, i: int) -> None:
    """Dual step at ``j``, one row above ``i``."""
    here = load(u, j)
    _dual_step(px, py, load(u, j + 1) - here, load(u, i) - here, taut, j)


@kernel(forceinline=True)
def _duals(u1: Plane, u2: Plane, u3: Plane, p: Planes, taut: Vector, j: int, i: int, with_gamma: bool) -> None:
    """Dual steps of all channels at ``j``, one row above ``i``."""
    p11, p12, p21, p22, p31, p32 = p
    _dual_above(u1, p11, p12, taut, j, i)
    _dual_above(u2, p21, p22, taut, j, i)
    if with_gamma:
        _dual_above(u3, p31, p32, taut, j, i)


@kernel(forceinline=True)
def _step(
    u: Plane, px: Plane, py: Plane, push: Vector, theta: Vector, i: int, j: int, first: bool, left: bool
) -> Vector:
    """Primal step u += push + theta * div p at ``i``, one row below ``j`` unless in the ``first`` row.

    left: ``i`` is in the first column, where OpenCV adds up the divergence in another order.
    Returns the squared change.
    """
    py_above = splat(ZERO) if first else load(py, j)
    p1, p2 = load(px, i), load(py, i)
    divergence = (p1 - load(px, i - 1)) + (p2 - py_above)
    if left:
        divergence = first_lane((p1 + p2) - py_above, divergence)
    old = load(u, i)
    new = (old + push) + theta * divergence
    store(u, i, new)
    change = new - old
    return change * change


@kernel(forceinline=True)
def _threshold(rho: Vector, gx: Vector, gy: Vector, l_t: Vector) -> Vector:
    """The factor f of the step f * (Ix, Iy): -rho / |grad|^2 held to +-l_t, 0 where there is no gradient."""
    grad = gx * gx + gy * gy
    bound, against = l_t * grad, splat(ZERO) - rho
    f = where_less(splat(FLT_EPSILON), grad, against / higher(grad, splat(FLT_EPSILON)), splat(ZERO))
    f = where_less(bound, rho, splat(ZERO) - l_t, f)
    return where_less(bound, against, l_t, f)


@kernel(forceinline=True)
def _row(
    u1: Plane,
    u2: Plane,
    u3: Plane,
    p: Planes,
    warped: Planes,
    rows: Planes,
    changes: Plane,
    keep: bool,
    taut: float,
    l_t: float,
    with_gamma: bool,
    o: int,
    above: int,
    width: int,
    first: bool,
) -> Vector:
    """Primal step of the row at ``o`` and dual step of the row ``above``. Returns the squared change, by lane.

    The dual step follows one vector behind: it would wait for the primal step of its own, root and divisions and all.
    changes: takes the squared change of every pixel if ``keep``.
    """
    p11, p12, p21, p22, p31, p32 = p
    Ix, Iy, rho_c = warped
    theta_row, gamma_row = rows
    most, tauts, total = splat(l_t), splat(taut), splat(ZERO)
    for x in range(0, width, LANES):
        i, j, left = o + x, above + x, x == 0
        theta, gx, gy = load(theta_row, x), load(Ix, i), load(Iy, i)
        rho = load(rho_c, i) + (gx * load(u1, i) + gy * load(u2, i))
        if with_gamma:
            rho = rho + load(gamma_row, x) * load(u3, i)
        f = _threshold(rho, gx, gy, most)
        change = _step(u1, p11, p12, f * gx, theta, i, j, first, left)
        change = change + _step(u2, p21, p22, f * gy, theta, i, j, first, left)
        if with_gamma:
            change = change + _step(u3, p31, p32, f * load(gamma_row, x), theta, i, j, first, left)
        if not (first or left):
            _duals(u1, u2, u3, p, tauts, j - LANES, i - LANES, with_gamma)
        if keep:
            store(changes, i, change)
        total = total + change
    if not first:
        _duals(u1, u2, u3, p, tauts, above + width - LANES, o + width - LANES, with_gamma)
    return total


@kernel(forceinline=True)
def _last_row(u: Plane, px: Plane, py: Plane, taut: float, o: int, width: int) -> None:
    """Dual step of the last row, whose derivative downwards is 0."""
    for x in range(0, width, LANES):
        i = o + x
        _dual_step(px, py, load(u, i + 1) - load(u, i), splat(ZERO), splat(taut), i)


@kernel()
def iterate(
    u1: Plane,
    u2: Plane,
    u3: Plane,
    p: Planes,
    warped: Planes,
    rows: Planes,
    changes: Plane,
    keep: bool,
    shape: Shape,
    l_t: float,
    taut: float,
    with_gamma: bool,
) -> float:
    """One iteration over an image. Returns the sum of the squared change of the flow (and of u3, with gamma).

    p: the six dual planes p11, p12, p21, p22, p31, p32.  warped: Ix, Iy, rho_c.
    rows: theta and gamma in columns 0..W-1 and 0 beyond, where u then stays what it is.  shape: (H, W, pitch).
    changes: a plane that takes the squared change of every pixel if ``keep``.
    The sum is float32 within a row, in a fixed order, and float64 over the rows.
    """
    height, columns, pitch = shape
    width = pitch - 2 * LEFT
    o = pitch + LEFT
    total = 0.0
    for y in range(height):
        if y == 0:
            change = _row(u1, u2, u3, p, warped, rows, changes, keep, taut, l_t, with_gamma, o, o, width, True)
        else:
            change = _row(u1, u2, u3, p, warped, rows, changes, keep, taut, l_t, with_gamma, o, o - pitch, width, False)
        total += sum_lanes(change)
        # so that the derivative to the right is 0 in the last column
        u1[o + columns] = u1[o + columns - 1]
        u2[o + columns] = u2[o + columns - 1]
        u3[o + columns] = u3[o + columns - 1]
        o += pitch
    o -= pitch
    _last_row(u1, p[0], p[1], taut, o, width)
    _last_row(u2, p[2], p[3], taut, o, width)
    if with_gamma:
        _last_row(u3, p[4], p[5], taut, o, width)
    return total


@kernel()
def _in_order(changes: Plane, shape: Shape) -> float:
    """The float32 sum of a plane in OpenCV's order, pixel by pixel."""
    height, columns, pitch = shape
    total = ZERO
    for y in range(height):
        o = (y + 1) * pitch + LEFT
        for x in range(columns):
            total += changes[o + x]
    return total


@kernel()
def solve_warp(
    u1: Plane,
    u2: Plane,
    u3: Plane,
    p: Planes,
    warped: Planes,
    rows: Planes,
    scratch: Planes,
    shape: Shape,
    l_t: float,
    taut: float,
    with_gamma: bool,
    enough: float,
    inner: int,
    outer: int,
    median: int,
) -> int:
    """Median and iterations of one warp until the squared change falls to ``enough``. Returns the iterations run.

    scratch: (two planes, TABLE rows) for the median and the changes; median: 5, 3, or less for none.
    """
    plane, changes, columns = scratch
    done = 0
    change = np.inf
    for _ in range(outer):
        if median == 5:
            median5(u1, plane, columns, shape)
            median5(u2, plane, columns, shape)
        elif median == 3:
            median3(u1, plane, columns, shape)
            median3(u2, plane, columns, shape)
        for _ in range(inner):
            keep = change < SOON * enough
            change = iterate(u1, u2, u3, p, warped, rows, changes, keep, shape, l_t, taut, with_gamma)
            if keep and abs(change - enough) <= NEAR * enough:
                change = _in_order(changes, shape)
            done += 1
            if change <= enough:
                return done
    return done


# --- median ----------------------------------------------------------------------------------------

_sort3, _median3 = median_operations(3)
_medians = PairMedian(5).medians()


@kernel()
def _replicate_columns(u: Plane, shape: Shape) -> None:
    """Fill two guard columns on each side of every row with the edge pixel."""
    height, columns, pitch = shape
    for y in range(height):
        o = (y + 1) * pitch + LEFT
        for guard in (1, 2):
            u[o - guard] = u[o]
            u[o + columns - 1 + guard] = u[o + columns - 1]


@kernel(forceinline=True)
def _put_back(u: Plane, plane: Plane, shape: Shape, first: int) -> None:
    """The rows of ``plane`` from ``first`` on into ``u``, without the guards."""
    height, _, pitch = shape
    for y in range(first, height):
        start = (y + 1) * pitch + LEFT
        _copy(u, start, plane, start, pitch - 2 * LEFT)


@kernel()
def median5(u: Plane, plane: Plane, table: Plane, shape: Shape) -> None:
    """cv2.medianBlur(u, 5) in place; ``plane`` and ``table``, TABLE rows of pitch, are overwritten."""
    height, _, pitch = shape
    _replicate_columns(u, shape)
    for y in range(-4, height, 2):  # the first two pairs lie above the image and only fill the table
        last = y + 2 >= height  # it still reads the row that it writes
        out = plane if y < 0 or last else u
        two, three = (min(max(y + 2, 0), height - 1) + 1) * pitch, (min(max(y + 3, 0), height - 1) + 1) * pitch
        here, below = (max(y, -1) + 1) * pitch, (max(y + 1, -1) + 1) * pitch
        for x in range(LEFT, pitch - LEFT, LANES):
            _medians(u, (two + x, three + x), out, (here + x, below + x), table, x, pitch, (y >> 1) & 1)
    _put_back(u, plane, shape, (height - 1) // 2 * 2)


@kernel()
def median3(u: Plane, plane: Plane, columns: Plane, shape: Shape) -> None:
    """cv2.medianBlur(u, 3) in place; ``plane`` and ``columns``, 3 rows of pitch or more, are overwritten."""
    height, _, pitch = shape
    _replicate_columns(u, shape)
    for y in range(height):
        r0, r1, r2 = (max(y - 1, 0) + 1) * pitch, (y + 1) * pitch, (min(y + 1, height - 1) + 1) * pitch
        for x in range(0, pitch, LANES):
            _sort3(columns, x, pitch, u, (r0 + x, r1 + x, r2 + x))
        for x in range(LEFT, pitch - LEFT, LANES):
            store(plane, r1 + x, _median3(columns, x, pitch))
    _put_back(u, plane, shape, 0)


# --- warping ---------------------------------------------------------------------------------------


@kernel()
def pack(image: Plane, packed: np.ndarray, planes: np.ndarray, shape: Shape) -> None:
    """``image`` and its gradient, with margins of 0, once pixel by pixel and once plane by plane.

    packed: (H + 2*MARGIN, W + 2*MARGIN, 4), pixels (I, Ix, Iy, 0).  planes: (3, H + 2*MARGIN + 1, W + 2*MARGIN + 1).
    The gradient is half the difference of the neighbours, edges replicated.
    """
    height, width, pitch = shape
    _set(packed.reshape(packed.size), 0, packed.size, ZERO)
    _set(planes.reshape(planes.size), 0, planes.size, ZERO)
    for y in range(height):
        o = (y + 1) * pitch + LEFT
        up, down = max(y, 1) * pitch + LEFT, min(y + 2, height) * pitch + LEFT
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            gx, gy = HALF * (image[o + right] - image[o + left]), HALF * (image[down + x] - image[up + x])
            pixel, plane = packed[y + MARGIN, x + MARGIN], planes[:, y + MARGIN, x + MARGIN]
            pixel[0], pixel[1], pixel[2] = image[o + x], gx, gy
            plane[0], plane[1], plane[2] = image[o + x], gx, gy


@kernel(forceinline=True)
def _weights(t: Vector) -> tuple[Vector, Vector, Vector, Vector]:
    """The four cubic weights of the offsets ``t``, computed as OpenCV does."""
    one, a = splat(ONE), splat(_A)
    s, t2 = one - t, t * t
    w0, w3 = a * (t * (s * s)), a * (s * t2)
    w1 = fused(fused(splat(_A2), t, splat(-_A3)), t2, one)
    return w0, w1, ((one - w0) - w1) - w3, w3


@kernel(forceinline=True)
def _window(t: Vector, shift: Vector, least: Vector) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    """The weights of the five taps of pixels that are shifted by ``least`` or one more; 0 where a tap is not theirs."""
    w0, w1, w2, w3 = _weights(t)
    zero = splat(ZERO)
    return (
        where_less(least, shift, zero, w0),
        where_less(least, shift, w0, w1),
        where_less(least, shift, w1, w2),
        where_less(least, shift, w2, w3),
        where_less(least, shift, w3, zero),
    )


@kernel(forceinline=True)
def _store_weights(weights: Plane, at: int, pitch: int, t: Vector) -> None:
    """The four cubic weights of the offsets ``t`` to ``weights[at + i * pitch]``."""
    w0, w1, w2, w3 = _weights(t)
    store(weights, at, w0)
    store(weights, at + pitch, w1)
    store(weights, at + 2 * pitch, w2)
    store(weights, at + 3 * pitch, w3)


@kernel(forceinline=True)
def _least(shift: Vector) -> float:
    """The least of ``shift`` where no two lanes differ by more than one."""
    first = first_of(shift)
    return first - ONE if any_less(shift, splat(first)) else first


@kernel(forceinline=True)
def _apart(shift: Vector, least: Vector) -> bool:
    """Whether lanes of ``shift`` are anything else than ``least`` or one more."""
    return any_less(shift, least) or any_less(least + splat(ONE), shift)


@kernel()
def linearise(
    packed: np.ndarray,
    reference: Plane,
    u1: Plane,
    u2: Plane,
    warped: Planes,
    planes: np.ndarray,
    places: np.ndarray,
    weights: Plane,
    pixels: Plane,
    shape: Shape,
) -> None:
    """Sample I1 and its gradient at x + u (cv2.remap, INTER_CUBIC, zeros outside) and linearise I1 around u.

    Writes Ix, Iy and rho_c = I1 - Ix*u - Iy*v - reference.
    packed, planes: of ``pack``, flat; reference: plane of I0.  places (LANES int32), weights (8 vectors), pixels
    (4 vectors): scratch.

    Motion being small, LANES neighbours mostly have two whole shifts along an axis, such as -1 and 0: their taps
    are then vectors of neighbours in a common window of 5 x 5, 0 times those that are not theirs, which adds
    nothing.  Else each pixel is sampled on its own.
    """
    Ix, Iy, rho_c = warped
    height, columns, pitch = shape
    width = pitch - 2 * LEFT
    stride, row_stride = 4 * (columns + 2 * MARGIN), columns + 2 * MARGIN + 1
    plane = (height + 2 * MARGIN + 1) * row_stride
    outside = splat(np.float32(1 - MARGIN))  # from here on all four taps are in the margin
    right, bottom = splat(np.float32(columns + MARGIN - 3)), splat(np.float32(height + MARGIN - 3))
    first = splat(np.float32(MARGIN - 1))
    for y in range(height):
        o = (y + 1) * pitch + LEFT
        for x in range(0, width, LANES):
            i, at_x, at_y = o + x, splat(np.float32(x)) + load(_COUNT, 0), splat(np.float32(y))
            u, v = load(u1, i), load(u2, i)
            px, py = u + at_x, v + at_y
            column, row = floor(px), floor(py)
            tx, ty = px - column, py - row
            column, row = lower(right, higher(outside, column)), lower(bottom, higher(outside, row))
            shift_x, shift_y = column - at_x, row - at_y
            if x + LANES > columns:  # lanes right of the image do as the first one
                end = splat(np.float32(columns) - HALF)
                shift_x = where_less(at_x, end, shift_x, splat(first_of(shift_x)))
                shift_y = where_less(at_x, end, shift_y, splat(first_of(shift_y)))
            least_x, least_y = _least(shift_x), _least(shift_y)
            if _apart(shift_x, splat(least_x)) or _apart(shift_y, splat(least_y)):
                store_places(places, 0, row + first, column + first, stride)
                _store_weights(weights, 0, LANES, tx)
                _store_weights(weights, 4 * LANES, LANES, ty)
                for lane in range(min(LANES, columns - x)):
                    store_sampled(pixels, 4 * lane, packed, places[lane], stride, weights, lane, LANES)
                sample, gx, gy = load_channels(pixels, 0)
            else:
                start = (y + int(least_y) + MARGIN - 1) * row_stride + x + int(least_x) + MARGIN - 1
                wx, wy = _window(tx, shift_x, splat(least_x)), _window(ty, shift_y, splat(least_y))
                sample, gx, gy = sample_window(planes, start, row_stride, plane, wx, wy)
            if x + LANES > columns:
                end = splat(np.float32(columns) - HALF)
                gx, gy = where_less(at_x, end, gx, splat(ZERO)), where_less(at_x, end, gy, splat(ZERO))
                sample = where_less(at_x, end, sample, splat(ZERO))
            store(Ix, i, gx)
            store(Iy, i, gy)
            store(rho_c, i, sample - gx * u - gy * v - load(reference, i))


# --- images and levels -----------------------------------------------------------------------------


@kernel(forceinline=True)
def _clear_guards(plane: Plane, shape: Shape) -> None:
    height, columns, pitch = shape
    _set(plane, 0, pitch + LEFT, ZERO)
    for y in range(1, height + 1):
        _set(plane, y * pitch + LEFT + columns, (y + 1) * pitch + LEFT, ZERO)
    _set(plane, (height + 1) * pitch, len(plane), ZERO)


@kernel()
def fill(plane: Plane, image: np.ndarray, shape: Shape) -> None:
    """``image`` (H, W) into ``plane``; the guards are cleared."""
    height, columns, pitch = shape
    _clear_guards(plane, shape)
    for y in range(height):
        _copy(plane, (y + 1) * pitch + LEFT, image[y], 0, columns)


@kernel()
def _stretch(row: np.ndarray, out: np.ndarray, columns: Taps) -> None:
    """``row`` resized to ``out``."""
    left, right, weights = columns
    for x in range(len(left)):
        start = row[left[x]]
        out[x] = fused_scalar(weights[x], row[right[x]] - start, start)


@kernel()
def resize(
    image: Plane,
    shape: Shape,
    out: Plane,
    out_shape: Shape,
    rows: Taps,
    columns: Taps,
    factor: float,
) -> None:
    """Bilinear: pixel (y, x) of ``out`` from the rows and the columns that its taps name, times ``factor``.

    factor: float64, in which OpenCV multiplies too.  The guards of ``out`` are cleared.
    """
    (_, columns_in, pitch), (out_height, width, out_pitch) = shape, out_shape
    upper, under, line = np.zeros((3, width + LANES), np.float32)
    above, below = -1, -1  # the rows of ``image`` in them
    once = np.float64(np.float32(factor)) == factor  # then float32 rounds the product as float64 does
    _clear_guards(out, out_shape)
    for y in range(out_height):
        top, bottom = np.intp(rows[0][y]), np.intp(rows[1][y])
        if top == below:
            upper, under, above, below = under, upper, below, above
        if top != above:
            o = (top + 1) * pitch + LEFT
            _stretch(image[o : o + columns_in], upper, columns)
            above = top
        if bottom != below:
            o = (bottom + 1) * pitch + LEFT
            _stretch(image[o : o + columns_in], under, columns)
            below = bottom
        wy = splat(rows[2][y])
        by = splat(np.float32(factor) if once else ONE)
        for x in range(0, width, LANES):
            start = load(upper, x)
            store(line, x, fused(wy, load(under, x) - start, start) * by)
        o = (y + 1) * out_pitch + LEFT
        if once:
            _copy(out, o, line, 0, width)
        else:
            for x in range(width):
                out[o + x] = np.float32(factor * np.float64(line[x]))


@kernel()
def solve_level(
    images: Planes,
    u: Planes,
    p: Planes,
    warped: Planes,
    rows: Planes,
    scratch: Planes,
    packed: np.ndarray,
    planes: np.ndarray,
    samples: Planes,
    places: np.ndarray,
    shape: Shape,
    weights: tuple[float, float, float, float],
    enough: float,
    counts: tuple[int, int, int],
    median: int,
) -> None:
    """All warps of a level, from the flow in ``u`` to the one in ``u``.

    images: I0, I1.  u: u, v and the third channel.  packed, planes: of ``pack``; samples: the latter flat, and the
    scratch of ``linearise``, as ``places`` is.  weights: lambda * theta, tau / theta, theta, gamma.  counts: warps,
    inner and outer iterations.  The others as in ``iterate`` and ``solve_warp``.
    """
    l_t, taut, theta, gamma = weights
    warps, inner, outer = counts
    for plane in p:
        _set(plane, 0, len(plane), ZERO)
    for row, value in ((rows[0], theta), (rows[1], gamma)):
        _set(row, 0, shape[1], value)
        _set(row, shape[1], len(row), ZERO)
    pack(images[1], packed, planes, shape)
    for _ in range(warps):
        linearise(packed, images[0], u[0], u[1], warped, samples[0], places, samples[1], samples[2], shape)
        solve_warp(
            u[0], u[1], u[2], p, warped, rows, scratch, shape, l_t, taut, gamma > 0, enough, inner, outer, median
        )
