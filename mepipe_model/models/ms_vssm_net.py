"""The network of MS-VSSM; ms_vssm.py says what of it is known and what is ours.

Shapes at 224x224, channels by height by width: stem 96, 56, 56; stages 96, 56, 56; 192, 28, 28; 384, 14, 14;
768, 7, 7.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mepipe_model.models.base import FlowModel
from mepipe_model.models.blocks import DropPath, LayerScale, Mlp, resized
from mepipe_model.models.heads import Head, make_head
from mepipe_model.models.mixer import ScanWeights
from mepipe_model.models.ms_vssm import STAGES, MsVssmConfig
from mepipe_model.models.ss2d import PATHS, SS2D

RATES = (1, 2, 4)  # dilations of the pyramid: 3x3 windows over 3, 5 and 9 places of the map


class MsVssm(FlowModel):
    """(B, 3, H, W) float32, image or flow -> logits (B, num_classes), or (B, 8) with the DGCM head.

    Any H, W from 32 up (8 * patch); a map of odd size is padded below and right with zeros before it is halved.
    """

    def __init__(self, name: str, config: MsVssmConfig) -> None:
        super().__init__({"name": name, **config.as_dict()})
        self.input_size = config.input_size
        rates = iter(torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist())
        self.stem = nn.Conv2d(3, config.dim, config.patch, config.patch)
        self.stem_norm = nn.LayerNorm(config.dim)
        self.stages = nn.Sequential(*(_stage(config, k, rates) for k in range(STAGES)))
        width = config.dim << (STAGES - 1)
        self.norm = nn.LayerNorm(width)
        self.head: Head = make_head(config, width)
        if config.init == "vmamba":
            _initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 8 * dim): what the head sees."""
        x = x if self.input_size is None else resized(x, self.input_size)
        x = self.stages(self.stem_norm(self.stem(x).permute(0, 2, 3, 1)))
        return self.norm(x).mean((1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class VssBlock(nn.Module):
    """x + SE-SS2D(LN x), then with an MLP x + MLP(LN x), each branch layer-scaled; (B, H, W, D)."""

    def __init__(self, dim: int, config: MsVssmConfig, drop_path: float) -> None:
        super().__init__()
        channels = config.expand * dim
        between = None
        if config.path_attention != "none":
            between = PathAttention(channels, config.se_ratio, joint=config.path_attention == "joint")
        self.norm1 = nn.LayerNorm(dim)
        self.scan = SS2D(dim, config.d_state, config.expand, config.scan_backend, between)
        self.scale1, self.drop_path = LayerScale(dim, config.layer_scale), DropPath(drop_path)
        self.mlp: nn.Module | None = None
        if config.mlp_ratio is not None:
            self.mlp = nn.Sequential(
                nn.LayerNorm(dim), Mlp(dim, config.mlp_ratio, config.drop_rate), LayerScale(dim, config.layer_scale)
            )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.scale1(self.scan(self.norm1(x))))
        return x if self.mlp is None else x + self.drop_path(self.mlp(x))


class PathAttention(nn.Module):
    """Squeeze and excitation between scan and merge: y (B, 4, L, E) -> y_k * s_k, s_k of the path's mean over L.

    s = sigmoid(W2 relu(W1 mean)), W1 to 1/ratio of the channels.  Weights for each path; joint: for all four paths'
    channels at once, so that a path can be turned down because of another.
    """

    def __init__(self, channels: int, ratio: int, joint: bool) -> None:
        super().__init__()
        self.joint = joint
        width, count = (channels * len(PATHS), 1) if joint else (channels, len(PATHS))
        self.gates = nn.ModuleList(_gate(width, max(width // ratio, 1)) for _ in range(count))

    def forward(self, y: Tensor) -> Tensor:
        means = y.mean(2)
        if self.joint:
            gains = self.gates[0](means.flatten(1)).unflatten(1, means.shape[1:])
        else:
            gains = torch.stack([gate(mean) for gate, mean in zip(self.gates, means.unbind(1), strict=True)], 1)
        return y * gains.unsqueeze(2)


def _gate(width: int, squeezed: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, squeezed), nn.ReLU(), nn.Linear(squeezed, width), nn.Sigmoid())


class Dspp(nn.Module):
    """Dense spatial pyramid pooling, (B, H, W, C) -> (B, H, W, C).

    f_0 = x, f_i = GELU(BN(dw3x3 of rate r_i(1x1(f_0 .. f_{i-1})))) with C/4 channels, beside them the map's mean
    through a 1x1 to C/4; out = x + 1x1 of all of them.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        part = dim // 4
        self.levels = nn.ModuleList(_pyramid_level(dim + i * part, part, rate) for i, rate in enumerate(RATES))
        self.mean = nn.Conv2d(dim, part, 1)
        self.out = nn.Conv2d(dim + (len(RATES) + 1) * part, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        parts = [x]
        for level in self.levels:
            parts.append(level(torch.cat(parts, 1)))
        mean = F.gelu(self.mean(x.mean((2, 3), keepdim=True)))
        parts.append(mean.expand(-1, -1, *x.shape[2:]))
        return (x + self.out(torch.cat(parts, 1))).permute(0, 2, 3, 1)


def _pyramid_level(inputs: int, outputs: int, rate: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.Conv2d(outputs, outputs, 3, padding=rate, dilation=rate, groups=outputs, bias=False),
        nn.BatchNorm2d(outputs),
        nn.GELU(),
    )


class PatchMerging(nn.Module):
    """2x2 neighbours to one place of twice the width: (B, H, W, D) -> (B, H/2, W/2, 2 D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduce = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduce(self.norm(torch.cat(corners, -1)))


def _stage(config: MsVssmConfig, k: int, rates: Iterator[float]) -> nn.Sequential:
    """Stage k (from 0): halving but in the first, pyramid, blocks."""
    dim = config.dim << k
    parts: list[nn.Module] = [PatchMerging(dim // 2)] if k else []
    parts += [Dspp(dim)] if config.dspp else []
    return nn.Sequential(*parts, *(VssBlock(dim, config, next(rates)) for _ in range(config.depths[k])))


def _initialise(model: nn.Module) -> None:
    """VMamba's: truncated normal Linears with zero bias, those of the scans as Mamba draws them."""
    ours = {m for weights in model.modules() if isinstance(weights, ScanWeights) for m in weights.modules()}
    for module in model.modules():
        if isinstance(module, nn.Linear) and module not in ours:
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
