"""MERba (arXiv 2506.14468v1): its options, and the presets built from them.

The paper leaves several points open; each is an option whose default is our reading of it, with
the reason beside it.  docs/models.md lists them with what speaks for either side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mepipe_model.models.options import (
    SCAN_BACKENDS,
    HeadOptions,
    file_or_none,
    fraction,
    one_of,
    option,
    positive,
    positive_or_none,
    resolve,
    whole,
    whole_or_none,
    wholes,
)
from mepipe_model.models.registry import register_model
from mepipe_model.ops.directions import parse_scans

if TYPE_CHECKING:
    from mepipe_model.models.merba_net import Merba

STAGES = 4
FLOW_INPUT = "flow (u, v, magnitude), 3xHxW, 224x224 in the paper"


def scans(value: Any) -> str:
    """Directions joined by '+', in one spelling."""
    if not isinstance(value, str):
        raise ValueError("must be directions joined by '+', like a+b+c+d")
    return "+".join(parse_scans(value))


@dataclass(frozen=True)
class MerbaConfig(HeadOptions):
    """All options of the family; stages are counted 1 to 4 as in Table I of the paper."""

    # Side that the input is brought to before the stem, by means over pixels where it is a whole part, else
    # bilinearly; None takes it as it comes.  28x28 maps are enlarged to 224 by input_size=224.
    input_size: int | None = option(None, whole_or_none)
    # Widths.  Stage k is dim * 2^(k-1) wide; Table I gives 128 ... 1024 (its "D4 = D3" means that
    # stage 4 does not double once more).
    dim: int = option(128, whole)
    stem_dim: int = option(64, whole)
    # "conv3x3": two overlapping 3x3 convs, as "consistent with MambaVision-B"; "conv4x4": the
    # "non-overlapping patches" of the text.
    stem: str = option("conv3x3", one_of("conv3x3", "conv4x4"))
    # Blocks.  The first len(conv_depths) stages are convolutional, the others are local-global.
    conv_depths: tuple[int, ...] = option((3,), wholes)
    local_depths: tuple[int, ...] = option((2, 6, 4), wholes)
    global_depths: tuple[int, ...] = option((2, 2, 2), wholes)
    heads: tuple[int, ...] = option((4, 8, 16), wholes)  # not stated; head width 64 as MambaVision-B
    window: int = option(7, whole)
    mlp_ratio: float = option(4.0, positive)  # not stated; MambaVision's
    variant: str = option("local/global", one_of("local/global", "local/local", "global/global"))  # Table VI
    # Mixer.  Sharing is undecidable from the text: eq. (2) writes one MixerBlock, so "shared".
    # "ssm": conv, x_proj, dt, A, D per direction; "full": in_proj per direction too.
    scans: str = option("a+b+c+d", scans)
    mixer_sharing: str = option("shared", one_of("shared", "ssm", "full"))
    d_state: int = option(8, whole)
    # "mambavision": every Linear truncated normal(0.02), dt bias 0, as its released code does, so
    # dt starts at ln 2; "mamba": fan-in uniform Linears and dt in [0.001, 0.1], as Mamba's code.
    init: str = option("mambavision", one_of("mambavision", "mamba"))
    # Regularisation.  "dropout rate 0.1" read as MambaVision's drop_rate; drop path is B's own 0.3.
    drop_rate: float = option(0.1, fraction)
    drop_path: float = option(0.3, fraction)
    attn_drop: float = option(0.0, fraction)
    layer_scale: float | None = option(1e-5, positive_or_none)  # not stated; MambaVision's.  None: none
    # A MambaVision checkpoint of the user's own to start from (models/checkpoints.py); the paper does not say that it
    # started from one.  No part of what rebuilds a trained model.
    init_checkpoint: str | None = option(None, file_or_none)
    scan_backend: str = option("auto", one_of(*SCAN_BACKENDS))

    def check(self) -> None:
        """What concerns several options at once; raises ValueError."""
        self._check_stages()
        if self.dim % 2:
            raise ValueError(f"dim={self.dim} must be even: the mixer works on halves")
        super().check()

    def _check_stages(self) -> None:
        wanted = STAGES - len(self.conv_depths)
        for name in ("local_depths", "global_depths", "heads"):
            if len(getattr(self, name)) != wanted:
                raise ValueError(
                    f"{name}={list(getattr(self, name))} must have {wanted} entries, one per stage "
                    f"after the {len(self.conv_depths)} of conv_depths"
                )
        for k, heads in enumerate(self.heads, start=len(self.conv_depths)):
            width = self.dim << k
            if heads < 1 or width % heads:
                raise ValueError(f"heads={list(self.heads)}: {heads} does not divide stage width {width}")


def build(name: str, preset: dict[str, Any], options: dict[str, Any]) -> Merba:
    """The network of ``preset`` with the user's options over it. Raises DataError for a wrong init_checkpoint."""
    config = resolve(MerbaConfig, name, preset, options)
    from mepipe_model.models.merba_net import Merba

    model = Merba(name, config)
    if config.init_checkpoint is not None:
        from mepipe_model.models.checkpoints import load_checkpoint

        model.loaded = (load_checkpoint(model, Path(config.init_checkpoint)),)
    return model


