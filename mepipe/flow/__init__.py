"""Optical flow between onset and apex: one algorithm (OpenCV's DualTVL1), several engines.

    tvl1(onset, apex)                 flow of a pair or a batch
    resolve_engine("auto", device)    the engine to use and why
    get_engine("torch", "cuda")       an engine by name
    TVL1Params(lambda_=0.05)          parameters, checked

Conventions, the reason for the padding and how closely engines agree: docs/flow.md.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mepipe.flow.engine import Engine
from mepipe.flow.params import TVL1Params
from mepipe.flow.registry import ENGINES, get_engine, resolve_engine

__all__ = ["ENGINES", "Engine", "TVL1Params", "get_engine", "resolve_engine", "tvl1"]


def tvl1(
    onset: np.ndarray,
    apex: np.ndarray,
    *,
    engine: str = "auto",
    device: str | None = None,
    params: TVL1Params | None = None,
    initial: np.ndarray | None = None,
) -> np.ndarray:
    """TV-L1 flow from ``onset`` to ``apex``, by OpenCV's algorithm on the pair padded by 16 px.

    Nothing is normalised or clipped: ``onset(x) ~ apex(x + (u, v)(x))``.

    Parameters
    ----------
    onset, apex
        (H, W) or (B, H, W), both uint8, or both float32 grey in 0..1.
    engine
        "auto" or a name in ENGINES.
    device
        "cpu" (None is that too) or "cuda".
    params
        TV-L1 values; None is OpenCV's defaults and pad 16.
    initial
        A flow to start from, (2 or 3, H, W) or (B, 2 or 3, H, W) float32.

    Returns
    -------
    np.ndarray
        (3, H, W) or (B, 3, H, W) float32: u (px, positive right), v (px, positive down), magnitude (px).

    Raises
    ------
    UsageError
        Wrong shapes, types, ranges or names.
    DataError
        NaN or infinity.
    """
    flow = _engine(engine, device).flow(onset, apex, params, initial)
    return flow if np.ndim(onset) == 3 else flow[0]


@lru_cache(maxsize=8)
def _engine(name: str, device: str | None) -> Engine:
    return resolve_engine(name, device)[0]
