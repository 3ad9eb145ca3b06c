"""Shards written by a thread of their own while the next pairs are computed: checksums, disk and fsync beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from queue import Full, Queue

import numpy as np

from mepipe.shards import Sample, ShardFile, ShardWriter

AHEAD = 32  # flows, 20 MB: what the engines compute while a finished shard is brought to the disk
PATIENCE = 1.0  # seconds for closing an unfinished shard: Ctrl-C has to be done within two


@dataclass(eq=False)
class Part:
    """One shard to be: its file, its samples in order, and the shard that lies there, if one does."""

    path: Path
    samples: list[Sample]
    old: ShardFile | None


@dataclass(frozen=True)
class Made:
    """A flow (C, 224, 224) float32 that is ready for its shard."""

    part: Part
    sample: Sample
    flow: np.ndarray


class _Unfinished(Exception):
    """Leaves a ShardWriter without its file."""


class Output:
    """Takes the flows of one shard after the other, in order; a shard appears once its last flow is written.

    Raises, at the next ``put`` or in ``finish``, what the writing has raised.
    """

    def __init__(self, writer: Callable[[Path], ShardWriter]) -> None:
        self._writer = writer
        self._flows: Queue[Made | None] = Queue(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="flow-output")
        self._thread.start()

    def put(self, made: Made) -> None:
        self._raise()
        self._flows.put(made)

    def finish(self) -> None:
        """Wait until everything is on the disk."""
        self._flows.put(None)
        self._thread.join()
        self._raise()

    def keep(self) -> None:
        """The command has been stopped: what is computed of the shard at hand becomes a shard with fewer samples.

        The next run takes them from there.  Waits for a second only: then the shard is lost, and nothing of it shows.
        """
        deadline = time.monotonic() + PATIENCE
        try:
            self._flows.put(None, timeout=PATIENCE)
        except Full:
            return
        self._thread.join(max(deadline - time.monotonic(), 0.0))

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        flows = iter(self._flows.get, None)
        try:
            for part, made in groupby(flows, attrgetter("part")):
                self._write(part, made)
        except _Unfinished:
            pass
        except BaseException as e:  # put or finish raises it; until then what still comes is let go
            self._error = e
            for _ in flows:
                pass

    def _write(self, part: Part, flows: Iterable[Made]) -> None:
        with self._writer(part.path) as shard:
            for made in flows:
                shard.append(made.sample, made.flow)
            if len(shard) < len(part.samples) and loses(part, len(shard)):
                raise _Unfinished


def loses(part: Part, written: int) -> bool:
    """Whether the first ``written`` samples of ``part`` are fewer of those it wants than the shard there has."""
    if part.old is None:
        return False
    there = {sample.key for sample in part.old.samples} & {sample.key for sample in part.samples}
    return not there <= {sample.key for sample in part.samples[:written]}
