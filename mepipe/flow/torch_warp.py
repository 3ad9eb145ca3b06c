"""The cubic warp of engine ``torch`` on the CPU: sums of shifted images instead of 48 reads by index for each pixel.

Micro-motion is small, so few whole-pixel shifts occur among the pixels of a strip of rows: mostly two along an axis, -1
and 0.  Each pixel then gets its four weights within a common window of five taps, 0 where a tap is not its own, and
the warp is 5 x 5 products of whole arrays, the shift being an offset into the image.  A strip that moves further than
REACH is read by index as in torch_ops.  Both give the same bits: a product with 0 adds nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mepipe.flow.torch_ops import CUBIC, sample_cubic
from mepipe.flow.torch_scratch import Scratch

REACH = 8  # px: a window of 16 x 16 taps takes as long as reading by index
LINES = 5  # of a window that are summed along x at once; what more there are follow in further groups

_ONE, _INNER = torch.tensor(1.0), torch.tensor(-(CUBIC + 3))


class Sources:
    """Images (channels, H, W) float32 that are warped alike; taps outside count 0.

    Rows are ``pitch`` apart and follow each other in memory: the zeros right of a row are also those left of the next.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.height, self.width, self.pitch = height, width, width + REACH
        self.padded = torch.zeros(channels, height + 2 * (REACH + 1), self.pitch)
        self.images = self.padded[:, REACH + 1 : -REACH - 1, :width]
        self.x, self.y = torch.arange(self.pitch).float(), torch.arange(height).float()[:, None]

    def set(self, images: Tensor) -> None:
        self.images.copy_(images)

    def shifted(self, lines: int, size: int, top: int, dx: int, dy: int) -> Tensor:
        """(lines, C, size): from row ``top`` on, shifted by (-dx, -dy), and then by one row more from line to line."""
        first = (top + dy + REACH + 1) * self.pitch + dx
        return self.padded.as_strided((lines, len(self.padded), size), (self.pitch, self.padded.stride(0), 1), first)


class Warp:
    """The warp of ``rows`` rows of ``sources`` at a time; works in ``scratch``."""

    def __init__(self, sources: Sources, rows: int, scratch: Scratch) -> None:
        self.sources, self.rows = sources, rows
        both, images = (2, rows * sources.pitch), (len(sources.images), rows * sources.pitch)
        taps = [both] * (2 * REACH + 1)  # along x and along y; the first few are used most
        shapes = [*[both] * 5, images, (LINES, *images), *taps]
        self.t, self.shift, self.s, self.e, self.mask, self.out, self.lines, *self.weights = scratch.take(*shapes)

    def __call__(self, top: int, flow: Tensor) -> Tensor:
        """The images at x + flow, (2, rows * pitch) px, of the pixels from row ``top`` on: (C, rows * pitch).

        What lies right of the image is of no use but finite: a NaN there would reach the next row through the dual
        step.  The result is overwritten by whoever uses the scratch next.
        """
        low, high = self._shifts(top, flow)
        if min(low) - 1 < -REACH or max(high) + 2 > REACH:
            return self._by_index(top)
        columns, lines = (4 + b - a for a, b in zip(low, high, strict=True))
        weights = self._windows(low, max(columns, lines))
        for first in range(0, lines, LINES):
            count = min(LINES, lines - first)
            self._along_x(weights[:columns], count, top, low[0] - 1, low[1] - 1 + first)
            for j in range(first, first + count):
                line = self.lines[j - first]
                if j == 0:
                    torch.mul(line, weights[j][1], out=self.out)
                else:
                    self.out.addcmul_(line, weights[j][1])
        return self.out

    def _along_x(self, weights: list[Tensor], count: int, top: int, dx: int, dy: int) -> None:
        """The first ``count`` lines: sums over the taps from ``dx`` on, of the rows from ``dy`` on."""
        lines = self.lines[:count]
        for i, w in enumerate(weights):
            taps = self.sources.shifted(count, lines.shape[-1], top, dx + i, dy)
            if i == 0:
                torch.mul(taps, w[0], out=lines)
            else:
                lines.addcmul_(taps, w[0])

    def _by_index(self, top: int) -> Tensor:
        x, y = self._pixels(self.shift)
        self._add_grid(x, y, top)
        at = self._pixels(self.shift) + self._pixels(self.t)
        self.out.zero_()
        self._pixels(self.out).copy_(sample_cubic(self.sources.images[None], *at[:, None])[0])
        return self.out

    def _pixels(self, flat: Tensor) -> Tensor:
        """(C, rows * pitch) -> (C, rows, W), what lies right of the image left out."""
        return flat.unflatten(1, (self.rows, self.sources.pitch))[..., : self.sources.width]

    def _add_grid(self, x: Tensor, y: Tensor, top: int, sign: int = 1) -> None:
        """Add the place of each pixel to x and y, (rows, W or pitch)."""
        x.add_(self.sources.x[: x.shape[1]], alpha=sign)
        y.add_(self.sources.y[top : top + self.rows], alpha=sign)

    def _shifts(self, top: int, flow: Tensor) -> tuple[list[int], list[int]]:
        """Put the fraction of the positions into t and their whole shift into shift.

        Returns the least and the largest whole shift, each along x and along y.
        """
        self.t.copy_(flow)
        rows = (self.rows, self.sources.pitch)
        x, y = self.t.unflatten(1, rows)
        self._add_grid(x, y, top)
        torch.floor(self.t, out=self.shift)
        self.t.sub_(self.shift)
        x, y = self.shift.unflatten(1, rows)
        self._add_grid(x, y, top, sign=-1)
        shift = self._pixels(self.shift)
        return [int(v) for v in shift.amin((1, 2))], [int(v) for v in shift.amax((1, 2))]

    def _windows(self, low: list[int], taps: int) -> list[Tensor]:
        """The weights of ``taps`` (4 or more) neighbours, each (2, rows * pitch): along x and along y."""
        w = self._cubic_weights()
        mask = self.mask
        for extra in range(taps - 4):  # one tap to the right for each pixel that is shifted by more than ``extra``
            for axis in (0, 1):
                torch.sub(self.shift[axis], low[axis] + extra, out=mask[axis])
            mask.clamp_(0.0, 1.0)
            torch.mul(w[3 + extra], mask, out=w[4 + extra])
            for i in range(3 + extra, 0, -1):
                w[i].lerp_(w[i - 1], mask)
            w[0].addcmul_(w[0], mask, value=-1.0)
        return w

    def _cubic_weights(self) -> list[Tensor]:
        """The first four weights, of the pixels at -1, 0, 1, 2 from the whole position, rounded as in torch_ops."""
        t, s, e, (w0, w1, w2, w3) = self.t, self.s, self.e, self.weights[:4]
        torch.sub(_ONE, t, out=s)
        torch.mul(t, torch.mul(s, s, out=e), out=w0).mul_(CUBIC)
        torch.mul(s, torch.mul(t, t, out=e), out=w3).mul_(CUBIC)
        torch.addcmul(_ONE, torch.add(_INNER, t, alpha=CUBIC + 2, out=w1), e, out=w1)
        torch.sub(_ONE, w0, out=w2).sub_(w1).sub_(w3)
        return self.weights
