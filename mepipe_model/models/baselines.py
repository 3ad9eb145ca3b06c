"""The small-flow baselines of the comparison tables, all on 28x28 maps of u, v and optical strain.

Their networks are in ststnet.py, off_apexnet.py and htnet.py; how the maps are made is in maps.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mepipe_model.models.options import fraction, one_of, option, resolve, whole, wholes
from mepipe_model.models.registry import register_model

if TYPE_CHECKING:
    from mepipe_model.models.htnet import Htnet
    from mepipe_model.models.off_apexnet import OffApexNet
    from mepipe_model.models.ststnet import Ststnet

MAPS_INPUT = "flow in px (u, v, magnitude); makes 28x28 maps of u, v and strain in 0..255 from it"


@dataclass(frozen=True)
class MapsConfig:
    """Options of all three. third: what the input's third channel holds; strain is then taken as it is."""

    num_classes: int = option(3, whole)
    head: str = option("linear", one_of("linear"))
    label_smoothing: float = option(0.0, fraction)
    third: str = option("magnitude", one_of("magnitude", "strain"))
    drop_rate: float = option(0.5, fraction)

    def check(self) -> None:
        """Nothing concerns several options at once."""

    def as_dict(self) -> dict[str, Any]:
        """All options as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class HtnetConfig(MapsConfig):
    """HTNet's: level i of three is dim * 2^i wide, with heads * 2^i heads and depths[i] blocks."""

    drop_rate: float = option(0.0, fraction)
    dim: int = option(256, whole)
    heads: int = option(3, whole)
    depths: tuple[int, ...] = option((2, 2, 10), wholes)  # of main_HTNet.py; the older script has (2, 2, 8)

    def check(self) -> None:
        if len(self.depths) != 3 or 0 in self.depths:
            raise ValueError(f"depths={list(self.depths)} must be three whole numbers of at least 1")
        if self.heads > self.dim:
            raise ValueError(f"heads={self.heads} must be at most dim={self.dim}")


@register_model(
    "ststnet",
    summary="three shallow convolutions side by side on 28x28 maps",
    input=MAPS_INPUT,
    source="Liong et al., FG 2019; layers of the authors' public code",
    fidelity="code",
    published=(
        "3DB LOSO UF1 0.7353, UAR 0.7605; the authors' PyTorch log after the last epoch 0.7209, 0.7250; a rerun by "
        "others UF1 0.7127 after the last epoch, 0.7740 with the epoch chosen on the test subject"
    ),
    params=1_683,
    macs=390_000,
    takes=("px",),
)
def ststnet(name: str, options: dict[str, Any]) -> Ststnet:
    config = resolve(MapsConfig, name, {}, options)
    from mepipe_model.models.ststnet import Ststnet

    return Ststnet(name, config)


@register_model(
    "off_apexnet",
    summary="one small convolutional stream each for u and v, two wide linear layers",
    input=MAPS_INPUT,
    source="Gan et al., Signal Processing: Image Communication 74, 2019; layers as commonly described, not checked",
    fidelity="reconstruction",
    published=(
        "for a variant of it on 3DB, by others: LOSO UF1 0.7032 after the last epoch, 0.8390 with the epoch chosen "
        "on the test subject"
    ),
    params=2_664_475,
    macs=3_833_280,
    takes=("px",),
)
def off_apexnet(name: str, options: dict[str, Any]) -> OffApexNet:
    config = resolve(MapsConfig, name, {}, options)
    from mepipe_model.models.off_apexnet import OffApexNet

    return OffApexNet(name, config)


@register_model(
    "htnet",
    summary="hierarchical transformer over crops around eyes and mouth corners of 28x28 maps",
    input=MAPS_INPUT,
    source="Wang et al., Neurocomputing 602, 2024; layers of the authors' public code, fixed landmarks",
    fidelity="code",
    published=(
        "3DB LOSO UF1 0.8603, UAR 0.8475, with the best epoch chosen per test subject; a user of the public code got "
        "UF1 0.6484 to 0.6552"
    ),
    params=139_582_982,
    macs=214_285_312,
    takes=("px",),
)
def htnet(name: str, options: dict[str, Any]) -> Htnet:
    config = resolve(HtnetConfig, name, {}, options)
    from mepipe_model.models.htnet import Htnet

    return Htnet(name, config)
