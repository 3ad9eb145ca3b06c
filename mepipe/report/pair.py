"""RUN/against-OTHER.html: two runs over the same clips, side by side, with the paired tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mepipe.errors import UsageError
from mepipe.progress import Progress
from mepipe.report.html import wheel_picture, write_page
from mepipe.report.reading import RunData, read_run
from mepipe.report.runclips import clip_id, run_clips
from mepipe.workspace import Workspace
from mepipe_model.evaluate import compare_runs
from mepipe_model.runs import Prediction, differences
from mepipe_model.statistics import FIGURES, RESAMPLES, Comparison

OUTCOMES = ("only first right", "only second right", "both right", "both wrong")


@dataclass(frozen=True)
class PairRow:
    """A clip and what both runs said of it."""

    first: Prediction
    second: Prediction

    @property
    def outcome(self) -> str:
        right = (self.first.true == self.first.pred, self.second.true == self.second.pred)
        return {(True, True): "both right", (True, False): "only first right", (False, True): "only second right",
                (False, False): "both wrong"}[right]  # fmt: skip


@dataclass(frozen=True)
class SubjectPair:
    """One subject's clips, and how many each run has right."""

    corpus: str
    subject: str
    clips: int
    first: int
    second: int

    @property
    def lead(self) -> int:
        return self.first - self.second


def report_pair(ws: Workspace, first: str | Path, second: str | Path, progress: Progress | None = None) -> Path:
    """Write the page of two runs over the same clips; the tests are those of ``mepipe evaluate --against``.

    Parameters
    ----------
    ws
        The workspace that run names are looked up in.
    first, second
        Names or folders.
    progress
        progress(done, total) counts clips.

    Returns
    -------
    Path
        against-<second>.html in the folder of ``first``.

    Raises
    ------
    UsageError
        No such run, or one run twice.
    DataError
        Clips, truth or classes differ.
    """
    one, two = read_run(ws, first), read_run(ws, second)
    if one.run.folder.resolve() == two.run.folder.resolve():
        raise UsageError(f"{one.run.name} is compared with itself", do="name two runs")
    comparison = compare_runs(ws, [str(first)], str(second))
    rows = pair_rows(one.rows, two.rows)
    clips, clip_notes = run_clips(ws, one.rows, one.run.classes, progress)
    shown = {clip_id(row.first): row for row in rows}
    return write_page(
        one.run.folder / f"against-{two.run.name}.html",
        "pair.html",
        **values(one, two, rows, comparison),
        clips=[(name, _with(view, shown[name], one, two)) for name, view in clips],
        clip_notes=clip_notes,
        legend=wheel_picture(),
    )


def pair_rows(first: Sequence[Prediction], second: Sequence[Prediction]) -> list[PairRow]:
    """The clips of both, those first on which one run alone is right."""
    theirs = {clip_id(r): r for r in second}
    rows = [PairRow(r, theirs[clip_id(r)]) for r in first]
    return sorted(rows, key=lambda row: OUTCOMES.index(row.outcome))


def values(one: RunData, two: RunData, rows: Sequence[PairRow], comparison: Comparison) -> dict[str, Any]:
    """Everything of the page that is text."""
    outcomes = Counter(row.outcome for row in rows)
    return {
        "runs": (one, two),
        "classes": one.run.classes,
        "rows": rows,
        "comparison": comparison,
        "figures": FIGURES,
        "resamples": RESAMPLES,
        "outcomes": [(name, outcomes[name]) for name in OUTCOMES],
        "subjects": subject_pairs(rows),
        "differences": differences(one.run, two.run),
        "notes": [f"{d.run.name}: {note}" for d in (one, two) for note in d.notes],
        "corpora": sorted({row.first.corpus for row in rows}),
    }


def subject_pairs(rows: Sequence[PairRow]) -> list[SubjectPair]:
    """One row per subject, the largest lead of the second run first."""
    groups: dict[tuple[str, str], list[PairRow]] = {}
    for row in rows:
        groups.setdefault((row.first.corpus, row.first.subject), []).append(row)
    pairs = []
    for key, group in groups.items():
        right = [
            sum(r.true == r.pred for r in rows) for rows in zip(*((g.first, g.second) for g in group), strict=True)
        ]
        pairs.append(SubjectPair(*key, len(group), *right))
    return sorted(pairs, key=lambda s: (s.lead, s.corpus, s.subject))


def _with(view: dict[str, Any], row: PairRow, one: RunData, two: RunData) -> dict[str, Any]:
    """The view of a clip with both answers in place of one."""
    facts = [("true", row.first.true), ("corpus", row.first.corpus), ("outcome", row.outcome)]
    for data, r in ((one, row.first), (two, row.second)):
        chances = (f"{c} {p:.3f}" for c, p in zip(data.run.classes, r.probabilities, strict=False))
        facts.append((data.run.name, f"{r.pred} ({', '.join(chances)})"))
    return {**view, "facts": facts}
