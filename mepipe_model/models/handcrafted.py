"""The hand-crafted baselines of the comparison tables: features by formula, a linear SVM on top.

They are fitted once per fold instead of being trained by epochs; features are in bi_woof.py and lbp_top.py, the SVM
in svm.py.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mepipe_model.models.options import flag, one_of, option, positive, resolve, whole, wholes
from mepipe_model.models.registry import register_model

if TYPE_CHECKING:
    from mepipe_model.models.bi_woof import BiWoof
    from mepipe_model.models.lbp_top import LbpTop

MOST_NEIGHBOURS = 8  # a pattern is a byte


@dataclass(frozen=True)
class SvmConfig:
    """Options of both. c: the SVM's C; standardise: features by their mean and deviation over the training clips."""

    num_classes: int = option(3, whole)
    head: str = option("svm", one_of("svm"))
    c: float = option(10_000.0, positive)
    standardise: bool = option(False, flag)

    def as_dict(self) -> dict[str, Any]:
        """All options as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class BiWoofConfig(SvmConfig):
    """blocks: (rows, columns); third: what the input's third channel holds; strain is then taken as it is."""

    third: str = option("magnitude", one_of("magnitude", "strain"))
    blocks: tuple[int, ...] = option((5, 5), wholes)
    bins: int = option(8, whole)

    def check(self) -> None:
        if len(self.blocks) != 2 or 0 in self.blocks:
            raise ValueError(f"blocks={list(self.blocks)} must be two whole numbers of at least 1, like [5, 5]")


@dataclass(frozen=True)
class LbpTopConfig(SvmConfig):
    """blocks: (rows, columns, times); radii: (x, y, t) in pixels and frames."""

    blocks: tuple[int, ...] = option((5, 5, 1), wholes)
    neighbours: int = option(8, whole)
    radii: tuple[int, ...] = option((1, 1, 4), wholes)

    def check(self) -> None:
        for name in ("blocks", "radii"):
            value = getattr(self, name)
            if len(value) != 3 or 0 in value:
                raise ValueError(f"{name}={list(value)} must be three whole numbers of at least 1")
        if not 4 <= self.neighbours <= MOST_NEIGHBOURS:
            raise ValueError(f"neighbours={self.neighbours} must be 4 to {MOST_NEIGHBOURS}")


@register_model(
    "bi_woof",
    summary="histograms of flow orientation in 5x5 blocks, weighted by magnitude and strain; linear SVM",
    input="flow in px (u, v, magnitude)",
    source="Liong et al., Signal Processing: Image Communication 62, 2018; features of the authors' public code",
    fidelity="code",
    published=(
        "3DB LOSO UF1 0.6296, UAR 0.6227, as quoted in MERba's Table V; the classifier and how its C was chosen are "
        "not in the public code"
    ),
    params=3 * (200 + 1),
    takes=("px",),
    trained_by="fit",
    normalised="refused",
)
def bi_woof(name: str, options: dict[str, Any]) -> BiWoof:
    config = resolve(BiWoofConfig, name, {}, options)
    from mepipe_model.models.bi_woof import BiWoof

    return BiWoof(name, config)


@register_model(
    "lbp_top",
    summary="local binary patterns on three orthogonal planes of the clip, in 5x5 blocks; linear SVM",
    input="all aligned frames from onset to offset, grey (mepipe prepare --frames all)",
    source="Zhao and Pietikainen, TPAMI 29(6), 2007; blocks, radii and C are ours",
    fidelity="reconstruction",
    published="3DB LOSO UF1 0.5882, UAR 0.5785, the MEGC2019 baseline; its settings are not verified",
    params=3 * (math.prod((3, 5, 5, 59)) + 1),
    takes=("frames",),
    trained_by="fit",
)
def lbp_top(name: str, options: dict[str, Any]) -> LbpTop:
    config = resolve(LbpTopConfig, name, {}, options)
    from mepipe_model.models.lbp_top import LbpTop

    return LbpTop(name, config)
