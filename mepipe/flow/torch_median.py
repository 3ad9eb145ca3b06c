"""The median of engine ``torch`` on the CPU: two neighbours at once, in half the operations of torch_ops.median.

How is written in :func:`mepipe.flow.median.pair_program`; here its steps are operations on whole strips of the image.
Even and odd columns of the image lie apart, so that every step is a minimum or maximum of two contiguous arrays, the
neighbour being the next element.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mepipe.flow.median import Exchange, pair_program
from mepipe.flow.torch_scratch import Scratch

# Of an operation.  Much smaller, and the 2 us of calling it count; much larger, and the 33 arrays leave the cache.
ELEMENTS = 16_384


class Step(NamedTuple):
    """``op`` of the registers ``inputs`` into ``out``."""

    op: Callable[..., Tensor]
    inputs: tuple[int, ...]
    out: int


class Program(NamedTuple):
    """Steps on ``registers`` arrays, the inputs first and never written; the sorted results are in ``results``."""

    steps: list[Step]
    results: list[int]
    registers: int


def assemble(network: list[Exchange], inputs: int, order: list[int]) -> Program:
    """``network`` on few registers: one is used again as soon as its value is not needed."""
    at, registers = list(range(inputs)), inputs
    free: list[int] = []
    steps: list[Step] = []
    for low, high, keep_low, keep_high in network:
        a, b = at[low], at[high]
        if keep_low:
            if not free:
                free.append(registers)
                registers += 1
            at[low] = free.pop()
            steps.append(Step(torch.minimum, (a, b), at[low]))
        if keep_high:
            if b < inputs and not free:
                free.append(registers)
                registers += 1
            at[high] = free.pop() if b < inputs else b
            steps.append(Step(torch.maximum, (a, b), at[high]))
        elif b >= inputs:
            free.append(b)
        if a >= inputs:
            free.append(a)
    return Program(steps, [at[wire] for wire in order], registers)


@cache
def programs(k: int) -> tuple[Program, ...]:
    """The sort of a column, then the merges; each reads the results before it at an element and at the next one."""
    sort, merges = pair_program(k)
    wires = [k * 2**step for step in range(1, len(merges) + 1)]
    return (
        assemble(sort, k, list(range(k))),
        *(assemble(network, inputs, order) for (network, order), inputs in zip(merges, wires, strict=True)),
    )


@cache
def pick(k: int) -> Program:
    """The value at place k (from 0) among k + 1 sorted values and k others.

    It is the least of first[k] and max(first[i], other[j]) for i + j = k - 1; to clamp is one maximum and one minimum.
    Registers: the k + 1, the k, the result.
    """
    other, best = k + 1, 2 * k + 1
    steps = [Step(torch.clamp, (other + j, k - 1 - j, best if j else k), best) for j in range(k)]
    return Program(steps, [best], best + 1)


class Median:
    """The k x k median (3 or 5, edges replicated) of ``images``, (C, H, W) float32, in place, at each call."""

    def __init__(self, images: Tensor, k: int, scratch: Scratch) -> None:
        channels, height, width = images.shape
        self.images, self.reach, self.odd = images, k // 2, width % 2
        columns = (width + self.odd) // 2 + self.reach
        rows = ceil(height / max(1, round(channels * columns * height / ELEMENTS)))
        # even and odd columns, their medians, and what the steps work in
        self.phases, self.medians, store = scratch.take(
            (2, height + 2 * self.reach, channels, columns),
            (2, height, channels, columns),
            (sum(p.registers for p in programs(k)), 2, rows * channels * columns),
        )
        self.strips = [
            _Strip(self.phases[:, top : top + rows + 2 * self.reach], self.medians[:, top : top + rows], store)
            for top in range(0, height, rows)
        ]

    def __call__(self) -> None:
        r, width = self.reach, self.images.shape[2]
        padded = F.pad(self.images[None], (r, r + self.odd, r, r), mode="replicate")[0]
        self.phases.copy_(padded.unflatten(2, (-1, 2)).permute(3, 1, 0, 2))
        for strip in self.strips:
            strip.run()
        even, odd = self.medians.transpose(1, 2)
        self.images[..., 0::2] = even[..., : (width + 1) // 2]
        self.images[..., 1::2] = odd[..., : width // 2]


class _Strip:
    """Some rows of the two phases (2, rows + k - 1, C, W/2), and where their medians (2, rows, C, W/2) go.

    store: (buffers, 2, elements) to work in.  Arrays are flat here: after the last element of a row comes the first of
    the next, and what is computed from such a pair lies right of the image.
    """

    def __init__(self, phases: Tensor, medians: Tensor, store: Tensor) -> None:
        k = phases.shape[1] - medians.shape[1] + 1
        size, row = medians[0].numel(), medians[0, 0].numel()
        self.store = iter(store)
        self.tasks: list[tuple[Callable[..., Tensor], list[Tensor], Tensor]] = []
        sort, *merges = programs(k)
        flat = phases.flatten(1)
        columns = self._add(sort, [flat[:, i * row : i * row + size] for i in range(k)])
        here, there = [odd for _, odd in columns], [even for even, _ in columns]
        for merge in merges:
            here = there = self._add(merge, [x[:-1] for x in here] + [x[1:] for x in there])
        length = len(here[0])
        last = k // 2  # column k of a pair is this many odd columns after column 1
        pairs = [even[:length] for even, _ in columns], [odd[last : last + length] for _, odd in columns]
        for column, median in zip(pairs, medians.flatten(1), strict=True):
            self._add(pick(k), [*here, *column], median[:length])

    def _add(self, program: Program, inputs: list[Tensor], *outputs: Tensor) -> list[Tensor]:
        """Plan ``program``; its registers are the inputs, the outputs, and then buffers.  Returns the results."""
        registers = [*inputs, *outputs]
        shape = inputs[0].shape
        while len(registers) < program.registers:
            registers.append(next(self.store)[: shape[0] if len(shape) == 2 else 1, : shape[-1]].view(shape))
        self.tasks += [(op, [registers[i] for i in inputs], registers[out]) for op, inputs, out in program.steps]
        return [registers[i] for i in program.results]

    def run(self) -> None:
        for op, inputs, out in self.tasks:
            op(*inputs, out=out)
