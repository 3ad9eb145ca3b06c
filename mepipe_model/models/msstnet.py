"""MSSTNet, multi-scale spatio-temporal CNN-Transformer for facial expressions in videos: its options and presets.

Source     Wang, Kang, Ding, Nakagawa, Ren, ICASSP 2024, arXiv 2404.08433, of which we could read the abstract and the
           captions of the figures; no public code.  From them: a CNN for each frame, a "Multi-scale Embedding Layer"
           over its maps of several scales, a temporal transformer of L blocks that is given more scales by addition
           as it goes on, temporal position embedding, mean over time, classification.  ResNet-18 is said by others
           who read the paper.  T, sizes, widths, L, the formula of the embedding, and which scale joins where are ours.
Flow       A flow tensor is a sequence of one frame: attention over time is then a projection of its one token.  Flow
           scaled from nothing to all, as T frames, would hold the same numbers T times.
Published  state of the art on DFEW and FERV39k at its time; the numbers could not be read
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mepipe_model.models.options import (
    HeadOptions,
    file_or_none,
    fraction,
    option,
    positive,
    resolve,
    whole,
    whole_or_none,
    wholes,
)
from mepipe_model.models.registry import register_model

if TYPE_CHECKING:
    from mepipe_model.models.msstnet_net import Msstnet

SCALES = 4  # maps of a ResNet: C2 to C5
INPUT = "aligned sequence, RGB 16x3x112x112; or flow (u, v, magnitude) as one frame"
SOURCE = "Wang et al., ICASSP 2024, arXiv 2404.08433, abstract and captions only"


@dataclass(frozen=True)
class MsstnetConfig(HeadOptions):
    """All options."""

    # Side that frames are brought to by means over pixels, or bilinearly; None takes them as they come
    input_size: int | None = option(112, whole_or_none)  # what DFEW's users take
    frames: int = option(16, whole)  # of the position embedding; of other numbers it is interpolated
    # ResNet-18: 64, 128, 256, 512 channels
    width: int = option(64, whole)
    depths: tuple[int, ...] = option((2, 2, 2, 2), wholes)
    embed_dim: int = option(512, whole)  # of tokens; as wide as the last map
    blocks: int = option(4, whole)  # of the T-Former: one for each scale
    heads: int = option(8, whole)
    mlp_ratio: float = option(4.0, positive)
    drop_rate: float = option(0.1, fraction)
    drop_path: float = option(0.0, fraction)
    # Weights of a ResNet of the user's own (torchvision's names) for the frames' CNN; no part of what rebuilds a model
    init_checkpoint: str | None = option(None, file_or_none)

    def check(self) -> None:
        super().check()
        if len(self.depths) != SCALES or 0 in self.depths:
            raise ValueError(f"depths={list(self.depths)} must be four whole numbers of at least 1")
        if self.blocks < SCALES:
            raise ValueError(f"blocks={self.blocks} must be at least {SCALES}: one scale joins at each")
        if self.embed_dim % self.heads or self.embed_dim % 4:
            raise ValueError(f"embed_dim={self.embed_dim} must be a multiple of 4 and of heads={self.heads}")


def build(name: str, preset: dict[str, Any], options: dict[str, Any]) -> Msstnet:
    """The network. Raises DataError for a wrong init_checkpoint."""
    config = resolve(MsstnetConfig, name, preset, options)
    from mepipe_model.models.msstnet_net import Msstnet

    model = Msstnet(name, config)
    if config.init_checkpoint is not None:
        from mepipe_model.models.starting import load_part

        model.loaded = (load_part(model.backbone, "init_checkpoint", Path(config.init_checkpoint), "ResNet"),)
    return model


@register_model(
    "msstnet",
    summary="ResNet-18 per frame, embedding of its four scales, temporal transformer that joins them one by one",
    input=INPUT,
    source=SOURCE,
    fidelity="reconstruction",
    published="DFEW and FERV39k, best of their time by the abstract; numbers not read",
    params=24_970_307,
    macs=8_173_323_776,
    takes=("sequence", "scaled"),
    shape=(16, 3, 112, 112),
)
def msstnet(name: str, options: dict[str, Any]) -> Msstnet:
    return build(name, {}, options)


TINY = {
    "width": 16,
    "depths": (1, 1, 1, 1),
    "embed_dim": 64,
    "heads": 4,
    "mlp_ratio": 2.0,
    "drop_rate": 0.0,
}


@register_model(
    "msstnet_tiny",
    summary="every part of MSSTNet, a quarter of the width, one block per scale: for CPUs and tests",
    input=INPUT,
    source="msstnet; widths and depths are ours",
    fidelity="reconstruction",
    published="none",
    params=465_171,
    macs=333_086_912,
    takes=("sequence", "scaled"),
    shape=(16, 3, 112, 112),
)
def msstnet_tiny(name: str, options: dict[str, Any]) -> Msstnet:
    return build(name, TINY, options)
