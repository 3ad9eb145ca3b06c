"""Pooling predictions of folds and scoring them; the same for a run just trained and for files from elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, UsageError
from mepipe.workspace import Workspace, write_json
from mepipe_model.metrics import Scores
from mepipe_model.runs import ORACLE_FILE, Prediction, Run, find_run, read_predictions, write_predictions
from mepipe_model.statistics import FIGURES, Comparison, compare, intervals

LEAKY = "oracle (leaky)"  # the only name under which a score that saw the test subject is shown
SELECTION = {
    "fixed": "fixed (last epoch)",
    "inner": "inner (epoch chosen on training subjects held out inside the fold)",
    "oracle": "fixed (last epoch)",  # what an oracle run reports as its honest part
}


def score(rows: Sequence[Prediction], classes: Sequence[str]) -> dict[str, Any]:
    """UF1, UAR, ACC, per class, confusion matrix, and the same per corpus, of pooled predictions.

    ``interval`` holds 95 % intervals over subjects, [low, high] by figure, or None where there are few subjects.
    ``warnings`` lists what a reader must know, such as a class absent from one corpus.
    """
    if not rows:
        raise DataError("no predictions to score", do="train at least one fold")
    result, notes = _scored(rows, classes, "")
    corpora = list(dict.fromkeys(r.corpus for r in rows))
    result["per_corpus"] = {}
    for corpus in corpora:
        part, more = _scored([r for r in rows if r.corpus == corpus], classes, f"{corpus}: ")
        result["per_corpus"][corpus] = part
        notes += more if len(corpora) > 1 else []
    result["warnings"] = notes
    return result


def _scored(rows: Sequence[Prediction], classes: Sequence[str], where: str) -> tuple[dict[str, Any], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = Scores.of([r.true for r in rows], [r.pred for r in rows], classes).as_dict()
    spans = intervals(rows, classes)
    scores["interval"] = spans and {name: list(span) for name, span in spans.items()}
    return scores, [f"{where}{w.message}" for w in caught]


def pool_run(run: Run) -> dict[str, Any]:
    """Write the pooled predictions.csv and metrics.json of the finished folds of ``run``. Returns the metrics."""
    rows = run.predictions()
    write_predictions(run.folder / "predictions.csv", rows, run.classes)
    done, total = len(run.finished()), len(run.fold_ids)
    metrics = {
        **score(rows, run.classes),
        "selection": SELECTION[run.settings.select],
        "protocol": run.settings.protocol,
        "folds": {"finished": done, "of": total},
    }
    if run.settings.select == "oracle":
        leaky = run.predictions(ORACLE_FILE)
        write_predictions(run.folder / ORACLE_FILE, leaky, run.classes)
        metrics[LEAKY] = {**score(leaky, run.classes), "selection": LEAKY}
    write_json(run.folder / "metrics.json", metrics)
    return metrics


def score_lines(run: Run, metrics: dict[str, Any]) -> list[str]:
    """A run's scores as text."""
    done, total = metrics["folds"]["finished"], metrics["folds"]["of"]
    partial = "" if done == total else f" ({done} of {total} folds: not a result yet)"
    head = f"{run.name}: {metrics['clips']} clips, {run.settings.protocol}, pooled over folds{partial}"
    lines = [head, *_table(metrics, metrics["selection"])]
    if LEAKY in metrics:
        lines += _table(metrics[LEAKY], f"{LEAKY}: best epoch chosen on the test subject, not a fair score")
    lines += [f"  warning: {w}" for w in metrics["warnings"]]
    return [*lines, f"  predictions {run.folder / 'predictions.csv'}"]


def _table(metrics: dict[str, Any], selection: str) -> list[str]:
    mark = f"{LEAKY} " if selection.startswith(LEAKY) else ""

    def figures(m: dict[str, Any]) -> str:
        return "  ".join(f"{mark}{name} {m[name]:.4f}" for name in ("UF1", "UAR", "ACC"))

    parts = metrics["per_corpus"] if len(metrics["per_corpus"]) > 1 else {}
    lines = [f"  {figures(metrics)}   selection: {selection}"]
    if metrics["interval"]:
        spans = (f"{mark}{name} {low:.2f} to {high:.2f}" for name, (low, high) in metrics["interval"].items())
        lines.append(f"  {mark}95 % intervals over subjects: {', '.join(spans)}")
    return lines + [f"    {name:10} {figures(m)}  ({m['clips']} clips)" for name, m in parts.items()]


