"""A linear support vector machine as a model's head: fitted by scikit-learn, kept and run as one Linear.

Several classes are told apart one against one, as LIBSVM does, which scikit-learn's SVC wraps: a decision for every
pair of classes, each decision a vote, and the class with most votes wins; classes with equal votes by the sum of
their decisions (SVC's ``break_ties``).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mepipe_model.models.base import PreparingModel
from mepipe_model.models.heads import Head

STD_FLOOR = 1e-12  # a feature that is constant over the training clips: dividing by it would amplify rounding


class SvmHead(Head):
    """Features (B, F) -> scores (B, K): a class's votes, plus less than 1/3 for the sum of its decisions.

    The decision of the pair (i, j), i < j, is positive where i is preferred.
    """

    first: Tensor
    second: Tensor

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        pairs = torch.tensor(list(combinations(range(num_classes), 2)), device="cpu")
        self.linear = nn.Linear(features, len(pairs))
        # (pairs, K): 1 where the class is the pair's first, second
        self.register_buffer("first", F.one_hot(pairs[:, 0], num_classes).float(), persistent=False)
        self.register_buffer("second", F.one_hot(pairs[:, 1], num_classes).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        decision = self.linear(x)
        won = (decision > 0).to(decision.dtype)
        votes = won @ self.first + (1 - won) @ self.second
        summed = decision @ (self.first - self.second)
        return votes + summed / (3 * (summed.abs() + 1))

    def loss(self, out: Tensor, target: Tensor, progress: float) -> Tensor:
        """The multi-class hinge loss of the scores; training does not use it, logs tell it."""
        return F.multi_margin_loss(out, target, weight=self.weights)

    def probabilities(self, out: Tensor) -> Tensor:
        """Softmax of the scores: they rank the classes, and are not calibrated."""
        return out.softmax(-1)

    def decide(self, out: Tensor) -> Tensor:
        return out.argmax(-1)

    def fit(self, x: Tensor, target: Tensor, c: float, standardise: bool) -> None:
        """Fit to features x (B, F) of classes target (B,), which need not hold every class.

        c: LIBSVM's C, the price of a training clip on the wrong side.  standardise: by mean and standard deviation
        over x, folded into the weights afterwards.
        """
        features, classes = x.double().cpu().numpy(), target.cpu().numpy()
        mean, std = np.zeros(features.shape[1]), np.ones(features.shape[1])
        if standardise:
            mean, std = features.mean(0), features.std(0)
            std[std < STD_FLOOR] = 1.0
        present, coef, intercept = _pairwise((features - mean) / std, classes, c, self._price())
        coef = coef / std
        weight = np.zeros(tuple(self.linear.weight.shape))
        # of a pair with a class that was never seen, the other one wins; of two such, the first
        bias = np.where(np.isin(self.second.argmax(1).cpu(), present) & ~np.isin(self.first.argmax(1).cpu(), present),
                        -1.0, 1.0)  # fmt: skip
        rows = [int(r) for r in np.flatnonzero(self._both_in(present))]
        weight[rows], bias[rows] = coef, intercept - coef @ mean
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight))
            self.linear.bias.copy_(torch.from_numpy(bias))

    def _both_in(self, present: np.ndarray) -> np.ndarray:
        return np.isin(self.first.argmax(1).cpu(), present) & np.isin(self.second.argmax(1).cpu(), present)

    def _price(self) -> dict[int, float] | None:
        return None if self.weights is None else dict(enumerate(self.weights.tolist()))


def _pairwise(
    x: np.ndarray, target: np.ndarray, c: float, price: dict[int, float] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The classes that occur, and coef (pairs, F) and intercept (pairs,) of their pairs in order."""
    from sklearn.svm import SVC

    present = np.unique(target)
    if len(present) < 2:
        return present, np.zeros((0, x.shape[1])), np.zeros(0)
    weights = None if price is None else {k: price[int(k)] for k in present}
    svc = SVC(kernel="linear", C=c, class_weight=weights, decision_function_shape="ovo").fit(x, target)
    sign = -1.0 if len(present) == 2 else 1.0  # of two classes alone, scikit-learn's decision is for the second
    return present, sign * svc.coef_, sign * svc.intercept_


class FittedModel(PreparingModel):
    """A model that is fitted to its training clips at once instead of being trained by epochs.

    ``prepare`` makes the features, (B, F), which look at one clip at a time and have no parameters.
    """

    head: SvmHead
    c: float
    standardise: bool

    def network(self, x: Tensor) -> Tensor:
        return self.head(x)

    def fit(self, features: Tensor, target: Tensor) -> None:
        """Fit to the features (B, F) and classes (B,) of the training clips, and of them only."""
        self.head.fit(features, target, self.c, self.standardise)
