"""Training under torchrun: several processes, of one node or of many, are one command and train each fold together.

The first process does what the command does: it locks, opens the run, tells, writes and pools.  The others make the
same plan, wait to be told which folds are left, and give their part of every batch.  Where one fails it ends, and
torchrun ends the rest; the same command goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mepipe.errors import UsageError
from mepipe.settings import TrainConfig
from mepipe.stopping import Stopped
from mepipe_model.queueing import Failure, guarded

MARK = "TORCHELASTIC_RUN_ID"  # in the environment of what torchrun starts


@dataclass(frozen=True)
class Launch:
    """What torchrun says of this process. local: its number on its node, which is its GPU's."""

    rank: int
    size: int
    local: int

    def device(self, kind: str) -> str:
        return f"cuda:{self.local}" if kind == "cuda" else "cpu"


def launched() -> Launch | None:
    """How torchrun has started this process; None where it has not."""
    if MARK not in os.environ:
        return None
    return Launch(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


def with_launch(config: TrainConfig, launch: Launch | None) -> TrainConfig:
    """``config`` for as many processes as there are. Raises UsageError where --ddp says another number."""
    if launch is None or config.ddp == launch.size:
        return config
    if config.ddp != 1:
        what = f"--ddp is {config.ddp}, and torchrun has started {launch.size} processes"
        raise UsageError(what, do="leave --ddp out: torchrun decides")
    return replace(config, ddp=launch.size)


def check_alone(what: str) -> None:
    """Raises UsageError under torchrun for ``what`` trains several runs."""
    if launched():
        raise UsageError(f"{what} under torchrun: its processes train one run", do="start torchrun once for each run")


def folds_launched(
    fn: Callable[[Any], Any],
    items: Sequence[Any],
    device: str,
    setup: Callable[..., None],
    setup_args: tuple[Any, ...],
) -> Generator[tuple[int, Any], None, None]:
    """``together.folds_together`` of the first process, with those that ``follow``; a failure is the last result."""
    from mepipe_model.together import join_launched, leave, shared_words

    join_launched(device)
    try:
        shared_words((list(items), setup_args))
        setup(device, *setup_args)
        for index, item in enumerate(items):
            result = guarded(fn, item)
            yield index, result
            if isinstance(result, Failure):
                return
    finally:
        leave()


def follow(fn: Callable[[Any], Any], device: str, setup: Callable[..., None]) -> None:
    """What the other processes do: the same folds, for the first one."""
    from mepipe_model.together import join_launched, leave, shared_words

    join_launched(device)
    try:
        items, setup_args = shared_words(None)
        setup(device, *setup_args)
        for item in items:
            fn(item)
    except Stopped:  # torchrun lets the first one keep what there is, where the others end well
        return
    finally:
        leave()
