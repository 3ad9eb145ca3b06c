"""What a training batch may go through besides the flip: small shifts and noise.

Both take scaled flow, touch training batches alone, and are off in the paper's recipe.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augmented(x: Tensor, shift: float, noise: float, generator: torch.Generator) -> Tensor:
    """``x`` shifted, then with noise; at 0 and 0 ``x`` itself, and nothing is drawn.

    x (B, C, H, W): scaled flow.  shift: the most a clip moves, as a share of the side, see ``shifted``.
    noise: standard deviation of what is added to every value, in units of ``x``.
    generator: of the CPU, for the shifts; noise comes from torch's global generator of ``x``'s device.
    """
    if shift:
        x = shifted(x, shift, generator)
    if noise:
        x = torch.randn_like(x).mul_(noise).add_(x)
    return x


def shifted(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Every sample of x (B, C, H, W) moved by whole pixels, as far as ``share`` of each side and drawn evenly.

    No value changes, for a motion that is elsewhere is the same motion; what comes in repeats the border.
    """
    most = [round(share * side) for side in x.shape[-2:]]
    if not any(most):
        return x
    height, width = x.shape[-2:]
    dy, dx = (torch.randint(0, 2 * m + 1, (len(x),), generator=generator).tolist() for m in most)
    wide = F.pad(x, (most[1], most[1], most[0], most[0]), mode="replicate")
    return torch.stack([one[:, y : y + height, x0 : x0 + width] for one, y, x0 in zip(wide, dy, dx, strict=True)])
