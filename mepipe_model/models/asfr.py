"""Adaptive state-space feature refinement (ASFR), the scan of FERMam's fusion, as its public code computes it.

With d = softplus(dt), one forward raster scan over the map, all channels e with the same N decays:

    h_t[e,n] = exp(-d_t[e] exp(A_log[n])) h_{t-1}[e,n] + (W d_t + w)[n] B_t[n] x_t[e]
    y_t[e]   = sum_n C_t[n] h_t[e,n] + D[e] x_t[e]

The input's weight is not d B as in Mamba: W, N x E, mixes the step sizes of all channels, so that the project's scan
backends do not fit, and it is walked in plain torch; a map has 49 places at most.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mepipe_model.ops.scan_doubling import doubled
from mepipe_model.ops.scan_loop import walked

EXPAND = 2
RANK = 8


class Asfr(nn.Module):
    """Map (B, H, W, D) -> (B, H, W, D).

    skip: "learned" D, or "channels": the number of channels E in its place, as the source's code has it by a name that
    is used twice.  Its D then is a parameter without effect.
    """

    def __init__(self, dim: int, d_state: int, drop: float, skip: str, backend: str) -> None:
        super().__init__()
        self.channels, self.d_state, self.skip = EXPAND * dim, d_state, skip
        self.follow = doubled if backend == "doubling" else walked
        self.in_proj = nn.Linear(dim, 2 * self.channels, bias=False)
        self.conv = nn.Conv2d(self.channels, self.channels, 3, padding=1, groups=self.channels, bias=False)
        self.x_proj = nn.Linear(self.channels, RANK + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(RANK, self.channels)
        self.dt_mix = nn.Linear(self.channels, d_state)
        self.A_log = nn.Parameter(0.02 * torch.randn(d_state))
        self.D = nn.Parameter(torch.ones(self.channels))
        self.norm = nn.LayerNorm(self.channels)
        self.out_proj = nn.Linear(self.channels, dim)
        self.drop = nn.Dropout(drop)
        nn.init.constant_(self.dt_proj.bias, 0.1)
        nn.init.uniform_(self.dt_proj.weight, -0.1, 0.1)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (int(n) for n in x.shape[1:3])
        x, z = self.in_proj(x).chunk(2, -1)
        x = self.conv(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        y = self.scanned(x).unflatten(1, (height, width))
        return self.drop(self.out_proj(self.norm(y) * F.silu(z)))

    def scanned(self, x: Tensor) -> Tensor:
        """Tokens (B, L, E) in raster order -> (B, L, E); float32 whatever the autocast, as all scans here."""
        # autocast does not know the device of shapes alone
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            x = x.to(self.D.dtype)
            dt, b, c = self.x_proj(x).split((RANK, self.d_state, self.d_state), -1)
            delta = F.softplus(self.dt_proj(dt))
            decay = torch.exp(-delta[..., None] * self.A_log.exp())
            drive = (self.dt_mix(delta) * b).unsqueeze(2) * x[..., None]
            return self.follow(decay, drive, c) + (self.D if self.skip == "learned" else self.channels) * x
