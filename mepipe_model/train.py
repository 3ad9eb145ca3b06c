"""``mepipe train``: resolve the settings, form the folds, run what is missing, pool and score.

The same command again goes on where it stopped: a run's name is made of its settings and data, a
finished fold is left alone, an unfinished one resumes at its last state.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.executors import WorkerDied, process_map
from mepipe.progress import Progress
from mepipe.settings import TrainConfig, cores
from mepipe.shards import Sample, Shards, list_shards, shard_hash
from mepipe.workspace import Workspace, digest, make_folder, sweep, versions
from mepipe_model.evaluate import pool_run, score_lines
from mepipe_model.protocols import Fold, chosen, make_folds
from mepipe_model.recipes import learning_rate, model_options, resolved
from mepipe_model.runs import FORMAT, VERSION, Run, find_run, run_name, train_config, writable_run

Say = Callable[[str], None]
HEAVY = 20_000_000  # parameters: above this a CPU takes days, and the reader should know at once


@dataclass
class Outcome:
    """What ``train_run`` did: the run, its pooled metrics (None for a dry run), and the text to show."""

    folder: Path
    metrics: dict[str, Any] | None
    text: list[str]

    def lines(self) -> list[str]:
        return self.text


@dataclass(frozen=True)
class Plan:
    """A run before it starts: settings without blanks, samples, folds, device."""

    config: TrainConfig
    corpora: tuple[str, ...]
    composite: str | None
    missing: list[str]
    samples: list[Sample]
    targets: list[int]
    classes: tuple[str, ...]
    unlabelled: int
    folds: list[Fold]
    device: str
    fingerprint: str
    flow: dict[str, Any]

    @property
    def data_name(self) -> str:
        return self.composite or "+".join(self.corpora)


def train_run(
    ws: Workspace, config: TrainConfig | None = None, progress: Progress | None = None, say: Say | None = None
) -> Outcome:
    """Train and evaluate one model under one protocol; write WORKSPACE/runs/<run>/.

    progress(done, total) counts epochs over all folds; say(line) tells which paths were taken.
    Raises UsageError, DataError or MepipeError.
    """
    config = config or TrainConfig()
    say = say or (lambda line: None)
    if config.resume:
        config = resumed(ws, config)
    plan = make_plan(ws, resolved(config))
    wanted = chosen(plan.folds, config.folds)
    if config.dry_run:
        return Outcome(ws.runs, None, recipe_lines(plan, wanted))
    name = config.run or run_name(plan.config, plan.data_name, plan.fingerprint, plan.device)
    with ws.lock(f"train-{name}"):  # before the folder is touched: --force must not empty a run at work
        run = open_run(ws, plan, name)
        sweep(run.folder / "folds")
        left = [f for f in wanted if run.fold_facts(f.id) is None]
        for line in start_lines(plan, run, len(wanted), len(left)):
            say(line)
        failed = run_folds(ws, plan, run, left, progress, say)
        metrics = pool_run(run)
    if failed:
        raise MepipeError(f"{len(failed)} folds failed: {', '.join(failed)}", do="the same command tries them again")
    return Outcome(run.folder, metrics, score_lines(run, metrics))


def resumed(ws: Workspace, config: TrainConfig) -> TrainConfig:
    """The settings of the run to go on with; folds and jobs come from this command."""
    run = find_run(ws, config.resume or "")
    return replace(run.settings, run=run.name, folds=config.folds, jobs=config.jobs, dry_run=config.dry_run)


def make_plan(ws: Workspace, config: TrainConfig) -> Plan:
    """Everything that is decided before the first step. Raises DataError when there is nothing to train on."""
    from mepipe_model.data import FlowDataset

    corpora, composite = wanted_corpora(ws, config.data)
    data = FlowDataset(ws.flow, corpora, config.classes, composite=composite)
    if not len(data):
        whose = f"is on the list of {composite}" if composite else f"has a label of the {config.classes}-class set"
        raise DataError(f"none of {len(data.shards)} samples of {', '.join(corpora)} {whose}")
    if damaged := data.shards.damaged():
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise DataError(f"{damaged[0]}{more}: its bytes do not match their checksum", do="run mepipe flow again")
    samples = data.samples
    folds = make_folds(config.protocol, samples, k=config.k, seed=config.seed)
    fingerprint = digest([[s.key, s.subject, t] for s, t in zip(samples, data.targets, strict=True)])
    device = pick_device(config.device)
    # part of the run's identity, like every setting: sums over threads differ in their last digits
    threads = config.threads or max(1, cores() // len(folds))
    return Plan(
        config=replace(config, data=(composite,) if composite else corpora, threads=threads),
        corpora=corpora,
        composite=composite,
        missing=data.missing,
        samples=samples,
        targets=data.targets,
        classes=data.classes,
        unlabelled=data.unlabelled,
        folds=folds,
        device=device,
        fingerprint=fingerprint,
        flow=flow_facts(data.shards),
    )


def flow_facts(shards: Shards) -> dict[str, Any]:
    """What config.json keeps of the shards: how they were made and what their channels hold."""
    content = shards.content
    facts = {"parameters": shards.parameters, "channels": list(content.channels), "normalised": content.normalised}
    return facts if content.span is None else {**facts, "span": list(content.span)}


def wanted_corpora(ws: Workspace, data: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """The corpora to train on, and the composite when one is meant.

    Without ``--data``: a composite whose corpora are exactly those that have shards, else all of them.
    Raises UsageError for a composite beside other names, DataError for what has no shards.
    """
    from mepipe.datasets.composite import COMPOSITES, check_manifest

    there = sorted({p.name.rsplit("-", 1)[0] for p in list_shards(ws.flow)})
    if not there:
        raise DataError(f"no flow shards in {ws.flow}", do="run mepipe flow first")
    names = tuple(dict.fromkeys(data)) or tuple(there)
    composite = next((n for n in names if n in COMPOSITES), None)
    if composite and len(names) > 1:
        raise UsageError(f"--data {composite} stands alone, got {' '.join(names)}")
    if not data:
        composite = next((n for n in COMPOSITES if set(COMPOSITES.get(n).corpora) == set(there)), None)
    if composite:
        check_manifest(composite)
        names = tuple(COMPOSITES.get(composite).corpora)
    for name in names:
        if name not in there:
            needed = f", which {composite} needs," if composite else ""
            do = f"run mepipe prepare {name} RAW, then mepipe flow {name}"
            raise DataError(f"no flow of {name}{needed} in {ws.flow} (there: {', '.join(there)})", do=do)
    return names, composite


def pick_device(wanted: str) -> str:
    """``cpu`` or ``cuda``. Raises MepipeError when CUDA is asked for and absent."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise MepipeError("--device cuda: no CUDA GPU is usable here", do="use --device cpu, or run mepipe doctor")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def open_run(ws: Workspace, plan: Plan, name: str) -> Run:
    """The run's folder, new or found. --force empties an older one."""
    folder = ws.runs / name
    if plan.config.force and folder.is_dir():
        shutil.rmtree(folder)
    make_folder(ws.runs)
    return writable_run(folder, provenance(ws, plan))


