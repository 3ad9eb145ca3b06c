"""The first three groups of IR-50, the residual network of face recognisers, by the usual names of its weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

SIDE = 112  # of the faces it is trained on
GRID = 7  # its last map is 14 x 14: 2 x 2 places of it make one token


class IrBackbone(nn.Module):
    """(B, 3, 112, 112) -> (B, 4 * width, 14, 14); width 64 and depths (3, 4, 14) are IR-50's.

    Names of weights: input_layer.N, bodyK.N.shortcut_layer.N, bodyK.N.res_layer.N.  Its fourth group and its output
    layer, whose weights a file may hold, have no part in FERMam.
    """

    def __init__(self, width: int, depths: Sequence[int]) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        one, two, three = depths
        self.body1 = _group(width, width, one)
        self.body2 = _group(width, 2 * width, two)
        self.body3 = _group(2 * width, 4 * width, three)

    def forward(self, x: Tensor) -> Tensor:
        return self.body3(self.body2(self.body1(self.input_layer(x))))


class IrUnit(nn.Module):
    """BN conv3x3 PReLU conv3x3 BN, beside it every stride-th pixel, through a 1x1 where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_layer = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


def _group(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    first = IrUnit(inputs, outputs, 2)
    return nn.Sequential(first, *(IrUnit(outputs, outputs, 1) for _ in range(depth - 1)))
