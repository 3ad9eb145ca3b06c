"""The selective scan as the formula reads, differentiated by autograd: the reference of the tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scan_loop(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor | None) -> Tensor:
    """Shapes as in ``mepipe_model.ops.scan.selective_scan``; any floating dtype, any device.

    Keeps three (S, L, E, N) tensors for the backward.  The time axis is unbound once: indexing it
    inside the loop would make autograd add a full-size gradient at every step.
    """
    delta = F.softplus(dt if dt_bias is None else dt + dt_bias)
    decay = torch.exp(delta[..., None] * A)
    drive = (delta * u)[..., None] * B[:, :, None, :]
    return walked(decay, drive, C) + D * u


def walked(decay: Tensor, drive: Tensor, C: Tensor) -> Tensor:
    """h_t = decay_t h_{t-1} + drive_t from h_0 = 0, both (S, L, E, N); C . h (S, L, E), C (S, L, N)."""
    h = torch.zeros_like(decay[:, 0])
    steps = []
    for a, x, c in zip(decay.unbind(1), drive.unbind(1), C.unbind(1), strict=True):
        h = a * h + x
        steps.append((h @ c[..., None])[..., 0])
    return torch.stack(steps, 1)
