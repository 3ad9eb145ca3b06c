"""OFF-ApexNet: a small convolutional stream for u, one for v, then two wide linear layers; 2.7 M parameters.

Source     Gan, Liong, Yau, Huang, Tan: OFF-ApexNet on micro-expression recognition system, Signal Processing: Image
           Communication 74, 2019.  Layers as the paper is commonly described: two streams of 5x5 convolutions with 6
           and 16 filters, 2x2 pools, two linear layers of 1024.  Not checked against the authors' code; dropout of
           0.5 before the last two linear layers and the input's scaling are ours, and public variants differ (one has
           a single stream of 3x3 convolutions and one wide layer).
Recipe     the paper's is not known to us; STSTNet's
Published  for such a variant on 3DB, by others: LOSO UF1 0.7032 after the last epoch, 0.8390 with the epoch chosen on
           the test subject
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mepipe_model.models.maps import SIDE, MapsModel

if TYPE_CHECKING:
    from mepipe_model.models.baselines import MapsConfig

FILTERS = (6, 16)
WIDTH = 1024


class OffApexNet(MapsModel):
    """(B, 3, H, W) flow in px -> logits (B, num_classes); the strain is not used."""

    def __init__(self, name: str, config: MapsConfig) -> None:
        super().__init__(name, config, WIDTH)
        self.u, self.v = _stream(), _stream()
        inputs = 2 * FILTERS[1] * (SIDE // 4) ** 2
        self.mix = nn.Sequential(
            nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Dropout(config.drop_rate),
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(config.drop_rate),
        )  # fmt: skip

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, 28, 28) -> (B, 1024)."""
        return self.mix(torch.cat((self.u(x[:, :1]), self.v(x[:, 1:2])), 1))


def _stream() -> nn.Sequential:
    """(B, 1, 28, 28) -> (B, 784)."""
    first, second = FILTERS
    return nn.Sequential(
        nn.Conv2d(1, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    )  # fmt: skip
