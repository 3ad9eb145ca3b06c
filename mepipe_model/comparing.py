"""``mepipe compare``: several models under one protocol, and one table of their scores with intervals.

Each model trains by its own recipe; data, folds, classes, seed and the choice of epoch are the same for all.  A run is
the one that ``mepipe train`` with the same settings gives: what is finished is not trained again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mepipe.errors import MepipeError, UsageError
from mepipe.progress import Progress
from mepipe.settings import TrainConfig
from mepipe.shards import list_shards
from mepipe.workspace import Workspace, digest, safe_name, write_text
from mepipe_model.evaluate import LEAKY, run_metrics
from mepipe_model.fitted import STEPS, is_fitted
from mepipe_model.launched import check_alone
from mepipe_model.models import model_info
from mepipe_model.running import Say
from mepipe_model.runs import Run, find_run
from mepipe_model.seeds import Spread, shared
from mepipe_model.statistics import FIGURES, Difference, compare
from mepipe_model.train import train_run

STEPLESS = (*STEPS, "select", "compile", "ddp")  # settings that mean nothing to a model that is fitted at once


@dataclass(frozen=True)
class Entry:
    """A model's row. runs and metrics: one for each seed; against: UF1 less the first row's, of the first seed."""

    model: str
    params: int
    runs: tuple[Run, ...]
    metrics: tuple[dict[str, Any], ...]
    against: Difference | None

    def figure(self, name: str) -> str:
        """One seed: the score and its 95 % interval over subjects; several: mean and standard deviation."""
        values = [m[name] for m in self.metrics]
        if len(values) > 1:
            spread = Spread.of(values)
            return f"{spread.mean:.4f} ± {spread.sd:.4f}"
        interval = self.metrics[0]["interval"]
        return f"{values[0]:.4f}" + (f" ({interval[name][0]:.2f} to {interval[name][1]:.2f})" if interval else "")

    def difference(self) -> str:
        if self.against is None:
            return ""
        p = "" if self.against.p is None else f" (p {self.against.p:.3f})"
        return f"{self.against.difference:+.4f}{p}"

    def as_dict(self) -> dict[str, Any]:
        kept = (*FIGURES, "interval", "clips", "selection", "folds")
        return {
            "model": self.model,
            "params": self.params,
            "runs": [run.name for run in self.runs],
            "scores": [{k: m[k] for k in kept} for m in self.metrics],
            "against_first": self.against and asdict(self.against),
        }


@dataclass(frozen=True)
class Table:
    """What ``compare_models`` found. failed: model -> why it has no row.  files: where the table was written."""

    head: str
    entries: tuple[Entry, ...]
    failed: Mapping[str, str]
    notes: tuple[str, ...]
    files: tuple[Path, ...] = ()

    def lines(self) -> list[str]:
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        out = [self.head, *(f"  {line}" for line in text)]
        out += [f"  {model}: {reason}" for model, reason in self.failed.items()]
        out += [f"  warning: {note}" for note in self.notes]
        return out + [f"  table       {path}" for path in self.files]

    def rows(self) -> list[list[str]]:
        """The table as words, its header first."""
        header = ["model", "parameters", *FIGURES, "UF1 - first"]
        each = [[e.model, f"{e.params:,}", *(e.figure(f) for f in FIGURES), e.difference()] for e in self.entries]
        return [header, *each]

    def as_dict(self) -> dict[str, Any]:
        return {
            "head": self.head,
            "models": [e.as_dict() for e in self.entries],
            "failed": dict(self.failed),
            "warnings": list(self.notes),
            "files": [str(path) for path in self.files],
        }


def compare_models(
    ws: Workspace,
    models: Sequence[str],
    config: TrainConfig | None = None,
    seeds: Sequence[int] = (),
    progress: Progress | None = None,
    say: Say | None = None,
) -> Table:
    """Train several models under one protocol; one table, in WORKSPACE/tables/compare-*.md and .csv too.

    Parameters
    ----------
    ws
        Where the shards lie and the runs go.
    models
        Two or more names; the others are compared with the first.
    config
        Of all runs, its model aside.  What it leaves open each model's recipe fills.
    seeds
        A run of each model for each; default: the config's.
    progress
        progress(done, total) counts epochs over all runs.
    say
        say(line) tells what is done.

    Returns
    -------
    Table
        The rows; a model that could not be trained is in ``failed`` and does not end the others.

    Raises
    ------
    UsageError
        Fewer than two models, an unknown one, or a wrong option.
    MepipeError
        No model could be trained.
    """
    config, say, models = config or TrainConfig(), say or (lambda line: None), list(dict.fromkeys(models))
    if len(models) < 2:
        raise UsageError(f"compare needs two models, got {' '.join(models) or 'none'}", do="see mepipe models")
    check_alone("compare")
    if config.select == "oracle":
        raise UsageError(f"--select oracle is {LEAKY}: no table is made of it", do="use fixed or inner")
    configs = {m: settings_for(config, m) for m in models}
    seeds = list(dict.fromkeys(seeds)) or [config.seed]
    work = [(m, seed) for m in models for seed in seeds]
    folders: dict[str, list[Path]] = {}
    failed: dict[str, str] = {}
    for n, (model, seed) in enumerate(work):
        if model in failed:
            continue
        say(f"{model}, seed {seed} ({n + 1} of {len(work)})")
        try:
            tick = progress and shared(progress, n, len(work))
            folders.setdefault(model, []).append(train_run(ws, replace(configs[model], seed=seed), tick, say).folder)
        except UsageError:
            raise
        except MepipeError as e:
            failed[model] = str(e)
            say(f"{model}: {e}")
    runs = {m: [find_run(ws, folder) for folder in folders[m]] for m in models if m not in failed}
    if not runs:
        raise MepipeError("; ".join(f"{m}: {reason}" for m, reason in failed.items()))
    return written(ws, table_of(runs, failed), [models, seeds, config.as_dict()])


def data_and_models(ws: Workspace, words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words after ``--data`` as data and as models: data are corpora, composites, and what has shards here."""
    from mepipe.datasets import list_corpora
    from mepipe.datasets.composite import COMPOSITES

    known = {*list_corpora(), *COMPOSITES, *(p.name.rsplit("-", 1)[0] for p in list_shards(ws.flow))}
    return tuple(w for w in words if w in known), tuple(w for w in words if w not in known)


