"""STSTNet: three shallow convolutions side by side on 28x28 maps; 1,683 parameters.

Source     Liong, Gan, See, Khor, Huang: Shallow Triple Stream Three-dimensional CNN (STSTNet) for Micro-expression
           Recognition, FG 2019.  Layers of the authors' public PyTorch code; the paper counts 1,670 parameters, the
           code has 1,683 with its batch norms and 1,651 without.
Streams    The three differ in nothing but their numbers of filters, 3, 5 and 8, and are concatenated; so they are one
           convolution with 16 filters, which a CPU trains in 0.7 of the time.
Recipe     Adam 5e-5, batches of 256 in listed order, 800 epochs, no augmentation, last epoch (500 epochs in MATLAB)
Published  3DB LOSO UF1 0.7353, UAR 0.7605; the authors' PyTorch log, last epoch: 0.7209, 0.7250.  A rerun by others:
           UF1 0.7127 after the last epoch, 0.7740 with the epoch chosen on the test subject.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from mepipe_model.models.maps import MapsModel

if TYPE_CHECKING:
    from mepipe_model.models.baselines import MapsConfig

FILTERS = (3, 5, 8)  # of the three streams
POOLED = 5  # side of the map that the linear layer sees


class Ststnet(MapsModel):
    """(B, 3, H, W) flow in px -> logits (B, num_classes)."""

    def __init__(self, name: str, config: MapsConfig) -> None:
        super().__init__(name, config, sum(FILTERS) * POOLED**2)
        self.streams = nn.Sequential(
            nn.Conv2d(3, sum(FILTERS), 3, padding=2),  # 28x28 -> 30x30: the code pads by 2
            nn.ReLU(),
            nn.BatchNorm2d(sum(FILTERS)),
            nn.MaxPool2d(3, stride=3, padding=1),  # -> 10x10
            nn.Dropout(config.drop_rate),
            nn.AvgPool2d(2),
            nn.Flatten(),
        )

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, 28, 28) -> (B, 400)."""
        return self.streams(x)
