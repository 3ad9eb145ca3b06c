"""What the page is made from: a run's folder, read once, without torch.

Scores are computed from the folds' predictions, so a page never shows figures that its own predictions
table does not give; metrics.json is compared with them and adds what only it has: oracle (leaky) scores.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mepipe.errors import DataError
from mepipe.limits import TABLE_BYTES, read_file
from mepipe.workspace import Workspace
from mepipe_model.evaluate import LEAKY, score
from mepipe_model.runs import Prediction, Run, find_run, read_json

Log = dict[str, list[float]]
SAME = 1e-6  # predictions carry six digits; scores of the same rows agree far better


@dataclass(frozen=True)
class RunData:
    """A run as the page shows it. rows, scores, logs and facts are of the finished folds only.

    scores: as ``mepipe_model.evaluate.score`` gives them.  oracle: scores that saw the test subject, to be
    shown under the name ``oracle (leaky)`` only.  notes: what a reader must know.
    """

    run: Run
    rows: list[Prediction]
    scores: dict[str, Any]
    logs: dict[str, Log] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    oracle: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.facts) == len(self.run.fold_ids)


def read_run(ws: Workspace, name: str | Path) -> RunData:
    """The run called ``name``, or in the folder ``name``. Raises UsageError for an unknown run and DataError
    when no fold is finished or a file is damaged.
    """
    run = find_run(ws, name)
    rows = run.predictions()
    scores = score(rows, run.classes, run.parts)
    notes = _notes_on_state(run) + list(scores["warnings"])
    facts = {f: run.fold_facts(f) or {} for f in run.finished()}
    logs = {}
    for fold in facts:
        try:
            logs[fold] = read_log(run.fold(fold) / "log.csv")
        except DataError as e:
            notes.append(f"no learning curve of fold {fold}: {e}")
    metrics = read_json(run.folder / "metrics.json", missing_ok=True) or {}
    notes += _disagreement(metrics, scores)
    oracle = metrics.get(LEAKY)
    if run.settings.select == "oracle" and oracle is None:
        notes.append(f"metrics.json has no {LEAKY} scores")
    return RunData(run, rows, scores, logs, facts, oracle, notes)


def _notes_on_state(run: Run) -> list[str]:
    done, total = len(run.finished()), len(run.fold_ids)
    notes = []
    if done < total:
        notes.append(f"{done} of {total} folds are finished: these figures are not a result yet")
    left_out = run.config["data"].get("left_out_without_label", 0)
    if left_out:
        notes.append(f"{left_out} clips have no label in this class set and were left out")
    return notes


def _disagreement(metrics: dict[str, Any], scores: dict[str, Any]) -> list[str]:
    """A line when metrics.json is absent or was written from other predictions."""
    if not metrics:
        return ["metrics.json is not there yet; the figures are computed from the predictions of the finished folds"]
    differ = [k for k in ("UF1", "UAR", "ACC") if abs(metrics.get(k, math.nan) - scores[k]) > SAME or k not in metrics]
    if not differ:
        return []
    pairs = ", ".join(f"{k} {metrics.get(k)} there, {scores[k]:.4f} here" for k in differ)
    return [f"metrics.json was written from other predictions than the folds hold now ({pairs}); repeat the training"
            " command to pool them again"]  # fmt: skip


def read_log(path: Path) -> Log:
    """The columns of a fold's log.csv as numbers. Raises DataError when it is absent or damaged."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_file(path, TABLE_BYTES).decode("utf-8"), newline="")))
        columns = {name: [float(r[name]) for r in rows] for name in (rows[0] if rows else {})}
    except (OSError, ValueError, TypeError, csv.Error) as e:
        raise DataError(f"cannot read {path.name} ({e})") from e
    if not {"epoch", "lr", "loss", "accuracy"} <= columns.keys():
        raise DataError(f"{path.name} has not the columns epoch, lr, loss, accuracy")
    return columns
