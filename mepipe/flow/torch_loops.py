"""The loops of a level that engine ``torch`` compiles ahead of time, written as plain functions of planes.

A plane is (rows, pitch) float32, contiguous in memory; what lies right of the image in it is kept 0.  A neighbour is
the same memory from another element on, given as a plane of its own, so that no loop has a slice or a border: every
index is a plain sum of counters, which is what torch's compiler makes vector code of.  Sums and products are in
OpenCV's order.  Functions write into the tensors called written.  Called as they are, they do the same, slowly and
with products and sums of the warp rounded apart; the tests do that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from mepipe.flow.median import pair_program
from mepipe.flow.torch_ops import CUBIC, run_exchanges
from mepipe.flow.torch_solver import FLT_EPSILON

WINDOW = 5  # taps along an axis: four of a pixel, and one more for pixels that are shifted by one more than others
# Times x: half of x's last digit to a whole one, so that x plus or minus that is the float32 next to x
_DIGIT = 2.0**-24 * (1 + 2.0**-22)
_SIGN = 0x7FFFFFFF  # all bits of a float32 but its sign


class Loop(NamedTuple):
    """A function of tensors, and their ``kinds`` in order, of KINDS.

    fused: whether a product and the sum it goes into are rounded once, where the processor can do that.
    """

    name: str
    function: Callable[..., Tensor | tuple[Tensor, ...] | None]
    kinds: tuple[str, ...]
    fused: bool = False


KEYS = ("keys", "pairs")  # the kinds that are int32
# Kind -> its shape for h rows and pitch p
KINDS: dict[str, Callable[..., tuple]] = {
    "plane": lambda h, p: (h, p),
    "taps": lambda h, p: (h + WINDOW - 1, p),  # and the rows below that a window reaches
    "keys": lambda h, p: (h, p),  # int32, as are pairs
    "pairs": lambda h, p: (h, 2, p),  # of rows
    "row": lambda h, p: (p,),
    "column": lambda h, p: (h, 1),
    "number": lambda h, p: (1,),
}


@cache
def warp() -> Loop:
    """I1, Ix and Iy at x + flow, rounded as OpenCV does, where all shifts along an axis are ``least`` or one more.

    Inputs: 0, which keeps a first product from being fused with the second instead of the sum; least shift along x and
    y; the column and row of each pixel; inside: 1 in the image, 0 right of it; u, v;
    for I1, Ix and Iy five planes of taps, one column further from each to the next.  Written: the three warped.
    """
    inputs = ("number", "number", "number", "row", "column", "row", "plane", "plane", *["taps"] * 3 * WINDOW)
    return Loop("warp", _warp, (*inputs, *["plane"] * 3), fused=True)


def _warp(
    zero: Tensor,
    least_x: Tensor,
    least_y: Tensor,
    x: Tensor,
    y: Tensor,
    inside: Tensor,
    u: Tensor,
    v: Tensor,
    *more: Tensor,
) -> None:
    at_x, at_y = x + u, y + v
    base_x, base_y = at_x.floor(), at_y.floor()
    wx = _window(at_x - base_x, base_x - x > least_x)
    wy = _window(at_y - base_y, base_y - y > least_y)
    for i, out in enumerate(more[-3:]):
        out.copy_(_weighted(zero, more[i * WINDOW : (i + 1) * WINDOW], wx, wy) * inside)


def _weighted(zero: Tensor, taps: tuple[Tensor, ...], wx: list[Tensor], wy: list[Tensor]) -> Tensor:
    """The sum over a window of taps, each from some columns further on, with the weights along x and y."""
    rows = taps[0].shape[0] - (WINDOW - 1)  # not len(): that is a number to the compiler
    total = zero
    for j, down in enumerate(wy):
        line = zero
        for tap, right in zip(taps, wx, strict=True):
            line = line + tap[j : j + rows] * right
        total = total + line * down
    return total


def _window(t: Tensor, further: Tensor) -> list[Tensor]:
    """The weights of the five taps: a pixel's four, one tap to the right if it is shifted ``further`` than others."""
    r = 1.0 - t
    w0, w3 = CUBIC * (t * (r * r)), CUBIC * (r * (t * t))
    w1 = ((CUBIC + 2) * t - (CUBIC + 3)) * (t * t) + 1.0
    w2 = 1.0 - w0 - w1 - w3
    none = torch.zeros_like(w0)
    taps = [none, w0, w1, w2, w3, none]
    return [torch.where(further, left, here) for left, here in pairwise(taps)]


@cache
def linearise() -> Loop:
    """rho_c = I1w - Ix u - Iy v - I0.  Inputs: I0; I1, Ix and Iy warped; u, v.  Written: rho_c."""
    return Loop("linearise", _linearise, ("plane",) * 7)


def _linearise(I0: Tensor, I1w: Tensor, Ix: Tensor, Iy: Tensor, u: Tensor, v: Tensor, rho_c: Tensor) -> None:
    rho_c.copy_(I1w - Ix * u - Iy * v - I0)


DUALS = 4  # planes of a channel that the primal step reads of the dual


@cache
def primal(channels: int) -> Loop:
    """The primal step: U += F D + theta div P.  Returns the sum of the squared change of U.

    Inputs: l_t, theta; 1 in the first column, 0 elsewhere; rho_c; D, one plane a channel: Ix and Iy warped, and gamma;
    for each channel px, px of the pixel to the left, py, py of the pixel above.  Written: U, one plane a channel; the
    squared change of each pixel.
    """
    kinds = ("number", "number", "row", "plane", *["plane"] * (2 + DUALS) * channels, "plane")
    return Loop(f"primal{channels}", partial(_primal, channels), kinds)


