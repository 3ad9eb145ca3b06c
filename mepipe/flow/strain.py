"""Optical strain: how much the skin stretches and shears, from a flow.

Source   Shreve, Godavarthy, Goldgof, Sarkar: Macro- and micro-expression spotting in long videos using
         spatio-temporal strain, FG 2011; the magnitude as in Liong et al. 2014 and ME-PLAN 2022.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mepipe.errors import UsageError

DIFFERENCES = ("forward", "central")


def strain(flow: Any, differences: str = "forward") -> np.ndarray:
    """Magnitude of the infinitesimal strain tensor of ``flow``, in px per px (no unit).

    sqrt(u_x^2 + v_y^2 + (u_y + v_x)^2 / 2), the Frobenius norm of e = (grad f + (grad f)^T) / 2.  A shift of the
    whole picture gives 0, and a rotation by a small angle does too.

    Parameters
    ----------
    flow
        (..., 2 or 3, H, W) float, u (px, right), v (px, down); channels after u and v are ignored. NaN stays NaN
        where it is used.
    differences
        "forward", f(x + 1) - f(x), with the last column and row repeated from the one before, as the published
        spotters take them; or "central", (f(x + 1) - f(x - 1)) / 2, one-sided on the border.

    Returns
    -------
    np.ndarray
        (..., H, W) float32, at least 0.

    Raises
    ------
    UsageError
        Another shape or name.
    """
    flow = np.asarray(flow)
    if flow.ndim < 3 or flow.shape[-3] not in (2, 3) or min(flow.shape[-2:]) < 2 or flow.dtype.kind != "f":
        do = "give float (..., 2 or 3, H, W): u, v in px, no side under 2"
        raise UsageError(f"the flow is {flow.dtype} {flow.shape}", do=do)
    if differences not in DIFFERENCES:
        raise UsageError(f"no differences are called {differences!r}", do=f"valid: {', '.join(DIFFERENCES)}")
    derive = _forward if differences == "forward" else _central
    # float16 shards: differences of rounded values must not be rounded again
    u, v = (flow[..., channel, :, :].astype(np.float32, copy=False) for channel in (0, 1))
    shear = derive(u, -2) + derive(v, -1)
    return np.sqrt(derive(u, -1) ** 2 + derive(v, -2) ** 2 + 0.5 * shear**2)


def _forward(channel: np.ndarray, axis: int) -> np.ndarray:
    steps = np.diff(channel, axis=axis)
    return np.concatenate([steps, np.take(steps, [-1], axis=axis)], axis=axis)


def _central(channel: np.ndarray, axis: int) -> np.ndarray:
    return np.gradient(channel, axis=axis)
