"""The 2-D selective scan (SS2D) of VMamba: a map read along four paths, each with scan weights of its own.

Source     Liu et al., VMamba, arXiv 2401.10166; the block of its first version ("v0"), written from its description:
           1  x, z = in_proj(map), E = expand * dim channels each
           2  x = SiLU(depthwise conv 3x3 of x)
           3  cross scan: x read row by row, column by column, and both backwards
           4  on each path dt, B, C from x by weights of the path, and the selective scan
           5  cross merge: the four put back in place and added
           6  out_proj(LayerNorm(sum) * SiLU(z))
Between 4 and 5 a model may weigh the paths (``between``).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mepipe_model.models.mixer import CHANNELS_PER_RANK, PutBack, ReadAlong, ScanWeights, path_orders
from mepipe_model.ops.scan import selective_scan

PATHS = ("a", "b", "a_bi", "b_bi")  # ops.directions' names of the cross scan


class PathWeights(ScanWeights):
    """The scan weights of one path, started as Mamba's."""

    def __init__(self, channels: int, rank: int, d_state: int) -> None:
        super().__init__()
        self.make(channels, rank, d_state)
        self.init_mamba()

    def forward(self, u: Tensor, backend: str) -> Tensor:
        """The scan of tokens u (B, L, E) in the path's order: (B, L, E)."""
        return selective_scan(u, *self.scan_inputs(u), backend)


class SS2D(nn.Module):
    """Map (B, H, W, D) -> (B, H, W, D).

    between: (B, 4, H*W, E) -> the same, applied to the outputs of the four paths before they are added.
    """

    def __init__(
        self, dim: int, d_state: int = 16, expand: int = 2, backend: str = "auto", between: nn.Module | None = None
    ) -> None:
        super().__init__()
        channels = expand * dim
        self.backend = backend
        self.in_proj = nn.Linear(dim, 2 * channels, bias=False)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        rank = math.ceil(dim / CHANNELS_PER_RANK)
        self.paths = nn.ModuleList(PathWeights(channels, rank, d_state) for _ in PATHS)
        self.between = nn.Identity() if between is None else between
        self.norm = nn.LayerNorm(channels)
        self.out_proj = nn.Linear(channels, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (int(n) for n in x.shape[1:3])  # plain numbers while a graph is traced too
        x, z = self.in_proj(x).chunk(2, -1)
        x = F.silu(self.conv(x.permute(0, 3, 1, 2))).flatten(2).transpose(1, 2)
        y = self.scanned(x.contiguous(), height, width).unflatten(1, (height, width))
        return self.out_proj(self.norm(y) * F.silu(z))

    def scanned(self, x: Tensor, height: int, width: int) -> Tensor:
        """Tokens x (B, H*W, E) along the four paths, added in token order: (B, H*W, E)."""
        order, inverse = path_orders(PATHS, height, width, x.device)
        read = ReadAlong.apply(x, order, inverse).unbind(1)
        along = [path(u, self.backend) for u, path in zip(read, self.paths, strict=True)]
        return PutBack.apply(self.between(torch.stack(along, 1)), order, inverse)
