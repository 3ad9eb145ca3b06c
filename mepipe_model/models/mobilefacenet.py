"""MobileFaceNet up to its last map (Chen et al., arXiv 1804.07573), by the usual names of its weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mepipe_model.models.ir50 import SIDE

WIDTH = 512  # channels of the map; fermam.MOBILEFACENET


class MobileFaceNet(nn.Module):
    """(B, 3, H, W) -> tokens (B, 49, 512): the 7 x 7 places of its map of the face at 112 x 112."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, 64, 3, stride=2)
        self.conv2_dw = ConvBlock(64, 64, 3, groups=64)
        self.conv_23 = Bottleneck(64, 64, 128, stride=2)
        self.conv_3 = Repeated(64, 128, 4)
        self.conv_34 = Bottleneck(64, 128, 256, stride=2)
        self.conv_4 = Repeated(128, 256, 6)
        self.conv_45 = Bottleneck(128, 128, 512, stride=2)
        self.conv_5 = Repeated(128, 256, 2)
        self.conv_6_sep = ConvBlock(128, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear")
        for part in self.children():
            x = part(x)
        return x.flatten(2).transpose(1, 2)


class ConvBlock(nn.Module):
    """Convolution, batch norm, PReLU; without the last where it is a projection."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 to ``inner`` channels, depthwise 3x3, 1x1 to ``outputs``; residual: added to its input."""

    def __init__(self, inputs: int, outputs: int, inner: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.conv = ConvBlock(inputs, inner, 1)
        self.conv_dw = ConvBlock(inner, inner, 3, stride, groups=inner)
        self.project = ConvBlock(inner, outputs, 1, activate=False)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class Repeated(nn.Module):
    """``count`` residual bottlenecks of one width."""

    def __init__(self, width: int, inner: int, count: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(Bottleneck(width, width, inner, residual=True) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
