"""The input that STSTNet, OFF-ApexNet and HTNet share: 28x28 maps of u, v and optical strain in 0..255.

STSTNet's authors published theirs as 8-bit images: TV-L1 flow from onset to apex and its strain, each map of each
clip stretched from its lowest to its highest value, and fed to the network as it is.  Here the maps come from the
shards' flow and are not rounded to 8 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mepipe_model.models.base import PreparingModel
from mepipe_model.models.heads import Head, LinearHead

if TYPE_CHECKING:
    from mepipe_model.models.baselines import MapsConfig

SIDE = 28
WHITE = 255.0


class MapsModel(PreparingModel):
    """A network on the three maps; ``features`` gives what its linear head sees."""

    def __init__(self, name: str, config: MapsConfig, width: int) -> None:
        super().__init__({"name": name, **config.as_dict()})
        self.third = config.third
        self.head: Head = LinearHead(width, config.num_classes, config.label_smoothing)

    def prepare(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) flow in px -> (B, 3, 28, 28): u, v, strain of each clip, each in 0..255."""
        return stretched(uv_strain(x, self.third))

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, 28, 28) -> (B, width)."""
        raise NotImplementedError

    def network(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def optical_strain(u: Tensor, v: Tensor) -> Tensor:
    """Magnitude of the optical strain of flow in px, (B, H, W) each -> (B, H, W), without unit.

    sqrt(u_x^2 + v_y^2 + (u_y + v_x)^2 / 2), the norm of the strain tensor, whose shear (u_y + v_x) / 2 stands in it
    twice (Liong et al., FG 2019).  Central differences, one-sided at the border.
    """
    (u_y, u_x), (v_y, v_x) = ((_slope(z, -2), _slope(z, -1)) for z in (u, v))
    return (u_x**2 + v_y**2 + (u_y + v_x) ** 2 / 2).sqrt()


def _slope(z: Tensor, dim: int) -> Tensor:
    """Central differences along ``dim``, one-sided at both ends: torch.gradient, which fixes the batch of a graph."""
    n = z.shape[dim]
    inner = (z.narrow(dim, 2, n - 2) - z.narrow(dim, 0, n - 2)) / 2
    first = z.narrow(dim, 1, 1) - z.narrow(dim, 0, 1)
    last = z.narrow(dim, n - 1, 1) - z.narrow(dim, n - 2, 1)
    return torch.cat((first, inner, last), dim)


def uv_strain(x: Tensor, third: str) -> Tensor:
    """(B, 3, H, W) -> (B, 3, 28, 28): area means of u, v and strain.

    third: "magnitude" has the strain computed, at full size; "strain" says that it is the third channel already.
    """
    if third == "magnitude":
        x = torch.stack((x[:, 0], x[:, 1], optical_strain(x[:, 0], x[:, 1])), 1)
    return F.adaptive_avg_pool2d(x, SIDE)


def stretched(x: Tensor) -> Tensor:
    """Each map of x (B, C, H, W) from its lowest to its highest value to 0..255; a constant map becomes 0."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(low))
    return (x - low) / span * WHITE
