"""MS-VSSM, multi-scale visual state space model for facial expressions: its options and presets.

Source     MS-VSSM, Journal of Computer Science and Artificial Intelligence 2026, doi 10.54097/9ee3rb64, of which only
           the abstract can be read; no public code.  From it: VMamba's blocks ("VSSM"), a channel attention of its own
           for each scan path ("SE-SS2D"), a dense spatial pyramid pooling at each stage's start ("DSPP"), layer scale.
           Every width, depth, ratio and rate below, and where the parts stand, is ours.
Published  four classes made of DEAP: accuracy 97.31 %, weighted F1 97.56 %; how clips were split is not said.  Frames
           of one trial on both sides would explain such figures: not comparable with scores on unseen people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mepipe_model.models.options import (
    SCAN_BACKENDS,
    HeadOptions,
    flag,
    fraction,
    one_of,
    option,
    positive_or_none,
    resolve,
    whole,
    whole_or_none,
    wholes,
)
from mepipe_model.models.registry import register_model

if TYPE_CHECKING:
    from mepipe_model.models.ms_vssm_net import MsVssm

STAGES = 4
SOURCE = "J. Comput. Sci. Artif. Intell. 2026, doi 10.54097/9ee3rb64, abstract only; VMamba's v0 block"
INPUT = "aligned apex or still image, RGB 3x224x224; or flow (u, v, magnitude)"


@dataclass(frozen=True)
class MsVssmConfig(HeadOptions):
    """All options; stage k of 1 to 4 is dim * 2^(k-1) wide."""

    # Side that the input is brought to by means over pixels, or bilinearly; None takes it as it comes
    input_size: int | None = option(None, whole_or_none)
    # VMamba-T's first version
    dim: int = option(96, whole)
    depths: tuple[int, ...] = option((2, 2, 9, 2), wholes)
    patch: int = option(4, whole)
    d_state: int = option(16, whole)
    expand: int = option(2, whole)
    # SE-SS2D.  "path": squeeze and excitation of each path by itself; "joint": of the four paths' channels together
    path_attention: str = option("path", one_of("path", "joint", "none"))
    se_ratio: int = option(16, whole)  # squeezed to 1/16, as in SE networks
    dspp: bool = option(True, flag)
    # None: a block is its scan alone, as in VMamba's first version; a number adds an MLP so many times as wide
    mlp_ratio: float | None = option(None, positive_or_none)
    layer_scale: float | None = option(1e-5, positive_or_none)  # CaiT's start for deep networks; the paper's is unknown
    drop_path: float = option(0.2, fraction)  # VMamba-T's
    drop_rate: float = option(0.0, fraction)
    # "vmamba": every Linear but those of the scans truncated normal(0.02); "fan_in": torch's own
    init: str = option("vmamba", one_of("vmamba", "fan_in"))
    scan_backend: str = option("auto", one_of(*SCAN_BACKENDS))

    def check(self) -> None:
        super().check()
        if len(self.depths) != STAGES or 0 in self.depths:
            raise ValueError(f"depths={list(self.depths)} must be four whole numbers of at least 1")
        if self.dspp and self.dim % 4:
            raise ValueError(f"dim={self.dim} must be a multiple of 4 with dspp: its branches are a quarter as wide")


def build(name: str, preset: dict[str, Any], options: dict[str, Any]) -> MsVssm:
    config = resolve(MsVssmConfig, name, preset, options)
    from mepipe_model.models.ms_vssm_net import MsVssm

    return MsVssm(name, config)


@register_model(
    "ms_vssm",
    summary="VMamba with attention per scan path, pyramid pooling at each stage, layer scale",
    input=INPUT,
    source=SOURCE,
    fidelity="reconstruction",
    published="DEAP, 4 classes: accuracy 0.9731, weighted F1 0.9756; split unknown, not comparable",
    params=29_888_115,
    macs=4_024_992_192,
    takes=("image", "scaled"),
)
def ms_vssm(name: str, options: dict[str, Any]) -> MsVssm:
    return build(name, {}, options)


# What differs, and why: see merba_tiny, whose choices these are
TINY = {
    "input_size": 112,
    "dim": 16,
    "depths": (1, 1, 1, 1),
    "d_state": 8,
    "expand": 1,
    "se_ratio": 4,
    "layer_scale": None,
    "init": "fan_in",
    "scan_backend": "fused",
    "drop_path": 0.0,
}


@register_model(
    "ms_vssm_tiny",
    summary="every part of MS-VSSM once per stage, 1/6 of the width: for CPUs and tests",
    input=INPUT,
    source="ms_vssm; widths, depths and initialisation are ours",
    fidelity="reconstruction",
    published="none",
    params=266_203,
    macs=9_456_208,
    takes=("image", "scaled"),
)
def ms_vssm_tiny(name: str, options: dict[str, Any]) -> MsVssm:
    return build(name, TINY, options)
