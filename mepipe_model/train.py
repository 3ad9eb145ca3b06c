"""``mepipe train``: resolve the settings, form the folds, run what is missing, pool and score.

The same command again goes on where it stopped: a run's name is made of its settings and data, a
finished fold is left alone, an unfinished one resumes at its last state.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.executors import check_here
from mepipe.locks import living
from mepipe.progress import Progress
from mepipe.settings import BESIDE_RESUME, TrainConfig
from mepipe.shards import ShardFile, list_shards, shard_hash
from mepipe.shares import Share, picked
from mepipe.workspace import Workspace, digest, make_folder, safe_name, sweep, versions
from mepipe_model.announce import recipe_lines, start_lines, unused_lines
from mepipe_model.compiled import need_compiler
from mepipe_model.evaluate import pool_run, score_lines
from mepipe_model.inputs import folder_of, settled
from mepipe_model.launched import launched, with_launch
from mepipe_model.loggers import telling
from mepipe_model.plan import Plan, make_plan
from mepipe_model.protocols import Fold, chosen
from mepipe_model.recipes import model_options, resolved
from mepipe_model.running import Say, follow_folds, run_folds
from mepipe_model.runs import FORMAT, VERSION, Run, find_run, run_name, train_config, writable_run

PATIENCE = 60.0  # seconds to wait for another part that is pooling
NAMED = 5  # failed folds whose reason the last line repeats; all were told when they failed


class FoldsFailed(MepipeError):
    """Some folds of a run failed; the others are finished and pooled."""


@dataclass
class Outcome:
    """What ``train_run`` did: the run, its pooled metrics (None for a dry run), and the text to show."""

    folder: Path
    metrics: dict[str, Any] | None
    text: list[str]

    def lines(self) -> list[str]:
        return self.text

    @property
    def folders(self) -> list[Path]:
        """The runs there are pages to make of: none for a dry run."""
        return [] if self.metrics is None else [self.folder]


def train_run(
    ws: Workspace,
    config: TrainConfig | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    in_job: bool = False,
) -> Outcome:
    """Train and evaluate one model under one protocol; write WORKSPACE/runs/<run>/.

    With several folds at once it starts worker processes: a script calls it below ``if __name__ == "__main__":``.

    Parameters
    ----------
    ws
        Where the shards lie and the run goes.
    config
        None is all defaults: the paper's recipe.
    progress
        progress(done, total) counts epochs over all folds.
    say
        say(line) tells which paths were taken.
    in_job
        This is one of many parts: the last of them pools.

    Returns
    -------
    Outcome
        The run's folder and its pooled metrics; None instead of these for a dry run, or while other parts work.

    Raises
    ------
    UsageError, DataError, MepipeError
        Nothing was trained, and why.
    FoldsFailed
        Some folds failed and the others are done.
    """
    given = config = config or TrainConfig()
    say = say or (lambda line: None)
    check_here(config.executor, "train")
    if config.resume:
        config = resumed(ws, config)
    launch = launched()
    config = with_launch(config, launch)
    plan = make_plan(ws, resolved(settled(ws, config)))
    unused = unused_lines(given, plan.config)
    if plan.config.compile:
        need_compiler()
    share = Share.parse(config.shard)
    wanted = picked(chosen(plan.folds, config.folds), share)
    if launch and launch.rank:
        if not config.dry_run:
            follow_folds(plan, launch)
        return Outcome(ws.runs, None, [])  # the first process tells
    check_model(plan)
    if config.dry_run:
        return Outcome(ws.runs, None, [*unused, *recipe_lines(plan, wanted)])
    name = planned_name(plan)
    own = {f.id for f in wanted}
    with ws.lock(f"train-{name}", share):  # before the folder is touched: --force must not empty a run at work
        run = open_run(ws, plan, name, wanted if share else None)
        mine = None if share is None else lambda path: path.parent.name in own
        sweep(run.folder, mine)
        left = [f for f in wanted if run.fold_facts(f.id) is None]
        for line in (*start_lines(plan, run, len(wanted), len(left)), *unused):
            say(line)
        with telling(plan.config.logger, run, [f.id for f in left], say) as pooled:
            try:
                failed = run_folds(ws, plan, run, left, progress, say)
            finally:
                sweep(run.folder, mine)  # an interrupted worker is killed, at work on a file or not
            metrics = pool_run(run) if run.finished() and share is None else None
            pooled(metrics)
    if share is not None:
        metrics = pool_parts(ws, run, incomplete=not in_job)
    if failed or (metrics is None and share is None):
        raise FoldsFailed(failure_line(failed), do="the same command tries them again")
    if metrics is None:
        return Outcome(run.folder, None, [f"{run.name}: part {share} is done; the last part pools them"])
    return Outcome(run.folder, metrics, score_lines(run, metrics))


def pool_parts(ws: Workspace, run: Run, *, incomplete: bool = False) -> dict[str, Any] | None:
    """Pool a run whose folds were trained by parts: when all are finished, or with ``incomplete`` and no other at work.

    Parameters
    ----------
    ws
        The workspace of the run.
    run
        From ``find_run``.
    incomplete
        Pool what is finished too, when no other part is at work.

    Returns
    -------
    dict[str, Any] | None
        The metrics; None when it is not this part's to pool.
    """
    stage, finished = f"train-{run.name}", run.finished()
    if not finished or (len(finished) < len(run.fold_ids) and not (incomplete and not living(ws.locks, stage))):
        return None
    with ws.lock(f"pool-{run.name}", patience=PATIENCE):
        return pool_run(run)


def check_model(plan: Plan) -> None:
    """Build the model without its weights, so that wrong --set are told before a run is written, by a dry run too."""
    import torch

    from mepipe_model.models import create_model

    options = {k: v for k, v in model_options(plan.config).items() if k != "init_checkpoint"}
    with suppress(NotImplementedError), torch.device("meta"):  # a plug-in may need numbers while it is built
        create_model(plan.config.model, num_classes=len(plan.classes), **options)


def planned_name(plan: Plan) -> str:
    """The name of the run's folder. Raises UsageError for a --run that can be none."""
    if not plan.config.run:
        return fingerprint(plan)
    try:
        return safe_name(plan.config.run)
    except DataError as e:
        raise UsageError(f"--run {e.what}", do="use letters, digits, _ - + . and spaces") from e


