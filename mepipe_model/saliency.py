"""Where a trained model looks: attributions on the flow, and what is lost when a region of the face is stilled.

integrated gradients  x * mean of d log p / dx along the straight line from no motion to the clip's flow (Sundararajan,
                      Taly, Yan 2017, eq. 1, midpoint rule).  Summed they are log p(flow) - log p(no motion).
gradient x input      the same with the gradient at the clip alone: one step, no such sum
occlusion             a region's flow set to 0 px (Zeiler and Fergus 2014, with stillness in place of grey): the drop
                      of log p tells how much of the answer rests on that region

p is the probability of the class that the model answers.  Each clip is explained by the model of its own fold, which
has never seen its subject.  Regions are drawn from each clip's own 68 landmarks, or from the mean face's where there
are none (every crop is aligned to it).  An attribution says what the model used, not what moved.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mepipe.clipfiles import RECORD
from mepipe.errors import DataError, UsageError
from mepipe.faces.align import SIZE, mean_face
from mepipe.limits import read_json
from mepipe.progress import Progress
from mepipe.shards import Sample, Shards, open_shards
from mepipe.workspace import Workspace, atomic_file, safe_name
from mepipe_model.data import without_head_motion
from mepipe_model.foldmodels import usable_folds
from mepipe_model.models import model_info
from mepipe_model.models.base import FlowModel
from mepipe_model.runs import Prediction, Run, find_run
from mepipe_model.weights import load_weights

if TYPE_CHECKING:
    from mepipe_model.data import Scale

METHODS = ("integrated", "gradient")
STEPS = 16  # of the integral; 64 changed no region's share by more than 0.2 percentage points (docs/pages.md)
AT_ONCE = 8  # flows in one pass
TINY = 1e-6  # probability below which log p is not followed
FILE = "saliency.npz"  # in the run's folder
FORMAT = 1
FOREHEAD = 24.0  # px above the brows that belong to them: what a raised brow drags along

# Region -> points that stand for it: (indices of the 68, their mean, shifted down by px). A pixel belongs to the
# region of its nearest point. Left and right are the image's.
Seed = tuple[tuple[int, ...], float]
REGIONS: dict[str, tuple[Seed, ...]] = {
    "left brow": tuple(((i,), d) for i in range(17, 22) for d in (0.0, -FOREHEAD)),
    "right brow": tuple(((i,), d) for i in range(22, 27) for d in (0.0, -FOREHEAD)),
    "left eye": tuple(((i,), 0.0) for i in range(36, 42)),
    "right eye": tuple(((i,), 0.0) for i in range(42, 48)),
    "nose": tuple(((i,), 0.0) for i in range(27, 36)),
    "left cheek": (((2, 41), 0.0), ((3, 31), 0.0), ((1, 41), 0.0), ((2,), 0.0), ((3,), 0.0), ((4, 48), 0.0)),
    "right cheek": (((14, 46), 0.0), ((13, 35), 0.0), ((15, 46), 0.0), ((14,), 0.0), ((13,), 0.0), ((12, 54), 0.0)),
    "mouth": tuple(((i,), 0.0) for i in range(48, 68)),
    "chin": (((7,), 0.0), ((8,), 0.0), ((9,), 0.0), ((8, 57), 0.0), ((6, 59), 0.0), ((10, 55), 0.0), ((5,), 0.0),
             ((11,), 0.0)),
}  # fmt: skip
NAMES = tuple(REGIONS)


# --- regions ---------------------------------------------------------------------------------------


def region_map(points: np.ndarray | None = None) -> np.ndarray:
    """(224, 224) int8: which of NAMES a pixel belongs to, -1 outside the face.

    points: (68, 2) landmarks in crop px; None takes the mean face.
    """
    from mepipe.apex.regions import polygon

    points = mean_face() if points is None else np.asarray(points, float)
    seeds, owners = [], []
    for n, name in enumerate(NAMES):
        for indices, down in REGIONS[name]:
            seeds.append(points[list(indices)].mean(0) + np.array([0.0, down]))
            owners.append(n)
    y, x = np.mgrid[:SIZE, :SIZE]
    nearest = np.full((SIZE, SIZE), np.inf)
    owner = np.zeros((SIZE, SIZE), np.int8)
    for (sx, sy), n in zip(seeds, owners, strict=True):
        away = (x - sx) ** 2 + (y - sy) ** 2
        closer = away < nearest
        nearest[closer], owner[closer] = away[closer], n
    face = polygon([*points, *(points[17:27] - np.array([0.0, FOREHEAD]))])
    return np.where(face, owner, -1).astype(np.int8)


def landmarks_of(folder: Path) -> np.ndarray | None:
    """The clip's 68 landmarks in crop px, from its clip.json; None where there are none, or five."""
    try:
        saved = read_json(folder / RECORD) or {}
        points, matrix = np.array(saved["landmarks"], float), np.array(saved["matrix"], float)
        return points @ matrix[:, :2].T + matrix[:, 2] if points.shape == (68, 2) else None
    except (DataError, ValueError, KeyError, TypeError):
        return None


