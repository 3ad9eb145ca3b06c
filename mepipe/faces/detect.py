"""Finding the face in one frame: one small protocol, several detectors behind a registry.

Boxes are (x, y, width, height) in pixels of the image, float.  A detector returns every candidate;
choosing among them is ``best_face``, the same for all.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mepipe.errors import DataError, UsageError
from mepipe.limits import TABLE_BYTES, read_file
from mepipe.registry import Registry

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Face:
    """A candidate: its box, the detector's score (its own scale), and how it was found."""

    box: Box
    score: float
    how: str = ""


class Detector(Protocol):
    name: str

    def detect(self, image: np.ndarray, *, subject: str = "", clip: str = "", thorough: bool = False) -> list[Face]:
        """All faces of ``image`` (H, W, 3) BGR uint8; an empty list when there is none.

        thorough: try everything the detector can, not only until something is found.
        """

    def version(self) -> str:
        """What must be equal for the same result: library version or file hash."""


DETECTORS: Registry[type] = Registry("face detector")


def get_detector(name: str, file: str | None = None) -> Detector:
    """The detector ``name``. Raises UsageError when its library or file is missing."""
    return DETECTORS.get(name)(file)


@DETECTORS.register("dlib")
class DlibHog:
    """dlib's frontal HOG detector. It needs about 80 px of face; smaller or tight ones are found by
    enlarging the image or repeating its border.
    """

    name = "dlib"
    PAD = 0.25  # of the shorter side: the supplied crops of CASME II and SMIC end at the chin

    def __init__(self, file: str | None = None) -> None:
        self._dlib = import_dlib()
        self._detector = self._dlib.get_frontal_face_detector()

    def detect(self, image: np.ndarray, *, subject: str = "", clip: str = "", thorough: bool = False) -> list[Face]:
        """Candidates of the first attempt that finds any (of all, if thorough): as is, enlarged, padded, both."""
        pad = int(self.PAD * min(image.shape[:2]))
        faces: list[Face] = []
        for upsample, padding in ((0, 0), (1, 0), (0, pad), (1, pad)):
            if thorough or not faces:
                faces += self._attempt(image, upsample, padding)
        return faces

    def _attempt(self, image: np.ndarray, upsample: int, pad: int) -> list[Face]:
        import cv2

        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        if pad:
            grey = cv2.copyMakeBorder(grey, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        found, scores, _ = self._detector.run(grey, upsample, 0.0)
        how = ", ".join(t for t in ("enlarged" if upsample else "", "padded" if pad else "") if t)
        return [
            Face((r.left() - pad, r.top() - pad, r.width(), r.height()), float(s), how)
            for r, s in zip(found, scores, strict=True)
        ]

    def version(self) -> str:
        return f"dlib {self._dlib.__version__}"


@DETECTORS.register("yunet")
class YuNet:
    """OpenCV's FaceDetectorYN with a model file of the user's (face_detection_yunet_2023mar.onnx)."""

    name = "yunet"

    def __init__(self, file: str | None = None) -> None:
        import cv2

        if not file or not Path(file).is_file():
            raise UsageError(f"--detector yunet needs its model file, got {file}", do="pass --detector-file MODEL.onnx")
        try:
            self._net = cv2.FaceDetectorYN.create(file, "", (320, 320), 0.6)
        except cv2.error as e:
            raise UsageError(f"{file} is no YuNet model that OpenCV {cv2.__version__} can load") from e
        self._file = Path(file)

    def detect(self, image: np.ndarray, *, subject: str = "", clip: str = "", thorough: bool = False) -> list[Face]:
        self._net.setInputSize((image.shape[1], image.shape[0]))
        _, found = self._net.detect(image)
        rows = [] if found is None else [[float(value) for value in row] for row in found]
        return [Face((r[0], r[1], r[2], r[3]), r[14]) for r in rows]

    def version(self) -> str:
        from mepipe.workspace import hash_file

        return f"yunet {hash_file(self._file)[:16]}"


@DETECTORS.register("given")
class GivenBoxes:
    """Boxes from a CSV with the columns subject, clip, x, y, width, height (say, from another tool)."""

    name = "given"

    def __init__(self, file: str | None = None) -> None:
        if not file or not Path(file).is_file():
            raise UsageError(f"--detector given needs a CSV of boxes, got {file}", do="pass --detector-file BOXES.csv")
        self._file = Path(file)
        try:
            text = read_file(self._file, TABLE_BYTES).decode("utf-8-sig")
            rows = enumerate(csv.DictReader(io.StringIO(text, newline="")), start=2)
            self._boxes = dict(self._row(n, r) for n, r in rows)
        except (UnicodeDecodeError, csv.Error) as e:
            raise DataError(f"{file} is no table of boxes ({e})", do="save it as CSV in UTF-8") from e

    def _row(self, n: int, row: dict[str, Any]) -> tuple[tuple[str, str], Box]:
        try:
            box = (float(row["x"]), float(row["y"]), float(row["width"]), float(row["height"]))
            key = (row["subject"].strip(), row["clip"].strip())
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            do = "columns: subject, clip, x, y, width, height"
            raise DataError(f"{self._file} row {n} is not a box", do=do) from e
        if not (np.isfinite(box).all() and box[2] > 0 and box[3] > 0):
            raise DataError(f"{self._file} row {n}: {box} is not a box", do="width and height must be positive")
        return key, box

    def detect(self, image: np.ndarray, *, subject: str = "", clip: str = "", thorough: bool = False) -> list[Face]:
        box = self._boxes.get((subject, clip))
        return [Face(box, 1.0, "given")] if box else []

    def version(self) -> str:
        from mepipe.workspace import hash_file

        return f"given {hash_file(self._file)[:16]}"


@DETECTORS.register("none")
class NoDetector:
    """Finds nothing: for corpora whose crops are taken as they are and whose landmarks nobody needs."""

    name = "none"

    def __init__(self, file: str | None = None) -> None:
        pass

    def detect(self, image: np.ndarray, *, subject: str = "", clip: str = "", thorough: bool = False) -> list[Face]:
        return []

    def version(self) -> str:
        return "none"


def import_dlib() -> Any:
    """The dlib module (dlib or dlib-bin). Raises UsageError that says how to get it."""
    try:
        import dlib
    except ImportError as e:
        do = "pip install 'mepipe[dlib]' (prebuilt), or choose another --detector"
        raise UsageError("face detection needs dlib, which is not installed", do=do) from e
    return dlib


def best_face(faces: list[Face], image: np.ndarray, expected_width: float | None = None) -> Face | None:
    """The face of the clip among the candidates: the large, central one; None when there is none.

    expected_width: the usual width in px of this subject's or corpus's boxes, when known; a candidate
    far from it loses (a false face on the background is typically a third of the size).
    """

    def merit(face: Face) -> float:
        x, y, w, h = face.box
        height, width = image.shape[:2]
        off = np.hypot((x + w / 2) / width - 0.5, (y + h / 2) / height - 0.5)
        size = np.log(max(w, 1.0))
        if expected_width:
            size = -2 * abs(np.log(max(w, 1.0) / expected_width))
        return size - off

    return max(faces, key=merit, default=None)
