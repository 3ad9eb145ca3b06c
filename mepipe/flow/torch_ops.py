"""The image operations of TV-L1 on batches (B, H, W) of float32, written for reading.

Each follows the OpenCV function it is named after, border rules included, so that this is also
the reference that faster kernels are tested against.  Sums are in OpenCV's order, and ``addcmul`` stands where its
vector code fuses a product with a sum: torch's rounds once where the CPU has FMA, as OpenCV's does.  On such CPUs
the numbers are OpenCV 5's.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mepipe.flow.images import linear_taps
from mepipe.flow.median import Exchange, median_program


def resize(images: Tensor, size: tuple[int, int], scale: float | None = None, factor: float = 1.0) -> Tensor:
    """cv2.resize, INTER_LINEAR, times ``factor``: half-pixel centres, clamped at the ends, no antialiasing.

    scale: source pixels per target pixel in both directions.  OpenCV derives it from the sizes when it is
    given a size (None here), but uses the given ratio when it is given one, whatever the sizes round to.
    factor: float64, in which OpenCV multiplies too.
    """
    height, width = images.shape[-2:]
    y0, y1, fy = taps(height, size[0], scale or height / size[0], images.device)
    x0, x1, fx = taps(width, size[1], scale or width / size[1], images.device)
    left, right = (images.gather(-1, x.expand(*images.shape[:-1], -1)) for x in (x0, x1))  # faster than images[..., x]
    rows = torch.addcmul(left, right - left, fx)
    upper, under = rows.index_select(-2, y0), rows.index_select(-2, y1)
    resized = torch.addcmul(upper, under - upper, fy[:, None])
    if factor == float(np.float32(factor)):  # then the product is rounded once in float32 too
        return resized * factor
    return (resized.double() * factor).float()


@lru_cache(maxsize=64)
def taps(source: int, target: int, scale: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """``linear_taps`` on ``device``."""
    left, right, weight = (torch.from_numpy(x).to(device) for x in linear_taps(source, target, scale))
    return left, right, weight


def central_gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """(d/dx, d/dy): half the difference of the two neighbours, edges replicated."""
    padded = F.pad(images[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    dx = 0.5 * (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])
    dy = 0.5 * (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])
    return dx, dy


def forward_gradient(u: Tensor) -> tuple[Tensor, Tensor]:
    """(d/dx, d/dy) by forward differences; 0 in the last column and row."""
    dx, dy = torch.zeros_like(u), torch.zeros_like(u)
    torch.sub(u[:, :, 1:], u[:, :, :-1], out=dx[:, :, :-1])
    torch.sub(u[:, 1:, :], u[:, :-1, :], out=dy[:, :-1, :])
    return dx, dy


def divergence(px: Tensor, py: Tensor) -> Tensor:
    """Backward differences with p = 0 left of and above the image; nothing special on the right and bottom."""
    above = F.pad(py, (0, 0, 1, -1))
    div = (px - F.pad(px, (1, -1))) + (py - above)
    div[:, :, 0] = (px[:, :, 0] + py[:, :, 0]) - above[:, :, 0]  # OpenCV adds up the first column in another order
    return div


CUBIC = -0.75  # the A of OpenCV's INTER_CUBIC on the CPU (its CUDA texture code uses -0.5)
MARGIN = 4  # zeros around the image: all taps of a position further out are 0, so positions are clamped to it


def warp_cubic(images: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """cv2.remap(images, x + u, y + v, INTER_CUBIC) with its default border: taps outside count 0.

    images: (B, C, H, W), sampled alike; u, v: (B, H, W) px.  Returns (B, C, H, W).  As in OpenCV >= 5 the
    position is not quantised.
    """
    height, width = u.shape[-2:]
    x = torch.arange(width, dtype=u.dtype, device=u.device)
    y = torch.arange(height, dtype=v.dtype, device=v.device)[:, None]
    return sample_cubic(images, x + u, y + v)


def sample_cubic(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``images`` (B, C, H, W) at the positions x, y, (B, h, w) px: (B, C, h, w); see :func:`warp_cubic`."""
    batch, channels, height, width = images.shape
    x0, wx = _cubic_taps(x, width)
    y0, wy = _cubic_taps(y, height)
    padded_width = width + 2 * MARGIN
    pixels = F.pad(images, (MARGIN,) * 4).flatten(2)
    first = ((y0 + (MARGIN - 1)) * padded_width + x0 + (MARGIN - 1)).flatten(1)[:, None].expand(-1, channels, -1)
    out = images.new_zeros(batch, channels, *x.shape[1:])
    for j in range(4):
        row = torch.zeros_like(out)
        for i in range(4):
            taps = pixels.gather(2, first + (j * padded_width + i)).view_as(out)
            row = torch.addcmul(row, taps, wx[i][:, None])
        out = torch.addcmul(out, row, wy[j][:, None])
    return out


def _cubic_taps(at: Tensor, size: int) -> tuple[Tensor, list[Tensor]]:
    """(index of the second of four taps, their weights) for positions ``at`` along an axis of ``size``."""
    floor = at.floor()
    t = at - floor
    s, t2 = 1 - t, t * t
    w0, w3 = CUBIC * (t * (s * s)), CUBIC * (s * t2)
    w1 = torch.addcmul(torch.ones_like(t), torch.add(torch.full_like(t, -(CUBIC + 3)), t, alpha=CUBIC + 2), t2)
    index = floor.clamp(1 - MARGIN, size + MARGIN - 3).long()
    return index, [w0, w1, ((1 - w0) - w1) - w3, w3]


def median(images: Tensor, k: int) -> Tensor:
    """cv2.medianBlur on float32: median of k x k (3 or 5), edges replicated."""
    height, width = images.shape[-2:]
    columns, rest, wire = median_program(k)
    r = k // 2
    padded = F.pad(images[:, None], (r, r, r, r), mode="replicate")[:, 0]
    rows = run_exchanges([padded[:, i : i + height] for i in range(k)], columns)
    cells = [row[:, :, j : j + width] for row in rows for j in range(k)]
    return run_exchanges(cells, rest)[wire]


def run_exchanges(wires: list[Tensor], network: list[Exchange]) -> list[Tensor]:
    """The wires after ``network``; results that it marks as unused are not computed."""
    wires = list(wires)
    for low, high, keep_low, keep_high in network:
        a, b = wires[low], wires[high]
        if keep_low:
            wires[low] = torch.minimum(a, b)
        if keep_high:
            wires[high] = torch.maximum(a, b)
    return wires


NEAR = 0.01  # share of the sum that ends a warp; within it rounding can decide, and OpenCV's is followed


def squared_change(values: Tensor, enough: float) -> Tensor:
    """(B, H, W) -> (B,) float64: the sum of each image, on the CPU as OpenCV rounds it where that is near ``enough``.

    Otherwise rows in float32, then rows together in float64: a plain float32 sum takes an order that depends on the
    batch size, and with it the iteration at which an image stops.
    """
    total = values.sum(dim=2).double().sum(dim=1)
    if values.device.type == "cpu":  # one after the other is nothing for a GPU
        for i in (abs(total - enough) <= NEAR * enough).nonzero().flatten().tolist():
            total[i] = sum_in_order(values[i])
    return total


def sum_in_order(values: Tensor) -> float:
    """The float32 sum of the pixels (H, W) one after the other, as OpenCV adds them up."""
    return float(np.add.accumulate(values.numpy().ravel(), dtype=np.float32)[-1])
