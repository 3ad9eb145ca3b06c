"""`dc-rois`: Liong, See, Wong, Le Ngo, Oh and Phan, "Automatic apex frame spotting in micro-expression
database", ACPR 2015 (10.1109/ACPR.2015.7486586).

Verified (abstract): features in regions of interest around eyes with brows and mouth, one of them LBP, and
a divide-and-conquer search for the frame of maximal expression.

Our reading: three boxes of the template; each a 4x4 grid of uniform LBP histograms; a frame's feature is
1 - correlation with the onset's, averaged over the boxes; local peaks are found, the interval is halved,
the half with the larger sum of peaks is kept, until one peak is left.  Under 1 ms a frame.
"""

from __future__ import annotations

import numpy as np

from mepipe.apex import regions
from mepipe.apex.base import peak, spotter
from mepipe.apex.lbp import codes, histograms, uniform_bins
from mepipe.faces.align import mean_face

GRID = 4
MARGIN = 8  # px around the landmarks of a region
ROIS = ((*range(17, 22), *range(36, 42)), (*range(22, 27), *range(42, 48)), tuple(range(48, 68)))


def halving(curve: np.ndarray) -> int:
    """The local peak of ``curve`` (N,) that repeated halving ends at; its highest point when it has none."""
    peaks = local_peaks(curve)
    low, high = 1, len(curve)
    while len(peaks) > 1:
        centre = (low + high) // 2
        left, right = peaks[peaks < centre], peaks[peaks >= centre]
        if curve[left].sum() >= curve[right].sum():
            peaks, high = left, centre
        else:
            peaks, low = right, centre
    return int(peaks[0]) if len(peaks) else peak(curve)


def local_peaks(curve: np.ndarray) -> np.ndarray:
    """Indexes from 1 on that are higher than the frame before and not lower than the one after."""
    after = np.append(curve[2:], -np.inf)  # the offset may be the apex
    return 1 + np.flatnonzero((curve[1:] > curve[:-1]) & (curve[1:] >= after))


@spotter("dc-rois", pick=halving)
def dc_rois(crops: np.ndarray) -> np.ndarray:
    """How unlike the onset's the LBP histograms of the three regions are, (N,): 0 alike, 2 opposite."""
    return np.mean([_unlikeness(crops, mean_face()[list(points)]) for points in ROIS], axis=0)


def _unlikeness(crops: np.ndarray, points: np.ndarray) -> np.ndarray:
    rows, columns = regions.box(points, MARGIN)
    features = histograms(uniform_bins()[codes(crops[:, rows, columns])], GRID)
    features -= features.mean(1, keepdims=True)
    length = np.linalg.norm(features, axis=1)
    # equal histograms throughout have no correlation; they are alike
    dot = np.where(length * length[0] > 0, features @ features[0], 1.0)
    return 1 - dot / np.where(length * length[0] > 0, length * length[0], 1.0)
