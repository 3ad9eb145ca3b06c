"""Building blocks that models share: conv block, attention, MLP, windows, the input brought to a size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a whole residual branch per entry of the first axis (image or window), and rescales."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) < keep
        return x * (mask.to(x.dtype) / keep)


class ConvBlock(nn.Module):
    """x + BN(conv(GELU(BN(conv(x))))), 3x3, (B, C, H, W); GELU by its tanh form, as MambaVision."""

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.norm1(self.conv1(x)), approximate="tanh")
        return x + self.drop_path(self.norm2(self.conv2(y)))


class Attention(nn.Module):
    """Multi-head self-attention over (M, L, D) tokens, without mask or position term."""

    def __init__(self, dim: int, heads: int, attn_drop: float, drop: float) -> None:
        super().__init__()
        self.heads, self.attn_drop = heads, attn_drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``size`` (height, width of the map) is the mixers' business; attention has no order."""
        m, length, dim = x.shape
        q, k, v = self.qkv(x).view(m, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        p = self.attn_drop if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        return self.drop(self.proj(y.transpose(1, 2).reshape(m, length, dim)))


class Mlp(nn.Sequential):
    """D -> ratio D -> D with exact GELU and dropout after each Linear."""

    def __init__(self, dim: int, ratio: float, drop: float) -> None:
        hidden = int(dim * ratio)
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(drop), nn.Linear(hidden, dim), nn.Dropout(drop))


class LayerScale(nn.Module):
    """A learned gain per channel on a residual branch; without a start value there is none."""

    def __init__(self, dim: int, start: float | None) -> None:
        super().__init__()
        self.gain = None if start is None else nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x if self.gain is None else x * self.gain


class TokenBlock(nn.Module):
    """Pre-norm residual block over tokens (M, L, D): a token mixer, then an MLP.

    Residuals, norms and layer scale as in MambaVision; MERba's eqs. (2) to (5) leave them out.
    """

    def __init__(self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float, layer_scale: float | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mixer, self.mlp = mixer, mlp
        self.scale1, self.scale2 = LayerScale(dim, layer_scale), LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = x + self.drop_path(self.scale1(self.mixer(self.norm1(x), size)))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


class TokenBlocks(nn.Module):
    """Blocks over a map (B, H, W, D): inside windows of ``window`` tokens a side, or over all of it.

    A map that does not divide into windows is padded right and below with zeros and cropped after.
    """

    def __init__(self, blocks: list[TokenBlock], window: int | None) -> None:
        super().__init__()
        self.blocks, self.window = nn.ModuleList(blocks), window

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        tall, wide = (height, width) if self.window is None else (self.window, self.window)
        x = F.pad(x, (0, 0, 0, -width % wide, 0, -height % tall))
        tokens = to_windows(x, tall, wide)
        for block in self.blocks:
            tokens = block(tokens, (tall, wide))
        return from_windows(tokens, tall, wide, x.shape)[:, :height, :width]


def to_windows(x: Tensor, tall: int, wide: int) -> Tensor:
    """(B, H, W, D) -> (B * windows, tall * wide, D); images, then rows, then columns of windows."""
    b, h, w, d = x.shape
    split = x.view(b, h // tall, tall, w // wide, wide, d).transpose(2, 3)
    return split.reshape(-1, tall * wide, d)


def from_windows(tokens: Tensor, tall: int, wide: int, shape: torch.Size) -> Tensor:
    """The inverse of ``to_windows``; shape = (B, H, W, D)."""
    b, h, w, d = shape
    return tokens.view(b, h // tall, w // wide, tall, wide, d).transpose(2, 3).reshape(b, h, w, d)


def resized(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side)."""
    height, width = (int(n) for n in x.shape[2:])  # plain numbers while a graph is traced too
    if (height, width) == (side, side):
        return x
    if height % side == 0 and width % side == 0:
        return _pooled(x, height // side, width // side)
    return F.interpolate(x, (side, side), mode="bilinear", antialias=height > side or width > side)


def _pooled(x: Tensor, tall: int, wide: int) -> Tensor:
    """Means over cells of tall x wide pixels: F.avg_pool2d, whose CPU kernel takes six times as long for 2 x 2."""
    rows = sum(x[:, :, i::tall] for i in range(1, tall)) + x[:, :, ::tall]
    return (sum(rows[..., i::wide] for i in range(1, wide)) + rows[..., ::wide]) / (tall * wide)
