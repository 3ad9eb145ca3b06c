"""Classification heads: features to logits, and logits to loss, probabilities and decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mepipe_model.losses import (
    COARSE_CLASSES,
    FINE_CLASSES,
    balanced_weights,
    dgcm_counts,
    dgcm_decide,
    dgcm_loss,
    dgcm_probabilities,
)

if TYPE_CHECKING:
    from mepipe_model.models.options import HeadOptions


class Head(nn.Module):
    """forward: features (B, F) -> out (B, K'), the raw logits the other methods take.

    weights (num_classes,): of the classes in the loss, None for equal ones; no part of what is saved.
    """

    weights: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", None, persistent=False)

    def weigh(self, counts: Tensor) -> None:
        """Weigh the classes inversely to these counts (num_classes,) of training clips (losses.balanced_weights)."""
        self.weights = balanced_weights(counts)

    def loss(self, out: Tensor, target: Tensor, progress: float) -> Tensor:
        """Scalar; target (B,) int64; progress = epoch / total_epochs in [0, 1]."""
        raise NotImplementedError

    def probabilities(self, out: Tensor) -> Tensor:
        """(B, num_classes), rows sum to 1."""
        raise NotImplementedError

    def decide(self, out: Tensor) -> Tensor:
        """(B,) int64 class indices."""
        raise NotImplementedError


class LinearHead(Head):
    """One Linear and cross-entropy ("MERba-base")."""

    def __init__(self, features: int, num_classes: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.linear = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def loss(self, out: Tensor, target: Tensor, progress: float) -> Tensor:
        return F.cross_entropy(out, target, self.weights, label_smoothing=self.label_smoothing)

    def probabilities(self, out: Tensor) -> Tensor:
        return out.softmax(-1)

    def decide(self, out: Tensor) -> Tensor:
        return out.argmax(-1)


class DgcmHead(Head):
    """Dual-granularity head, MERba III-C: out (B, 8) = 4 coarse logits, then 4 fine ones.

    weights (4,): of the coarse classes; fine_weights (4,): of the fine ones.
    """

    fine_weights: Tensor | None

    def __init__(self, features: int, fine_mean: Any = "negatives", decision: Any = "hard") -> None:
        super().__init__()
        self.fine_mean, self.decision = fine_mean, decision
        self.coarse = nn.Linear(features, len(COARSE_CLASSES))
        self.fine = nn.Linear(features, len(FINE_CLASSES))
        self.register_buffer("fine_weights", None, persistent=False)

    def weigh(self, counts: Tensor) -> None:
        """Coarse and fine classes each by their own counts."""
        self.weights, self.fine_weights = (balanced_weights(c) for c in dgcm_counts(counts))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.coarse(x), self.fine(x)), -1)

    def loss(self, out: Tensor, target: Tensor, progress: float) -> Tensor:
        return dgcm_loss(*_halves(out), target, progress, self.fine_mean, self.weights, self.fine_weights)

    def probabilities(self, out: Tensor) -> Tensor:
        return dgcm_probabilities(*_halves(out))

    def decide(self, out: Tensor) -> Tensor:
        return dgcm_decide(*_halves(out), rule=self.decision)


def make_head(config: HeadOptions, width: int) -> Head:
    """The head that the options ask for, on features (B, width)."""
    if config.head == "dgcm":
        return DgcmHead(width, config.fine_mean, config.decision)
    return LinearHead(width, config.num_classes, config.label_smoothing)


def _halves(out: Tensor) -> tuple[Tensor, Tensor]:
    return out[:, : len(COARSE_CLASSES)], out[:, len(COARSE_CLASSES) :]
