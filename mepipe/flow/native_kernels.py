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
    first_lane,
    floor,
    fused,
    fused_scalar,
    higher,
    load,
    load_channels,
    lower,
    median_operations,
    neighbour,
    root,
    splat,
    store,
    store_places,
    store_sampled,
    sum_lanes,
    where_less,
)

# Hash of simd.py and median.py, which a test compares.  numba's cache would not notice a change there; writing the
# new hash here changes this file, and that it notices.
PRIMITIVES = "4b66a2aa4ca8261b"

Plane = np.ndarray  # flat float32 with guards, see above
Planes = tuple[np.ndarray, ...]
Shape = tuple[int, int, int]  # H, W, pitch
Vector = Any  # 16 float32 in registers
LEFT = LANES  # guard columns on each side; a vector that starts at the last pixel still ends in the plane
MARGIN = 4  # zero pixels around the packed image: positions further out read only zeros
FLT_EPSILON = np.float32(np.finfo(np.float32).eps)
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)

_A = np.float32(-0.75)  # OpenCV's INTER_CUBIC on the CPU
_A2, _A3 = np.float32(_A + 2), np.float32(_A + 3)
SOON = 4.0  # times the sum at which a warp stops: from here on every pixel's share is kept, see NEAR
NEAR = 0.01  # share of that sum within which rounding decides: then it is added up in OpenCV's order
_COUNT = np.arange(LANES, dtype=np.float32)


def kernel(**options: Any) -> Any:
    """Numba's njit, cached on disk where numba finds a folder for it, so that only the first process compiles."""

    def decorate(function: Any) -> Any:
        try:
            return njit(nogil=True, error_model="numpy", cache=True, **options)(function)
        except RuntimeError:  # neither the package nor the home folder is writable
            return njit(nogil=True, error_model="numpy", **options)(function)

    return decorate


# --- iterations ------------------------------------------------------------------------------------


@kernel(forceinline=True)
def _hypot(a: Vector, b: Vector) -> Vector:
    """sqrt(a^2 + b^2) as the C library rounds it: the root of the float32 sum, put right by what that sum is off."""
    a2, b2, zero = a * a, b * b, splat(ZERO)
    s = a2 + b2
    off = (fused(zero - a, a, a2) + fused(zero - b, b, b2)) + ((s - higher(a2, b2)) - lower(a2, b2))
    r = root(s)
    # r * above is the square of what lies half way to ``above``, but for the square of half a last digit
    above, below = neighbour(r, 1), neighbour(r, -1)
    r_or_below = where_less(fused(zero - r, below, s), off, below, r)
    return where_less(off, fused(zero - r, above, s), above, r_or_below)


@kernel(forceinline=True)
def _dual_step(px: Plane, py: Plane, py_old: Vector, ux: Vector, uy: Vector, taut: Vector, j: int) -> None:
    """Dual step at ``j``: p = (p + taut * grad u) / (1 + taut * |grad u|)."""
    norm = splat(ONE) + taut * _hypot(ux, uy)
    store(px, j, (load(px, j) + taut * ux) / norm)
    store(py, j, (py_old + taut * uy) / norm)


@kernel(forceinline=True)
def _step(
    u: Plane, px: Plane, py: Plane, push: Vector, theta: Vector, taut: Vector, i: int, j: int, first: bool, left: bool
) -> Vector:
    """Primal step u += push + theta * div p at ``i``, dual step at ``j`` one row above unless ``first`` row.

    left: ``i`` is in the first column, where OpenCV adds up the divergence in another order.
    Returns the squared change.
    """
    py_above = splat(ZERO) if first else load(py, j)
    p1, p2 = load(px, i), load(py, i)
    divergence = (p1 - load(px, i - 1)) + (p2 - py_above)
    if left:
        divergence = first_lane((p1 + p2) - py_above, divergence)
    old = load(u, i)
    below = (old + push) + theta * divergence
    store(u, i, below)
    if not first:
        here = load(u, j)
        _dual_step(px, py, py_above, load(u, j + 1) - here, below - here, taut, j)
    change = below - old
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
        change = _step(u1, p11, p12, f * gx, theta, tauts, i, j, first, left)
        change = change + _step(u2, p21, p22, f * gy, theta, tauts, i, j, first, left)
        if with_gamma:
            change = change + _step(u3, p31, p32, f * load(gamma_row, x), theta, tauts, i, j, first, left)
        if keep:
            store(changes, i, change)
        total = total + change
    return total


