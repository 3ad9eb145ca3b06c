"""MambaVision-B, the baseline MERba grew out of, from the same blocks.

Its mixers and attention see the whole map at 224x224 (the released windows of 14 and 7 are the
maps of stages 3 and 4), so it is the "global/global" variant with one raster scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mepipe_model.models.merba import FLOW_INPUT, build
from mepipe_model.models.registry import register_model

if TYPE_CHECKING:
    from mepipe_model.models.merba_net import Merba

MAMBAVISION_B = {
    "conv_depths": (3, 3),
    "local_depths": (5, 3),
    "global_depths": (5, 2),
    "heads": (8, 16),
    "scans": "a",
    "variant": "global/global",
    # drop_rate stays at MERba's 0.1: the paper trained this baseline with MERba's hyperparameters
    # (NVIDIA's own default is 0).
}


@register_model(
    "mambavision_b",
    summary="MambaVision-B from scratch: whole-map raster mixers, then attention",
    input=FLOW_INPUT,
    source="Hatamizadeh and Kautz, CVPR 2025; architecture checked against its public code",
    fidelity="code",
    published="3DB LOSO UF1 0.8193, UAR 0.8227 as reproduced by MERba's authors (Table V)",
    params=96_663_363,
    macs=15_159_376_896,
)
def mambavision_b(name: str, options: dict[str, Any]) -> Merba:
    return build(name, MAMBAVISION_B, options)
