"""What can be sent to a cluster: prepare, flow and train. How each is cut, what of it is done, and how it is finished.

To cut is cheap and needs no GPU: annotations, headers and names of files are read, no pixels and no flow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, UsageError
from mepipe.settings import ClusterConfig, FlowConfig, PrepareConfig, TrainConfig
from mepipe.shares import Share
from mepipe.workspace import Workspace, digest, hash_file

CLIPS = 100  # of a task of prepare, at least: some ten seconds of work, and a task costs five to start
TASKS = 64  # by default: more wait in the queue anyway
NOBODY = 10**9  # parts of which the first has a shard at most: to count what there is without keeping its rows
FOLDS = 1000  # tasks of a train by default: a fold is long, and arrays end there on most clusters
NOT_SENT = {"executor", "shard", "force", "dry_run", "jobs"}  # what a task has values of its own for


@dataclass(frozen=True)
class Work:
    """One command, cut. name: of its job; done: of the tasks (from 1) whose results are there, were they ``said`` done;
    finish: puts the results together and tells them.
    """

    name: str
    command: str
    arguments: list[str]
    settings: dict[str, Any]
    tasks: int
    mark: str
    threads: int
    done: Callable[[set[int]], set[int]]
    finish: Callable[[], list[str]]


def work_of(ws: Workspace, command: str, arguments: Sequence[str], config: Any, cluster: ClusterConfig) -> Work:
    """Cut ``mepipe command arguments`` for ``cluster``. Raises UsageError, DataError as the command itself would."""
    if config.shard is not None:
        raise UsageError("--shard goes with --executor local or serial", do="--tasks N says into how many tasks to cut")
    return _WORKS[command](ws, arguments, config, cluster)


def _settings(config: Any, **changes: Any) -> dict[str, Any]:
    """The settings of a task, but for its part."""
    return replace(config, executor="local", shard=None, dry_run=False, **changes).as_dict()


def _mark(command: str, arguments: Sequence[str], settings: dict[str, Any], tasks: int, *inputs: Any) -> str:
    decisive = {k: v for k, v in settings.items() if k not in NOT_SENT}
    return digest([command, list(arguments), decisive, tasks, *inputs])


def _absolute(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path else path


def _prepare(ws: Workspace, arguments: Sequence[str], config: PrepareConfig, cluster: ClusterConfig) -> Work:
    from mepipe.clipwork import Context
    from mepipe.datasets import get_corpus
    from mepipe.datasets.facecorpus import FaceCorpus
    from mepipe.facesets.run import as_a_whole
    from mepipe.merging import merge_parts, part_mark
    from mepipe.prepare import check_for_clips, counted
    from mepipe.preparedparts import read_parts

    if config.strict:
        raise UsageError("--strict goes with --executor local or serial", do="look at clips.csv when all is done")
    corpus, raw = get_corpus(arguments[0]), Path(arguments[1]).absolute()
    if isinstance(corpus, FaceCorpus):
        raise as_a_whole(corpus, "--executor slurm")
    check_for_clips(config)
    context = Context.of(config)
    clips = corpus.clips(raw, sheet=config.sheet, corrections=config.corrections)
    distinct = len({(c.subject, c.name) for c in clips})
    tasks = min(cluster.tasks or min(TASKS, -(-distinct // CLIPS)), max(distinct, 1))
    sheet, landmarks, detector_file = map(_absolute, (config.sheet, config.landmarks, config.detector_file))
    config = replace(config, sheet=sheet, landmarks=landmarks, detector_file=detector_file)
    settings = _settings(config, jobs=cluster.cpus_per_task)
    mark, folder = part_mark(clips, config, context), ws.prepared(corpus.name)

    def done(said: set[int]) -> set[int]:
        return {p.share.number for p in read_parts(folder) if (p.mark, p.share.of) == (mark, tasks)}

    def finish() -> list[str]:
        merge_parts(ws, corpus, clips)
        return counted(ws, corpus.name)

    words = [corpus.name, str(raw)]
    job_mark = _mark("prepare", words, settings, tasks, mark)
    return Work(f"prepare-{corpus.name}", "prepare", words, settings, tasks, job_mark, 1, done, finish)


def _flow(ws: Workspace, arguments: Sequence[str], config: FlowConfig, cluster: ClusterConfig) -> Work:
    from mepipe.flow.cut import cuts_of, remove_others
    from mepipe.flow.run import parameters
    from mepipe.merging import merge_lost
    from mepipe.prepare import wanted

    parameters(config)
    if config.preview:
        raise UsageError(
            "--preview goes with --executor local or serial", do="mepipe flow --preview N draws afterwards"
        )
    if config.gpu and not cluster.gpus_per_task:
        raise UsageError("--gpu, and the tasks get no GPU", do="add --gpus-per-task 1")
    names = wanted(ws, arguments)
    for name in names:
        if missing := merge_lost(ws, name):
            raise DataError(missing, do="mepipe status tells of the tasks; the same prepare again runs what is missing")
    cuts = cuts_of(ws, names, config.shard_size, Share(1, NOBODY))
    paths = [path for cut in cuts for path in cut.paths]
    tasks = max(1, min(cluster.tasks or TASKS, len(paths)))
    settings = _settings(config, jobs=cluster.cpus_per_task)
    tables = [hash_file(ws.prepared(name) / "clips.csv") for name in names]

    def done(said: set[int]) -> set[int]:
        return {n for n in said if all(p.is_file() for p in Share(n, tasks).pick(paths))}

    def finish() -> list[str]:
        for cut in cuts:
            remove_others(ws.flow, cut.corpus, cut.paths)
        return [f"flow: {sum(c.count for c in cuts)} samples of {', '.join(names)} in {len(paths)} shards"]

    mark = _mark("flow", names, settings, tasks, tables)
    return Work("flow", "flow", list(names), settings, tasks, mark, cluster.cpus_per_task, done, finish)


def _train(ws: Workspace, arguments: Sequence[str], config: TrainConfig, cluster: ClusterConfig) -> Work:
    from mepipe_model.evaluate import score_lines
    from mepipe_model.inputs import settled
    from mepipe_model.plan import make_plan
    from mepipe_model.protocols import chosen
    from mepipe_model.recipes import resolved
    from mepipe_model.runs import find_run
    from mepipe_model.train import planned_name, pool_parts, resumed

    if config.resume:
        config = resumed(ws, config)
    device = config.device if config.device != "auto" else "cuda" if cluster.gpus_per_task else "cpu"
    if device == "cuda" and not cluster.gpus_per_task:
        raise UsageError("--device cuda, and the tasks get no GPU", do="add --gpus-per-task 1")
    if device == "cuda" and config.ddp > cluster.gpus_per_task:
        raise UsageError(
            f"--ddp is {config.ddp}, and a task gets {cluster.gpus_per_task} GPUs", do="one process has one"
        )
    config = settled(ws, replace(config, threads=config.threads or 1))
    plan = make_plan(ws, resolved(config), elsewhere=device)
    folds, name = chosen(plan.folds, config.folds), planned_name(plan)
    tasks = min(cluster.tasks or FOLDS, len(folds))
    threads = plan.config.threads or 1
    at_once = config.jobs or (None if device == "cuda" else max(1, cluster.cpus_per_task // threads))
    settings = _settings(plan.config, run=name, resume=None, jobs=at_once, force=config.force)

    def done(said: set[int]) -> set[int]:
        there = {p.parent.name for p in (ws.runs / name / "folds").glob("*/fold.json")}
        return {n for n in range(1, tasks + 1) if all(f.id in there for f in Share(n, tasks).pick(folds))}

    def finish() -> list[str]:
        from mepipe.report import report_run

        run = find_run(ws, name)
        metrics = pool_parts(ws, run, incomplete=True)
        return [] if metrics is None else [*score_lines(run, metrics), f"  page        {report_run(ws, run.folder)}"]

    mark = _mark("train", [], settings, tasks, plan.fingerprint)
    return Work(f"train-{name}", "train", [], settings, tasks, mark, threads, done, finish)


_WORKS: dict[str, Callable[..., Work]] = {"prepare": _prepare, "flow": _flow, "train": _train}