def provenance(ws: Workspace, plan: Plan) -> dict[str, Any]:
    """config.json: settings, data, versions, device; enough to know where every number comes from."""
    import torch

    from mepipe_model.models import model_info

    settings = {**plan.config.as_dict(), "run": None, "resume": None, "force": False, "dry_run": False, "folds": None}
    info = model_info(plan.config.model)
    return {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings,
        "fingerprint": run_name(plan.config, plan.data_name, plan.fingerprint, plan.device),
        "model": {"name": info.name, "source": info.source, "fidelity": info.fidelity},
        "data": {
            "corpora": list(plan.corpora),
            "composite": plan.composite,
            "missing": plan.missing,
            "classes": list(plan.classes),
            "clips": len(plan.samples),
            "left_out_without_label": plan.unlabelled,
            "folds": [f.id for f in plan.folds],
            "flow": plan.flow,
            "shards": {p.name: shard_hash(p) for p in list_shards(ws.flow, list(plan.corpora))},
        },
        "device": {"type": plan.device, "name": torch.cuda.get_device_name() if plan.device == "cuda" else "CPU"},
        "versions": versions("torch", "numpy", "h5py", "mamba-ssm"),
        "started": time.strftime("%F %T"),
    }


# --- running the folds -----------------------------------------------------------------------------


