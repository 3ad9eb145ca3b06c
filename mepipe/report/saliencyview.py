"""The part of a run's page that shows where the model looks, from RUN/saliency.npz where that was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps

from mepipe.errors import DataError
from mepipe.faces.align import SIZE, mean_face
from mepipe.report.canvas import axes, figure, png
from mepipe.report.html import Picture, uri
from mepipe.shards.importing import read_arrays

FILE, FORMAT = "saliency.npz", 1  # as mepipe_model.saliency writes it; that module loads torch
MAP = "magma"
SMOOTH = 4.0  # px sigma: gradients differ from pixel to pixel, regions do not
LINES = (  # of the 68 points, what makes a drawn face: jaw, brows, nose, eyes, lips
    range(17), range(17, 22), range(22, 27), range(27, 31), range(31, 36), (*range(36, 42), 36), (*range(42, 48), 42),
    (*range(48, 60), 48), (*range(60, 68), 60),
)  # fmt: skip


@dataclass(frozen=True)
class ClassView:
    """One class: how many clips were answered so, its picture, and each region's two shares, 0 to 1."""

    name: str
    clips: int
    picture: Picture | None
    attribution: Sequence[float]
    occlusion: Sequence[float]


def saliency_view(folder: Path, classes: Sequence[str]) -> dict[str, Any] | None:
    """What the page shows of RUN/saliency.npz; None where nobody made one. Raises DataError for a damaged file."""
    path = folder / FILE
    if not path.is_file():
        return None
    about, arrays = _read(path)
    if tuple(about["classes"]) != tuple(classes):
        raise DataError(f"{path} explains other classes than the run has", do="make it again, or remove it")
    target = arrays["target"]
    views = [_class(k, name, target == k, arrays) for k, name in enumerate(classes)]
    return {
        "method": {"integrated": f"integrated gradients, {about['steps']} steps", "gradient": "gradient × input"}[
            about["method"]
        ],
        "clips": len(target),
        "regions": about["regions"],
        "views": views,
    }


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    file = read_arrays(path)
    try:
        about = json.loads(str(file["about"]))
        arrays = {name: file[name] for name in ("target", "regions", "occlusion", "maps")}
        if (about["format"], about["version"]) != ("mepipe.saliency", FORMAT):
            raise ValueError(f"it is {about['format']} version {about['version']}")
        n, r = len(about["clips"]), len(about["regions"])
        shapes = {"target": (n,), "regions": (n, r), "occlusion": (n, r), "maps": (len(about["classes"]), SIZE, SIZE)}
        wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
        if wrong:
            raise ValueError(f"{wrong[0]} has the shape {arrays[wrong[0]].shape}, not {shapes[wrong[0]]}")
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise DataError(f"{path} cannot be read ({e})", do="make it again, or remove it") from e
    return about, arrays


def _class(k: int, name: str, mine: np.ndarray, arrays: dict[str, np.ndarray]) -> ClassView:
    if not mine.any():
        return ClassView(name, 0, None, (), ())
    shares = _shares(arrays["regions"][mine])
    drops = _shares(np.maximum(arrays["occlusion"][mine], 0))
    alt = f"where motion counts for {name}, mean of {int(mine.sum())} clips, under the drawn mean face"
    picture = Picture(uri(saliency_picture(arrays["maps"][k])), alt)
    return ClassView(name, int(mine.sum()), picture, shares.tolist(), drops.tolist())


def _shares(values: np.ndarray) -> np.ndarray:
    """(r,): the mean over clips of each region's share, every clip counting the same; values (n, r) >= 0."""
    totals = values.sum(axis=1, keepdims=True)
    return np.where(totals > 0, values / np.maximum(totals, 1e-12), 0).mean(axis=0)


def saliency_picture(values: np.ndarray) -> bytes:
    """A map (224, 224) >= 0, smoothed, from nothing to its 99.5th percentile, under the drawn mean face; PNG."""
    import cv2

    values = cv2.GaussianBlur(np.asarray(values, np.float32), (0, 0), SMOOTH)
    top = max(float(np.percentile(values, 99.5)), 1e-12)
    fig = figure(2 * SIZE, 2 * SIZE)
    ax = axes(fig, 0, 0, 2 * SIZE, 2 * SIZE)
    ax.imshow(colormaps[MAP](np.clip(values / top, 0, 1)), extent=(0, SIZE, SIZE, 0), interpolation="bilinear")
    points = mean_face()
    for line in LINES:
        ax.plot(*points[list(line)].T, color="#ffffff", alpha=0.75, linewidth=2)
    ax.set(xlim=(0, SIZE), ylim=(SIZE, 0))
    ax.set_axis_off()
    return png(fig)
