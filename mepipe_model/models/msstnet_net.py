"""The network of MSSTNet; msstnet.py says what of it is known and what is ours.

Shapes at T x 3 x 112 x 112: maps 64, 28, 28; 128, 14, 14; 256, 7, 7; 512, 4, 4; embeddings T x 512 of each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mepipe_model.models.base import FlowModel
from mepipe_model.models.blocks import Attention, Mlp, TokenBlock, resized
from mepipe_model.models.heads import Head, make_head
from mepipe_model.models.msstnet import SCALES, MsstnetConfig
from mepipe_model.models.resnet import ResNet

PLACES = 4  # a scale's map is pooled to 2 x 2: upper and lower, left and right of a face


class Msstnet(FlowModel):
    """(B, T, 3, H, W) float32, or flow (B, 3, H, W) as one frame -> logits (B, num_classes)."""

    def __init__(self, name: str, config: MsstnetConfig) -> None:
        super().__init__({"name": name, **config.as_dict()})
        self.input_size = config.input_size
        dim = config.embed_dim
        self.backbone = ResNet(config.width, config.depths)
        self.embeddings = nn.ModuleList(ScaleEmbedding(config.width << j, dim) for j in range(SCALES))
        self.positions = nn.Parameter(0.02 * torch.randn(config.frames, dim))
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.blocks))
        self.head: Head = make_head(config, dim)

    def features(self, x: Tensor) -> Tensor:
        """(B, T, 3, H, W) or (B, 3, H, W) -> (B, embed_dim): what the head sees."""
        x = x.unsqueeze(1) if x.ndim == 4 else x
        steps = int(x.shape[1])
        frames = x.flatten(0, 1)
        maps = self.backbone(frames if self.input_size is None else resized(frames, self.input_size))
        scales = [embed(m).view(-1, steps, embed.dim) for embed, m in zip(self.embeddings, maps, strict=True)]
        z = scales[0] + self.positions_of(steps)
        for i, block in enumerate(self.blocks):
            z = z + scales[i] if 0 < i < SCALES else z
            z = block(z, (1, steps))
        return z.mean(1)

    def positions_of(self, steps: int) -> Tensor:
        """(steps, embed_dim): the position embedding, interpolated linearly where T is another."""
        if steps == len(self.positions):
            return self.positions
        return F.interpolate(self.positions.t()[None], size=steps, mode="linear")[0].t()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ScaleEmbedding(nn.Module):
    """A scale's map (M, C, h, w) -> (M, D): 1x1 conv to D/4, BN, GELU, means over 2x2 places, one Linear."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.dim, part = dim, dim // PLACES
        self.reduce = nn.Sequential(nn.Conv2d(channels, part, 1, bias=False), nn.BatchNorm2d(part), nn.GELU())
        self.project = nn.Linear(PLACES * part, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = halves(halves(self.reduce(x), 2), 3)
        return self.project(x.flatten(1))


def halves(x: Tensor, dim: int) -> Tensor:
    """Means over the first and the second half of an axis; of 7 the middle one is in both, as in adaptive pooling.

    F.adaptive_avg_pool2d, which ONNX does not have for sizes that do not divide.
    """
    n = int(x.shape[dim])
    first, second = x.narrow(dim, 0, (n + 1) // 2), x.narrow(dim, n // 2, (n + 1) // 2)
    return torch.stack((first.mean(dim), second.mean(dim)), dim)


def _block(config: MsstnetConfig) -> TokenBlock:
    attention = Attention(config.embed_dim, config.heads, 0.0, config.drop_rate)
    mlp = Mlp(config.embed_dim, config.mlp_ratio, config.drop_rate)
    return TokenBlock(config.embed_dim, attention, mlp, config.drop_path, None)
