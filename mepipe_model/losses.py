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

# on the CPU whatever the default device is when this module is first imported
TO_COARSE = torch.tensor([0, 3, 0, 0, 1, 0, 2], device="cpu")  # seven classes -> coarse
TO_FINE = torch.tensor([0, -1, 1, 2, -1, 3, -1], device="cpu")  # seven classes -> fine; -1: not a negative emotion
COARSE_TO_FULL = torch.tensor([-1, 4, 6, 1], device="cpu")  # coarse -> seven classes; -1: the fine head decides
FINE_TO_FULL = torch.tensor([0, 2, 3, 5], device="cpu")  # fine -> seven classes
# seven classes -> place among the coarse classes but negative, followed by the fine ones
PARTS_TO_FULL = torch.cat((COARSE_TO_FULL[1:], FINE_TO_FULL)).argsort()


def dgcm_alpha(progress: float) -> float:
    """Weight of the fine term, MERba eq. (7); progress = epoch / total_epochs, epochs from 0."""
    return min(0.5 + 2.0 * progress, 2.0)


def dgcm_loss(
    coarse: Tensor,
    fine: Tensor,
    target: Tensor,
    progress: float,
    fine_mean: Literal["negatives", "batch"] = "negatives",
    coarse_weights: Tensor | None = None,
    fine_weights: Tensor | None = None,
) -> Tensor:
    """Dual-granularity loss, MERba eqs. (6) and (7).

    coarse, fine (B, 4): logits.  target (B,) int64: seven-class labels.  Returns a scalar.
    Only samples whose truth is negative enter the fine term; it is 0 when there is none.
    fine_mean: what their sum is divided by, which the paper leaves open: their number or B.
    coarse_weights, fine_weights (4,): of the classes (not in the paper); a mean over samples is then one over their
    weights.
    """
    loss = F.cross_entropy(coarse, TO_COARSE.to(target.device)[target], coarse_weights)
    label = TO_FINE.to(target.device)[target]
    total = F.cross_entropy(fine, label, fine_weights, ignore_index=-1, reduction="sum")
    negative = label >= 0
    size = negative if fine_weights is None else fine_weights[label] * negative
    if fine_mean == "batch":
        count: Tensor | int = len(target)
    else:
        count = torch.where(negative.any(), size.sum(), 1)
    return 0.5 * (loss + dgcm_alpha(progress) * total / count)  # (6)


def balanced_weights(counts: Tensor) -> Tensor:
    """Weights of classes from their counts (K,): total / (classes that occur * count); 0 for a class without any."""
    occur = counts > 0
    return torch.where(occur, counts.sum() / (occur.sum() * counts.clamp(min=1)), 0.0).float()


def dgcm_counts(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Counts of the seven classes (7,) -> those of the coarse (4,) and of the fine classes (4,)."""
    coarse = counts.new_zeros(len(COARSE_CLASSES)).index_add(0, TO_COARSE.to(counts.device), counts)
    return coarse, counts[FINE_TO_FULL.to(counts.device)]


def dgcm_probabilities(coarse: Tensor, fine: Tensor) -> Tensor:
    """(B, 7) probabilities that sum to 1: p(negative class j) = p_coarse(negative) p_fine(j)."""
    p_coarse, p_fine = coarse.softmax(-1), fine.softmax(-1)
    parts = torch.cat((p_coarse[:, 1:], p_coarse[:, :1] * p_fine), 1)
    return parts[:, PARTS_TO_FULL.to(parts.device)]


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
