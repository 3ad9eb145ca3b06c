"""One similarity transform per clip: from the onset frame's landmarks to a fixed mean face in a 224x224 crop.

Crop      224 x 224; eye centres at (68, 60) and (156, 60), mouth centre near (112, 154), chin at y = 208
Matrix    2x3 float64, maps source pixels (x, y) to crop pixels; centres of pixels are integers
Why once  a transform per frame moves the face by the landmarks' jitter, which is as large as a
          micro-expression (0.3 to 2 px)
"""

from __future__ import annotations

import numpy as np

SIZE = 224
METHOD_VERSION = 2  # part of every clip's key: a change of template or resampling redoes the crops

# Mean of 577 landmark sets (dlib, raw apex frames of CASME II, SAMM and SMIC, published with SLSTT under MIT)
# by generalised Procrustes analysis over points 17..67, made left-right symmetric, eyes levelled, one eye
# distance = 88 px. dlib's order: 0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-67 mouth.
# fmt: off
_MEAN_FACE = np.array([
    (12.7, 53.6), (14.5, 79.7), (18.4, 105.2), (23.5, 130.1), (32.1, 153.7), (46.7, 174.5),
    (65.8, 191.2), (87.5, 204.2), (112.0, 207.9), (136.5, 204.2), (158.2, 191.2), (177.3, 174.5),
    (191.9, 153.7), (200.5, 130.1), (205.6, 105.2), (209.5, 79.7), (211.3, 53.6), (29.9, 38.9),
    (43.3, 27.7), (61.8, 25.6), (80.3, 29.1), (97.9, 36.0), (126.1, 36.0), (143.7, 29.1),
    (162.2, 25.6), (180.7, 27.7), (194.1, 38.9), (112.0, 56.4), (112.0, 73.7), (112.0, 90.8),
    (112.0, 108.5), (92.4, 120.1), (101.9, 122.9), (112.0, 125.2), (122.1, 122.9), (131.6, 120.1),
    (51.1, 58.9), (62.2, 55.5), (74.3, 55.7), (85.4, 61.7), (73.7, 64.2), (61.3, 64.0),
    (138.6, 61.7), (149.7, 55.7), (161.8, 55.5), (172.9, 58.9), (162.7, 64.0), (150.3, 64.2),
    (77.7, 151.5), (90.8, 146.2), (102.9, 142.4), (112.0, 145.1), (121.1, 142.4), (133.2, 146.2),
    (146.3, 151.5), (133.5, 160.9), (121.7, 165.2), (112.0, 166.1), (102.3, 165.2), (90.5, 160.9),
    (83.4, 151.9), (102.8, 151.3), (112.0, 152.5), (121.2, 151.3), (140.6, 151.9), (121.2, 152.1),
    (112.0, 153.3), (102.8, 152.1),
])
# fmt: on
USED_68 = np.arange(17, 68)  # without the jaw, whose points slide along the outline
# dlib's 5-point model: outer and inner corner of the eye at the image's right, the same at its left, under the nose
FIVE_FROM_68 = np.array([45, 42, 36, 39, 33])

# Where the mean face's dlib HOG box lies in the crop, for alignment without a landmark file: medians over 24 made-up
# identities (seeds 100 to 105); boxes scatter about them by 6 px. tests/test_align.py holds it on three others.
BOX_IN_CROP = (20.0, 15.0, 189.0, 188.0)  # x, y, width, height


def mean_face() -> np.ndarray:
    """The (68, 2) float64 template in crop pixels."""
    return _MEAN_FACE.copy()


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares rotation, scale and shift that take ``source`` (N, 2) to ``target`` (N, 2): 2x3 float64.

    Umeyama 1991 eqs. (40) to (42), without reflection.  Raises ValueError for fewer than two distinct points.
    """
    source, target = np.asarray(source, float), np.asarray(target, float)
    a, b = source.mean(0), target.mean(0)
    s, t = source - a, target - b
    spread = (s**2).sum()
    if spread < 1e-9:
        raise ValueError("all landmarks coincide")
    u, d, vt = np.linalg.svd(t.T @ s)
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt))])
    linear = (d * sign).sum() / spread * (u * sign) @ vt
    return np.hstack([linear, (b - linear @ a)[:, None]])


def matrix_from_landmarks(points: np.ndarray) -> np.ndarray:
    """The clip's transform from 68 or 5 landmarks (N, 2) in source pixels."""
    template = mean_face()
    if len(points) == 68:
        return similarity(points[USED_68], template[USED_68])
    if len(points) == 5:
        return similarity(points, template[FIVE_FROM_68])
    raise ValueError(f"{len(points)} landmarks; 68 or 5 are understood")


def matrix_from_box(box: tuple[float, float, float, float]) -> np.ndarray:
    """The clip's transform from a face box (x, y, width, height): scale and shift only."""
    x, y, w, h = box
    cx, cy, cw, ch = BOX_IN_CROP
    scale = np.sqrt(cw * ch / (w * h))
    shift = [cx + cw / 2 - scale * (x + w / 2), cy + ch / 2 - scale * (y + h / 2)]
    return np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])


def scale_of(matrix: np.ndarray) -> float:
    """Crop pixels per source pixel."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def crop(image: np.ndarray, matrix: np.ndarray, size: int = SIZE) -> np.ndarray:
    """``image`` (H, W[, 3]) uint8 through ``matrix`` into (size, size[, 3]) uint8.

    One bicubic resampling from the source.  When it shrinks, a Gaussian first removes what the crop
    cannot hold (sigma of (1/scale - 1) / 2, as scikit-image's resize).  Outside the source the border
    pixel is repeated.
    """
    import cv2

    image, matrix = _around_face(image, matrix, size)
    scale = scale_of(matrix)
    if scale < 1:
        sigma = (1 / scale - 1) / 2
        image = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _around_face(image: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image that the crop needs, by whole pixels (no resampling), and its matrix."""
    linear = matrix[:, :2]
    corners = np.array([(0, 0), (size, 0), (0, size), (size, size)], float) - matrix[:, 2]
    where = corners @ np.linalg.inv(linear).T
    margin = 8 + 4 / max(scale_of(matrix), 1e-3)  # bicubic taps and three sigmas of the Gaussian
    h, w = image.shape[:2]
    x0, y0 = (int(v) for v in np.clip(np.floor(where.min(0) - margin), 0, (w - 1, h - 1)))
    x1, y1 = (int(v) for v in np.clip(np.ceil(where.max(0) + margin), (x0 + 1, y0 + 1), (w, h)))
    shift = linear @ np.array([x0, y0], float) + matrix[:, 2]
    return np.ascontiguousarray(image[y0:y1, x0:x1]), np.hstack([linear, shift[:, None]])
