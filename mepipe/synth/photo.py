"""The photograph behind every made-up face: its pixels, its landmarks, its regions.

Picture    ``skimage.data.astronaut()``: NASA portrait of Eileen Collins, public domain, 512x512
Landmarks  68 points in dlib's order, measured once on that picture (see LANDMARKS)
Regions    skin, eyes and teeth, hair, suit, wall as soft masks from outlines drawn by hand on it

All coordinates are pixels (x, y) of the 512x512 picture; pixel centres are integers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from mepipe.errors import DataError, UsageError

FACE_CENTRE = (225.0, 129.0)  # between nose tip and nostrils: the point that a camera is aimed at
FACE_BOX = (179.0, 83.0, 266.0, 170.0)  # dlib's frontal HOG detector, upsample 0: left, top, right, bottom

WALL = (98.0, 352.0)  # left of the first hangs a flag, right of the second stands a model: the wall is mirrored

# Medians over 60 runs of dlib's 68-point shape predictor on the picture at one and two times its size,
# each from the HOG box jittered by 3 px; the spread per point was 0.3 px on average, 0.7 px at most.
# Constants, so that neither dlib nor its model file is needed to make a corpus.
# fmt: off
LANDMARKS = np.array([
    # jaw, the subject's right ear to the left one (image left to right): 0-16
    (179.2, 103.8), (179.2, 115.2), (180.8, 126.8), (181.8, 138.0), (184.8, 149.8), (190.8, 160.0),
    (199.2, 168.0), (209.0, 175.8), (220.2, 178.2), (232.0, 177.0), (243.0, 171.0), (253.0, 163.1),
    (260.2, 153.8), (265.0, 142.8), (267.8, 131.0), (270.0, 120.0), (271.8, 108.0),
    # brows: 17-21, 22-26
    (186.0, 94.0), (192.0, 88.0), (200.2, 87.0), (208.8, 88.9), (216.2, 92.2),
    (236.0, 93.8), (244.0, 91.0), (252.0, 90.2), (260.0, 92.0), (265.1, 98.2),
    # nose: bridge 27-30, nostrils 31-35
    (225.8, 102.1), (225.2, 110.8), (225.0, 118.8), (225.0, 127.0),
    (214.0, 131.0), (219.0, 132.2), (224.0, 134.2), (229.2, 133.0), (234.2, 132.0),
    # eyes: 36-41, 42-47
    (195.0, 101.0), (200.2, 97.8), (207.0, 98.2), (212.2, 104.0), (206.0, 104.1), (199.8, 103.8),
    (237.2, 105.1), (243.2, 100.2), (249.9, 100.5), (255.2, 104.0), (250.0, 106.2), (243.8, 106.0),
    # lips: outer 48-59, inner 60-67
    (200.8, 139.0), (209.0, 139.0), (217.8, 139.2), (223.2, 140.9), (229.2, 140.0), (237.2, 140.1),
    (245.8, 141.0), (237.2, 151.0), (228.9, 155.0), (222.0, 155.8), (216.0, 154.8), (207.8, 149.8),
    (203.2, 140.2), (217.0, 143.0), (223.0, 144.0), (229.0, 143.2),
    (242.8, 142.0), (229.0, 150.0), (222.8, 150.2), (216.8, 149.2),
])

# The point that each landmark becomes when the picture is mirrored.
MIRROR = np.array([
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
])

# Outlines read off the picture under a 10-px grid, good to about 2 px; the masks are blurred by as much.
_HEAD = [
    (153, 72), (155, 60), (163, 51), (175, 43), (188, 36), (195, 27), (205, 22), (220, 18), (230, 15), (245, 16),
    (260, 21), (275, 29), (286, 38), (293, 50), (298, 62), (301, 78), (301, 92), (298, 105), (290, 117),
    (280, 127), (277, 132), (271, 135), (268, 136), (265, 143), (261, 154), (256, 166), (253, 178), (251, 187),
    (235, 190), (222, 188), (200, 184), (190, 182), (185, 172), (184, 158), (183, 140), (180, 132), (176, 129),
    (173, 121), (165, 113), (157, 102), (153, 90),
]
_SKIN = [
    (185, 79), (190, 77), (195, 80), (205, 81), (215, 81), (225, 82), (235, 83), (245, 86), (255, 88), (262, 90),
    (268, 98), (271, 110), (271, 122), (269, 129), (275, 129), (277, 132), (271, 135), (268, 136), (265, 143),
    (261, 154), (256, 166), (253, 178), (251, 187), (235, 190), (222, 188), (200, 184), (190, 182), (185, 172),
    (184, 158), (183, 140), (180, 132), (176, 129), (173, 121), (178, 117), (179, 108), (183, 95),
]
_SUIT = [
    (0, 300), (80, 231), (100, 213), (113, 206), (113, 190), (122, 180), (130, 165), (145, 153), (165, 148),
    (184, 148), (184, 158), (185, 172), (190, 182), (200, 184), (222, 188), (235, 190), (251, 187), (253, 173),
    (270, 182), (285, 194), (297, 209), (304, 228), (312, 234), (345, 260), (345, 511), (0, 511),
]
# fmt: on


class Regions(NamedTuple):
    """Soft masks of the picture, (512, 512) float32 in 0..1; they add up to 1 at every pixel."""

    skin: np.ndarray
    clear: np.ndarray  # eyes and teeth, whose white stays white
    hair: np.ndarray
    suit: np.ndarray
    wall: np.ndarray


@lru_cache(maxsize=1)
def photograph() -> np.ndarray:
    """The picture, (512, 512, 3) uint8 BGR.  Raises UsageError where scikit-image is not installed."""
    try:
        from skimage import data
    except ImportError:
        raise UsageError(
            "made-up corpora are drawn from a photograph that comes with scikit-image, which is not installed",
            do="pip install 'mepipe[synth]'",
        ) from None
    picture = np.ascontiguousarray(data.astronaut()[:, :, ::-1])
    if picture.shape != (512, 512, 3):
        raise DataError(f"skimage.data.astronaut() is {picture.shape}, not (512, 512, 3)", do="reinstall scikit-image")
    picture.flags.writeable = False
    return picture


@lru_cache(maxsize=1)
def regions() -> Regions:
    """Which part of the picture is what; edges are blurred by about the precision of the outlines."""
    head, face, suit = (_fill([outline], 1.5) for outline in (_HEAD, _SKIN, _SUIT))
    head = np.clip(2 * head - 1, 0, 1)  # 1 px inward: a wall darkened up to the hair leaves no bright rim
    face = np.minimum(face, head)
    clear = np.minimum(_fill([LANDMARKS[36:42], LANDMARKS[42:48], LANDMARKS[60:68]], 0.8), face)
    suit = np.minimum(suit, 1 - head)
    return Regions(face - clear, clear, head - face, suit, 1 - head - suit)


def _fill(outlines: list, blur: float) -> np.ndarray:
    mask = np.zeros((512, 512), np.float32)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32) for outline in outlines], 1.0)
    return cv2.GaussianBlur(mask, (0, 0), blur)
