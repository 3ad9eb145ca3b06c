"""The network of FERMam; fermam.py says where it comes from and what is repaired.

Shapes: image (B, 256, 14, 14) read as 49 tokens of 1024, then 512; landmarks 49 tokens of 512; fused 7 x 7 x 512.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mepipe_model.models.asfr import Asfr
from mepipe_model.models.base import FlowModel
from mepipe_model.models.fermam import FermamConfig
from mepipe_model.models.heads import Head, make_head
from mepipe_model.models.ir50 import GRID, SIDE, IrBackbone
from mepipe_model.models.mobilefacenet import MobileFaceNet
from mepipe_model.models.ss2d import SS2D

POINTS = 68
SPREAD = 1.0  # of a point's Gaussian, in cells of the 7x7 map
SCALES = (1, 2, 4)  # sides of the pyramid's pools; of 7 x 7 the last sees the upper left 4 x 4 alone, as the source's


class Fermam(FlowModel):
    """(B, 3, H, W) float32, image or flow, and landmarks (B, 68, 2) in its px or None -> logits (B, num_classes)."""

    def __init__(self, name: str, config: FermamConfig) -> None:
        super().__init__({"name": name, **config.as_dict()})
        self.read, self.readout = READINGS[config.token_view], config.readout
        self.wants_landmarks = config.landmark_branch == "heatmap"
        dim = config.dim
        self.image = IrBackbone(config.width, config.depths)
        self.to_tokens = nn.Linear(16 * config.width, dim)
        self.conv_ssm = ConvSsm(dim, config.d_state, config.scan_backend)
        self.landmarks: nn.Module = Heatmap(dim) if self.wants_landmarks else MobileFaceNet()
        self.frozen = config.landmark_checkpoint is not None
        if self.frozen:
            self.landmarks.requires_grad_(False)
        self.fuse = nn.Linear(2 * dim, dim)
        self.scales = nn.ModuleList(
            Asfr(dim, config.d_state, config.drop_rate, config.skip, config.scan_backend) for _ in SCALES
        )
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.Sigmoid())
        self.head: Head = make_head(config, dim)

    def train(self, mode: bool = True) -> Fermam:
        """As ever, but that a frozen branch keeps its batch statistics too."""
        super().train(mode)
        if self.frozen:
            self.landmarks.eval()
        return self

    def features(self, x: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """(B, 3, H, W), (B, 68, 2) or None -> (B, dim): what the head sees."""
        image = self.conv_ssm(self.to_tokens(self.image_tokens(x)).unflatten(1, (GRID, GRID)))
        beside = self.landmarks(x, landmarks) if isinstance(self.landmarks, Heatmap) else self.landmarks(x)
        fused = self.fuse(torch.cat((image.flatten(1, 2), beside), -1)).unflatten(1, (GRID, GRID))
        tokens = self.pyramid(fused).flatten(1, 2)
        token = tokens[:, 0] if self.readout == "token0" else tokens.mean(1)
        return token * self.gate(token)

    def image_tokens(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 49, 16 * width): tokens of the image branch's map."""
        return self.read(self.image(F.interpolate(x, (SIDE, SIDE), mode="nearest")))

    def pyramid(self, x: Tensor) -> Tensor:
        """(B, 7, 7, dim) -> the same: refined at full, half and quarter size, enlarged, added, normed."""
        maps = x.permute(0, 3, 1, 2)
        total: Tensor | None = None
        for side, refine in zip(SCALES, self.scales, strict=True):
            small = F.avg_pool2d(maps, side) if side > 1 else maps
            part = refine(small.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            part = F.interpolate(part, (GRID, GRID), mode="bilinear") if side > 1 else part
            total = part if total is None else total + part
        assert total is not None
        return self.norm(total.permute(0, 2, 3, 1))

    def forward(self, x: Tensor, landmarks: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, landmarks))


def by_place(x: Tensor) -> Tensor:
    """Map (B, C, 14, 14) -> tokens (B, 49, 4 C): 2x2 neighbours are one token."""
    return F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)


def by_memory(x: Tensor) -> Tensor:
    """Map (B, C, 14, 14) -> tokens (B, 49, 4 C) of 4 C consecutive numbers: some five whole channels where C is 256."""
    return x.reshape(-1, GRID**2, 4 * int(x.shape[1]))


READINGS = {"spatial": by_place, "memory": by_memory}


class Heatmap(nn.Module):
    """Landmarks (B, 68, 2) in px of the crop -> tokens (B, 49, dim): a Gaussian of each point on 7x7, one Linear.

    Of a sample whose points are not all known (NaN), and of all where there are none, each point is a learned number
    at every place instead, which starts at 0.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.absent = nn.Parameter(torch.zeros(POINTS))
        self.mix = nn.Linear(POINTS, dim)

    def forward(self, x: Tensor, landmarks: Tensor | None) -> Tensor:
        nothing = self.absent.expand(x.shape[0], GRID**2, -1)
        if landmarks is None:
            return self.mix(nothing)
        known = landmarks.isfinite().flatten(1).all(1).view(-1, 1, 1)
        return self.mix(torch.where(known, drawn(landmarks.nan_to_num(), x.shape[2], x.shape[3]), nothing))


def drawn(points: Tensor, height: int, width: int) -> Tensor:
    """Points (B, P, 2) = (x, y) in px of a crop -> (B, 49, P): exp(-d^2 / 2) of the cells' distances d to each."""
    cells = torch.arange(GRID, device=points.device, dtype=points.dtype)
    across = (points[:, None, :, 0] + 0.5) * GRID / width - 0.5 - cells[:, None]  # (B, 7, P)
    down = (points[:, None, :, 1] + 0.5) * GRID / height - 0.5 - cells[:, None]
    squares = down.square().unsqueeze(2) + across.square().unsqueeze(1)
    return torch.exp(squares / (-2 * SPREAD**2)).flatten(1, 2)


class ConvSsm(nn.Module):
    """(B, H, W, D) -> the same: convolutions on one half of the channels, SS2D on the other, shuffled, added."""

    def __init__(self, dim: int, d_state: int, backend: str) -> None:
        super().__init__()
        half = dim // 2
        self.conv = nn.Sequential(
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 3, padding=1), nn.BatchNorm2d(half), nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1), nn.BatchNorm2d(half), nn.ReLU(),
            nn.Conv2d(half, half, 1), nn.ReLU(),
        )  # fmt: skip
        self.norm = nn.LayerNorm(half)
        self.scan = SS2D(half, d_state, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        left = self.conv(left.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        right = self.scan(self.norm(right))
        return x + torch.stack((left, right), -1).flatten(-2)  # shuffled: one of each in turn
