"""The network of MERba and MambaVision-B: stem, conv stages, local-global stages, head.

At 224x224 and default options, (channels, height, width): stem 128, 56, 56; stage 1 the same;
stage 2 256, 28, 28; stage 3 512, 14, 14; stage 4 1024, 7, 7 (paper, Table I, whose rows also count
the downsampling at each stage's end).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mepipe_model.models.base import FlowModel
from mepipe_model.models.blocks import Attention, ConvBlock, Mlp, TokenBlock, TokenBlocks, resized
from mepipe_model.models.heads import Head, make_head
from mepipe_model.models.merba import STAGES, MerbaConfig
from mepipe_model.models.mixer import LocalMixer, ScanWeights

STEM_EPS = 1e-4  # of the stem's batch norms, as MambaVision


class Merba(FlowModel):
    """(B, 3, H, W) float32 -> logits (B, num_classes), or (B, 8) with the DGCM head.

    Any H, W from 16 up; maps that do not divide into windows are padded inside.
    """

    def __init__(self, name: str, config: MerbaConfig) -> None:
        super().__init__({"name": name, **config.as_dict()})
        self.input_size = config.input_size
        width = config.dim << (STAGES - 1)
        rates = iter(_drop_path_rates(config))
        self.stem = _stem(config)
        self.stages = nn.Sequential(*(_stage(config, k, rates) for k in range(STAGES)))
        self.norm = nn.BatchNorm2d(width)
        self.head: Head = make_head(config, width)
        _initialise(self, config.init)

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 8 * dim): what the head sees."""
        # channels last: the token stages then read a map as tokens without copying it
        x = x if self.input_size is None else resized(x, self.input_size)
        x = self.stages(self.stem(x.contiguous(memory_format=torch.channels_last)))
        return self.norm(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class LocalGlobal(nn.Module):
    """A local-global stage on (B, D, H, W): extractors, then attention (paper III-A)."""

    def __init__(self, local: TokenBlocks, global_: TokenBlocks) -> None:
        super().__init__()
        self.local, self.global_ = local, global_

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1).contiguous()
        return self.global_(self.local(tokens)).permute(0, 3, 1, 2)


def _stem(config: MerbaConfig) -> nn.Sequential:
    """3 -> dim channels at a quarter of the resolution."""
    if config.stem == "conv4x4":
        return _conv_norm_relu(3, config.dim, 4, padding=0, stride=4)
    first = _conv_norm_relu(3, config.stem_dim, 3, padding=1, stride=2)
    return nn.Sequential(*first, *_conv_norm_relu(config.stem_dim, config.dim, 3, padding=1, stride=2))


def _conv_norm_relu(inputs: int, outputs: int, size: int, padding: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=STEM_EPS), nn.ReLU())


def _drop_path_rates(config: MerbaConfig) -> list[float]:
    """0 to drop_path, linear over all blocks in order."""
    blocks = sum(config.conv_depths) + sum(config.local_depths) + sum(config.global_depths)
    return [config.drop_path * i / max(blocks - 1, 1) for i in range(blocks)]


def _stage(config: MerbaConfig, k: int, rates: Iterator[float]) -> nn.Sequential:
    """Stage k (from 0) and, unless it is the last, the conv that halves and doubles."""
    dim = config.dim << k
    convs = len(config.conv_depths)
    if k < convs:
        stage: list[nn.Module] = [ConvBlock(dim, next(rates)) for _ in range(config.conv_depths[k])]
    else:
        stage = [_local_global(config, dim, k - convs, rates)]
    if k < STAGES - 1:
        stage.append(nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1, bias=False))
    return nn.Sequential(*stage)


def _local_global(config: MerbaConfig, dim: int, i: int, rates: Iterator[float]) -> LocalGlobal:
    """Local-global stage i (from 0) of width dim."""

    def block(mixer: nn.Module) -> TokenBlock:
        mlp = Mlp(dim, config.mlp_ratio, config.drop_rate)
        return TokenBlock(dim, mixer, mlp, next(rates), config.layer_scale)

    def extractor() -> LocalMixer:
        return LocalMixer(dim, config.scans, config.mixer_sharing, config.d_state, config.scan_backend)

    def attention() -> Attention:
        return Attention(dim, config.heads[i], config.attn_drop, config.drop_rate)

    windows = [config.window if part == "local" else None for part in config.variant.split("/")]
    local = [block(extractor()) for _ in range(config.local_depths[i])]
    global_ = [block(attention()) for _ in range(config.global_depths[i])]
    return LocalGlobal(TokenBlocks(local, windows[0]), TokenBlocks(global_, windows[1]))


def _initialise(model: nn.Module, init: str) -> None:
    """Weights of every Linear (MerbaConfig.init); convs and norms keep torch's defaults."""
    for module in model.modules():
        if not isinstance(module, nn.Linear):
            continue
        if init == "mambavision":
            nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if init == "mamba":  # after the Linears: dt_proj is one of them
        for module in model.modules():
            if isinstance(module, ScanWeights):
                module.init_mamba()
