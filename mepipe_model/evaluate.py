"""Pooling predictions of folds and scoring them; the same for a run just trained and for files from elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, UsageError
from mepipe.workspace import Workspace, write_json
from mepipe_model.metrics import Scores
from mepipe_model.protocols import LEAKY as LEAKY_SPLIT
from mepipe_model.protocols import subject_of
from mepipe_model.runs import (
    LEAKY,
    ORACLE_FILE,
    Prediction,
    Run,
    differences,
    find_run,
    is_leaky,
    load_run,
    read_predictions,
    write_predictions,
)
from mepipe_model.statistics import FIGURES, Comparison, compare, intervals

MACHINE = ("threads", "device")  # settings that the machine may have chosen; they decide the last digits
SELECTION = {
    "fixed": "fixed (last epoch)",
    "inner": "inner (epoch chosen on training subjects held out inside the fold)",
    "oracle": "fixed (last epoch)",  # what an oracle run reports as its honest part
}


def score(rows: Sequence[Prediction], classes: Sequence[str], parts: Mapping[str, str] | None = None) -> dict[str, Any]:
    """UF1, UAR, ACC (which is WAR), WF1, per class, confusion matrix, and the same per corpus, of pooled predictions.

    parts: ``<corpus>_<subject>`` -> part of the test set; ``per_part`` then holds the same of each part.
    ``interval`` holds 95 % intervals over subjects, [low, high] by figure, or None where there are few subjects.
    ``warnings`` lists what a reader must know, such as a class absent from one corpus.
    """
    if not rows:
        raise DataError("no predictions to score", do="train at least one fold")
    result, notes = _scored(rows, classes, "")
    result["per_corpus"], more = _apart(rows, [r.corpus for r in rows], classes)
    notes += more if len(result["per_corpus"]) > 1 else []
    if parts:
        result["per_part"], more = _apart(rows, [parts.get(subject_of(r), "other") for r in rows], classes)
        notes += more
    result["warnings"] = notes
    return result


def _apart(
    rows: Sequence[Prediction], names: Sequence[str], classes: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The scores of the rows of each name, and notes on them."""
    result, notes = {}, []
    for name in dict.fromkeys(names):
        own = [r for r, n in zip(rows, names, strict=True) if n == name]
        result[name], more = _scored(own, classes, f"{name}: ")
        notes += more
    return result, notes


