"""The face of a clip on its onset frame.

Of a detector's candidates: the large, central one, of the expected size where that is known, whose
landmarks can be a face's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mepipe.datasets.base import Clip
from mepipe.errors import DataError
from mepipe.faces.detect import Box, Detector, Face, best_face
from mepipe.faces.landmarks import ShapePredictor

GIVE_A_BOX = "check the picture; prepare takes boxes by --detector given"
SIZE_RATIO = 2.0  # a box this much wider or narrower than its subject's median is taken for a false face
SAME_PLACE = 0.3  # overlap of one face's boxes in two frames of a clip; HOG boxes jump by a fifth of their width
EYES_TO_BOX = (0.25, 0.75)  # eye distance / box width; 0.42 to 0.54 on the made-up faces


def find_face(
    image: np.ndarray,
    clip: Clip,
    detector: Detector,
    predictor: ShapePredictor | None = None,
    expected_width: float | None = None,
    witness: Callable[[], np.ndarray] | None = None,
) -> tuple[Face, np.ndarray | None]:
    """The face on the onset frame and its landmarks (None without a landmark file).

    expected_width: of this subject's boxes, for a second look.  witness: gives another frame of the clip, asked
    for when there are several candidates: those that it does not show in the same place are dropped.
    Raises DataError when there is none, or none that looks like a face of the expected size.
    """
    faces = detector.detect(image, subject=clip.subject, clip=clip.name, thorough=expected_width is not None)
    if not faces:
        raise DataError(f"no face found on onset frame {clip.onset}", do=GIVE_A_BOX)
    if len(faces) > 1 and witness is not None:
        others = detector.detect(witness(), subject=clip.subject, clip=clip.name)
        faces = [f for f in faces if any(overlap(f.box, o.box) > SAME_PLACE for o in others)] or faces
    while face := best_face(faces, image, expected_width):
        points = predictor.points(image, face.box) if predictor else None
        if (expected_width is None or fits(face.box[2], expected_width)) and (
            points is None or plausible(points, face)
        ):
            return face, points
        faces = [f for f in faces if f is not face]
    usual = f", where this subject's faces are about {expected_width:.0f} px wide" if expected_width else ""
    raise DataError(f"what was found on onset frame {clip.onset} is no face{usual}", do=GIVE_A_BOX)


def fits(width: float, usual: float) -> bool:
    """Whether a box can be of a face that is usually ``usual`` px wide."""
    return 1 / SIZE_RATIO <= width / usual <= SIZE_RATIO


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def plausible(points: np.ndarray, face: Face) -> bool:
    """Landmarks that can be an upright face: eyes as far apart as the box allows, mouth or nose below them."""
    left, right, low = feature_points(points)
    apart = float(np.hypot(*(right - left)))
    return EYES_TO_BOX[0] <= apart / face.box[2] <= EYES_TO_BOX[1] and low[1] > max(left[1], right[1])


def feature_points(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres of the eye at the image's left, the one at its right, and of the mouth (68) or nose (5 points)."""
    if len(points) == 68:
        return points[36:42].mean(0), points[42:48].mean(0), points[48:60].mean(0)
    return points[2:4].mean(0), points[0:2].mean(0), points[4]


def eye_distance(points: np.ndarray) -> float:
    left, right, _ = feature_points(points)
    return float(np.hypot(*(right - left)))