@kernel(forceinline=True)
def _last_row(u: Plane, px: Plane, py: Plane, taut: float, o: int, width: int) -> None:
    """Dual step of the last row, whose derivative downwards is 0."""
    for x in range(0, width, LANES):
        i = o + x
        _dual_step(px, py, load(py, i), load(u, i + 1) - load(u, i), splat(ZERO), splat(taut), i)


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

    scratch: (two planes, five rows) for the median and the changes; median: 5, 3, or less for none.
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
_sort5, _median5 = median_operations(5)


@kernel()
def _replicate_columns(u: Plane, shape: Shape) -> None:
    """Fill two guard columns on each side of every row with the edge pixel."""
    height, columns, pitch = shape
    for y in range(height):
        o = (y + 1) * pitch + LEFT
        for guard in (1, 2):
            u[o - guard] = u[o]
            u[o + columns - 1 + guard] = u[o + columns - 1]


@kernel()
def median5(u: Plane, plane: Plane, columns: Plane, shape: Shape) -> None:
    """cv2.medianBlur(u, 5) in place; ``plane`` and ``columns`` (5 * pitch) are overwritten."""
    height, _, pitch = shape
    _replicate_columns(u, shape)
    for y in range(height):
        r0, r1 = (max(y - 2, 0) + 1) * pitch, (max(y - 1, 0) + 1) * pitch
        r3, r4 = (min(y + 1, height - 1) + 1) * pitch, (min(y + 2, height - 1) + 1) * pitch
        r2 = (y + 1) * pitch
        for x in range(0, pitch, LANES):
            where = (r0 + x, r1 + x, r2 + x, r3 + x, r4 + x)
            _sort5(columns, x, pitch, u, where)
        for x in range(LEFT, pitch - LEFT, LANES):
            store(plane, r2 + x, _median5(columns, x, pitch))
    u[pitch : (height + 1) * pitch] = plane[pitch : (height + 1) * pitch]


@kernel()
def median3(u: Plane, plane: Plane, columns: Plane, shape: Shape) -> None:
    """cv2.medianBlur(u, 3) in place; ``plane`` and ``columns`` (3 * pitch or more) are overwritten."""
    height, _, pitch = shape
    _replicate_columns(u, shape)
    for y in range(height):
        r0, r1, r2 = (max(y - 1, 0) + 1) * pitch, (y + 1) * pitch, (min(y + 1, height - 1) + 1) * pitch
        for x in range(0, pitch, LANES):
            _sort3(columns, x, pitch, u, (r0 + x, r1 + x, r2 + x))
        for x in range(LEFT, pitch - LEFT, LANES):
            store(plane, r1 + x, _median3(columns, x, pitch))
    u[pitch : (height + 1) * pitch] = plane[pitch : (height + 1) * pitch]


# --- warping ---------------------------------------------------------------------------------------


@kernel()
def pack(image: np.ndarray, packed: np.ndarray) -> None:
    """``image`` (H, W) and its gradient as pixels (I, Ix, Iy, 0) in ``packed`` (H + 2*MARGIN, W + 2*MARGIN, 4).

    The gradient is half the difference of the neighbours, edges replicated.  The margin is left as it is: 0.
    """
    height, width = image.shape
    for y in range(height):
        up, down = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            packed[y + MARGIN, x + MARGIN, 0] = image[y, x]
            packed[y + MARGIN, x + MARGIN, 1] = HALF * (image[y, right] - image[y, left])
            packed[y + MARGIN, x + MARGIN, 2] = HALF * (image[down, x] - image[up, x])