def _primal(channels: int, l_t: Tensor, theta: Tensor, first: Tensor, rho_c: Tensor, *planes: Tensor) -> Tensor:
    D, duals, (*U, changes) = planes[:channels], planes[channels : -channels - 1], planes[-channels - 1 :]
    F = _threshold(rho_c, D, U, l_t)
    total = torch.zeros(())
    for i, (d, u) in enumerate(zip(D, U, strict=True)):
        px, left, py, above = duals[i * DUALS : (i + 1) * DUALS]
        # OpenCV adds up the first column in another order
        divergence = torch.where(first > 0, (px + py) - above, (px - left) + (py - above))
        new = (u + F * d) + theta * divergence
        change = new - u
        total = total + change * change
        u.copy_(new)
    changes.copy_(total)
    return total.sum()


def _threshold(rho_c: Tensor, D: tuple[Tensor, ...], U: list[Tensor], l_t: Tensor) -> Tensor:
    """The factor F of the step F D: -rho / |grad|^2 held to +-l_t, 0 where there is no gradient."""
    Ix, Iy, *gamma = D
    grad = Ix * Ix + Iy * Iy
    rho = rho_c + (Ix * U[0] + Iy * U[1])
    for constant, u in zip(gamma, U[2:], strict=True):
        rho = rho + constant * u
    bound = l_t * grad
    F = torch.where(grad > FLT_EPSILON, -rho / grad, 0.0)
    return torch.where(rho < -bound, l_t, torch.where(rho > bound, -l_t, F))


@cache
def dual() -> Loop:
    """The dual step of a channel: P = (P + taut grad U) / (1 + taut |grad U|).

    Inputs: tau / theta; 1 where a pixel has a neighbour to the right, 0 elsewhere, and the same for below; U, U of the
    pixel to the right, of the pixel below.  Written: px, py.
    """
    return Loop("dual", _dual, ("number", "row", "column", *["plane"] * 5))


def _dual(
    taut: Tensor, across: Tensor, down: Tensor, u: Tensor, right: Tensor, below: Tensor, px: Tensor, py: Tensor
) -> None:
    gx, gy = (right - u) * across, (below - u) * down
    norm = 1.0 + taut * hypot(gx, gy)
    px.copy_((px + taut * gx) / norm)
    py.copy_((py + taut * gy) / norm)


def hypot(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a^2 + b^2) as the C library rounds it: the root of the float32 sum, put right by what that sum is off.

    One in tens of millions lies too close to half way between two numbers for that and takes the wrong one of them.
    In float64, as the C library does it, torch's code would wait for its stack at each change of the type.
    """
    (a2, a_off), (b2, b_off) = _square(a), _square(b)
    s = a2 + b2
    b_part = s - a2
    s_off = (a2 - (s - b_part)) + (b2 - b_part)
    r = torch.sqrt(s)
    r2, r_off = _square(r)
    left = ((s - r2) - r_off) + ((a_off + b_off) + s_off)  # a^2 + b^2 - r^2
    digit = r * _DIGIT
    above, below = r + digit, r - digit
    # from r^2 to the square of what lies half way to ``above``, but for the square of half a last digit
    to_above, to_below = r * (above - r), r * (r - below)
    return torch.where(left > to_above, above, torch.where(-left > to_below, below, r))


def _square(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x * x as rounded, what that lacks of the square): Dekker's exact product, Numerische Mathematik 18, 1971."""
    shifted = x * 4097.0  # 2^12 + 1: halves of 12 digits
    high = shifted - (shifted - x)
    low = x - high
    square = x * x
    return square, ((high * high - square) + 2.0 * high * low) + low * low


@cache
def sort_rows(k: int) -> Loop:
    """Sort each pixel and the k - 1 to its right.  Inputs: k planes, each a column further; written: k planes of keys.

    A key is the int32 that orders as its float32 does, since torch's minimum of floats spends two more instructions on
    NaN.
    """
    return Loop(f"sort_rows{k}", partial(_sort_rows, k), (*["plane"] * k, *["keys"] * k))


def _sort_rows(k: int, *planes: Tensor) -> None:
    keys = [_key(plane) for plane in planes[:k]]
    for out, value in zip(planes[k:], run_exchanges(keys, pair_program(k)[0]), strict=True):
        out.copy_(value)


@cache
def pick_median(k: int) -> Loop:
    """The medians of the even and of the odd rows, from the keys that sort_rows made.

    Inputs: the k planes of keys as pairs of rows, from row 0 on, then from row 2 on, ... to row k - 1.
    """
    return Loop(f"pick_median{k}", partial(_pick_median, k), ("pairs",) * (k * (k + 1) // 2))


def _pick_median(k: int, *keys: Tensor) -> tuple[Tensor, Tensor]:
    rows = [[key[:, parity] for key in keys[i : i + k]] for i in range(0, len(keys), k) for parity in (0, 1)]
    shared = rows[1:k]  # of the two windows of k rows each
    for network, order in pair_program(k)[1]:
        merged = [run_exchanges(a + b, network) for a, b in zip(shared[::2], shared[1::2], strict=True)]
        shared = [[wires[i] for i in order] for wires in merged]
    return _float(_pick(shared[0], rows[0])), _float(_pick(shared[0], rows[k]))


def _pick(first: list[Tensor], other: list[Tensor]) -> Tensor:
    """The value at place k among k + 1 sorted values and k others, see torch_median.pick."""
    k = len(other)
    best = first[k]
    for j in range(k):
        best = torch.minimum(best, torch.maximum(first[k - 1 - j], other[j]))
    return best


def _key(values: Tensor) -> Tensor:
    bits = values.view(torch.int32)
    return bits ^ ((bits >> 31) & _SIGN)


def _float(keys: Tensor) -> Tensor:
    return (keys ^ ((keys >> 31) & _SIGN)).view(torch.float32)
