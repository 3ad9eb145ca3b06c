"""FERMam, facial expressions from an image and its landmarks: its options and presets.

Source     Scientific Reports 2026, doi 10.1038/s41598-026-44396-6; public code jxcsglr/FERMam @88cc097b and, of ASFR
           and the fusion, @8c677bde, whose forward pass this describes again: IR-50 and a convolutional state-space
           block for the image, a frozen MobileFaceNet for the landmarks, fusion at three scales by ASFR, a gate, one
           Linear.  fermam_net.py has the parts.
Ours       The code does three things that its text does not say.  ``faithful=true`` repeats them, the default repairs:
             token_view  the image branch's map (256, 14, 14) is read as 49 tokens of 1024 numbers as it lies in
                         memory, so that a token is a slab of some five whole channels; repaired, a token is a place
             readout     only token 0 is classified, and since ASFR's scans run forward it sees 16 of the 49 landmark
                         tokens; repaired, the mean of all
             skip        ASFR's skip weight D is overwritten by the number of channels, 1024, which drowns the scan
                         before the norm that follows; repaired, D is learned
Landmarks  ``landmark_branch=heatmap`` (default) draws mepipe's 68 points as Gaussians of one cell's width on a 7x7 map
           and mixes the 68 by one Linear: no foreign weights.  Without points (flow, a crop by its box alone) a learned
           value of each point stands for its drawing.  ``mobilefacenet`` is the source's: frozen with the weights of
           ``landmark_checkpoint``, and trained with the rest where none are given, which the source never does.
Published  "almost the same" as POSTER++ on RAF-DB, AffectNet, FERPlus; the numbers could not be read.  16.7 M
           parameters less than POSTER++'s 43.7 M, that is 27.0 M: 26.87 M of the 40.01 M that the code builds are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mepipe_model.models.options import (
    SCAN_BACKENDS,
    HeadOptions,
    file_or_none,
    flag,
    fraction,
    one_of,
    option,
    resolve,
    whole,
    wholes,
)
from mepipe_model.models.registry import register_model

if TYPE_CHECKING:
    from mepipe_model.models.fermam_net import Fermam

FAITHFUL = {"token_view": "memory", "readout": "token0", "skip": "channels"}
REPAIRED = {"token_view": "spatial", "readout": "mean", "skip": "learned"}
INPUT = "aligned apex or still image, RGB 3x224x224, and 68 landmarks; or flow (u, v, magnitude)"
SOURCE = "Scientific Reports 2026, doi 10.1038/s41598-026-44396-6; layers of the public code, its oddities repaired"


MOBILEFACENET = 512  # channels of its last map
# The source's loss is cross-entropy plus 2 x label-smoothed (0.2) cross-entropy.  Smoothed targets are linear in the
# smoothing, so that this is 3 x cross-entropy smoothed by 2/3 x 0.2; neither SAM nor Adam heeds the factor 3.
SMOOTHING = 2 * 0.2 / 3


@dataclass(frozen=True)
class FermamConfig(HeadOptions):
    """All options. faithful: token_view, readout and skip are the source's where they are not given."""

    faithful: bool = option(False, flag)
    token_view: str = option("spatial", one_of("memory", "spatial"))
    readout: str = option("mean", one_of("token0", "mean"))
    skip: str = option("learned", one_of("channels", "learned"))
    landmark_branch: str = option("heatmap", one_of("heatmap", "mobilefacenet"))
    # IR-50: 64, 128, 256 channels in 3, 4, 14 units, the first of each group halving
    width: int = option(64, whole)
    depths: tuple[int, ...] = option((3, 4, 14), wholes)
    dim: int = option(512, whole)  # of the tokens
    d_state: int = option(16, whole)
    drop_rate: float = option(0.1, fraction)
    scan_backend: str = option("auto", one_of(*SCAN_BACKENDS))  # of SS2D; ASFR's recurrence is its own, in plain torch
    # Weights of the user's own: IR-50 and MobileFaceNet; no part of what rebuilds a model
    init_checkpoint: str | None = option(None, file_or_none)
    landmark_checkpoint: str | None = option(None, file_or_none)

    def check(self) -> None:
        super().check()
        if len(self.depths) != 3 or 0 in self.depths:
            raise ValueError(f"depths={list(self.depths)} must be three whole numbers of at least 1")
        if self.dim % 4:
            raise ValueError(f"dim={self.dim} must be a multiple of 4: halves are scanned and shuffled")
        if self.landmark_branch == "mobilefacenet" and self.dim != MOBILEFACENET:
            raise ValueError(f"dim={self.dim} must be {MOBILEFACENET} with landmark_branch=mobilefacenet")
        if self.landmark_branch != "mobilefacenet" and self.landmark_checkpoint is not None:
            raise ValueError("landmark_checkpoint goes with landmark_branch=mobilefacenet")


def build(name: str, preset: dict[str, Any], options: dict[str, Any]) -> Fermam:
    """The network, with the weights of the user's files. Raises DataError for a wrong file."""
    chosen = FAITHFUL if options.get("faithful") is True else REPAIRED
    smoothing = {} if options.get("head") == "dgcm" else {"label_smoothing": SMOOTHING}
    config = resolve(FermamConfig, name, {**preset, **chosen, **smoothing}, options)
    from mepipe_model.models.fermam_net import Fermam
    from mepipe_model.models.starting import load_part

    model = Fermam(name, config)
    parts = {"init_checkpoint": (model.image, "IR-50"), "landmark_checkpoint": (model.landmarks, "MobileFaceNet")}
    files = {option: getattr(config, option) for option in parts if getattr(config, option) is not None}
    model.loaded = tuple(
        load_part(parts[option][0], option, Path(file), parts[option][1]) for option, file in files.items()
    )
    return model


@register_model(
    "fermam",
    summary="IR-50 and a convolutional state-space block, landmarks beside them, fusion at three scales",
    input=INPUT,
    source=SOURCE,
    fidelity="code",
    published=(
        'RAF-DB, AffectNet, FERPlus: "almost the same" as POSTER++ with 27.0 M parameters and 5.97 G operations; '
        "numbers not read, best epoch chosen on the test set"
    ),
    params=25_996_903,
    macs=5_706_697_728,
    takes=("image", "scaled"),
    landmarks="taken",
)
def fermam(name: str, options: dict[str, Any]) -> Fermam:
    return build(name, {}, options)


TINY = {"width": 8, "depths": (1, 1, 2), "dim": 64, "d_state": 8, "drop_rate": 0.0, "scan_backend": "fused"}


@register_model(
    "fermam_tiny",
    summary="every part of FERMam, an eighth of the width, four units of IR-50's 21: for CPUs and tests",
    input=INPUT,
    source="fermam; widths and depths are ours",
    fidelity="reconstruction",
    published="none",
    params=196_591,
    macs=30_830_976,
    takes=("image", "scaled"),
    landmarks="taken",
)
def fermam_tiny(name: str, options: dict[str, Any]) -> Fermam:
    return build(name, TINY, options)