# --- attributions ----------------------------------------------------------------------------------


def attributions(
    model: FlowModel, scale: Scale, flow: np.ndarray, method: str = "integrated", steps: int = STEPS
) -> tuple[np.ndarray, int]:
    """(224, 224) float64 and the class explained: how much each pixel's motion adds to that class's log p.

    flow: (3, 224, 224) float32 px (u, v, magnitude); the three channels' shares are added up.
    Raises UsageError for an unknown method and for a model that passes no gradient.
    """
    if method not in METHODS:
        raise UsageError(f"saliency method {method!r}", do=f"valid: {', '.join(METHODS)}")
    x = torch.from_numpy(np.ascontiguousarray(flow))
    with torch.no_grad():
        target = int(_log_p(model, scale, x[None])[0].argmax())
    steps = steps if method == "integrated" else 1
    at = (torch.arange(steps) + 0.5) / steps if method == "integrated" else torch.ones(1)
    total = torch.zeros_like(x, dtype=torch.float64)
    for some in at.split(AT_ONCE):
        along = (some.view(-1, 1, 1, 1) * x).requires_grad_(True)
        value = _log_p(model, scale, along)[:, target].sum()
        if not value.requires_grad:
            raise UsageError(f"{model.config.get('name')} passes no gradient to its input", do="use occlusion alone")
        (slope,) = torch.autograd.grad(value, along)
        total += torch.nan_to_num(slope, posinf=0.0, neginf=0.0).double().sum(0)  # strain has no slope where all is 0
    return (x.double() * total / steps).sum(0).numpy(), target


def occluded(model: FlowModel, scale: Scale, flow: np.ndarray, regions: np.ndarray, target: int) -> np.ndarray:
    """(len(NAMES),) float64: the drop of log p of ``target`` when a region of ``regions`` stands still."""
    x = torch.from_numpy(np.ascontiguousarray(flow))
    masks = torch.from_numpy(np.stack([regions != n for n in range(len(NAMES))]))
    stilled = torch.cat([x[None], x[None] * masks[:, None]])
    with torch.no_grad():
        values = torch.cat([_log_p(model, scale, part)[:, target] for part in stilled.split(AT_ONCE)]).double()
    return (values[0] - values[1:]).numpy()


def _log_p(model: FlowModel, scale: Scale, x: Tensor) -> Tensor:
    """(B, classes) log probabilities of flow (B, 3, H, W) in px."""
    return model.head.probabilities(model(scale(x))).clamp_min(TINY).log()


