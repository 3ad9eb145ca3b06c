"""The parameters of TV-L1, with OpenCV's names, defaults and valid ranges.

Source   Zach, Pock, Bischof 2007; Sanchez, Meinhardt-Llopis, Facciolo 2013 (IPOL);
         OpenCV contrib, modules/optflow/src/tvl1flow.cpp, which every engine here follows.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from mepipe.errors import UsageError

PAD = 16  # px, replicated: below 8 OpenCV's zero border still leaks into the face (docs/flow.md)
MIN_SIDE = 16  # px: OpenCV ends the pyramid before a side gets smaller than this

# field -> (smallest, largest, may the smallest itself be used).  The upper ends only catch slips
# such as lambda for 0..1 images (38.25) typed as 38250, or a pad larger than any face crop.
_FLOAT_RANGES: dict[str, tuple[float, float, bool]] = {
    "tau": (0.0, 0.25, False),  # the dual step diverges above 1/4 (Chambolle 2004; tau is divided by theta)
    "lambda_": (0.0, 1000.0, False),
    "theta": (0.0, 100.0, False),
    "epsilon": (0.0, 1.0, True),
    "scale_step": (0.1, 0.95, True),
    "gamma": (0.0, 100.0, True),
    "smooth": (0.0, 20.0, True),
}
_INT_RANGES: dict[str, tuple[int, int]] = {
    "nscales": (1, 64),
    "warps": (1, 1000),
    "inner": (1, 100_000),
    "outer": (1, 100_000),
    "pad": (0, 512),
}
_MEDIANS = (0, 1, 3, 5)  # 0 and 1 are off; OpenCV's float median knows 3 and 5 only


@dataclass(frozen=True)
class TVL1Params:
    """Parameters of one TV-L1 run.  Raises UsageError when a value is outside its range.

    tau: time step of the dual.  lambda_: weight of the data term for grey 0..255 (smaller is smoother).
    theta: coupling.  nscales: pyramid levels at most; scale_step: ratio of two levels.
    warps: linearisations per level.  epsilon: RMS change (px) at which a warp stops.
    inner, outer: iterations between two medians, and medians per warp.  median: 3, 5, or 0/1 for off.
    gamma: weight of the illumination term, 0 for off.  pad: px replicated on each side before, cropped after.
    smooth: sigma in px of a Gaussian filter of both images before anything else, 0 for off; not in OpenCV.
    fixed: run exactly warps x inner iterations a level, one median a warp (epsilon 0, outer 1): 1.5 to 3 times
    slower and a little different, but the number of iterations no longer depends on rounding.
    """

    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    nscales: int = 5
    warps: int = 5
    epsilon: float = 0.01
    inner: int = 30
    outer: int = 10
    scale_step: float = 0.8
    median: int = 5
    gamma: float = 0.0
    pad: int = PAD
    fixed: bool = False
    smooth: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high, closed) in _FLOAT_RANGES.items():
            _check_float(name, getattr(self, name), low, high, closed)
        for name, (low, high) in _INT_RANGES.items():
            _check_int(name, getattr(self, name), low, high)
        if not _is_int(self.median) or self.median not in _MEDIANS:
            raise UsageError(f"TV-L1 median is {self.median!r}", do="use 3, 5, or 0 for none")
        if not isinstance(self.fixed, bool):
            raise UsageError(f"TV-L1 fixed is {self.fixed!r}", do="use True or False")

    def resolved(self) -> TVL1Params:
        """What the solver runs: ``fixed`` turned into the epsilon and outer it stands for."""
        return replace(self, epsilon=0.0, outer=1) if self.fixed else self

    @classmethod
    def micro(cls) -> TVL1Params:
        """Chosen for noisy motion of 0.1 to 0.5 px, where OpenCV's defaults mostly follow the noise (docs/flow.md)."""
        return PRESETS["micro"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON attribute; ``TVL1Params(**d)`` gives the same parameters back."""
        return asdict(self)


def _check_float(name: str, value: Any, low: float, high: float, closed: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (low < value <= high or (closed and value == low)):
        bracket = "[" if closed else "("
        raise UsageError(f"TV-L1 {name} is {value!r}", do=f"use a number in {bracket}{low:g}, {high:g}]")


def _check_int(name: str, value: Any, low: int, high: int) -> None:
    if not _is_int(value) or not low <= value <= high:
        raise UsageError(f"TV-L1 {name} is {value!r}", do=f"use a whole number in [{low}, {high}]")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


PRESETS: dict[str, TVL1Params] = {
    "default": TVL1Params(),
    # chosen on made-up people by benchmarks/flow_micro.py --search; the optimum is flat.  One level and one warp: each
    # further warp lets the flow fit the noise of the apex frame.  Then nothing is sampled outside the image, and a
    # replicated border would only draw the noise of the edge out into stripes.  The iterations are few on purpose:
    # stopping early keeps TV from flattening what it has found.  Three medians among them take out the spikes of the
    # noise, which is what more iterations would otherwise be needed for.
    "micro": TVL1Params(lambda_=0.09, theta=0.12, nscales=1, warps=1, outer=3, inner=44, epsilon=0.0, median=5, pad=0),
}
