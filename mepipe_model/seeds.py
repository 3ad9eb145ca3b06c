"""One experiment under several seeds: a run for each, and the mean and spread of their scores.

The spread over seeds is the randomness of the training (weights, order, dropout; with kfold also who is in which
group).  It is not in the intervals of ``statistics``, which resample subjects, nor are subjects in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, UsageError
from mepipe.progress import Progress
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace, digest, safe_name, write_json
from mepipe_model.evaluate import LEAKY, run_metrics
from mepipe_model.launched import check_alone
from mepipe_model.running import Say
from mepipe_model.runs import Run, decisive, differences, find_run
from mepipe_model.statistics import FIGURES
from mepipe_model.train import FoldsFailed, train_run


@dataclass(frozen=True)
class Spread:
    """A figure over seeds. sd: of the sample (n - 1)."""

    mean: float
    sd: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), statistics.stdev(values), min(values), max(values))


@dataclass(frozen=True)
class SeedsOutcome:
    """What ``train_seeds`` did: the runs, the summary and its file, and the text to show."""

    folders: list[Path]
    summary: dict[str, Any]
    text: list[str]

    def lines(self) -> list[str]:
        return self.text


def train_seeds(
    ws: Workspace,
    config: TrainConfig,
    seeds: Sequence[int],
    progress: Progress | None = None,
    say: Say | None = None,
) -> SeedsOutcome:
    """``train_run`` once per seed, then ``seed_spread`` of the runs, written to WORKSPACE/runs/<name>.seeds.json.

    Each run is the one its seed alone would give, so finished ones are left alone.  Failed folds of one seed do not
    end the others.

    Parameters
    ----------
    ws
        Where the shards lie and the runs go.
    config
        Of all runs; its own seed is not used.
    seeds
        Two or more.
    progress
        progress(done, total) counts epochs over all seeds.
    say
        say(line) tells which paths were taken.

    Returns
    -------
    SeedsOutcome
        The runs, and the mean and spread of their scores.

    Raises
    ------
    UsageError
        Fewer than two seeds or options that name one run; otherwise as ``train_run``.
    """
    seeds = checked_seeds(config, seeds)
    say = say or (lambda line: None)
    configs = [replace(config, seed=s, run=config.run and f"{config.run}-seed{s}") for s in seeds]
    if config.dry_run:
        outcome = train_run(ws, configs[0])
        return SeedsOutcome([], {}, [*outcome.lines(), f"seeds: {', '.join(map(str, seeds))}, a run for each"])
    folders, failed = [], []
    for n, one in enumerate(configs):
        say(f"seed {one.seed}, {n + 1} of {len(configs)}")
        try:
            folders.append(train_run(ws, one, progress and shared(progress, n, len(configs)), say).folder)
        except FoldsFailed as e:
            failed.append(f"seed {one.seed}: {e.what}")
    if failed:
        raise FoldsFailed("; ".join(failed), do="the same command tries them again")
    summary = seed_spread(ws, [str(f) for f in folders])
    path = ws.runs / f"{config.run or summary_name(find_run(ws, folders[0]))}.seeds.json"
    write_json(path, summary)
    return SeedsOutcome(folders, summary, [*spread_lines(summary), f"  summary     {path}"])


def checked_seeds(config: TrainConfig, seeds: Sequence[int]) -> list[int]:
    """The seeds, each once. Raises UsageError for fewer than two, or with --seed, --resume or torchrun."""
    check_alone("--seeds")
    seeds = list(dict.fromkeys(seeds))
    if len(seeds) < 2:
        raise UsageError(f"--seeds {' '.join(map(str, seeds))}: a spread needs two seeds", do="one seed is --seed N")
    if config.seed or config.resume:
        raise UsageError(f"--seeds stands without {'--resume' if config.resume else '--seed'}")
    return seeds


def shared(progress: Progress, n: int, count: int) -> Progress:
    """The progress of run ``n`` of ``count`` equal ones, as part of them all."""
    return lambda done, total: progress(n * total + done, count * total)


def summary_name(run: Run) -> str:
    """A name made of what the runs of all seeds share."""
    settings = run.settings
    data = run.config["data"]
    common = {k: v for k, v in decisive(settings).items() if k != "seed"}
    name = data.get("composite") or "+".join(data["corpora"])
    mark = digest([common, data.get("shards"), run.config.get("device", {}).get("type")])[:8]
    return safe_name(f"{settings.protocol}-{name}-{settings.model}-{mark}")


def seed_spread(ws: Workspace, runs: Sequence[str | Path]) -> dict[str, Any]:
    """Mean, sd, min and max of UF1, UAR and ACC over runs that differ in the seed only.

    Pooled, per corpus, and per part of the test set; only folds that all runs have finished count.  Figures that
    saw the test subject are apart, under ``oracle (leaky)``.

    Parameters
    ----------
    ws
        The workspace that run names are looked up in.
    runs
        Names or folders.

    Returns
    -------
    dict[str, Any]
        JSON values only.

    Raises
    ------
    UsageError
        Fewer than two runs.
    DataError
        One seed twice or other differences.
    """
    found = [find_run(ws, r) for r in runs]
    if len(found) < 2:
        raise UsageError("--seeds compares two runs or more")
    _only_seeds_differ(found)
    folds = set(found[0].finished()).intersection(*(run.finished() for run in found[1:]))
    if not folds:
        raise DataError("the runs have no finished fold in common")
    metrics = [run_metrics(run, folds) for run in found]
    total = len(found[0].fold_ids)
    summary: dict[str, Any] = {
        "runs": {str(run.settings.seed): run.name for run in found},
        "protocol": found[0].settings.protocol,
        "selection": metrics[0]["selection"],
        "folds": {"finished": len(folds), "of": total},
        "clips": metrics[0]["clips"],
        "spread": _spreads(metrics),
        "warnings": [] if len(folds) == total else [f"{len(folds)} of {total} folds are finished: not a result yet"],
    }
    if LEAKY in metrics[0]:
        summary[LEAKY] = {"selection": LEAKY, "spread": _spreads([m[LEAKY] for m in metrics])}
    return summary


def _only_seeds_differ(runs: Sequence[Run]) -> None:
    for other in runs[1:]:
        if found := differences(runs[0], other, "seed", "threads", "device"):
            what = f"{runs[0].name} and {other.name} differ in more than the seed: {'; '.join(found[:3])}"
            raise DataError(what, do="train them with the same settings")
    seeds = [run.settings.seed for run in runs]
    if twice := [s for s in seeds if seeds.count(s) > 1]:
        raise DataError(f"seed {twice[0]} is there twice", do="name each run once")


def _spreads(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """pooled: figure -> Spread; per_corpus and, where there are any, per_part: name -> figure -> Spread."""
    spread: dict[str, Any] = {"pooled": _figures(metrics)}
    for kind in ("per_corpus", "per_part"):
        blocks = [m.get(kind, {}) for m in metrics]
        names = [name for name in blocks[0] if all(name in b for b in blocks)]  # part of a kfold may miss a corpus
        if names:
            spread[kind] = {name: _figures([b[name] for b in blocks]) for name in names}
    return spread


def _figures(scores: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {figure: asdict(Spread.of([s[figure] for s in scores])) for figure in FIGURES}


def spread_lines(summary: dict[str, Any]) -> list[str]:
    """A summary as text."""
    seeds = ", ".join(summary["runs"])
    lines = [f"{len(summary['runs'])} runs, seeds {seeds}: {summary['clips']} clips each, mean ± sd (min to max)"]
    lines += _block(summary["spread"], summary["selection"], "")
    if LEAKY in summary:
        lines += _block(summary[LEAKY]["spread"], f"{LEAKY}: not a fair score", f"{LEAKY} ")
    return lines + [f"  warning: {w}" for w in summary["warnings"]]


def _block(spread: dict[str, Any], selection: str, mark: str) -> list[str]:
    corpora = spread.get("per_corpus", {})
    shown = {"pooled": spread["pooled"], **(corpora if len(corpora) > 1 else {}), **spread.get("per_part", {})}
    lines = [f"  selection: {selection}"]
    for name, figures in shown.items():
        each = (f"{mark}{f} {_words(Spread(**figures[f]))}" for f in FIGURES)
        lines.append(f"    {name:10} {'  '.join(each)}")
    return lines


def _words(s: Spread) -> str:
    return f"{s.mean:.4f} ± {s.sd:.4f} ({s.min:.4f} to {s.max:.4f})"