@register_model(
    "merba",
    summary="local window scans (mixer) and global attention; Table I of the paper",
    input=FLOW_INPUT,
    source="Mao et al. 2025, arXiv 2506.14468v1; no public code",
    fidelity="paper",
    published=(
        "3DB LOSO UF1 0.8840, UAR 0.8777 (Table V); DFME, 7 classes with DGCM: test A UF1 0.4332, "
        "test B 0.4302 (Table IV); early stopping without a described validation set"
    ),
    params=99_803_459,
    macs=14_496_652_288,
)
def merba(name: str, options: dict[str, Any]) -> Merba:
    return build(name, {}, options)


@register_model(
    "merba_small",
    summary="MERba at half the width",
    input=FLOW_INPUT,
    source="MERba; the width is ours",
    fidelity="reconstruction",
    published="none",
    params=25_018_531,
    macs=3_818_696_192,
)
def merba_small(name: str, options: dict[str, Any]) -> Merba:
    return build(name, {"dim": 64, "stem_dim": 32, "heads": (2, 4, 8)}, options)


# What differs from the paper, and why: a few hundred optimiser steps on some fifty clips.  On 51 made-up
# flow fields (20 epochs, batch 8, 60 unseen fields of three classes) these choices reached an accuracy of
# 0.83 and 0.75 (lr 5e-4, seed 0; lr 1e-3, seed 1); layer scale 0.1 gave 0.62 and 0.55, init=mambavision 0.68
# and 0.67, dropout and drop path of 0.1 0.65 and 0.75, all the paper's settings together 0.68 (seed 1).
TINY = {
    # A quarter of the pixels.  A push of an action unit is tens of pixels wide.
    "input_size": 112,
    "dim": 16,
    "stem_dim": 8,
    "conv_depths": (1,),
    "local_depths": (1, 1, 1),
    "global_depths": (1, 1, 1),
    "heads": (1, 2, 4),  # head width 32
    # A branch that starts at 1e-5 and grows by about lr per step would stay asleep for the whole run.
    "layer_scale": None,
    # Normal(0.02) weights at a fan-in of 16 shrink a signal 12-fold per Linear, and dt = ln 2 forgets
    # in two tokens; fan-in scaled weights and dt in [0.001, 0.1] see the whole window from the start.
    "init": "mamba",
    # Widths this small leave no time to hide in: the scan alone would take a third of a step.
    "scan_backend": "fused",
    # Seven blocks at these widths underfit rather than overfit.
    "drop_rate": 0.0,
    "drop_path": 0.0,
}


@register_model(
    "merba_tiny",
    summary="every stage and kind of block of MERba, one each, 1/8 of the width: for CPUs and tests",
    input=FLOW_INPUT,
    source="MERba; widths, depths and initialisation are ours",
    fidelity="reconstruction",
    published="none",
    params=586_475,
    macs=31_818_752,
)
def merba_tiny(name: str, options: dict[str, Any]) -> Merba:
    return build(name, TINY, options)


# For maps of 28x28, such as those of 3db that STSTNet's authors published: what did best there among the settings of
# benchmarks/real_models.py, with a recipe of its own (shifts, SAM).
MAPS = TINY | {"input_size": 28, "drop_rate": 0.2, "drop_path": 0.3, "label_smoothing": 0.1}


@register_model(
    "merba_maps",
    summary="merba_tiny for 28x28 maps and a few hundred clips, with the recipe that did best on real maps of 3db",
    input=FLOW_INPUT,
    source="MERba; widths, depths, initialisation and recipe are ours",
    fidelity="reconstruction",
    published="none",
    params=586_475,
    macs=12_306_272,
)
def merba_maps(name: str, options: dict[str, Any]) -> Merba:
    return build(name, MAPS, options)
