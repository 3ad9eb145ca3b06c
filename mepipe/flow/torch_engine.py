"""Engine ``torch``: DualTVL1 in torch operations, on the CPU or a GPU.

On a GPU, and with ``plain=True`` on the CPU, batches run through the readable Solver of torch_solver, the reference for
all other engines.  On the CPU pairs run one by one through StripSolver, the same algorithm arranged for speed, or with
``compile=True`` through CompiledSolver, which is faster still once its loops have been compiled.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mepipe.errors import UsageError
from mepipe.flow.engine import Engine
from mepipe.flow.images import grey_levels
from mepipe.flow.params import TVL1Params
from mepipe.flow.torch_solver import Solver
from mepipe.flow.torch_strips import StripSolver

# Pairs at once.  On the CPU one keeps the working set in the cache; a GPU needs many to be busy.
BATCH = {"cpu": 1, "cuda": 64}
# Iterations between two looks at whether all pairs have stopped.  A look waits for the GPU to finish
# what is queued; on the CPU it is free.
LOOK_EVERY = {"cpu": 1, "cuda": 4}


class TorchEngine(Engine):
    """TV-L1 in torch operations.  device: "cpu", "cuda", "cuda:1"; batch: pairs at once.

    plain: take the readable Solver on the CPU too, two to three times slower.
    compile: on the CPU, compile all loops ahead of time, and round as ``plain`` does.  That costs two minutes of CPU
    time at the first use on a machine (and less than one more for gamma, and for another median), for 90 to 170 ms less
    a pair of 224 x 224: it pays from about a thousand pairs on, in later processes from the 25th.
    path: which of these is taken, and why.
    Raises UsageError when plain and compile, or compile and a GPU, are asked for, MepipeError without a C++ compiler.
    """

    name = "torch"
    depends_on = ("torch",)

    def __init__(
        self, device: str | None = None, batch: int | None = None, plain: bool = False, compile: bool = False
    ) -> None:
        self.device = device or "cpu"
        self._kind = torch.device(self.device).type
        self.batch = batch or BATCH[self._kind]
        self.plain, self.compile = plain or self._kind != "cpu", compile
        if compile:
            self._check_compile()
        self.path = self._path()
        self._idle: list[StripSolver] = []  # the last one used: its arrays serve the next pair

    def _check_compile(self) -> None:
        if self.plain:
            raise UsageError("torch: compile=True is for the CPU and not for plain=True", do="leave one of them out")
        from mepipe.flow.torch_ahead import check_compiler

        check_compiler()

    def _path(self) -> str:
        if self.plain:
            return "plain operations on batches: " + ("a GPU" if self._kind != "cpu" else "asked for")
        if self.compile:
            return "loops compiled ahead of time: asked for"
        return "strips, not compiled: compile=True was not asked for"

    @torch.inference_mode()
    def solve(self, onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
        start = None if initial is None else self._tensor(initial)
        images = self._tensor(grey_levels(onset)), self._tensor(grey_levels(apex))
        if self.plain:
            return Solver(params, LOOK_EVERY[self._kind]).run(*images, start).cpu().numpy()
        solver = self._take(params)
        flow = solver.run(*images, start).numpy()
        self._idle[:] = [solver]
        return flow

    def _take(self, params: TVL1Params) -> StripSolver:
        """A solver that no other thread uses."""
        with suppress(IndexError):
            solver = self._idle.pop()
            if solver.params == params:
                return solver
        if not self.compile:
            return StripSolver(params)
        from mepipe.flow.torch_compiled import CompiledSolver  # loads torch's compiler only when it is wanted

        return CompiledSolver(params)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": []}

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def versions(self) -> dict[str, str | None]:
        found: dict[str, str | None] = {**super().versions(), "torch": torch.__version__}
        if self._kind == "cuda":
            found |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name(self.device)}
        return found