def failure_line(failed: dict[str, str]) -> str:
    """How many folds failed, and why: by fold, or once where all have one reason."""
    count = "1 fold" if len(failed) == 1 else f"{len(failed)} folds"
    if len(set(failed.values())) == 1 and len(failed) > 1:
        return f"{count} failed ({', '.join(failed)}): {next(iter(failed.values()))}"
    told = "; ".join(f"{fold} ({reason})" for fold, reason in list(failed.items())[:NAMED])
    more = list(failed)[NAMED:]
    return f"{count} failed: {told}" + (f"; and {', '.join(more)}" if more else "")


def resumed(ws: Workspace, config: TrainConfig) -> TrainConfig:
    """The settings of the run to go on with; folds, jobs and loggers come from this command."""
    run = find_run(ws, config.resume or "")
    beside = {name: getattr(config, name) for name in BESIDE_RESUME}
    return replace(run.settings, run=run.name, **beside)


def open_run(ws: Workspace, plan: Plan, name: str, own: Sequence[Fold] | None = None) -> Run:
    """The run's folder, new or found. --force empties an older one, a part of it (``own``) only its folds."""
    folder = ws.runs / name
    if plan.config.force and folder.is_dir():
        for old in [folder] if own is None else [folder / "folds" / f.id for f in own]:
            shutil.rmtree(old, ignore_errors=own is not None)
    make_folder(ws.runs)
    return writable_run(folder, fingerprint(plan), lambda: provenance(ws, plan))


def fingerprint(plan: Plan) -> str:
    """What a run's settings and data amount to: equal in all commands that may go on with it."""
    return run_name(plan.config, plan.data_name, plan.fingerprint, plan.device)


def provenance(ws: Workspace, plan: Plan) -> dict[str, Any]:
    """config.json: settings, data, versions, device; enough to know where every number comes from."""
    import torch

    from mepipe_model.models import model_info
    from mepipe_model.models.starting import start_facts

    beside = {"run": None, "resume": None, "force": False, "dry_run": False, "folds": None}
    settings = {**plan.config.as_dict(), **beside, "executor": "local", "shard": None}
    info = model_info(plan.config.model)
    return {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings,
        "fingerprint": fingerprint(plan),
        "model": {
            "name": info.name,
            "source": info.source,
            "fidelity": info.fidelity,
            **start_facts(model_options(plan.config)),
        },
        "data": {
            "corpora": list(plan.corpora),
            "composite": plan.composite,
            "missing": plan.missing,
            "classes": list(plan.classes),
            "clips": len(plan.samples),
            "left_out_without_label": plan.unlabelled,
            "folds": [f.id for f in plan.folds],
            "parts": plan.parts,
            "flow": plan.flow,
            "faces": plan.faces,
            "shards": shard_marks(ws, plan),
        },
        "device": {"type": plan.device, "name": torch.cuda.get_device_name() if plan.device == "cuda" else "CPU"},
        "versions": versions("torch", "numpy", "h5py", "mamba-ssm", "scikit-learn"),
        "started": time.strftime("%F %T"),
    }


def shard_marks(ws: Workspace, plan: Plan) -> dict[str, str]:
    """File -> its sha256; of faces, which may be 100 GB, a hash of what the file says and of its samples' checksums."""
    paths = list_shards(folder_of(ws, plan.kind), list(plan.corpora))
    if plan.kind == "flow":
        return {p.name: shard_hash(p) for p in paths}
    marks = {}
    for path in paths:
        shard = ShardFile(path)
        shard.close()
        marks[path.name] = digest([shard.attributes.get("facts_checksum"), shard.checksums])
    return marks


__all__ = ["FoldsFailed", "Outcome", "make_plan", "train_config", "train_run"]
