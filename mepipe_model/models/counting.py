"""What a forward pass costs: multiply-accumulates, counted without weights or memory for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def multiply_accumulates(name: str, shape: Sequence[int], **options: Any) -> int:
    """Of model ``name`` on one sample of ``shape``: convolutions, Linears and the matrix products of attention.

    What others publish as FLOPs of such models is as a rule this number.  The selective scan's own arithmetic is not
    in it (9 L E N operations for each sequence by VMamba's count), nor are norms, activations and additions.
    """
    from mepipe_model.models.registry import create_model

    with torch.device("meta"), torch.no_grad():
        model = create_model(name, **options).eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, *shape))
    return counter.get_total_flops() // 2