def by_region(values: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(len(NAMES),): the mean of |values| (224, 224) over the pixels of each region, 0 for an empty one."""
    sizes = np.array([(regions == n).sum() for n in range(len(NAMES))])
    sums = np.array([np.abs(values)[regions == n].sum() for n in range(len(NAMES))])
    return sums / np.maximum(sizes, 1)


# --- a run -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saliency:
    """What ``explain_run`` found, clip by clip. n clips, r regions.

    target: (n,) index into classes of the answer explained.  regions: (n, r) mean |attribution| per px.
    occlusion: (n, r) drop of log p.  maps: (classes, 224, 224) mean |attribution| of the clips answered so.
    """

    run: str
    classes: tuple[str, ...]
    method: str
    steps: int
    clips: tuple[tuple[str, str, str], ...]
    target: np.ndarray
    regions: np.ndarray
    occlusion: np.ndarray
    maps: np.ndarray
    path: Path

    def lines(self) -> list[str]:
        """Per class the share of each region, as text."""
        out = [f"{self.run}: {len(self.clips)} clips explained by the model of their own fold, {self.method}"]
        out.append("  share of attribution per px, %".ljust(34) + "  ".join(f"{n:>11}" for n in NAMES))
        for k, name in enumerate(self.classes):
            mine = self.regions[self.target == k]
            if len(mine):
                shares = (mine / np.maximum(mine.sum(1, keepdims=True), 1e-12)).mean(0)
                out.append(f"  {name:12} ({len(mine):3} answers)".ljust(34)
                           + "  ".join(f"{100 * s:11.0f}" for s in shares))  # fmt: skip
        return [*out, f"  written     {self.path}"]


def explain_run(
    ws: Workspace,
    run: str | Path,
    *,
    method: str = "integrated",
    steps: int = STEPS,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Saliency:
    """Explain the clips of ``run`` that its finished folds predict, and write RUN/saliency.npz for the run's page.

    Parameters
    ----------
    ws
        The workspace that run names are looked up in.
    run
        A name or a folder.
    method
        How saliency is computed, "integrated" by default.
    steps
        Of the integration.
    limit
        At most so many clips, evenly spaced over the predictions.
    progress
        progress(done, total) counts clips.

    Returns
    -------
    Saliency
        What was written.

    Raises
    ------
    UsageError
        An unknown run or method, or a model that reads frames.
    DataError
        There are no weights or no shards.
    """
    the_run = find_run(ws, run)
    if the_run.settings.input is not None:
        raise UsageError(f"{the_run.name} reads faces, not flow: there is no flow to explain")
    if model_info(the_run.settings.model).native == "frames":
        raise UsageError(f"{the_run.settings.model} reads frames, not flow: there is no flow to explain")
    folds = usable_folds(the_run, None)
    rows = [r for r in the_run.predictions() if r.fold in folds]
    if limit is not None and len(rows) > limit:
        rows = [rows[(2 * i + 1) * len(rows) // (2 * limit)] for i in range(limit)]
    with contextlib.closing(open_shards(ws.flow, sorted({r.corpus for r in rows}), channels=3)) as shards:
        found = _explain(ws, the_run, rows, shards, method, steps, progress)
    saliency = _summary(the_run, rows, found, method, steps)
    _write(saliency)
    return saliency


@dataclass(frozen=True)
class _Explained:
    target: int
    map: np.ndarray
    regions: np.ndarray
    occlusion: np.ndarray


def _explain(
    ws: Workspace, run: Run, rows: Sequence[Prediction], shards: Shards, method: str, steps: int,
    progress: Progress | None,
) -> list[_Explained]:  # fmt: skip
    places = {(s.corpus, s.subject, s.clip): i for i, s in enumerate(shards.samples)}
    found: list[_Explained] = []
    fold, tools = "", None
    for r in rows:
        at = places.get((r.corpus, r.subject, r.clip))
        if at is None:
            raise DataError(f"{r.corpus} {r.subject}/{r.clip} is not in the flow shards", do="run mepipe flow again")
        if fold != r.fold or tools is None:
            fold, tools = r.fold, load_weights(run.fold(r.fold))
        flow = shards.flow(at)
        if run.settings.head_motion == "remove":  # as the model saw it
            flow = without_head_motion(torch.from_numpy(flow)[None])[0].numpy()
        found.append(explain_clip(*tools, flow, _regions(ws, shards.samples[at]), method, steps))
        if progress:
            progress(len(found), len(rows))
    return found


def explain_clip(
    model: FlowModel, scale: Scale, flow: np.ndarray, regions: np.ndarray, method: str = "integrated",
    steps: int = STEPS,
) -> _Explained:  # fmt: skip
    """Attributions and occlusion of one clip. flow: (3, 224, 224) px; regions: as ``region_map`` gives them."""
    values, target = attributions(model, scale, flow, method, steps)
    return _Explained(target, np.abs(values), by_region(values, regions), occluded(model, scale, flow, regions, target))


def _regions(ws: Workspace, sample: Sample) -> np.ndarray:
    folder = ws.prepared(sample.corpus) / safe_name(sample.subject) / safe_name(sample.clip)
    return region_map(landmarks_of(folder))


def _summary(run: Run, rows: Sequence[Prediction], found: Sequence[_Explained], method: str, steps: int) -> Saliency:
    target = np.array([f.target for f in found])
    maps = np.zeros((len(run.classes), SIZE, SIZE))
    for k in range(len(run.classes)):
        mine = [f.map / max(f.map.sum(), 1e-12) for f in found if f.target == k]  # every clip counts the same
        if mine:
            maps[k] = np.mean(mine, axis=0)
    return Saliency(
        run=run.name,
        classes=run.classes,
        method=method,
        steps=steps if method == "integrated" else 1,
        clips=tuple((r.corpus, r.subject, r.clip) for r in rows),
        target=target,
        regions=np.stack([f.regions for f in found]),
        occlusion=np.stack([f.occlusion for f in found]),
        maps=maps,
        path=run.folder / FILE,
    )


def _write(s: Saliency) -> None:
    about: dict[str, Any] = {"format": "mepipe.saliency", "version": FORMAT, "run": s.run, "classes": s.classes,
                             "method": s.method, "steps": s.steps, "regions": NAMES, "clips": s.clips}  # fmt: skip
    arrays: dict[str, Any] = {
        "target": s.target.astype(np.int16),
        "regions": s.regions.astype(np.float32),
        "occlusion": s.occlusion.astype(np.float32),
        "maps": s.maps.astype(np.float32),
    }
    with atomic_file(s.path) as temp, temp.open("wb") as file:
        np.savez_compressed(file, about=json.dumps(about), **arrays)