def evaluate_runs(ws: Workspace, sources: Sequence[str]) -> dict[str, Any]:
    """Pool the predictions of runs, run folders or predictions.csv files and score them together.

    Raises DataError when a clip is predicted twice or the class lists differ.
    """
    leaky = any(map(is_leaky, sources))
    result = {**score(*pooled(ws, sources)), "selection": LEAKY if leaky else "as predicted"}
    result["warnings"] += [note for source in sources if (note := unfinished(ws, source))]
    return result


def unfinished(ws: Workspace, source: str) -> str:
    """What to say of a run whose folds are not all there; "" for a whole run or a file."""
    if Path(source).is_file():
        return ""
    run = find_run(ws, source)
    done, total = len(run.finished()), len(run.fold_ids)
    return "" if done == total else f"{run.name}: {done} of {total} folds are finished: not a result yet"


def is_leaky(source: str) -> bool:
    """Whether ``source`` is the file of predictions whose epoch was chosen on the test subject."""
    return Path(source).name == ORACLE_FILE


def compare_runs(ws: Workspace, sources: Sequence[str], against: str) -> Comparison:
    """The pooled ``sources`` against one other run, folder or file, over the same clips.

    Raises DataError as ``evaluate_runs``, and when clips, truth or classes differ; UsageError for predictions
    that saw the test subject.
    """
    if any(map(is_leaky, [*sources, against])):
        raise UsageError(f"{ORACLE_FILE} saw the test subjects: a comparison with it tests nothing")
    rows, classes = pooled(ws, sources)
    others, names = pooled(ws, [against])
    if names != classes:
        raise DataError(f"{against} has the classes {', '.join(names)}, the others {', '.join(classes)}")
    return compare(rows, others, classes)


def comparison_lines(c: Comparison, against: str) -> list[str]:
    """A comparison as text."""
    lines = [f"against {against}, over the same {c.clips} clips of {c.subjects} subjects"]
    for name in FIGURES:
        d = c.differences[name]
        sure = ""
        if d.interval is not None:
            sure = f"  95 % interval {d.interval[0]:+.4f} to {d.interval[1]:+.4f}, p {d.p:.3f} (paired, over subjects)"
        lines.append(f"  {name} {d.first:.4f} - {d.second:.4f} = {d.difference:+.4f}{sure}")
    m = c.mcnemar
    lines.append(f"  right where the other is wrong: {m.only_first} clips; wrong where it is right: {m.only_second}; "
                 f"McNemar p {m.p:.3f} (takes clips as independent)")  # fmt: skip
    return lines


def pooled(ws: Workspace, sources: Sequence[str]) -> tuple[list[Prediction], tuple[str, ...]]:
    """The predictions of all ``sources`` and their classes. Raises DataError as ``evaluate_runs``."""
    rows: list[Prediction] = []
    classes: tuple[str, ...] = ()
    for source in sources:
        more, names = _read(ws, source)
        if classes and names != classes:
            raise DataError(f"{source} has the classes {', '.join(names)}, the others {', '.join(classes)}")
        classes = names
        rows += more
    seen: set[tuple[str, str, str]] = set()
    for r in rows:
        key = (r.corpus, r.subject, r.clip)
        if key in seen:
            do = "pool parts of one run, or evaluate one at a time"
            raise DataError(f"{r.corpus} {r.subject}/{r.clip} is predicted twice", do=do)
        seen.add(key)
    return rows, classes


def _read(ws: Workspace, source: str) -> tuple[list[Prediction], tuple[str, ...]]:
    path = Path(source)
    if path.is_file():
        return read_predictions(path)
    run = find_run(ws, source)
    return run.predictions(), run.classes


def lines(scores: dict[str, Any]) -> list[str]:
    """``evaluate_runs``'s result as text, with the class scores."""
    out = [f"{scores['clips']} clips, pooled", *_table(scores, scores["selection"])]
    mark = f"{LEAKY} " if scores["selection"] == LEAKY else ""
    for name, c in scores["per_class"].items():
        figures = f"{mark}F1 {c['F1']:.4f}  {mark}recall {c['recall']:.4f}"
        out.append(f"    {name:10} {figures}  ({c['clips']} clips)")
    return out + [f"  warning: {w}" for w in scores["warnings"]]
