"""The folds of a run at work: over the cores or the GPUs, one progress over all, each failure told by name."""

from __future__ import annotations

import csv
import io
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.limits import TABLE_BYTES, read_file
from mepipe.progress import Progress
from mepipe.settings import cores
from mepipe.stopping import Stopped
from mepipe.workspace import Workspace, write_text
from mepipe_model.announce import fold_line
from mepipe_model.launched import Launch, folds_launched, follow, launched
from mepipe_model.plan import Plan
from mepipe_model.protocols import Fold
from mepipe_model.queueing import Failure, fold_queue, guarded, slots
from mepipe_model.runs import Run, load_run

Say = Callable[[str], None]
LARGE = 2_000_000  # parameters: a step of merba_tiny (0.6 M) takes 0.1 s on a core, of merba_small (25 M) some seconds
TRACE = "error.txt"  # in a failed fold's folder: the traceback of what was no error of the user's


def run_folds(
    ws: Workspace, plan: Plan, run: Run, folds: Sequence[Fold], progress: Progress | None, say: Say
) -> dict[str, str]:
    """Train ``folds``: in processes of their own, or one after the other in this process where one small one runs.

    On the CPU there are cores / threads at once, on CUDA one per GPU; ``jobs`` changes both.  A fold that fails
    does not end the others.  Returns fold id -> reason of those that failed.  Raises Stopped when the task that this
    is was asked to end.
    """
    launch = launched()
    if not folds and launch is None:
        return {}
    ids, failed, stopped, started = [f.id for f in folds], {}, list[str](), time.monotonic()
    results, told = _at_work(plan, ids, (ws.root, run.folder, plan.config.threads or 1), launch)
    if told:
        say(told)
    with closing(results), watching(run, ids, plan.config.epochs or 0, progress):
        for done, (i, result) in enumerate(results, start=1):
            if isinstance(result, Failure) and result.stopped:
                stopped.append(result.reason)
            elif isinstance(result, Failure):
                failed[ids[i]] = result.reason
                say(f"fold {done}/{len(ids)} {ids[i]} failed: {result.reason}{_kept(run, ids[i], result)}")
            else:
                say(fold_line(run, ids[i], done, len(ids), time.monotonic() - started))
    if stopped:
        raise Stopped(f"{stopped[0]}; {len(stopped)} folds go on when the task is started again")
    return failed


