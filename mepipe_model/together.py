"""Several processes that train one fold together (--ddp N): each takes a part of every batch, on a device of its own.

The gradient is that of one process with the whole batch, whatever the loss: the outputs of all parts are gathered,
every process computes the loss of the whole batch and goes backward through its own part, and gradients are summed.
(Averaging the losses of parts, as DistributedDataParallel does, is another loss where a class or a term has a mean of
its own.)  Batch norms see the whole batch on CUDA, and on the CPU the part of their process.
The first process alone writes files, and decides for all when to stop.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing.connection import wait
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mepipe_model.queueing import Failure, Slot

Model = TypeVar("Model", bound=nn.Module)

LOOPBACK = "127.0.0.1"  # one fold is trained on one node
BUCKET = 32 << 20  # bytes of gradients that are summed at once: large enough for the wires, small beside a model


class Group:
    """The processes of one fold. rank: of this one, the first is 0; size: how many."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def word(self) -> str:
        """What tells the seeds of this process from the first one's, which has those of one process."""
        return "" if self.first else f" of {self.rank}"

    def own(self, piece: Any) -> Any:
        """Its part of a batch; of one with fewer clips than processes, all of it."""
        return piece[self.rank :: self.size] if len(piece) >= self.size else piece

    def whole(self, out: Tensor, count: int) -> Tensor:
        """Outputs (count, K) of a whole batch, of which ``out`` is this process's part and takes the gradient."""
        if self.size == 1 or count < self.size:
            return out
        longest = -(-count // self.size)
        padded = nn.functional.pad(out, (0, 0, 0, longest - len(out)))
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded.detach().contiguous())
        parts[self.rank] = padded
        return torch.stack(parts, 1).flatten(0, 1)[:count]  # back in the order that ``own`` took apart

    def sum_gradients(self, parameters: Iterable[nn.Parameter], count: int) -> None:
        """Give every process the gradient of the whole batch of ``count`` clips."""
        if self.size == 1:
            return
        wanting = [p for p in parameters if p.requires_grad]
        used = self._used(wanting)
        for p in used:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        share = 1.0 if count >= self.size else 1 / self.size  # of a small batch all have computed the same
        for bucket in _buckets([p.grad for p in used if p.grad is not None]):
            flat = torch.cat([g.flatten() for g in bucket]) * share
            dist.all_reduce(flat)
            for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def _used(self, wanting: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Those that have a gradient in any process: an optimizer leaves the others alone, weight decay and all."""
        if not wanting:
            return []
        has = torch.tensor([p.grad is not None for p in wanting], dtype=torch.uint8, device=wanting[0].device)
        dist.all_reduce(has, op=dist.ReduceOp.MAX)
        return [p for p, yes in zip(wanting, has.tolist(), strict=True) if yes]

    def alike(self, model: Model) -> Model:
        """``model`` with the weights of the first process; on CUDA batch norms see the whole batch."""
        if self.size == 1:
            return model
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
        on_cuda = next(model.parameters()).is_cuda
        return nn.SyncBatchNorm.convert_sync_batchnorm(model) if on_cuda else model

    def agreed(self, yes: bool, device: torch.device) -> bool:
        """What the first process says."""
        if self.size == 1:
            return yes
        said = torch.tensor([yes], dtype=torch.uint8, device=device)
        dist.broadcast(said, 0)
        return bool(said)


ALONE = Group()
_group = ALONE


def group() -> Group:
    """The group this process belongs to; ALONE outside of --ddp."""
    return _group


def _buckets(gradients: Sequence[Tensor]) -> Generator[list[Tensor], None, None]:
    bucket, size = list[Tensor](), 0
    for gradient in gradients:
        if bucket and (size + gradient.nbytes > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket


def join(device: str, rank: int, size: int, port: int, setup: Callable[..., None], *args: Any) -> None:
    """Make this process one of a group, then ``setup(device, *args)``."""
    global _group  # a worker process belongs to one group
    os.environ |= {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", rank=rank, world_size=size)
    _group = Group(rank, size)
    setup(device, *args)


def join_launched(device: str) -> None:
    """Make this process one of those that torchrun has started."""
    global _group  # a process belongs to one group
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    _group = Group(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """The end of ``join_launched``."""
    global _group
    _group = ALONE
    dist.destroy_process_group()


def shared_words(words: Any) -> Any:
    """What the first process gives, in every process."""
    box = [words]
    dist.broadcast_object_list(box, 0)
    return box[0]


def folds_together(
    fn: Callable[[Any], Any],
    items: Sequence[Any],
    devices: Sequence[str],
    setup: Callable[..., None],
    setup_args: tuple[Any, ...] = (),
) -> Generator[tuple[int, Any], None, None]:
    """``queueing.fold_queue`` for folds one after the other, each on all ``devices``: (index, result or Failure).

    Where one process fails, all of them are ended, for the others would wait for it; the next fold has new ones.
    """
    team: list[Slot] = []
    try:
        for index, item in enumerate(items):
            team = team or _team(fn, devices, setup, setup_args)
            for slot in team:
                slot.give(index, item)
            result = _results(team)
            if isinstance(result, Failure):
                _end(team)
            yield index, result
    finally:
        _end(team)


def _team(fn: Any, devices: Sequence[str], setup: Any, setup_args: tuple[Any, ...]) -> list[Slot]:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    size = len(devices)
    return [Slot(d, (fn, join, (rank, size, port, setup, *setup_args))) for rank, d in enumerate(devices)]


def _results(team: Sequence[Slot]) -> Any:
    """The result of the first process, once all are done; the Failure of whichever fails."""
    left, answer = {s.connection: s for s in team}, None
    while left:
        for connection in wait([c for c in left if c is not None]):
            slot = left.pop(connection)  # type: ignore[call-overload]  # wait gives back what it was given
            result = slot.take()[1]
            if result is None:
                return Failure("one of its processes died (out of memory, or a crash in a library)")
            if isinstance(result, Failure):
                return result
            answer = result if slot is team[0] else answer
    return answer


def _end(team: list[Slot]) -> None:
    for slot in team:
        slot.end()
    team.clear()
