"""Landmarks by dlib's shape predictor, from a file that the user names or that an installed package holds.

The 68-point file was trained on iBUG 300-W and excludes commercial use; the 5-point file is free.
The package face_recognition_models is searched by path and never imported (its import breaks without
setuptools).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mepipe.errors import UsageError
from mepipe.faces.detect import Box, import_dlib

ENVIRONMENT = "MEPIPE_SHAPE_PREDICTOR"
FILES = ("shape_predictor_68_face_landmarks.dat", "shape_predictor_5_face_landmarks.dat")


def find_predictor(given: str | None = None) -> Path | None:
    """The landmark file: ``given``, else $MEPIPE_SHAPE_PREDICTOR, else the package's; None when there is none.

    Raises UsageError when a named file does not exist: a wrong path must not silently become a box crop.
    """
    for source, path in (("--landmarks", given), (f"${ENVIRONMENT}", os.environ.get(ENVIRONMENT))):
        if path:
            if not Path(path).is_file():
                raise UsageError(f"{source}: no such file: {path}")
            return Path(path)
    spec = find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for name in FILES:
            if (Path(folder) / "models" / name).is_file():
                return Path(folder) / "models" / name
    return None


class ShapePredictor:
    """dlib's predictor: a face box to (68, 2) or (5, 2) points."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._dlib = import_dlib()
        try:
            self._predictor = self._dlib.shape_predictor(str(path))
        except RuntimeError as e:
            raise UsageError(f"{path} is not a dlib shape predictor", do="use a 68- or 5-point .dat file") from e

    def points(self, image: np.ndarray, box: Box) -> np.ndarray:
        """Landmarks (N, 2) float64 in pixels of ``image`` (H, W, 3) BGR uint8."""
        x, y, w, h = (round(v) for v in box)
        rectangle = self._dlib.rectangle(x, y, x + w - 1, y + h - 1)
        shape: Any = self._predictor(np.ascontiguousarray(image[:, :, ::-1]), rectangle)
        return np.array([(p.x, p.y) for p in shape.parts()], float)
