"""Which runs of a workspace fill a row of a table: those of the row's settings, of any seed."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mepipe.errors import MepipeError
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace
from mepipe_model.evaluate import LEAKY, run_metrics
from mepipe_model.recipes import resolved
from mepipe_model.reproduce.tables import FIGURES
from mepipe_model.runs import Run, decisive, differences, load_run

# settings that a row does not prescribe: the machine's, and the seed, over which rows are averaged
ASIDE = ("seed", "threads", "device")


@dataclass(frozen=True)
class Cell:
    """One figure of the user's runs: the mean over seeds, and sd (n - 1) where there are several."""

    mean: float
    sd: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Cell:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Found:
    """What the user's runs say on one row of a table.

    cells, leaky: part -> figure -> Cell; leaky saw the test subjects (--select oracle).
    others: runs of the same model and options with other settings, and what differs first.
    """

    runs: list[Run] = field(default_factory=list)
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    leaky: dict[str, dict[str, Cell]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def all_runs(ws: Workspace) -> tuple[list[Run], list[str]]:
    """The runs of the workspace that this version reads, and a note on each of the others."""
    runs, notes = [], []
    for path in sorted(ws.runs.glob("*/config.json")):
        try:
            run = load_run(path.parent)
            _ = run.settings
        except MepipeError as e:
            notes.append(str(e))
        else:
            runs.append(run)
    return runs, notes


def find(runs: Sequence[Run], config: TrainConfig, seeds: Collection[int] = ()) -> Found:
    """The runs among ``runs`` that have the settings of ``config``, with at least one finished fold.

    seeds: only these; default: any.  Runs of other clips, labels or flow than the fullest one are left out, and of
    two with one seed the fuller, then the later is taken.
    Raises as ``recipes.resolved``.
    """
    recipe = resolved(config)
    same_data = [r for r in runs if _data(r) == config.data and r.finished()]
    fitting = [r for r in same_data if _fits(r, recipe) and (not seeds or r.settings.seed in seeds)]
    fitting.sort(key=lambda r: (len(r.finished()) / len(r.fold_ids), r.config.get("started", "")), reverse=True)
    others = [f"{r.name} ({_first_difference(r, recipe)})" for r in same_data if _near(r, config) and r not in fitting]
    if not fitting:
        return Found(others=others)
    by_seed: dict[int, Run] = {}
    for run in fitting:
        if not differences(fitting[0], run, *ASIDE):
            by_seed.setdefault(run.settings.seed, run)
    used = [by_seed[s] for s in sorted(by_seed)]
    metrics = [run_metrics(run) for run in used]
    leaky = [m[LEAKY] for m in metrics if LEAKY in m]
    return Found(used, _cells(metrics), _cells(leaky) if leaky else {}, _notes(used), others)


def _data(run: Run) -> tuple[str, ...]:
    data = run.config["data"]
    return (data["composite"],) if data.get("composite") else tuple(data["corpora"])


def _comparable(settings: TrainConfig) -> dict[str, Any]:
    """The settings that must agree, with what says the same in one spelling."""
    values = {k: v for k, v in decisive(settings).items() if k not in ASIDE}
    return {**values, "head": settings.head or "linear", "options": tuple(sorted(settings.options))}


def _fits(run: Run, recipe: TrainConfig) -> bool:
    return _comparable(run.settings) == _comparable(_settled(recipe, run))


def _settled(recipe: TrainConfig, run: Run) -> TrainConfig:
    """``recipe`` with the auto that a run settles by its data (plan.settled_head_motion) as it is for ``run``'s."""
    if recipe.head_motion != "auto":
        return recipe
    normalised = run.config["data"].get("flow", {}).get("normalised")
    return replace(recipe, head_motion="keep" if normalised else "remove")


def _near(run: Run, config: TrainConfig) -> bool:
    """Whether ``run`` is this row's model and options, whatever else it was trained with."""
    mine, theirs = run.settings, config
    same = (mine.model, mine.protocol, mine.head or "linear") == (
        theirs.model,
        theirs.protocol,
        theirs.head or "linear",
    )
    return same and sorted(mine.options) == sorted(theirs.options)


def _first_difference(run: Run, recipe: TrainConfig) -> str:
    has, wanted = _comparable(run.settings), _comparable(_settled(recipe, run))
    names = sorted(has, key=lambda k: (k != "epochs", k))  # other epochs bring another warm-up with them
    differ = [f"{k} {has.get(k)} instead of {wanted.get(k)}" for k in names if has.get(k) != wanted.get(k)]
    return ", ".join(differ[:2]) or f"seed {run.settings.seed}"


def _cells(metrics: Sequence[dict[str, Any]]) -> dict[str, dict[str, Cell]]:
    blocks = [{"combined": m, **m["per_corpus"], **m.get("per_part", {})} for m in metrics]
    names = [n for n in blocks[0] if all(n in b for b in blocks)]
    return {n: {f: Cell.of([b[n][f] for b in blocks]) for f in FIGURES} for n in names}


def _notes(runs: Sequence[Run]) -> list[str]:
    """What keeps these figures from being a result."""
    notes = []
    for run in runs:
        done, total = len(run.finished()), len(run.fold_ids)
        if done < total:
            notes.append(f"{run.name}: {done} of {total} folds are finished: not a result yet")
        if missing := run.config["data"].get("missing"):
            notes.append(f"{run.name}: {len(missing)} clips of the list are missing")
        if run.settings.protocol == "holdout" and not run.parts:
            notes.append(f"{run.name}: its test set has no named parts")
    return notes
