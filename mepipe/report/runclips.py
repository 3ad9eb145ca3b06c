"""The clips behind a run's predictions, packed for its page: what a cell of the confusion matrix opens."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mepipe.progress import Progress
from mepipe.report.packing import Packed, Source, open_flow, pack_clips
from mepipe.workspace import Workspace
from mepipe_model.runs import Prediction

if TYPE_CHECKING:
    from mepipe.shards import Sample

BUDGET = 24e6  # bytes: a run's page is sent around by mail more often than a corpus's


def run_clips(
    ws: Workspace, rows: Sequence[Prediction], classes: Sequence[str], progress: Progress | None = None
) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """(clip id, view) of every prediction whose clip has something to show, and what is missing of how many."""
    samples = _samples(ws, sorted({r.corpus for r in rows}))
    sources = [source_of(r, samples.get((r.corpus, r.subject, r.clip))) for r in rows]
    packed = pack_clips(ws, sources, progress, BUDGET)
    shown = [(clip_id(r), view(r, p, classes)) for r, p in zip(rows, packed, strict=True) if _visible(p)]
    if not shown:
        return [], []  # the page says so already, of its examples
    missing = Counter(note.split(":")[0] for p in packed for note in p.notes)
    return shown, [f"{what} of {n} of {len(rows)} clips; open one for the reason." for what, n in missing.items()]


def clip_id(r: Prediction) -> str:
    return f"{r.corpus}/{r.subject}/{r.clip}"


def _samples(ws: Workspace, corpora: Sequence[str]) -> dict[tuple[str, str, str], Sample]:
    shards, _ = open_flow(ws, corpora)
    if shards is None:
        return {}
    with contextlib.closing(shards):
        return {(s.corpus, s.subject, s.clip): s for s in shards.samples}


def source_of(r: Prediction, sample: Sample | None) -> Source:
    """The frames that the model saw: those of the shard."""
    source = Source(r.corpus, r.subject, r.clip, None, None)
    return source if sample is None else replace(source, onset=sample.onset, apex=sample.apex)


def _visible(packed: Packed) -> bool:
    return any(name in packed.view for name in ("onset", "apex", "flow"))


def view(r: Prediction, packed: Packed, classes: Sequence[str]) -> dict[str, Any]:
    """What the page's script shows of a clip that is opened."""
    verdict = "right" if r.true == r.pred else "wrong"
    facts = [("true", r.true), ("predicted", f"{r.pred} ({verdict})"), ("corpus", r.corpus), ("fold", r.fold)]
    facts += [(f"p({c})", f"{p:.3f}") for c, p in zip(classes, r.probabilities, strict=False)]
    return {**packed.view, "name": f"{r.subject}/{r.clip}", "facts": facts, "notes": list(packed.notes)}
