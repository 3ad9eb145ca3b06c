"""The cubic warp of engine ``torch`` on the CPU: sums of shifted images instead of 48 reads by index for each pixel.

Micro-motion is small, so few whole-pixel shifts occur among the pixels of a strip of rows: mostly two along an axis, -1
and 0.  Each pixel then gets its four weights within a common window of five taps, 0 where a tap is not its own, and
the warp is 5 x 5 products of whole arrays, the shift being an offset into the image.  A strip that moves further than
REACH is read by index as in torch_ops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mepipe.flow.torch_ops import CUBIC, sample_cubic

REACH = 8  # px: a window of 16 x 16 taps takes as long as reading by index

_ONE = torch.tensor(1.0)


class Sources:
    """Images (channels, H, W) float32 that are warped alike; taps outside count 0."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.width = width
        # rows follow each other in memory, so the zeros right of a row are also those left of the next
        self.pitch = width + REACH
        padded = torch.zeros(channels, height + 2 * (REACH + 1), self.pitch)
        self.images, self.flat = padded[:, REACH + 1 : -REACH - 1, :width], padded.flatten(1)
        columns, rows = torch.arange(width).float(), torch.arange(height).float()
        self.grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))  # (2, H, W): x and y of each pixel

    def set(self, images: Tensor) -> None:
        self.images.copy_(images)

    def shifted(self, top: int, rows: int, dx: int, dy: int) -> Tensor:
        """(C, rows * pitch): rows from ``top`` on of the images shifted by (-dx, -dy)."""
        first = (top + dy + REACH + 1) * self.pitch + dx
        return self.flat[:, first : first + rows * self.pitch]


class Warp:
    """The warp of ``rows`` rows of ``sources`` at a time; holds what it works in."""

    def __init__(self, sources: Sources, rows: int) -> None:
        self.sources, self.rows = sources, rows
        size = rows * sources.pitch
        self.t, self.shift, self.r, self.e = torch.zeros(4, 2, size)
        self.positions = self._pixels(self.t)  # (2, rows, W): x and y in px, for the caller to set
        self.weights = list(torch.zeros(2 * REACH + 1, 2, size))  # of the taps of a window, along x and along y
        self.line, self.out = torch.zeros(2, len(sources.images), size)

    def __call__(self, top: int) -> Tensor:
        """The images at ``positions``, of the pixels from row ``top`` on: (C, rows, W).  Overwrites the positions.

        The result is overwritten by the next call.
        """
        low, high = self._shifts(top)
        if min(low) - 1 < -REACH or max(high) + 2 > REACH:
            least = torch.tensor(low)[:, None, None]
            whole = self.sources.grid[:, top : top + self.rows] + self._pixels(self.shift) + least
            return sample_cubic(self.sources.images[None], *(whole + self.positions)[:, None])[0]
        columns, lines = (4 + b - a for a, b in zip(low, high, strict=True))
        weights = self._windows(max(columns, lines))
        for j in range(lines):
            for i in range(columns):
                image = self.sources.shifted(top, self.rows, low[0] - 1 + i, low[1] - 1 + j)
                if i == 0:
                    torch.mul(image, weights[i][0], out=self.line)
                else:
                    self.line.addcmul_(image, weights[i][0])
            if j == 0:
                torch.mul(self.line, weights[j][1], out=self.out)
            else:
                self.out.addcmul_(self.line, weights[j][1])
        return self._pixels(self.out)

    def _pixels(self, flat: Tensor) -> Tensor:
        """(C, rows * pitch) -> (C, rows, W), what lies right of the image left out."""
        return flat.unflatten(1, (self.rows, self.sources.pitch))[..., : self.sources.width]

    def _shifts(self, top: int) -> tuple[list[int], list[int]]:
        """Leave the fraction of the positions in t, and put their whole shift, counted from the least, into shift.

        Returns the least and the largest whole shift, each along x and along y.
        """
        torch.floor(self.t, out=self.shift)
        self.t.sub_(self.shift)
        shift = self._pixels(self.shift)
        shift.sub_(self.sources.grid[:, top : top + self.rows])
        low = shift.amin((1, 2))
        self.shift.sub_(low[:, None])
        return [int(v) for v in low], [int(v) for v in low + shift.amax((1, 2))]

    def _windows(self, taps: int) -> list[Tensor]:
        """The weights of ``taps`` (4 or more) neighbours, each (2, rows * pitch): along x and along y."""
        w = self._cubic_weights()
        for extra in range(taps - 4):  # one tap to the right for each pixel that is shifted by more than ``extra``
            mask = torch.sub(self.shift, extra, out=self.r).clamp_(0.0, 1.0)
            torch.mul(w[3 + extra], mask, out=w[4 + extra])
            for i in range(3 + extra, 0, -1):
                w[i].lerp_(w[i - 1], mask)
            w[0].addcmul_(w[0], mask, value=-1.0)
        return w

    def _cubic_weights(self) -> list[Tensor]:
        """The first four weights, of the pixels at -1, 0, 1, 2 from the whole position; a = CUBIC, r = 1 - t.

        w0 = a t r^2, w1 = r + t r - (a + 2) t^2 r, and the same with t and r exchanged for w3 and w2.
        """
        t, r, e, (w0, w1, w2, w3) = self.t, self.r, self.e, self.weights[:4]
        torch.sub(_ONE, t, out=r)
        torch.mul(t, r, out=e).mul_(CUBIC)
        torch.mul(e, r, out=w0)
        torch.mul(e, t, out=w3)
        torch.add(r, w3, alpha=-(CUBIC + 2) / CUBIC, out=w1).add_(e, alpha=1 / CUBIC)
        torch.add(t, w0, alpha=-(CUBIC + 2) / CUBIC, out=w2).add_(e, alpha=1 / CUBIC)
        return self.weights
