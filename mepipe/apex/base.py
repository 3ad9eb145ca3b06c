"""What every spotter shares: the registry, the promise about its answer, smoothing, peaks.

A spotter takes grey crops (N, 224, 224) uint8 of one aligned clip, crop 0 being the onset and crop N-1
the offset, N >= 2, and gives the index of the apex: 1 <= index <= N-1, onset < apex <= offset.  Where
nothing moves it answers with the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mepipe.errors import UsageError
from mepipe.faces.align import SIZE
from mepipe.registry import Registry

Curve = Callable[[np.ndarray], np.ndarray]  # crops (N, 224, 224) uint8 -> (N,) float
Pick = Callable[[np.ndarray], int]  # curve (N,) -> index

SPOTTERS: Registry[Callable[[np.ndarray], int]] = Registry("apex spotter")
METHOD_VERSION = 2  # part of every clip's key: a change of a spotter spots again
DEFAULT = "residual"  # nearest on made-up clips of every amplitude, see docs/apex.md
FLAT = 1e-6  # a curve that varies by less, relative to its size, shows rounding only


@dataclass(frozen=True)
class Spotter:
    """A spotter made of a curve that is highest at the apex, and a rule that reads the apex off it."""

    curve: Curve
    pick: Pick

    def __call__(self, crops: np.ndarray) -> int:
        return self.look(crops)[0]

    def look(self, crops: np.ndarray) -> tuple[int, np.ndarray | None]:
        """The index of the apex, and the curve it was read off; None where the frames leave no choice."""
        crops = checked(crops)
        if len(crops) == 2:
            return 1, None  # there is no choice, and no method can be asked for a peak
        if all(np.array_equal(c, crops[0]) for c in crops[1:]):
            return middle(len(crops)), None
        curve = self.curve(crops)
        index = inside(self.pick(curve), len(crops)) if not flat(curve) else middle(len(crops))
        return index, np.asarray(curve, np.float64)


def spotter(name: str, pick: Pick | None = None) -> Callable[[Curve], Curve]:
    """Decorator: register a function from crops to a curve as a spotter.

    Parameters
    ----------
    name
        What ``--apex`` and ``spot`` call it.
    pick
        Reads the index of the apex off the curve; None is its peak.

    Returns
    -------
    Callable
        The decorator; it gives back what it decorates.

    Raises
    ------
    ValueError
        The name is taken.
    """

    def put(curve: Curve) -> Curve:
        SPOTTERS.register(name)(Spotter(curve, pick or peak))
        return curve

    return put


def spot(crops: np.ndarray, method: str = DEFAULT) -> int:
    """Index of the apex among the frames of a clip.

    Parameters
    ----------
    crops
        (N, H, W) uint8 grey, the onset first, the offset last; those that are not 224 x 224 are resized first.
    method
        A name in ``SPOTTERS``.

    Returns
    -------
    int
        1 <= index <= N-1.

    Raises
    ------
    UsageError
        No spotter has that name.
    ValueError
        Fewer than two crops, or another type or shape.
    """
    return look(crops, method)[0]


def look(crops: np.ndarray, method: str = DEFAULT) -> tuple[int, np.ndarray | None]:
    """The apex of a clip, and why: ``spot`` and ``curve`` at the price of one.

    Parameters
    ----------
    crops
        (N, H, W) uint8 grey, the onset first, the offset last.
    method
        A name in ``SPOTTERS``.

    Returns
    -------
    tuple[int, np.ndarray | None]
        1 <= index <= N-1, and (N,) float64 in the method's own unit; None for a method that looks at no picture, and
        where the frames leave no choice (there are two, or all are equal).

    Raises
    ------
    UsageError
        No spotter has that name.
    ValueError
        Fewer than two crops, or another type or shape.
    """
    find, crops = SPOTTERS.get(method), checked(crops)
    index, seen = find.look(crops) if isinstance(find, Spotter) else (find(crops), None)
    return inside(int(index), len(crops)), seen


def curve(crops: np.ndarray, method: str = DEFAULT) -> np.ndarray:
    """What ``method`` saw in the frames of a clip.

    Parameters
    ----------
    crops
        (N, H, W) uint8 grey, the onset first.
    method
        A name in ``SPOTTERS``.

    Returns
    -------
    np.ndarray
        (N,) float64, in the method's own unit, index 0 = onset.

    Raises
    ------
    UsageError
        No spotter has that name, or it looks at no picture.
    ValueError
        As ``spot``.
    """
    find = SPOTTERS.get(method)
    if not isinstance(find, Spotter):
        with_curve = [name for name in SPOTTERS if isinstance(SPOTTERS.get(name), Spotter)]
        raise UsageError(f"apex spotter {method!r} has no curve", do=f"valid: {', '.join(with_curve)}")
    return np.asarray(find.curve(checked(crops)), np.float64)


def checked(crops: np.ndarray) -> np.ndarray:
    """``crops`` as (N, 224, 224) uint8, N >= 2. Raises ValueError for what cannot be made so."""
    crops = np.asarray(crops)
    if crops.ndim != 3 or crops.dtype != np.uint8 or 0 in crops.shape:
        raise ValueError(f"crops are {crops.dtype} {crops.shape}; grey crops (N, {SIZE}, {SIZE}) uint8 are needed")
    if len(crops) < 2:
        raise ValueError("an apex needs at least one frame after the onset")
    if crops.shape[1:] == (SIZE, SIZE):
        return crops
    import cv2

    return np.stack([cv2.resize(c, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for c in crops])


def inside(index: int, count: int) -> int:
    return int(np.clip(index, 1, count - 1))


def middle(count: int) -> int:
    """The middle of onset and offset, rounded down as published SMIC tables do, but never the onset."""
    return inside((count - 1) // 2, count)


def peak(curve: np.ndarray) -> int:
    """The highest point after the onset."""
    return 1 + int(np.argmax(curve[1:]))


def flat(curve: np.ndarray) -> bool:
    return bool(np.ptp(curve) <= FLAT * max(float(np.abs(curve).max()), FLAT))


def smooth(curve: np.ndarray, share: float = 1 / 24) -> np.ndarray:
    """``curve`` (N,) filtered by a Gaussian of sigma ``share`` * N frames (at least 0.7), ends repeated."""
    sigma = max(len(curve) * share, 0.7)
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(curve, reach, mode="edge"), weights / weights.sum(), mode="valid")
