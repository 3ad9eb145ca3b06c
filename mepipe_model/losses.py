"""Losses and decisions of the dual-granularity classification module (DGCM), MERba III-C.

Seven classes in mepipe's order: anger, contempt, disgust, fear, happiness, sadness, surprise.
Coarse: negative {anger, disgust, fear, sadness}, positive {happiness}, surprise, others {contempt}.
Fine (inside negative): anger, disgust, fear, sadness.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

COARSE_CLASSES = ("negative", "positive", "surprise", "others")
FINE_CLASSES = ("anger", "disgust", "fear", "sadness")
NEGATIVE = 0  # index in COARSE_CLASSES

TO_COARSE = torch.tensor([0, 3, 0, 0, 1, 0, 2])  # seven classes -> coarse
TO_FINE = torch.tensor([0, -1, 1, 2, -1, 3, -1])  # seven classes -> fine; -1: not a negative emotion
COARSE_TO_FULL = torch.tensor([-1, 4, 6, 1])  # coarse -> seven classes; -1: the fine head decides
FINE_TO_FULL = torch.tensor([0, 2, 3, 5])  # fine -> seven classes


def dgcm_alpha(progress: float) -> float:
    """Weight of the fine term, MERba eq. (7); progress = epoch / total_epochs, epochs from 0."""
    return min(0.5 + 2.0 * progress, 2.0)


def dgcm_loss(
    coarse: Tensor,
    fine: Tensor,
    target: Tensor,
    progress: float,
    fine_mean: Literal["negatives", "batch"] = "negatives",
) -> Tensor:
    """Dual-granularity loss, MERba eqs. (6) and (7).

    coarse, fine (B, 4): logits.  target (B,) int64: seven-class labels.  Returns a scalar.
    Only samples whose truth is negative enter the fine term; it is 0 when there is none.
    fine_mean: what their sum is divided by, which the paper leaves open: their number or B.
    """
    loss = F.cross_entropy(coarse, TO_COARSE.to(target.device)[target])
    label = TO_FINE.to(target.device)[target]
    total = F.cross_entropy(fine, label, ignore_index=-1, reduction="sum")
    count = (label >= 0).sum().clamp(min=1) if fine_mean == "negatives" else len(target)
    return 0.5 * (loss + dgcm_alpha(progress) * total / count)  # (6)


def dgcm_probabilities(coarse: Tensor, fine: Tensor) -> Tensor:
    """(B, 7) probabilities that sum to 1: p(negative class j) = p_coarse(negative) p_fine(j)."""
    p_coarse, p_fine = coarse.softmax(-1), fine.softmax(-1)
    full = p_coarse.new_empty(len(p_coarse), len(TO_COARSE))
    full[:, COARSE_TO_FULL[1:]] = p_coarse[:, 1:]
    full[:, FINE_TO_FULL] = p_coarse[:, :1] * p_fine
    return full


def dgcm_decide(coarse: Tensor, fine: Tensor, rule: Literal["hard", "product"] = "hard") -> Tensor:
    """(B,) int64 seven-class labels.

    "hard" is the paper's: the coarse argmax, refined by the fine argmax where it says negative.
    "product" is the argmax of ``dgcm_probabilities``; the two differ when negative wins the coarse
    vote narrowly and the fine head is unsure.
    """
    if rule == "product":
        return dgcm_probabilities(coarse, fine).argmax(-1)
    kind = coarse.argmax(-1)
    other = COARSE_TO_FULL.to(kind.device)[kind]
    negative = FINE_TO_FULL.to(kind.device)[fine.argmax(-1)]
    return torch.where(kind == NEGATIVE, negative, other)
