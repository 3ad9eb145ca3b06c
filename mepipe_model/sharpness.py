"""Sharpness-aware minimisation (SAM; Foret et al., ICLR 2021, arXiv 2010.01412).

The gradient that a step follows is not that at the weights w but at w + rho g / |g|, where g is the gradient at w: the
worst place nearby, to first order.  Each step takes two forward and backward passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

TINY = 1e-12  # keeps a gradient of zero from being divided by


@contextmanager
def uphill(model: nn.Module, rho: float) -> Iterator[None]:
    """The model's weights rho along their gradient, put back to the bit afterwards.

    Batch norms train on the batch's statistics there too, but their running statistics do not hear of it: they belong
    to the weights that are kept.
    """
    moved = [p for p in model.parameters() if p.grad is not None]
    kept = [p.detach().clone() for p in moved]
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, _BatchNorm)}
    try:
        with torch.no_grad():
            gradients = [p.grad for p in moved]
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
            for p, g in zip(moved, gradients, strict=True):
                p.add_(g * (rho / (norm + TINY)))
        for module in momenta:
            module.momentum = 0.0
        yield
    finally:
        for module, momentum in momenta.items():
            module.momentum = momentum
        with torch.no_grad():
            for p, before in zip(moved, kept, strict=True):
                p.copy_(before)
