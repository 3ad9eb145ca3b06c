"""Following one face through a video by registration, not by detecting it anew in every frame.

The face is found once (detector and landmarks, as ``prepare`` does); from then on each frame is brought onto a
reference crop by the affine motion, gain and offset that explain their difference best: the Gauss-Newton step of the
apex spotter ``residual``, on the face without the eyes.  That follows a head to a few hundredths of a pixel, where
detection and landmarks jitter by a pixel and more, and takes a twentieth of their time (docs/spot.md).  The detector
looks again every few seconds, and at once where registration fails: a cut, a hand, a face that left.

Crops are (112, 112) float32: every second pixel of the 224 x 224 crop, blurred as the spotter blurs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mepipe.apex import regions
from mepipe.apex.residual import BLUR, STEP, mask, rigid_terms
from mepipe.clipwork import grey
from mepipe.errors import DataError
from mepipe.faces.align import SIZE, scale_of

HALF = SIZE // STEP  # px, side of a tracked crop
ROUNDS = 2  # Gauss-Newton steps a frame: after two the second-order rest of a step of 1 px is under 0.02 px
LIKE = 0.85  # least correlation with the reference; 0.97 and more on a face that is followed, under 0.6 after a cut
FAR = 6.0  # px of the small crop that the centre may move between two frames: 11 of a 240 px wide face
SIZES = (0.7, 1.4)  # of the face against where it was found: a face nearer or farther is better found anew
LOOK_AGAIN = 5.0  # s between two looks of the detector while tracking goes well
SEARCH = 0.5  # s between two looks while there is no face
AWAY = 8.0  # px of the small crop between the tracked and the detected face above which the detector is believed

Finder = Callable[[np.ndarray], np.ndarray]  # image (H, W, 3) -> 2x3 matrix, source px to 224 crop px; DataError


@dataclass(frozen=True)
class Tracked:
    """One frame of a followed face.

    crop: (112, 112) float32.  pose: (6,) where the crop lies: centre x, y in px of the small crop against the first
    frame of the stretch, then the four numbers of its shape times half the crop's side.  stretch: counts up whenever
    the face is found anew, so that nothing is compared across a cut.
    """

    number: int
    crop: np.ndarray
    pose: np.ndarray
    stretch: int


class Reference:
    """A crop that others are brought onto, with what a registration step needs of it."""

    def __init__(self, crop: np.ndarray) -> None:
        root = np.sqrt(mask())
        self.image, self._root = crop, root
        self._solve = np.linalg.pinv(rigid_terms(crop) * root.reshape(-1, 1)).astype(np.float32)[:6]
        self._weights = mask() / mask().sum()
        self._centred = crop - (crop * self._weights).sum()
        self._spread = float(np.sqrt((self._centred**2 * self._weights).sum()))

    def step(self, crop: np.ndarray) -> np.ndarray:
        """(3, 3): crop(step @ x) lies better on the reference than crop(x)."""
        u, v, xu, yu, xv, yv = self._solve @ ((crop - self.image) * self._root).ravel()
        to_unit = np.array([[2 / (HALF - 1), 0, -1], [0, 2 / (HALF - 1), -1], [0, 0, 1]])
        out = np.eye(3)
        out[:2] -= np.array([[xu, yu, u], [xv, yv, v]]) @ to_unit
        return out

    def likeness(self, crop: np.ndarray) -> float:
        """Correlation with ``crop`` over the face without the eyes, -1 to 1."""
        centred = crop - (crop * self._weights).sum()
        spread = float(np.sqrt((centred**2 * self._weights).sum()))
        return float((centred * self._centred * self._weights).sum() / max(spread * self._spread, 1e-6))


class FaceTracker:
    """Give it the frames in order; it gives the crop of each, or None while there is no face.

    find: where the face is in an image.  Attributes: ``looks`` (of the detector), ``lost`` (frames
    without a face).
    """

    def __init__(self, find: Finder, fps: float) -> None:
        self._find, self._fps = find, fps
        self._reference: Reference | None = None
        self._lies = np.eye(3)  # px of the small crop -> px of the source
        self._first = np.eye(3)
        self._stretch, self._since = -1, 1 << 30  # frames since the detector looked: never yet
        self.looks = self.lost = 0

    def see(self, number: int, image: np.ndarray) -> Tracked | None:
        """The face in frame ``number`` (H, W, 3) uint8 BGR."""
        self._since += 1
        source = grey(image)
        crop = None
        if self._reference is not None:
            crop = self._follow(source)
            due = self._since > LOOK_AGAIN * self._fps
            if crop is None or (due and self._drifted(image)):
                self._reference = crop = None
                self._since = 1 << 30
        if crop is None and self._since > SEARCH * self._fps:
            crop = self._start(image, source)
        if crop is None:
            self.lost += 1
            return None
        return Tracked(number, crop, self._pose(), self._stretch)

    @property
    def face_width(self) -> float:
        """Width in px of the source of what the 224 x 224 crop shows, of the last face found."""
        return HALF * scale_of(self._lies[:2])

    def renew(self, reference: np.ndarray) -> None:
        """Follow ``reference`` (112, 112) from now on: the mean of some followed crops, nearly free of noise."""
        if self._reference is not None:
            self._reference = Reference(reference)

    def _follow(self, source: np.ndarray) -> np.ndarray | None:
        assert self._reference is not None
        lies, blurred = self._lies, Blurred(source, self._lies)
        for _ in range(ROUNDS):
            lies = lies @ self._reference.step(blurred.crop(lies))
            if not np.isfinite(lies).all() or abs(np.linalg.det(lies)) < 1e-3:
                return None
        crop = blurred.crop(lies)
        moved = np.hypot(*(np.linalg.solve(self._lies, lies @ (HALF / 2, HALF / 2, 1)) - HALF / 2)[:2])
        size = np.sqrt(abs(np.linalg.det(lies) / np.linalg.det(self._first)))
        if not (moved < FAR and SIZES[0] < size < SIZES[1] and self._reference.likeness(crop) > LIKE):
            return None
        self._lies = lies
        return crop

    def _drifted(self, image: np.ndarray) -> bool:
        """Whether the detector sees the face elsewhere; where it sees none, tracking goes on.

        It looks at the surroundings of the tracked face only, and so never at somebody else.
        """
        self._since = 0
        corners = self._lies[:2] @ np.array([(0, 0, 1), (HALF, 0, 1), (0, HALF, 1), (HALF, HALF, 1)], float).T
        margin, (height, width) = 0.5 * np.ptp(corners, 1), image.shape[:2]
        x0, y0 = (int(v) for v in np.clip(corners.min(1) - margin, 0, (width - 2, height - 2)))
        x1, y1 = (int(v) for v in np.clip(corners.max(1) + margin, (x0 + 2, y0 + 2), (width, height)))
        try:
            detected = self._locate(np.ascontiguousarray(image[y0:y1, x0:x1]))
        except DataError:
            return False
        detected = np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1]]) @ detected
        triangle = np.array([(20, 20, 1), (HALF - 20, 20, 1), (HALF / 2, HALF - 20, 1)], float).T
        off = np.linalg.solve(detected, self._lies @ triangle) - triangle
        return bool(np.hypot(*off[:2]).mean() > AWAY)

    def _start(self, image: np.ndarray, source: np.ndarray) -> np.ndarray | None:
        self._since = 0
        try:
            self._lies = self._first = self._locate(image)
        except DataError:
            return None
        self._stretch += 1
        crop = Blurred(source, self._lies).crop(self._lies)
        self._reference = Reference(crop)
        return crop

    def _locate(self, image: np.ndarray) -> np.ndarray:
        """(3, 3): px of the small crop to px of the source, from the detector. Raises DataError."""
        self.looks += 1
        matrix = np.vstack([self._find(image) / STEP, [0, 0, 1]])
        return np.linalg.inv(matrix)

    def _pose(self) -> np.ndarray:
        here = np.linalg.solve(self._first, self._lies)
        shape = (here[:2, :2] - np.eye(2)) * HALF / 2
        shift = (here @ (HALF / 2, HALF / 2, 1))[:2] - HALF / 2
        return np.concatenate([shift, shape.ravel()])


class Blurred:
    """The surroundings of the face in one frame, averaged and blurred once, from which crops are taken.

    source: grey (H, W) uint8.  lies (3, 3): small crop px -> source px, good to FAR px.  Where the source is larger
    than the crop, whole blocks of it are averaged; the blur makes up the rest of the spotter's BLUR.
    """

    def __init__(self, source: np.ndarray, lies: np.ndarray) -> None:
        import cv2

        per_px = scale_of(lies[:2])  # source px per px of the small crop
        shrink = max(int(per_px), 1)
        sigma = BLUR / STEP * per_px
        part, (x, y) = _around(source, lies, 3 * sigma + FAR * per_px, shrink)
        if shrink > 1:
            part = cv2.resize(part, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
        rest = np.sqrt(sigma**2 - (shrink**2 - 1) / 12) / shrink  # averaging n px is a blur of variance (n^2 - 1) / 12
        self._part = cv2.GaussianBlur(part.astype(np.float32), (0, 0), rest, borderType=cv2.BORDER_REPLICATE)
        # block (i, j) has its centre at (x, y) + shrink * (i, j) + (shrink - 1) / 2
        off = (shrink - 1) / 2
        self._into = np.array([[1, 0, -x - off], [0, 1, -y - off], [0, 0, shrink]]) / shrink

    def crop(self, lies: np.ndarray) -> np.ndarray:
        """(112, 112) float32."""
        import cv2

        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        matrix = (self._into @ lies)[:2]
        return cv2.warpAffine(self._part, matrix, (HALF, HALF), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _around(source: np.ndarray, lies: np.ndarray, margin: float, shrink: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of ``source`` that the crop shows and ``margin`` px more, sides a multiple of ``shrink``; its x, y."""
    corners = lies[:2] @ np.array([(0, 0, 1), (HALF, 0, 1), (0, HALF, 1), (HALF, HALF, 1)], float).T
    h, w = source.shape
    low, high = corners.min(1) - margin, corners.max(1) + margin
    x0, y0 = (int(v) for v in np.clip(np.floor(low), 0, (max(w - shrink, 0), max(h - shrink, 0))))
    x1, y1 = (int(v) for v in np.clip(np.ceil(high), (x0 + shrink, y0 + shrink), (w, h)))
    x1, y1 = x0 + max((x1 - x0) // shrink, 1) * shrink, y0 + max((y1 - y0) // shrink, 1) * shrink
    return source[y0:y1, x0:x1], (x0, y0)


def eye_masks() -> tuple[np.ndarray, np.ndarray]:
    """The two eyes themselves, (112, 112) bool each: the lids' opening and 3 px around it."""
    import cv2

    from mepipe.faces.align import mean_face

    points = mean_face()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    both = (cv2.dilate(regions.polygon(points[a : a + 6]).astype(np.uint8), disc) for a in (36, 42))
    left, right = (eye.astype(bool)[::STEP, ::STEP] for eye in both)
    return left, right
