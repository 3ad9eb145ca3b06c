"""What clip.json tells a page of a clip: where the face and the crop are, and the curve that its apex was read off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mepipe import apex
from mepipe.clipfiles import RECORD
from mepipe.clipwork import grey
from mepipe.errors import DataError, UsageError
from mepipe.faces.align import SIZE, scale_of
from mepipe.frames import FrameFolder, decode_image, read_bytes
from mepipe.glance import file_of
from mepipe.limits import read_json

FEWEST = 4  # stored frames: of onset and apex alone, or with a neighbour each, there is no curve to draw

# Why there is no curve, as the page says it
ANNOTATED = (
    "the apex is annotated, so no spotter has looked; with mepipe prepare --frames all the default spotter's is drawn"
)
OLDER = "it was prepared by a mepipe that kept none; mepipe prepare --force makes it anew"
NO_CHOICE = "the spotter had no choice: two frames, or nothing moves"


def read_facts(folder: Path, notes: list[str]) -> dict[str, Any]:
    """clip.json; {} with a note where it cannot be read."""
    try:
        return read_json(folder / RECORD) or {}
    except DataError as e:
        notes.append(f"no landmarks and no face box: {RECORD} cannot be read ({e.what})")
    return {}


def place(facts: dict[str, Any], notes: list[str]) -> tuple[dict[str, Any], float | None]:
    """Landmarks and face box in crop px, the crop's corners in source px, the transform's words; and its scale."""
    if not facts:
        return {}, None
    try:
        matrix = np.array(facts["matrix"], float).reshape(2, 3)
        points, box = facts["landmarks"], facts["record"]["box"]
        out: dict[str, Any] = {}
        if points is not None:
            out["points"] = _through(matrix, np.array(points, float).reshape(-1, 2))
        if box:
            x, y, w, h = map(float, box)
            out["box"] = _through(matrix, np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]))
        corners = np.array([(0, 0), (SIZE, 0), (SIZE, SIZE), (0, SIZE)], float) - matrix[:, 2]
        out["place"] = np.round(corners @ np.linalg.inv(matrix[:, :2]).T, 1).tolist()
        out["turn"] = round(float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))), 1)
        out["scale"] = round(scale_of(matrix), 3)
        return out, scale_of(matrix)
    except (ValueError, KeyError, TypeError, np.linalg.LinAlgError) as e:
        notes.append(f"no landmarks and no face box: {RECORD} cannot be read ({type(e).__name__})")
        return {}, None


def _through(matrix: np.ndarray, points: np.ndarray) -> list[list[float]]:
    return np.round(points @ matrix[:, :2].T + matrix[:, 2], 1).tolist()


# --- the apex curve --------------------------------------------------------------------------------


def curve_view(
    folder: Path, facts: dict[str, Any], onset: int | None, method: str, spotted: bool, notes: list[str]
) -> dict[str, Any]:
    """The curve of ``method``, scaled to 0..1, or ``uncurved``: why there is none.

    The one that the apex was read off is in clip.json; where it is not, it is computed of the stored frames, if all
    are.  spotted: whether ``method`` has chosen the apex.
    """
    try:
        saved = facts.get("curve") or {}
        if spotted and saved.get("method") == method:
            return {"curve": _scaled(method, saved["frames"], np.array(saved["values"], float), chose=True)}
        frames = FrameFolder(folder)
        numbers = [n for n in frames.numbers if onset is not None and n >= onset]
        if len(numbers) < FEWEST:
            return {"uncurved": _why(facts, method, spotted)}
        crops = np.stack([grey(image_at(file_of(frames, n))) for n in numbers])
        return {"curve": _scaled(method, numbers, apex.curve(crops, method), chose=spotted)}
    except UsageError as e:
        return {"uncurved": e.what}  # this spotter looks at no picture
    except (DataError, ValueError, KeyError, TypeError, AttributeError) as e:
        notes.append(f"no apex curve: {e}")
        return {}


def _why(facts: dict[str, Any], method: str, spotted: bool) -> str:
    if not spotted:
        return ANNOTATED
    if not isinstance(apex.SPOTTERS.get(method), apex.Spotter):
        return f"{method} looks at no picture"
    return NO_CHOICE if "curve" in facts else OLDER


def _scaled(method: str, frames: list[int], values: np.ndarray, *, chose: bool) -> dict[str, Any]:
    """As the page's script reads it. Raises ValueError where frames and values do not belong together."""
    if values.shape != (len(frames),) or len(frames) < 2 or not np.isfinite(values).all():
        raise ValueError(f"{values.size} values of {len(frames)} frames, or not all are finite")
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros(len(values))
    return {"method": method, "frames": [int(n) for n in frames], "values": np.round(scaled, 3).tolist(),
            "chose": chose}  # fmt: skip


def image_at(path: Path) -> np.ndarray:
    """A stored picture as it lies there, (H, W[, 3]) uint8. Raises DataError."""
    return decode_image(read_bytes(path), path, always_colour=False)
