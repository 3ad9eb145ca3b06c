"""Engine ``triton``: DualTVL1 in kernels of our own for CUDA, thousands of pairs a second by design.

The schedule of a batch is fixed when its size is known: pad, build the pyramids, solve the levels from coarse to fine,
crop.  Where pairs differ, in how many iterations they take, the kernel of a level decides by itself
(:mod:`mepipe.flow.triton_kernels`), so that the schedule is one CUDA graph and the host waits only for the result.

Under TRITON_INTERPRET=1, set before triton is imported, the same schedule runs on the CPU: for tests, many thousand
times slower.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mepipe.errors import DataError, MepipeError
from mepipe.flow.engine import Engine
from mepipe.flow.images import gaussian, level_sizes
from mepipe.flow.params import TVL1Params
from mepipe.flow.torch_ops import taps

try:
    import triton

    from mepipe.flow import triton_images as images
    from mepipe.flow import triton_kernels as kernels
except (ImportError, AttributeError) as e:  # absent, or older than what the kernels use (constexpr_function: 3.4)
    raise MepipeError(f"engine triton needs triton 3.4 or newer ({e})", do="pip install -U triton") from e

BATCH = 512  # pairs at once: about four programs for each of the 132 multiprocessors of an H100
MOST = 16_384  # and at most: a grid has 65,535 rows, and three planes a pair are copied
MEMORY = 0.8  # part of the free memory that one schedule may take
ALIGN = 32  # floats: rows begin on a 128-byte line
PIXELS = 1024  # pixels a program of the plain image kernels takes
# Registers a thread of the level's kernel: 4 iterations in flight need 105, and with more than 128 a multiprocessor
# (65,536) would hold one program of 256 threads instead of two.
REGISTERS = 128


class Launch(NamedTuple):
    """How the kernel of a level is compiled for rows of ``block`` pixels."""

    block: int
    warps: int
    stages: int  # iterations a sweep

    @classmethod
    def of(cls, pitch: int) -> Launch:
        """One pixel of the row a thread up to 512; beyond, several, and fewer iterations in flight to fit registers."""
        block = triton.next_power_of_2(pitch)
        stages = 4 if block <= 512 else 2 if block <= 1024 else 1
        return cls(block, min(block // 32, 16), stages)


class TritonEngine(Engine):
    """TV-L1 in Triton kernels.  device: "cuda", "cuda:1"; batch: pairs at once."""

    name = "triton"
    depends_on = ("triton",)

    def __init__(self, device: str | None = None, batch: int | None = None) -> None:
        self.device = device or "cpu"
        if self.device == "cpu" and not interpreted():
            raise MepipeError(
                "engine triton runs on a CUDA GPU, not on the CPU", do="use --gpu (device='cuda'), or engine native"
            )
        self.batch = batch or BATCH
        self._schedule: Schedule | None = None
        self._lock = threading.Lock()  # a schedule has one set of buffers

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.device, self.batch)

    def solve(self, onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
        start = None if initial is None else torch.from_numpy(initial)
        pair = torch.from_numpy(onset), torch.from_numpy(apex)
        return self.flow_of_tensors(*pair, params, start, pad=0)[:, :2].cpu().numpy()

    def _flow(self, onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
        """As in Engine, but padded and cropped on the device: the host would take longer than the flow."""
        onset, apex = gaussian(onset, params.smooth), gaussian(apex, params.smooth)
        start = None if initial is None else torch.from_numpy(initial)
        return self.flow_of_tensors(torch.from_numpy(onset), torch.from_numpy(apex), params, start).cpu().numpy()

    def flow_of_tensors(
        self,
        onset: Tensor,
        apex: Tensor,
        params: TVL1Params | None = None,
        initial: Tensor | None = None,
        pad: int | None = None,
    ) -> Tensor:
        """(B, H, W) uint8 or float32 in 0..1, here or there -> (B, 3, H, W) float32 on the device: u, v, magnitude.

        For flow that goes on to a model on the same GPU.  Images are not checked, and ``params.smooth`` is not
        applied.  initial: (B, 2, H, W) float32.  pad: instead of params.pad.  The host does not wait for the result.
        """
        params = params or TVL1Params()
        height, width = onset.shape[1:]
        pad = params.pad if pad is None else pad
        setting = Setting(height, width, onset.dtype, initial is not None, params.resolved(), pad)
        out = torch.empty((len(onset), 3, *onset.shape[1:]), dtype=torch.float32, device=self.device)
        with self._lock, self._here():
            done = 0
            while done < len(onset):
                schedule = self._scheduled(setting, len(onset) - done)
                part = slice(done, done + schedule.capacity)
                out[part] = schedule.run(onset[part], apex[part], None if initial is None else initial[part])
                done = part.stop
        return out

    def _here(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.device == "cpu" else torch.cuda.device(self.device)

    def _scheduled(self, setting: Setting, wanted: int) -> Schedule:
        """The schedule of the last call when it fits: a smaller batch only leaves some of its programs idle."""
        last = self._schedule
        if last is None or last.setting != setting or last.capacity < min(wanted, last.most):
            self._schedule = last = None  # its memory first
            most = self._most(setting)
            capacity = min(triton.next_power_of_2(wanted), most)
            self._schedule = last = Schedule(setting, capacity, most, self.device)
        return last

    def _most(self, setting: Setting) -> int:
        """How many pairs fit.  Raises DataError when not one does."""
        if self.device == "cpu":
            return MOST
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        fitting = int(MEMORY * free) // setting.bytes()
        if fitting == 0:
            need = f"a pair of {setting.width}x{setting.height} needs {setting.bytes() / 2**20:,.0f} MiB on the GPU"
            raise DataError(f"{need}, {free / 2**20:,.0f} MiB are free", do="use engine native, or free the GPU")
        return min(fitting, MOST)

    def versions(self) -> dict[str, str | None]:
        found: dict[str, str | None] = {**super().versions(), "torch": torch.__version__, "triton": triton.__version__}
        if self.device != "cpu":
            found |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name(self.device)}
        return found


def interpreted() -> bool:
    """Whether triton's interpreter runs the kernels, which needs no GPU."""
    return not isinstance(kernels.solve_level, triton.JITFunction)


