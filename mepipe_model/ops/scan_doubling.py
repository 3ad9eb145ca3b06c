"""The selective scan in log2(L) rounds of plain torch operations: what an exported graph holds.

h_t = a_t h_{t-1} + x_t over a stretch of steps is one multiply-add, (product of its a, its own sum), and two
neighbouring stretches join to one; in each round the stretch that ends at every step doubles (Hillis and Steele
1986).  Products of decays only shrink, so that nothing overflows.  A graph has some ten operations for each round
where the loop has some four for each step, at log2(L) times the arithmetic and (S, L, E, N) tensors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scan_doubling(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor | None) -> Tensor:
    """Shapes as in ``mepipe_model.ops.scan.selective_scan``; any floating dtype, any device."""
    delta = F.softplus(dt if dt_bias is None else dt + dt_bias)
    decay = torch.exp(delta[..., None] * A)
    drive = (delta * u)[..., None] * B[:, :, None, :]
    return doubled(decay, drive, C) + D * u


def doubled(decay: Tensor, drive: Tensor, C: Tensor) -> Tensor:
    """What ``scan_loop.walked`` computes."""
    h, length, stretch = drive, int(drive.shape[1]), 1
    while stretch < length:
        h = torch.cat((h[:, :stretch], h[:, stretch:] + decay[:, stretch:] * h[:, :-stretch]), 1)
        decay = torch.cat((decay[:, :stretch], decay[:, stretch:] * decay[:, :-stretch]), 1)
        stretch *= 2
    return (h @ C[..., None])[..., 0]