def run_folds(
    ws: Workspace, plan: Plan, run: Run, folds: Sequence[Fold], progress: Progress | None, say: Say
) -> list[str]:
    """Train ``folds``: on the CPU several at once, each in a process of its own; with one job, or on a GPU,
    one after the other in this process.

    Returns the ids of folds whose process died.
    """
    if not folds:
        return []
    threads = plan.config.threads or 1
    jobs = min(plan.config.jobs or max(1, cores() // threads), len(folds)) if plan.device == "cpu" else 1
    ids, failed, started = [f.id for f in folds], [], time.monotonic()
    worker = (ws.root, run.folder, plan.device, threads)
    results = process_map(_train, ids, jobs, setup=_start, setup_args=worker) if jobs > 1 else _here(ids, worker)
    with watching(run, ids, plan.config.epochs or 0, progress):
        for done, (i, result) in enumerate(results, start=1):
            if isinstance(result, WorkerDied):
                failed.append(ids[i])
                say(f"fold {ids[i]}: {result}")
            else:
                say(fold_line(run, ids[i], done, len(ids), time.monotonic() - started))
    return failed


def _here(ids: Sequence[str], worker: tuple[Any, ...]) -> Iterator[tuple[int, Any]]:
    """What ``process_map`` does, in this process; torch's settings are put back afterwards."""
    import torch

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    _start(*worker)
    try:
        for i, fold_id in enumerate(ids):
            yield i, _train(fold_id)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def _start(*args: Any) -> None:
    from mepipe_model.fold import start_worker

    start_worker(*args)


def _train(fold_id: str) -> str:
    from mepipe_model.fold import train_fold

    return train_fold(fold_id)


@contextmanager
def watching(run: Run, ids: Sequence[str], epochs: int, progress: Progress | None) -> Iterator[None]:
    """Report the epochs that the folds' logs show, twice a second; workers need no channel for it."""
    if progress is None:
        yield
        return
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.5):
            done = sum(_logged(run.fold(i) / "log.csv") for i in ids)
            progress(done, len(ids) * epochs)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _logged(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n") - 1
    except OSError:
        return 0


# --- what the reader is told -----------------------------------------------------------------------


def fold_line(run: Run, fold_id: str, done: int, total: int, seconds: float) -> str:
    facts = run.fold_facts(fold_id) or {}
    left = seconds / done * (total - done)
    more = f"about {left / 60:.0f} min left" if left > 100 else f"about {left:.0f} s left"
    return (
        f"fold {done}/{total} {fold_id}: {facts.get('train_clips')} training clips, {facts.get('test_clips')} test "
        f"clips, {facts.get('seconds')} s; {more}"
    )


def start_lines(plan: Plan, run: Run, wanted: int, left: int) -> list[str]:
    params, scan = model_facts(plan)
    lines = [
        f"run {run.name} in {run.folder}",
        f"{data_line(plan)}; {wanted - left} of {wanted} folds are done",
        *composite_lines(plan),
        *content_lines(plan),
        f"{plan.config.model}: {params:,} parameters on {plan.device}{scan}",
    ]
    if plan.device == "cpu" and params > HEAVY and left:
        lines.append(
            f"warning: {plan.config.model} on a CPU takes about a second per clip and epoch; "
            "use a GPU, or --model merba_tiny to try things out"
        )
    if plan.config.select == "oracle":
        lines.append("warning: --select oracle looks at the test subject; its scores are not comparable to honest ones")
    return lines


def model_facts(plan: Plan) -> tuple[int, str]:
    """Parameters of the model as it will be built, and which selective scan runs ("" for a model without one).

    A wrong option is told here and not by a worker.
    """
    import torch

    from mepipe_model.models import create_model
    from mepipe_model.ops import scan_backend

    model = create_model(plan.config.model, num_classes=len(plan.classes), **model_options(plan.config))
    scan = ""
    if "scan_backend" in model.config:
        name, why = scan_backend(torch.device(plan.device), model.config["scan_backend"])
        scan = f"; selective scan: {name} ({why})"
    return sum(p.numel() for p in model.parameters()), scan


def data_line(plan: Plan) -> str:
    counts = Counter(plan.classes[t] for t in plan.targets)
    per_class = ", ".join(f"{c} {counts[c]}" for c in plan.classes)
    reason = f"not on the list of {plan.composite}" if plan.composite else "without such a label"
    out = f", {plan.unlabelled} {reason} left out" if plan.unlabelled else ""
    of = f" of {len(plan.samples) + len(plan.missing)}" if plan.missing else ""
    return f"{plan.data_name}: {len(plan.samples)}{of} clips ({per_class}{out}), {len(plan.folds)} folds"


def content_lines(plan: Plan) -> list[str]:
    """A line when the data are not flow in px."""
    if not plan.flow["normalised"]:
        return []
    return [f"  imported arrays: {', '.join(plan.flow['channels'])}, normalised before they came here"]


def composite_lines(plan: Plan) -> list[str]:
    """Clips per corpus of a composite, and every clip of its list that has no flow here."""
    if plan.composite is None:
        return []
    sizes = Counter(s.corpus for s in plan.samples)
    per_corpus = ", ".join(f"{c} {sizes[c]}" for c in plan.corpora)
    return [f"  {plan.composite}: {per_corpus}", *(f"  missing: {m}" for m in plan.missing)]


def recipe_lines(plan: Plan, wanted: Sequence[Fold]) -> list[str]:
    """The dry run: data, folds, resolved settings, and the learning rate at some epochs."""
    c = plan.config
    assert c.epochs is not None
    assert c.batch_size is not None
    assert c.warmup is not None
    assert c.cooldown is not None
    steps = -(-max(len(f.train) for f in plan.folds) // c.batch_size)
    marks = sorted({0, 1, c.warmup, c.epochs // 2, c.epochs - c.cooldown, c.epochs - 1} & set(range(c.epochs)))
    rates = ", ".join(f"epoch {e + 1}: {learning_rate(c, e * steps, steps):.3e}" for e in marks)
    settings = ", ".join(f"{k}={v}" for k, v in c.as_dict().items() if v not in (None, ()) and v is not False)
    folds = [f"  fold {n} {f.id}: {len(f.train)} training clips, {len(f.test)} test clips"
             for n, f in enumerate(plan.folds, start=1) if f in wanted]  # fmt: skip
    how = [f"device: {plan.device}", f"settings: {settings}", f"learning rate: {rates}"]
    return [data_line(plan), *composite_lines(plan), *folds, *how]


__all__ = ["Outcome", "Plan", "make_plan", "train_config", "train_run"]
