"""Scan directions: in which order the tokens of a window (or a whole map) enter the scan.

A token's index is row-major, ``row * width + column``.  Every direction starts in a corner and
visits each token once (MERba III-B and Table VII; "zigzag" there is the boustrophedon, or snake):

    a     horizontal raster       0 1 2 | 3 4 5 | 6 7 8        (of a 3x3 window)
    b     vertical raster         0 3 6 | 1 4 7 | 2 5 8
    c     horizontal snake        0 1 2 | 5 4 3 | 6 7 8
    d     vertical snake          0 3 6 | 7 4 1 | 2 5 8
    a_bi  a backwards             8 7 6 | 5 4 3 | 2 1 0
    b_bi  b backwards             8 5 2 | 7 4 1 | 6 3 0
    a_sy  a of the mirrored map   2 1 0 | 5 4 3 | 8 7 6
    b_sy  b of the mirrored map   2 5 8 | 1 4 7 | 0 3 6
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DIRECTIONS = ("a", "b", "c", "d", "a_bi", "b_bi", "a_sy", "b_sy")


def parse_scans(scans: str) -> tuple[str, ...]:
    """``"a+b+c+d"`` -> ``("a", "b", "c", "d")``.

    Parameters
    ----------
    scans
        Directions joined by +.

    Returns
    -------
    tuple[str, ...]
        The directions.

    Raises
    ------
    ValueError
        An unknown direction or one named twice.
    """
    names = tuple(part.strip() for part in scans.split("+"))
    unknown = [name for name in names if name not in DIRECTIONS]
    if unknown:
        raise ValueError(f"must join directions of {', '.join(DIRECTIONS)} with '+', like a+b+c+d")
    if len(set(names)) < len(names):
        raise ValueError("must name each direction once")
    return names


@lru_cache(maxsize=256)
def scan_order(direction: str, height: int, width: int) -> NDArray[np.int64]:
    """The token visited at each step.

    Parameters
    ----------
    direction
        A part of what ``parse_scans`` takes.
    height, width
        Of the map.

    Returns
    -------
    NDArray[np.int64]
        (height * width,), read-only.
    """
    order = _path(direction, np.arange(height * width).reshape(height, width)).ravel()
    return _frozen(order)


@lru_cache(maxsize=256)
def scan_inverse(direction: str, height: int, width: int) -> NDArray[np.int64]:
    """The step at which each token is visited: ``y[scan_inverse(...)]`` is in token order again.

    Parameters
    ----------
    direction
        A part of what ``parse_scans`` takes.
    height, width
        Of the map.

    Returns
    -------
    NDArray[np.int64]
        (height * width,), read-only.
    """
    return _frozen(np.argsort(scan_order(direction, height, width)))


def _path(direction: str, grid: NDArray[np.int64]) -> NDArray[np.int64]:
    """``grid`` (height, width) of token indices rearranged so that it reads in scan order."""
    if direction.endswith("_bi"):
        return _path(direction[0], grid).ravel()[::-1]
    if direction.endswith("_sy"):
        return _path(direction[0], grid[:, ::-1])
    if direction in "bd":
        grid = grid.T
    return _snake(grid) if direction in "cd" else grid


def _snake(grid: NDArray[np.int64]) -> NDArray[np.int64]:
    turned = grid.copy()
    turned[1::2] = grid[1::2, ::-1]
    return turned


def _frozen(order: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.ascontiguousarray(order)
    order.flags.writeable = False  # the cache hands the same array to every caller
    return order
