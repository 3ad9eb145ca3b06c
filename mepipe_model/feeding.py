"""What keeps the device busy: batches made ready ahead, and a tally of the epoch that is read without waiting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from mepipe.errors import MepipeError

T = TypeVar("T")
R = TypeVar("R")

# Steps between two looks at the losses.  A look waits for the GPU; on the CPU it costs nothing.
LOOK_EVERY = {"cpu": 1, "other": 32}


def ahead(make: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """make(item) for every item, in order: made by one other thread while the one before is in use.

    What ``make`` raises is raised here, in its turn.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
        coming: Future[R] | None = None
        for item in items:
            following = pool.submit(make, item)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def uploaded(x: Tensor, device: torch.device) -> Tensor:
    """``x`` on ``device``; from a thread beside the one that trains, without stopping its stream.

    On CUDA the copy goes through pinned memory on a stream of its own, and only the calling thread waits for it.
    """
    if device.type != "cuda":
        return x.to(device)
    side = torch.cuda.Stream(device)
    with torch.cuda.stream(side):
        out = x.pin_memory().to(device, non_blocking=True)
    side.synchronize()
    out.record_stream(torch.cuda.default_stream(device))  # its memory is free again when training has used it
    return out


class Tally:
    """Loss and hits of one epoch, kept on the device until they are read.

    where: for the error message, such as "fold casme2_sub01"; steps: of the epoch.
    """

    def __init__(self, where: str, epoch: int, steps: int) -> None:
        self._where, self._epoch, self._steps = where, epoch, steps
        self._waiting: list[Tensor] = []
        self._losses: list[float] = []
        self._counts: list[int] = []
        self._hits: list[Tensor] = []

    def add(self, loss: Tensor, hits: Tensor) -> None:
        """A step's scalar loss, and hits (B,) bool. Raises MepipeError as ``look``."""
        self._waiting.append(loss.detach())
        self._hits.append(hits.sum())
        self._counts.append(len(hits))
        if len(self._waiting) >= LOOK_EVERY.get(loss.device.type, LOOK_EVERY["other"]):
            self.look()

    def look(self) -> None:
        """Read the losses that came since the last look. Raises MepipeError for the first that is no number."""
        if not self._waiting:
            return
        new, first = torch.stack(self._waiting).tolist(), len(self._losses) + 1
        self._losses += new
        self._waiting.clear()
        for step, loss in enumerate(new, start=first):
            if not math.isfinite(loss):
                where = f"{self._where}, step {step} of {self._steps}"
                do = "lower --lr, or use --precision fp32; mepipe shards verify finds flow that is not finite"
                raise MepipeError(f"{where}: the loss is {loss} in epoch {self._epoch + 1}", do=do)

    def result(self) -> tuple[float, float]:
        """Mean loss and accuracy over the clips of the epoch."""
        self.look()
        clips = sum(self._counts)
        total = sum(loss * count for loss, count in zip(self._losses, self._counts, strict=True))
        return total / clips, float(torch.stack(self._hits).sum()) / clips