def settings_for(config: TrainConfig, model: str) -> TrainConfig:
    """``config`` for ``model``; what is said of gradient steps does not reach one that is fitted at once."""
    model_info(model)  # an unknown name is an error before anything is trained
    aside: dict[str, Any] = {}
    if is_fitted(model):
        aside = {f.name: f.default for f in fields(config) if f.name in STEPLESS and f.default is not MISSING}
    return replace(config, model=model, **aside)


def table_of(runs: Mapping[str, Sequence[Run]], failed: Mapping[str, str]) -> Table:
    """The table of runs by model, all of the same folds; models in their order."""
    (first, of_first), *_ = runs.items()
    entries, notes = [], []
    for model, own in runs.items():
        metrics = tuple(run_metrics(run) for run in own)
        notes += [f"{model}: {note}" for m in metrics[:1] for note in m["warnings"]]
        against = None
        if model != first:
            ours, theirs = own[0], of_first[0]
            against = compare(ours.predictions(), theirs.predictions(), theirs.classes).differences["UF1"]
        entries.append(Entry(model, model_info(model).params, tuple(own), metrics, against))
    one, m = of_first[0], entries[0].metrics[0]
    data = one.config["data"]
    seeds = ", ".join(str(run.settings.seed) for run in of_first)
    head = (
        f"{data.get('composite') or '+'.join(data['corpora'])}: {one.settings.protocol}, {m['folds']['of']} folds, "
        f"{m['clips']} clips, {len(one.classes)} classes, {m['selection']}, seed {seeds}"
    )
    return Table(head, tuple(entries), failed, tuple(dict.fromkeys(notes)))


def written(ws: Workspace, table: Table, made_of: Any) -> Table:
    """``table`` with its files: named by what it was made of, so that the same command writes the same."""
    run = table.entries[0].runs[0]
    data = run.config["data"]
    name = safe_name(
        f"compare-{run.settings.protocol}-{data.get('composite') or '+'.join(data['corpora'])}-{digest(made_of)[:8]}"
    )
    files = tuple(ws.root / "tables" / f"{name}{suffix}" for suffix in (".md", ".csv"))
    header, *rows = table.rows()
    markdown = [f"{table.head}\n", *("| " + " | ".join(r) + " |" for r in (header, ["---"] * len(header), *rows))]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    for path, content in zip(files, ("\n".join(markdown) + "\n", text.getvalue()), strict=True):
        write_text(path, content)
    return replace(table, files=files)