def _at_work(
    plan: Plan, ids: Sequence[str], worker: tuple[Any, ...], launch: Launch | None
) -> tuple[Generator[tuple[int, Any], None, None], str]:
    """(index, result) of the folds as they are trained, and what there is to say of where."""
    together = plan.config.ddp
    if launch:
        folds = folds_launched(_train, ids, launch.device(plan.device), _start, worker)
        return folds, f"each fold in {launch.size} processes of torchrun"
    if together > 1:
        from mepipe_model.together import folds_together

        devices = devices_together(plan.device, together, gpus(plan.device))
        return folds_together(_train, ids, devices, _start, worker), f"each fold on {', '.join(devices)} together"
    serial = plan.config.executor == "serial"
    at_once = max(1, cores() // (plan.config.threads or 1))
    devices = slots(plan.device, len(ids), 1 if serial else plan.config.jobs, at_once, gpus(plan.device))
    several = len(set(devices)) > 1 or (len(devices) > 1 and plan.device == "cuda")
    told = f"{len(devices)} folds at once on {', '.join(dict.fromkeys(devices))}" if several else ""
    if not serial and (len(devices) > 1 or slow_to_stop(plan)):
        return fold_queue(_train, ids, devices, _start, worker), told
    return _here(ids, devices[0], worker), told


def follow_folds(plan: Plan, launch: Launch) -> None:
    """Train the folds that the first process of torchrun trains, with it."""
    follow(_train, launch.device(plan.device), _start)


def devices_together(kind: str, count: int, gpus: Sequence[str]) -> list[str]:
    """The device of each of ``count`` processes that train a fold together. Raises UsageError for too few GPUs."""
    if kind == "cuda" and count > len(gpus):
        raise UsageError(f"--ddp is {count} and there are {len(gpus)} GPUs", do="one process has one GPU")
    return list(gpus[:count]) if kind == "cuda" else ["cpu"] * count


def slow_to_stop(plan: Plan) -> bool:
    """Whether Ctrl-C would wait in this process: a backward is one call, and large models take seconds for it."""
    from mepipe_model.models import model_info

    return plan.device == "cpu" and model_info(plan.config.model).params > LARGE


def gpus(kind: str) -> list[str]:
    """The GPUs this process sees (CUDA_VISIBLE_DEVICES narrows them); none for the CPU."""
    if kind != "cuda":
        return []
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def _kept(run: Run, fold_id: str, failure: Failure) -> str:
    """Keep a traceback for a bug report. Returns where, for the reader."""
    if not failure.trace:
        return ""
    path = run.fold(fold_id) / TRACE
    try:
        write_text(path, failure.trace)
    except MepipeError as e:  # a full disk may be why the fold failed; the others still go on
        return f" ({e})"
    return f" (traceback in {path})"


def _here(ids: Sequence[str], device: str, worker: tuple[Any, ...]) -> Generator[tuple[int, Any], None, None]:
    """What ``fold_queue`` does with one slot, in this process; torch's settings are put back afterwards."""
    import torch

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    _start(device, *worker)
    try:
        for i, fold_id in enumerate(ids):
            yield i, guarded(_train, fold_id)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        _release()


_folder: Path | None = None  # of the run this process works for


def _start(device: str, workspace: Path, run_folder: Path, threads: int) -> None:
    global _folder  # a worker process serves one run
    if device.startswith("cuda"):
        import torch

        torch.cuda.set_device(device)  # kernels launched without a tensor's device go to the current one
    from mepipe_model.fold import start_worker

    _folder = run_folder
    start_worker(workspace, run_folder, device, threads)


def _release() -> None:
    """Let go of the data: this process may train another run, which loads its own."""
    from mepipe_model.fold import stop_worker

    stop_worker()


def _train(fold_id: str) -> str:
    from mepipe_model.fold import train_fold
    from mepipe_model.together import group

    assert _folder is not None, "_start has not run in this process"
    train_fold(fold_id)
    if not group().first:
        return fold_id
    folder = load_run(_folder).fold(fold_id)
    (folder / TRACE).unlink(missing_ok=True)
    refuse_diverged(folder)
    return fold_id


def refuse_diverged(folder: Path) -> None:
    """Undo a finished fold whose loss was not a number: its predictions are one class for every clip.

    Raises MepipeError that names the epoch.
    """
    try:
        rows = csv.DictReader(io.StringIO(read_file(folder / "log.csv", TABLE_BYTES).decode("utf-8"), newline=""))
        losses = [(row["epoch"], float(row["loss"])) for row in rows if row.get("loss")]
    except FileNotFoundError:  # a model without epochs leaves no log
        return
    except (ValueError, KeyError, csv.Error) as e:
        raise DataError(f"{folder / 'log.csv'} is damaged ({e})", do="remove the fold's folder and train again") from e
    for epoch, loss in losses:
        if not math.isfinite(loss):
            (folder / "fold.json").unlink(missing_ok=True)
            raise MepipeError(f"the loss is {loss} in epoch {epoch}", do="lower --lr, or use --precision fp32")


@contextmanager
def watching(run: Run, ids: Sequence[str], epochs: int, progress: Progress | None) -> Iterator[None]:
    """Report the epochs that the folds' logs show, twice a second; workers need no channel for it.

    A finished fold counts in full, also where --select inner stopped it early.
    """
    if progress is None:
        yield
        return
    stop = threading.Event()

    def look() -> None:
        progress(sum(_epochs_done(run.fold(i), epochs) for i in ids), len(ids) * epochs)

    def watch() -> None:
        while not stop.wait(0.5):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()


def _epochs_done(folder: Path, epochs: int) -> int:
    if (folder / "fold.json").is_file():
        return epochs
    try:
        return max(0, read_file(folder / "log.csv", TABLE_BYTES).count(b"\n") - 1)
    except (OSError, DataError):
        return 0
