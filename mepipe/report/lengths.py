"""Lengths on a picture of flow: mean motion of cells, how much arrows are magnified, px in words. numpy alone."""

from __future__ import annotations

import math

import numpy as np

STEP = 14  # crop pixels per arrow: 16 x 16 arrows on a 224 crop
REACH = 1.7  # an arrow as long as the limit spans this many steps; longer ones would hide their neighbours


def arrow_field(flow: np.ndarray, step: int = STEP) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean flow of every ``step`` x ``step`` cell: x, y of the cell's centre and u, v, each (n,), all in px.

    Cells that hold a value that is not finite are left out.
    """
    u, v = arrow_cells(flow, step)
    rows, columns = flow.shape[1] // step, flow.shape[2] // step
    y, x = (np.mgrid[:rows, :columns].reshape(2, -1) + 0.5) * step - 0.5
    known = np.isfinite(u) & np.isfinite(v)
    return x[known], y[known], u[known], v[known]


def arrow_cells(flow: np.ndarray, step: int = STEP) -> tuple[np.ndarray, np.ndarray]:
    """Mean u and v of every ``step`` x ``step`` cell, row by row, each (n,) float64 px."""
    rows, columns = flow.shape[1] // step, flow.shape[2] // step
    cells = flow[:2, : rows * step, : columns * step].reshape(2, rows, step, columns, step)
    u, v = cells.mean(axis=(2, 4), dtype=np.float64).reshape(2, -1)
    return u, v


def magnification(limit: float) -> float:
    """How many times longer than it is an arrow is drawn: 1, 2 or 5 times a power of ten."""
    return nice(REACH * STEP / limit)


def nice(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``value`` (> 0)."""
    power = 10.0 ** math.floor(math.log10(value))
    return max((m * power for m in (1, 2, 5) if m * power <= value * (1 + 1e-9)), default=power)


def px(value: float) -> str:
    """A length in px with as many digits as it is known to: 12, 1.3, 0.25 (0.01 px is what TV-L1 resolves)."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