def _scored(rows: Sequence[Prediction], classes: Sequence[str], where: str) -> tuple[dict[str, Any], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = Scores.of([r.true for r in rows], [r.pred for r in rows], classes).as_dict()
    spans = intervals(rows, classes)
    scores["interval"] = spans and {name: list(span) for name, span in spans.items()}
    return scores, [f"{where}{w.message}" for w in caught]


def pool_run(run: Run) -> dict[str, Any]:
    """Write the pooled predictions.csv and metrics.json of the finished folds of ``run``. Returns the metrics."""
    write_predictions(run.folder / "predictions.csv", run.predictions(), run.classes)
    if run.settings.select == "oracle":
        write_predictions(run.folder / ORACLE_FILE, run.predictions(ORACLE_FILE), run.classes)
    metrics = run_metrics(run)
    write_json(run.folder / "metrics.json", metrics)
    return metrics


def run_metrics(run: Run, folds: Collection[str] | None = None) -> dict[str, Any]:
    """The metrics of the finished folds of ``run``, or of those of ``folds`` alone."""
    done, total = len(run.finished()), len(run.fold_ids)
    metrics = {
        **score(run.predictions(folds=folds), run.classes, run.parts),
        "selection": _marked(SELECTION[run.settings.select], run),
        "protocol": run.settings.protocol,
        "folds": {"finished": done, "of": total},
    }
    if run.settings.select == "oracle":
        leaky = run.predictions(ORACLE_FILE, folds)
        metrics[LEAKY] = {**score(leaky, run.classes, run.parts), "selection": LEAKY}
    return metrics


def _marked(selection: str, *runs: Run) -> str:
    """``selection``, under the name of the split when that has people in training and in test."""
    if any(run.settings.protocol == LEAKY_SPLIT for run in runs):
        return f"{LEAKY_SPLIT} (people are in training and in test, not a fair score), {selection}"
    return selection


def _mark(selection: str) -> str:
    """What stands before every figure that saw the test subjects."""
    return next((f"{name} " for name in (LEAKY, LEAKY_SPLIT) if selection.startswith(name)), "")


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
    mark = _mark(selection)

    def figures(m: dict[str, Any]) -> str:
        return "  ".join(f"{mark}{name} {m[name]:.4f}" for name in FIGURES)

    parts = {**(metrics["per_corpus"] if len(metrics["per_corpus"]) > 1 else {}), **metrics.get("per_part", {})}
    lines = [f"  {figures(metrics)}   selection: {selection}"]
    if metrics["interval"]:
        spans = (f"{mark}{name} {low:.2f} to {high:.2f}" for name, (low, high) in metrics["interval"].items())
        lines.append(f"  {mark}95 % intervals over subjects: {', '.join(spans)}")
    return lines + [f"    {name:10} {figures(m)}  ({m['clips']} clips)" for name, m in parts.items()]


def evaluate_runs(ws: Workspace, sources: Sequence[str]) -> dict[str, Any]:
    """Pool the predictions of runs, run folders or predictions.csv files and score them together.

    Parameters
    ----------
    ws
        The workspace that run names are looked up in.
    sources
        Names, folders or files; parts of one run may come from several machines.

    Returns
    -------
    dict[str, Any]
        JSON values only: UF1, UAR, ACC, intervals, per corpus and class, confusion matrix.

    Raises
    ------
    DataError
        A clip is predicted twice, or class lists, settings or data differ.
    """
    leaky = any(map(is_leaky, sources))
    notes = one_experiment(ws, sources)
    parts = {k: v for run in runs_of(ws, sources) for k, v in run.parts.items()}
    rows, classes = pooled(ws, sources)
    selection = LEAKY if leaky else _marked("as predicted", *runs_of(ws, sources))
    result = {**score(rows, classes, parts), "selection": selection}
    result["warnings"] += notes + unfinished(ws, sources)
    return result


def run_of(ws: Workspace, source: str) -> Run | None:
    """The run that ``source`` is, or that its file lies in (RUN/predictions.csv, RUN/folds/F/predictions.csv).

    None for a file from elsewhere.
    """
    path = Path(source)
    if not path.is_file():
        return find_run(ws, source)
    folders = [path.resolve().parent, *path.resolve().parents[2:3]]
    return next((load_run(f) for f in folders if (f / "config.json").is_file()), None)


def runs_of(ws: Workspace, sources: Sequence[str]) -> list[Run]:
    """The runs behind ``sources``, each folder once."""
    found = [run for source in sources if (run := run_of(ws, source)) is not None]
    return list({run.folder.resolve(): run for run in found}.values())


def one_experiment(ws: Workspace, sources: Sequence[str]) -> list[str]:
    """Refuse to pool runs whose settings or data differ. Returns notes on what does not decide a score much.

    Threads may differ: they are chosen by the machine and decide the last digits.
    Raises DataError that names the first differences.
    """
    runs = runs_of(ws, sources)
    for other in runs[1:]:
        if found := differences(runs[0], other, *MACHINE):
            what = f"{runs[0].name} and {other.name} are two experiments: {'; '.join(found[:3])}"
            raise DataError(what, do="pool parts of one run; for two runs see --against and --seeds")
    kinds = sorted({str(run.config.get("device", {}).get("type")) for run in runs})
    notes = [f"the parts were trained on {' and '.join(kinds)}"] if len(kinds) > 1 else []
    files = [s for s in sources if run_of(ws, s) is None]
    if files and len(sources) > 1:
        notes.append(f"no config.json is known of {', '.join(files)}: whether its settings agree cannot be checked")
    return notes


def unfinished(ws: Workspace, sources: Sequence[str]) -> list[str]:
    """What to say of runs whose folds are not all there, counted over all runs given; files count as they are."""
    runs = [run for source in sources if not Path(source).is_file() and (run := run_of(ws, source)) is not None]
    if not runs:
        return []
    done, total = {f for run in runs for f in run.finished()}, len(runs[0].fold_ids)
    names = ", ".join(dict.fromkeys(run.name for run in runs))
    return [] if len(done) == total else [f"{names}: {len(done)} of {total} folds are finished: not a result yet"]


def compare_runs(ws: Workspace, sources: Sequence[str], against: str) -> Comparison:
    """The pooled ``sources`` against one other run, folder or file, over the same clips.

    Parameters
    ----------
    ws
        The workspace that run names are looked up in.
    sources
        As in ``evaluate_runs``.
    against
        One name, folder or file.

    Returns
    -------
    Comparison
        McNemar's test and the paired bootstrap over subjects.

    Raises
    ------
    DataError
        As ``evaluate_runs``, and when clips, truth or classes differ.
    UsageError
        Predictions that saw the test subject.
    """
    if any(map(is_leaky, [*sources, against])):
        raise UsageError(f"{ORACLE_FILE} saw the test subjects: a comparison with it tests nothing")
    runs, other = runs_of(ws, sources), run_of(ws, against)
    splits = {run.settings.protocol == LEAKY_SPLIT for run in [*runs, *filter(None, [other])]}
    if len(splits) > 1:
        what = f"one of them is of --protocol {LEAKY_SPLIT}, which saw the test subjects, and the other is not"
        raise UsageError(what, do="compare runs of one kind")
    rows, classes = pooled(ws, sources)
    others, names = pooled(ws, [against])
    if names != classes:
        raise DataError(f"{against} has the classes {', '.join(names)}, the others {', '.join(classes)}")
    settings = tuple(differences(runs[0], other, *MACHINE)) if runs and other else None
    return replace(compare(rows, others, classes), settings=settings)


def comparison_lines(c: Comparison, against: str) -> list[str]:
    """A comparison as text."""
    lines = [f"against {against}, over the same {c.clips} clips of {c.subjects} subjects"]
    if c.settings is not None:
        lines.append(f"  they differ in {'; '.join(c.settings) or 'nothing but the machine'}")
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
    mark = _mark(scores["selection"])
    for name, c in scores["per_class"].items():
        figures = "  ".join(f"{mark}{f} {c[f]:.4f}" for f in ("F1", "recall", "precision"))
        out.append(f"    {name:10} {figures}  ({c['clips']} clips)")
    return out + [f"  warning: {w}" for w in scores["warnings"]]
