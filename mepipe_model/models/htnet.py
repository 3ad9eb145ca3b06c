"""HTNet: crops around eyes and mouth corners of the 28x28 maps, through a nested transformer; 139,582,982 parameters.

Source     Wang, Zhang, Luo, Sankaranarayana: HTNet for micro-expression recognition, Neurocomputing 602, 2024.
           Layers of the authors' public code with depths (2, 2, 10); its older script has (2, 2, 8) and 114,429,446
           parameters.
Landmarks  The code finds five points on the 28x28 apex face by MTCNN, and where that fails takes a fixed set.  Ours is
           the fixed set for every clip, since the crops are aligned.  The code swaps row and column, which turns the
           tiles' arrangement into [left eye, left mouth corner; right eye, right mouth corner]; so does this.
Attention  A block of every level holds a single token: the softmax over it is 1, and attention is a projection of
           the values.  Queries and keys have parameters and never a gradient, in the authors' code too.
Recipe     Adam 5e-5, batches of 256 in listed order, 800 epochs, no augmentation
Published  3DB LOSO UF1 0.8603, UAR 0.8475, for the best epoch of each test subject (the public code chooses it there);
           a user of that code got UF1 0.6484 to 0.6552.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mepipe_model.models.maps import SIDE, MapsModel

if TYPE_CHECKING:
    from mepipe_model.models.baselines import HtnetConfig

HALF = SIDE // 4  # of a crop: four of them tile the 28x28 map
# The fixed landmarks (x, y) in a 28x28 map: left eye, right eye, left and right mouth corner
LANDMARKS = ((9.5, 11.1), (21.4, 10.9), (10.3, 22.1), (20.6, 22.3))
PATCH = 7
LEVELS = 3
MLP_RATIO = 4


class Htnet(MapsModel):
    """(B, 3, H, W) flow in px -> logits (B, num_classes)."""

    def __init__(self, name: str, config: HtnetConfig) -> None:
        widths = [config.dim << level for level in range(LEVELS)]
        super().__init__(name, config, widths[-1])
        self.embed = nn.Conv2d(3 * PATCH**2, widths[0], 1)
        layers: list[nn.Module] = []
        for level, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
            layers += [_merge(widths[level - 1], width)] if level else []
            layers.append(Level(width, depth, config.heads << level, config.drop_rate))
        self.levels = nn.Sequential(*layers)
        self.norm = ChannelNorm(widths[-1])

    def prepare(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) flow in px -> (B, 3, 28, 28): the four crops side by side."""
        return mosaic(super().prepare(x))

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, 28, 28) -> (B, 4 * dim): a 4x4 map of patches, then 2x2, then one token."""
        return self.norm(self.levels(self.embed(F.pixel_unshuffle(x, PATCH)))).mean((2, 3))


def mosaic(x: Tensor) -> Tensor:
    """(B, C, 28, 28) -> the same size: four 14x14 crops, [left eye, left mouth; right eye, right mouth].

    A crop around (x, y) takes rows from x and columns from y, as the authors' code does; seen as an image that swaps
    the right eye and the left mouth corner, no more, as the landmarks lie nearly symmetric about the diagonal.
    """
    tiles = []
    for landmark in LANDMARKS:
        row, column = (min(max(round(z), HALF), SIDE - HALF) for z in landmark)
        tiles.append(x[..., row - HALF : row + HALF, column - HALF : column + HALF])
    return torch.cat((torch.cat(tiles[:2], -1), torch.cat(tiles[2:], -1)), -2)


class Level(nn.Module):
    """``depth`` pre-norm blocks of attention and MLP on a map of tokens, each token a block of its own."""

    def __init__(self, width: int, depth: int, heads: int, drop: float) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1))  # one token per block: one scalar
        makers: tuple[Callable[[], nn.Module], ...] = (
            lambda: TokenAttention(width, heads, drop),
            lambda: _mlp(width, drop),
        )
        self.blocks = nn.ModuleList(nn.Sequential(ChannelNorm(width), make()) for _ in range(depth) for make in makers)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position
        for block in self.blocks:
            x = x + block(x)
        return x


class TokenAttention(nn.Module):
    """Attention inside blocks of one token each: heads of width // heads channels (85 in the authors' setting)."""

    def __init__(self, width: int, heads: int, drop: float) -> None:
        super().__init__()
        self.heads = heads
        inner = width // heads * heads
        self.qkv = nn.Conv2d(width, 3 * inner, 1, bias=False)
        self.out = nn.Conv2d(inner, width, 1)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(1, (3, self.heads, -1)).unbind(1)
        weight = (q * k).sum(2, keepdim=True) * q.shape[2] ** -0.5
        attended = v * weight.unsqueeze(-1).softmax(-1).squeeze(-1)  # over the block's one token
        return self.drop(self.out(attended.flatten(1, 2)))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a map (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _mlp(width: int, drop: float) -> nn.Sequential:
    hidden = MLP_RATIO * width
    return nn.Sequential(
        nn.Conv2d(width, hidden, 1), nn.GELU(), nn.Dropout(drop), nn.Conv2d(hidden, width, 1), nn.Dropout(drop)
    )


def _merge(width: int, wider: int) -> nn.Sequential:
    """Between levels: half the side, twice the width."""
    return nn.Sequential(
        nn.Conv2d(width, wider, 3, padding=1), ChannelNorm(wider), nn.MaxPool2d(3, stride=2, padding=1)
    )
