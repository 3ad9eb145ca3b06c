"""The example clips of a page: which, and what is still there of their crops and flow."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

import numpy as np

from mepipe.errors import DataError
from mepipe.frames import read_image
from mepipe.report.packing import open_flow
from mepipe.shards import list_shards, open_shards
from mepipe.workspace import Workspace, safe_name
from mepipe_model.runs import Prediction

if TYPE_CHECKING:
    from mepipe.shards import Sample, Shards

MOST = 12


@dataclass(frozen=True)
class Example:
    """One clip. Crops are (224, 224, 3) uint8 BGR, flow is (3, 224, 224) float32 px; None with a note if gone.

    face: of a run that reads faces, the crop or the middle of the sequence.
    """

    prediction: Prediction
    sample: Sample | None
    onset: np.ndarray | None
    apex: np.ndarray | None
    flow: np.ndarray | None
    notes: tuple[str, ...] = ()
    face: np.ndarray | None = None


def choose(rows: Sequence[Prediction], classes: Sequence[str], most: int = MOST) -> list[Prediction]:
    """Up to ``most`` clips, balanced over classes and over right and wrong, ordered by class, right ones first.

    Inside a group the order is that of a hash of the clip's name: always the same, and nobody's choice.
    """
    ranked = sorted(rows, key=lambda r: hashlib.sha256(f"{r.corpus}/{r.subject}/{r.clip}".encode()).hexdigest())
    groups = [[r for r in ranked if r.true == c and (r.pred == c) is right] for right in (True, False) for c in classes]
    turns = chain.from_iterable(zip_longest(*groups))
    picked = [r for r in turns if r is not None][:most]
    return sorted(picked, key=lambda r: (classes.index(r.true), r.pred != r.true))


def load_examples(ws: Workspace, picked: Sequence[Prediction]) -> list[Example]:
    """The crops and the flow of ``picked``; what is no longer there becomes a note, not an error."""
    corpora = sorted({r.corpus for r in picked})
    shards, problem = open_flow(ws, corpora)
    if not list_shards(ws.flow, corpora):  # they were there when the run was trained
        problem = f"the flow shards of {', '.join(corpora)} are not in the workspace any more"
    if shards is None:
        return [Example(r, None, None, None, None, (problem,)) for r in picked]
    places = {(s.corpus, s.subject, s.clip): i for i, s in enumerate(shards.samples)}
    with contextlib.closing(shards):
        return [_load(ws, r, shards, places.get((r.corpus, r.subject, r.clip))) for r in picked]


def load_faces(ws: Workspace, picked: Sequence[Prediction]) -> list[Example]:
    """The faces of ``picked``; what is no longer there becomes a note, not an error."""
    try:
        shards = open_shards(ws.faces, sorted({r.corpus for r in picked}))
    except DataError as e:
        return [Example(r, None, None, None, None, (f"no picture: {e}",)) for r in picked]
    places = {(s.corpus, s.subject, s.clip): i for i, s in enumerate(shards.samples)}
    with contextlib.closing(shards):
        return [_load_face(r, shards, places) for r in picked]


def _load_face(row: Prediction, shards: Shards, places: dict[tuple[str, str, str], int]) -> Example:
    clip, _, number = row.clip.partition("#")
    at = places.get((row.corpus, row.subject, clip))
    if at is None:
        return Example(row, None, None, None, None, ("no picture: it is not in the shards any more",))
    frames = shards.content.shape[0] if len(shards.content.shape) == 4 else 0
    try:
        which = int(number) - 1 if number.isdecimal() and 0 < int(number) <= frames else frames // 2
        face = shards.frame(at, which) if frames else shards.read_many([at])[0]
    except DataError as e:
        return Example(row, shards.samples[at], None, None, None, (f"no picture: {e}",))
    return Example(row, shards.samples[at], None, None, None, face=np.ascontiguousarray(face[..., ::-1]))


def _load(ws: Workspace, row: Prediction, shards: Shards, at: int | None) -> Example:
    if at is None:
        return Example(row, None, None, None, None, ("no flow: the clip is not in the shards any more",))
    sample, notes, flow = shards.samples[at], [], None
    if shards.flow_content.normalised:
        return Example(row, sample, None, None, None, ("no pictures: the arrays were imported, normalised",))
    try:
        flow = shards.flow(at)
    except DataError as e:
        notes.append(f"no flow: {e}")
    crops = dict(_crops(ws, sample, notes))
    return Example(row, sample, crops.get("onset"), crops.get("apex"), flow, tuple(notes))


def _crops(ws: Workspace, sample: Sample, notes: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    for which in ("onset", "apex"):
        try:
            folder = ws.prepared(sample.corpus) / safe_name(sample.subject) / safe_name(sample.clip)
            path = folder / f"{getattr(sample, which)}.png"
            if not path.is_file():
                notes.append(f"the {which} crop {sample.subject}/{sample.clip}/{path.name} is not there any more")
                continue
            yield which, read_image(path)
        except DataError as e:
            notes.append(f"no {which} crop: {e}")
