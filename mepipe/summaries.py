"""What ``--json`` prints of ``prepare``, ``flow`` and ``train``: plain values for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from mepipe.facesets import FaceSummary
    from mepipe.flow.run import FlowSummary
    from mepipe.prepare import Summary
    from mepipe_model.seeds import SeedsOutcome
    from mepipe_model.train import Outcome


def of_prepare(summary: Summary | FaceSummary) -> dict[str, Any]:
    """Counts, the table, and every clip that is not simply ok, with its reason."""
    told = ("subject", "clip", "status", "reason")
    return {
        "corpus": summary.corpus,
        "dry_run": summary.dry_run,
        "clips": len(summary.records),
        "counts": {status: summary.counts[status] for status in ("ok", "repaired", "refused")},
        "reused": summary.reused,
        "seconds": round(summary.seconds, 2),
        "table": None if summary.dry_run else str(summary.table),
        "not_ok": [{n: getattr(r, n) for n in told} for r in summary.records if r.status != "ok"],
        "without_row": [str(folder) for folder in getattr(summary, "left_over", [])],
        "shards": [str(path) for path in getattr(summary, "shards", [])],
    }


def of_flow(summary: FlowSummary) -> dict[str, Any]:
    """Engine, samples computed and up to date, and the shards of each corpus."""
    return {
        **{k: v for k, v in asdict(summary).items() if k in ("engine", "dry_run", "computed", "reused")},
        "seconds": round(summary.seconds, 2),
        "folder": str(summary.folder),
        "shards": {corpus: [str(p) for p in paths] for corpus, paths in summary.shards.items()},
        "previews": [str(p) for p in summary.previews],
    }


def of_train(outcome: Outcome | SeedsOutcome, pages: list[Path]) -> dict[str, Any]:
    """The runs with their pages, and the scores; of several seeds, their mean and spread. A dry run: its text."""
    runs = [{"run": f.name, "folder": str(f), "page": str(p)} for f, p in zip(outcome.folders, pages, strict=True)]
    scores = getattr(outcome, "metrics", None) or getattr(outcome, "summary", None)
    return {"runs": runs, "scores": scores or None, "text": [] if runs else outcome.lines()}