@kernel(forceinline=True)
def _store_weights(weights: Plane, at: int, pitch: int, t: Vector) -> None:
    """The four cubic weights of the offsets ``t`` to ``weights[at + i * pitch]``, computed as OpenCV does."""
    one, a = splat(ONE), splat(_A)
    s, t2 = one - t, t * t
    w0, w3 = a * (t * (s * s)), a * (s * t2)
    w1 = fused(fused(splat(_A2), t, splat(-_A3)), t2, one)
    store(weights, at, w0)
    store(weights, at + pitch, w1)
    store(weights, at + 2 * pitch, ((one - w0) - w1) - w3)
    store(weights, at + 3 * pitch, w3)


@kernel(forceinline=True)
def _locate(
    places: np.ndarray,
    weights: Plane,
    u1: Plane,
    u2: Plane,
    y: int,
    o: int,
    width: int,
    height: int,
    columns: int,
    pitch: int,
) -> None:
    """For each pixel of a row where its 4 x 4 taps start in the packed image, and their weights.

    weights: eight rows, four along x and four along y.
    """
    stride = 4 * (columns + 2 * MARGIN)
    outside = splat(np.float32(1 - MARGIN))  # from here on all four taps are in the margin
    for x in range(0, width, LANES):
        px = load(u1, o + x) + (splat(np.float32(x)) + load(_COUNT, 0))
        py = load(u2, o + x) + splat(np.float32(y))
        column, row = floor(px), floor(py)
        tx, ty = px - column, py - row
        column = lower(splat(np.float32(columns + MARGIN - 3)), higher(outside, column))
        row = lower(splat(np.float32(height + MARGIN - 3)), higher(outside, row))
        first = splat(np.float32(MARGIN - 1))
        store_places(places, x, row + first, column + first, stride)
        _store_weights(weights, x, pitch, tx)
        _store_weights(weights, x + 4 * pitch, pitch, ty)


@kernel()
def linearise(
    packed: np.ndarray,
    reference: Plane,
    u1: Plane,
    u2: Plane,
    warped: Planes,
    places: np.ndarray,
    weights: Plane,
    pixels: Plane,
    shape: Shape,
) -> None:
    """Sample the packed image at x + u (cv2.remap, INTER_CUBIC, zeros outside) and linearise it around u.

    Writes Ix, Iy and rho_c = I1 - Ix*u - Iy*v - reference.
    packed: flat; reference: plane of I0.  places (int32), weights (8 rows), pixels (4 rows, 0 at the end): scratch.
    """
    Ix, Iy, rho_c = warped
    height, columns, pitch = shape
    width = pitch - 2 * LEFT
    stride = 4 * (columns + 2 * MARGIN)
    for y in range(height):
        o = (y + 1) * pitch + LEFT
        _locate(places, weights, u1, u2, y, o, width, height, columns, pitch)
        for x in range(columns):
            store_sampled(pixels, 4 * x, packed, places[x], stride, weights, x, pitch)
        for x in range(0, width, LANES):
            i = o + x
            sample, gx, gy = load_channels(pixels, 4 * x)
            store(Ix, i, gx)
            store(Iy, i, gy)
            store(rho_c, i, sample - gx * load(u1, i) - gy * load(u2, i) - load(reference, i))


# --- resizing --------------------------------------------------------------------------------------


@kernel()
def resize(
    image: np.ndarray,
    out: np.ndarray,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
    factor: float,
) -> None:
    """Bilinear: pixel (y, x) of ``out`` from rows[y], rows[y] + 1 and columns[x], columns[x] + 1, times ``factor``.

    factor: float64, in which OpenCV multiplies too.

    The weights are those of the second row and column; the index behind the last is held to the last.
    """
    height, width = image.shape
    for y in range(out.shape[0]):
        top, wy = rows[y], row_weights[y]
        bottom = min(top + 1, height - 1)
        for x in range(out.shape[1]):
            left, wx = columns[x], column_weights[x]
            right = min(left + 1, width - 1)
            upper = fused_scalar(wx, image[top, right] - image[top, left], image[top, left])
            under = fused_scalar(wx, image[bottom, right] - image[bottom, left], image[bottom, left])
            out[y, x] = np.float32(factor * np.float64(fused_scalar(wy, under - upper, upper)))