class Setting(NamedTuple):
    """What a schedule is made for, besides the number of pairs."""

    height: int
    width: int
    dtype: torch.dtype
    started: bool  # from an initial flow
    params: TVL1Params  # resolved
    pad: int

    @property
    def channels(self) -> int:
        """u, v and, with gamma, the illumination."""
        return 3 if self.params.gamma else 2

    def levels(self) -> list[tuple[int, int]]:
        """(H, W) of each level, finest first, the padding included."""
        size = self.height + 2 * self.pad, self.width + 2 * self.pad
        return level_sizes(*size, self.params.nscales, self.params.scale_step)

    def bytes(self) -> int:
        """Memory of a pair."""
        finest, *_ = areas = [height * pitch_of(width) for height, width in self.levels()]
        floats = kernels.planes(self.channels) * finest + (2 + self.channels) * sum(areas)
        at_ends = self.height * self.width * (2 * self.dtype.itemsize + 4 * (3 + 2 * self.started))
        return 4 * floats + at_ends


def pitch_of(width: int) -> int:
    """Floats from a row to the next."""
    return -(-width // ALIGN) * ALIGN


class Schedule:
    """Buffers for up to ``capacity`` pairs of one setting and the launches over them; on CUDA, one graph.

    most: how many pairs there would have been memory for.
    """

    def __init__(self, setting: Setting, capacity: int, most: int, device: str) -> None:
        self.setting, self.capacity, self.most = setting, capacity, most
        self.device = torch.device(device)
        height, width, channels = setting.height, setting.width, setting.channels
        self.onset, self.apex = (self._empty(height, width, dtype=setting.dtype) for _ in range(2))
        self.initial = self._empty(2, height, width) if setting.started else None
        self.count = torch.zeros(1, dtype=torch.int32, device=self.device)
        self.levels = setting.levels()
        padded = [(height, pitch_of(width)) for height, width in self.levels]
        self.images = [self._empty(2, *size) for size in padded]
        self.flows = [self._empty(channels, *size) for size in padded]
        self.work = self._empty(kernels.planes(channels), *padded[0])
        self.out = self._empty(3, height, width)
        ratio = 1.0 / setting.params.scale_step
        pairs = list(zip(self.levels, self.levels[1:], strict=False))
        self.down = [self._taps(fine, coarse, ratio) for fine, coarse in pairs]
        self.up = [self._taps(coarse, fine, None) for fine, coarse in pairs]
        self.graph = self._capture() if self.device.type == "cuda" else None

    def run(self, onset: Tensor, apex: Tensor, initial: Tensor | None) -> Tensor:
        """(n, H, W) twice, n <= capacity -> (n, 3, H, W), overwritten by the next call."""
        n = len(onset)
        self.onset[:n].copy_(onset, non_blocking=True)
        self.apex[:n].copy_(apex, non_blocking=True)
        if self.initial is not None and initial is not None:
            self.initial[:n].copy_(initial, non_blocking=True)
        self.count.fill_(n)
        if self.graph is not None:
            self.graph.replay()
        else:
            self._launch()
        return self.out[:n]

    def _capture(self) -> Any:
        """The launches as a CUDA graph; made once before, with no pair, so that all kernels are compiled."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._launch()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._launch()
        return graph

    def _launch(self) -> None:
        """Everything from the images to the flow, on the current stream."""
        step = self.setting.params.scale_step
        grey = 1.0 if self.setting.dtype == torch.uint8 else 255.0
        self._pad(self.onset, self.images[0], 1, 0, grey)
        self._pad(self.apex, self.images[0], 1, 1, grey)
        coarsest = len(self.levels) - 1
        for level in range(coarsest):
            self._resize(self.images[level], self.images[level + 1], self.down[level], level, level + 1, 1.0)
        self.flows[0 if self.initial is not None else coarsest].zero_()
        if self.initial is not None:
            self._pad(self.initial, self.flows[0], 2, 0, 1.0)
            for level in range(coarsest):
                self._resize(self.flows[level], self.flows[level + 1], self.down[level], level, level + 1, step)
        for level in range(coarsest, -1, -1):
            self._solve(level)
            if level:
                up = self.up[level - 1]
                self._resize(self.flows[level], self.flows[level - 1], up, level, level - 1, 1.0 / step)
        self._finish()

    def _pad(self, source: Tensor, target: Tensor, channels: int, slot: int, grey: float) -> None:
        pad, (height, width) = self.setting.pad, self.levels[0]
        images.pad[self._grid(height * width, channels)](
            source, target, self.count, self.setting.height, self.setting.width, target.shape[-1], pad, grey,
            CHANNELS=channels, TARGET_CHANNELS=target.shape[1], SLOT=slot, BLOCK=PIXELS,
        )  # fmt: skip

    def _resize(
        self, source: Tensor, target: Tensor, taps: tuple[Tensor, ...], of: int, to: int, factor: float
    ) -> None:  # fmt: skip
        (source_height, source_width), (height, width) = self.levels[of], self.levels[to]
        images.resize[self._grid(height * width, source.shape[1])](
            source, target, self.count, *taps, source_height, source_width, source.shape[-1],
            height, width, target.shape[-1], factor, CHANNELS=source.shape[1], BLOCK=PIXELS,
        )  # fmt: skip

    def _solve(self, level: int) -> None:
        params = self.setting.params
        height, width = self.levels[level]
        pitch = pitch_of(width)
        block, warps, stages = Launch.of(pitch)
        enough = float(np.float32(params.epsilon**2 * height * width))
        kernels.solve_level[(self.capacity,)](
            self.images[level], self.flows[level], self.work, self.count, height, width, pitch, enough, params.theta,
            params.lambda_ * params.theta, params.tau / params.theta, params.gamma,
            params.warps, params.inner, params.outer,
            CHANNELS=self.setting.channels, MEDIAN=params.median, STAGES=stages, BLOCK=block,
            num_warps=warps, num_stages=1, maxnreg=REGISTERS, enable_fp_fusion=True,
        )  # fmt: skip

    def _finish(self) -> None:
        height, width = self.setting.height, self.setting.width
        images.finish[self._grid(height * width, 1)](
            self.flows[0], self.out, self.count, height, width, self.flows[0].shape[-1], self.setting.pad,
            CHANNELS=self.setting.channels, BLOCK=PIXELS,
        )  # fmt: skip

    def _grid(self, pixels: int, channels: int) -> tuple[int, int]:
        return triton.cdiv(pixels, PIXELS), self.capacity * channels

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty((self.capacity, *shape), dtype=dtype, device=self.device)

    def _taps(self, source: tuple[int, int], target: tuple[int, int], scale: float | None) -> tuple[Tensor, ...]:
        """(upper rows, weight of the lower, left columns, weight of the right), see ``triton_images.resize``."""
        found: list[Tensor] = []
        for of, to in zip(source, target, strict=True):
            first, _, weight = taps(of, to, scale or of / to, self.device)
            found += [first.int(), weight]
        return tuple(found)
