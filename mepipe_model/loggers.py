"""Where the curves of a run go besides its CSV files: TensorBoard, or a logger of your own.

Every fold writes RUN/folds/<fold>/log.csv, whatever is asked for: that is logger enough for most.  Others are named
by ``--logger NAME`` and live in the process of the command.  They are told what the folds' CSV files show, so that
folds in worker processes need no channel for it, and a logger that fails costs its curves and not the run.

A logger of your own is a subclass of ``RunLogger``, registered in a script

    @register_logger("mine")
    class Mine(RunLogger):
        def epoch(self, fold, values): print(fold, values["epoch"], values["loss"])

or by a package under the entry point group ``mepipe.loggers`` (name = "package.module:Mine").
"""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from mepipe.errors import DataError, MepipeError, one_line
from mepipe.limits import TABLE_BYTES, read_file
from mepipe.registry import Registry
from mepipe_model.runs import Run
from mepipe_model.statistics import FIGURES

EVERY = 0.5  # seconds between two looks at the folds' files, as the progress has it
GROUP = "mepipe.loggers"


class RunLogger:
    """What is told of a run. Overwrite what you need; whatever you raise ends this logger, not the run.

    Calls come from one thread, which is not the command's main thread.
    """

    def __init__(self, run: Run) -> None:
        """run: its folder, name and settings; raise MepipeError where the logger cannot work here."""
        self.run = run

    def epoch(self, fold: str, values: dict[str, float]) -> None:
        """After an epoch of ``fold``: the row of its log.csv (epoch from 1, lr, loss, accuracy, ...).

        A run that goes on tells the epochs of its unfinished folds again from the first.
        """

    def fold(self, fold: str, facts: dict[str, Any]) -> None:
        """When ``fold`` is finished: its fold.json (train_clips, test_clips, epochs, seconds, ...)."""

    def end(self, metrics: dict[str, Any] | None) -> None:
        """When the command ends: metrics.json of what is finished; None when nothing is."""


LOGGERS: Registry[Callable[[Run], RunLogger]] = Registry("logger")


def register_logger(name: str) -> Callable[[Callable[[Run], RunLogger]], Callable[[Run], RunLogger]]:
    """Decorator: make ``--logger name`` build the decorated class, or call the decorated function, with the run.

    Parameters
    ----------
    name
        What ``--logger`` and ``TrainConfig(logger=(name,))`` say.

    Returns
    -------
    Callable
        The decorator; it gives back what it decorates.

    Raises
    ------
    ValueError
        The name is taken.
    """
    return LOGGERS.register(name)


def list_loggers() -> list[str]:
    """Names of all loggers.

    Returns
    -------
    list[str]
        The bundled ones, those registered here, those of installed packages.
    """
    return list(dict.fromkeys([*LOGGERS.names(), *(e.name for e in metadata.entry_points(group=GROUP))]))


def make_logger(name: str, run: Run) -> RunLogger:
    """The logger called ``name`` for ``run``. Raises UsageError for an unknown name, MepipeError for a broken one."""
    if name not in LOGGERS:
        for entry in metadata.entry_points(group=GROUP, name=name):
            try:
                LOGGERS.register(name)(entry.load())
            except Exception as e:  # somebody else's code
                what = f"the logger {name} ({entry.value}) cannot be loaded: {type(e).__name__}: {e}"
                raise MepipeError(one_line(what), do="repair the package that brings it, or leave --logger out") from e
    return LOGGERS.get(name)(run)


@register_logger("tensorboard")
class TensorBoard(RunLogger):
    """Curves of every fold, and the pooled scores, as event files in RUN/tensorboard."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as e:
            do = "pip install 'mepipe[tensorboard]', or leave --logger out"
            raise MepipeError("--logger tensorboard needs the package tensorboard", do=do) from e
        self._new = SummaryWriter
        self._writers: dict[str, Any] = {}

    def _writer(self, name: str) -> Any:
        if name not in self._writers:
            self._writers[name] = self._new(str(self.run.folder / "tensorboard" / name))
        return self._writers[name]

    def epoch(self, fold: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            if name != "epoch":
                self._writer(fold).add_scalar(name, value, int(values["epoch"]))

    def fold(self, fold: str, facts: dict[str, Any]) -> None:
        if fold in self._writers:  # its file need not stay open: there may be hundreds of folds
            self._writers.pop(fold).close()

    def end(self, metrics: dict[str, Any] | None) -> None:
        for name in FIGURES:
            if metrics and name in metrics:
                self._writer("pooled").add_scalar(name, metrics[name], metrics["folds"]["finished"])
        for writer in self._writers.values():
            writer.close()


# --- telling them ----------------------------------------------------------------------------------


class Telling:
    """The loggers of a run at work, and what each fold has told them so far."""

    def __init__(
        self, loggers: dict[str, RunLogger], run: Run, folds: Sequence[str], say: Callable[[str], None]
    ) -> None:
        self.loggers, self.run, self.say = loggers, run, say
        self.left = {fold: 0 for fold in folds}  # unfinished fold -> epochs told

    def look(self) -> None:
        """Tell what is new in the folds' files."""
        for fold in list(self.left):
            facts = self.run.fold_facts(fold)  # before the rows: a finished fold's are then complete
            rows = epoch_rows(self.run, fold)
            for row in rows[self.left[fold] :]:
                self._each("epoch", fold, row)
            self.left[fold] = max(self.left[fold], len(rows))
            if facts is not None:
                self._each("fold", fold, facts)
                del self.left[fold]

    def end(self, metrics: dict[str, Any] | None) -> None:
        self._each("end", metrics)

    def _each(self, call: str, *args: Any) -> None:
        for name, logger in list(self.loggers.items()):
            try:
                getattr(logger, call)(*args)
            except Exception as e:  # somebody else's code, or a full disk
                del self.loggers[name]
                why = one_line(f"{type(e).__name__}: {e}")
                self.say(f"warning: the logger {name} failed and is told nothing more ({why}); the run goes on")


def epoch_rows(run: Run, fold: str) -> list[dict[str, float]]:
    """The rows of a fold's log.csv so far; none where there is no such file yet."""
    try:
        text = read_file(run.fold(fold) / "log.csv", TABLE_BYTES).decode("utf-8")
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (OSError, DataError, ValueError, TypeError, csv.Error):
        return []


@contextmanager
def telling(
    names: Sequence[str], run: Run, folds: Sequence[str], say: Callable[[str], None]
) -> Iterator[Callable[[dict[str, Any] | None], None]]:
    """Tell the loggers ``names`` of ``folds`` while the block trains them; call what it yields with the metrics.

    Raises UsageError or MepipeError before anything is trained when a logger cannot work here.
    """
    loggers = {name: make_logger(name, run) for name in dict.fromkeys(names)}
    told = Telling(loggers, run, folds, say)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(EVERY):
            told.look()

    thread = threading.Thread(target=watch, daemon=True)
    if loggers:
        thread.start()
    metrics: list[dict[str, Any] | None] = [None]
    try:
        yield lambda value: metrics.append(value)
    finally:
        if loggers:
            stop.set()
            thread.join()
            told.look()
            told.end(metrics[-1])
