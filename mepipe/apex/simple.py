"""Spotters that need no model of a face: the middle of the clip, and the plain frame difference."""

from __future__ import annotations

import numpy as np

from mepipe.apex.base import SPOTTERS, middle, spotter


@SPOTTERS.register("midpoint")
def midpoint(crops: np.ndarray) -> int:
    """The middle of onset and offset, floor((onset + offset) / 2).

    Source: the convention behind published SMIC results; all 164 SMIC-HS rows of SLSTT's table are it
    (verified by arithmetic).
    """
    return middle(len(crops))


@spotter("framediff")
def framediff(crops: np.ndarray) -> np.ndarray:
    """Mean absolute difference to the onset, grey levels; the apex is its peak.

    Source: common recipe of public code, argmax_i sum |I_i - I_onset|; there without alignment and often
    without the last frame, which are bugs and not repeated.  About 0.2 ms a frame.
    """
    import cv2

    return np.array([cv2.absdiff(c, crops[0]).mean() for c in crops])
