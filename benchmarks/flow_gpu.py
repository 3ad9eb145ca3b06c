"""Pairs a second of the engines ``triton`` and ``torch`` on a GPU, and the share of the memory's limit that is reached.

    python benchmarks/flow_gpu.py [--batch 512] [--pad 16] [--repeats 5] [--tune] [--out FILE]

Images lie on the GPU and the flow stays there; times are of CUDA events, median over repeats.  "with the host" is
``engine.flow`` from numpy to numpy.  The memory's limit is what the kernels must move for these very pairs, counted
from the iterations that each takes, at the bandwidth of a copy measured in the same run.  --tune tries other launches
of the main kernel.  Without a CUDA GPU it says so and ends with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from flow_engines import CASES, RESULTS, machine
from flow_pairs import pair

from mepipe.flow import TVL1Params, get_engine
from mepipe.flow.images import pad_replicate
from mepipe.flow.torch_solver import Level, Solver, Warped

DISTINCT = 32  # pairs that differ in motion and noise; the batch repeats them
FIRST, STAGES = 2, 4  # as in triton_kernels and triton_engine: iterations of a warp's first sweep and of the others
# Bytes a pixel.  A sweep reads u, p, Ix, Iy, rho_c and writes u, p; a linearisation reads u, both images and two
# slopes and writes Ix, Iy, rho_c; a median reads and writes u.
SWEEP, LINEARISE, MEDIAN = 60, 36, 16


def pairs(case: str) -> tuple[np.ndarray, np.ndarray]:
    """(DISTINCT, 224, 224) uint8 onsets and apexes: half to one and a half times the motion of the case."""
    peak, noise = CASES[case]
    made = [pair(peak * (0.5 + i / DISTINCT), noise, seed=i)[:2] for i in range(DISTINCT)]
    return tuple(np.stack(images) for images in zip(*made, strict=True))


class Counting(Solver):
    """The torch solver, keeping how many iterations each pair takes in each warp."""

    def __init__(self, params: TVL1Params) -> None:
        super().__init__(params.resolved())
        self.counts: list[tuple[int, torch.Tensor]] = []  # pixels of the level, (B,) iterations of one of its warps

    def _solve_warp(self, level: Level, warped: Warped) -> None:
        self.counts.append((level.I0[0].numel(), torch.zeros(len(level.I0), device=level.I0.device)))
        super()._solve_warp(level, warped)

    def _iterate(self, level: Level, warped: Warped, active: torch.Tensor) -> torch.Tensor:
        self.counts[-1][1].add_(active)
        return super()._iterate(level, warped, active)


def sweeps(iterations: int, inner: int) -> int:
    """Sweeps over the image that the kernel makes for the iterations of a warp, the repeated ones included."""
    made = 0
    while iterations > 0:
        left, n = min(iterations, inner), min(FIRST, inner)
        ends = iterations <= inner
        iterations -= left
        room = inner
        while left > 0:
            again = ends and left < n  # it stops within the sweep, which is made again that long
            made += 1 + again
            left, room = left - n, room - n
            n = min(STAGES, room)
    return made


def work_of_pair(onset: np.ndarray, apex: np.ndarray, params: TVL1Params, device: str) -> dict[str, float]:
    """Mean over the pairs: pixel-iterations, and bytes the kernels move (images of the padded size)."""
    solver = Counting(params)
    grey = [torch.from_numpy(pad_replicate(image, params.pad)).to(device, torch.float32) for image in (onset, apex)]
    with torch.inference_mode():
        solver.run(*grey, None)
    iterations = moved = 0.0
    for pixels, counts in solver.counts:
        for n in counts.int().tolist():
            iterations += pixels * n
            medians = -(-n // params.inner)
            moved += pixels * (SWEEP * sweeps(n, params.inner) + LINEARISE + MEDIAN * medians)
    return {"pixel_iterations": iterations / len(onset), "bytes": moved / len(onset)}


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median time of ``run`` on the GPU, by CUDA events, after one run that compiles."""
    run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(np.median(times))


def copy_bandwidth(repeats: int) -> float:
    """Bytes a second, read and written, of a copy of 1 GiB."""
    source = torch.zeros(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * 2**30 / seconds(partial(target.copy_, source), repeats)


def measure(case: str, batch: int, params: TVL1Params, repeats: int, bandwidth: float) -> dict[str, float]:
    onset, apex = pairs(case)
    work = work_of_pair(onset, apex, params, "cuda")
    several = -(-batch // DISTINCT)
    onset, apex = (np.tile(image, (several, 1, 1))[:batch] for image in (onset, apex))
    here = [torch.from_numpy(image).cuda() for image in (onset, apex)]
    engine = get_engine("triton", "cuda", batch=batch)
    rate = batch / seconds(partial(engine.flow_of_tensors, *here, params), repeats)
    started = time.perf_counter()
    engine.flow(onset, apex, params)
    with_host = batch / (time.perf_counter() - started)

    few = [torch.from_numpy(pad_replicate(image[:64], params.pad)).cuda().float() for image in (onset, apex)]
    solver = Solver(params.resolved(), look_every=4)
    with torch.inference_mode():
        by_torch = len(few[0]) / seconds(partial(solver.run, *few, None), 1)
    limit = bandwidth / work["bytes"]
    return {
        "triton_pairs_per_s": rate,
        "with_the_host_pairs_per_s": with_host,
        "torch_pairs_per_s": by_torch,
        "memory_limit_pairs_per_s": limit,
        "share_of_memory_limit": rate / limit,
        "pixel_iterations_per_s": rate * work["pixel_iterations"],
        **{f"{name}_per_pair": value for name, value in work.items()},
    }


def tune(batch: int, params: TVL1Params, repeats: int) -> None:
    """Print pairs a second for other numbers of warps and of iterations a sweep."""
    from mepipe.flow import triton_engine

    onset, apex = (np.tile(image, (-(-batch // DISTINCT), 1, 1))[:batch] for image in pairs("noisy"))
    here = [torch.from_numpy(image).cuda() for image in (onset, apex)]
    usual = triton_engine.Launch.of
    for stages in (1, 2, 3, 4, 5):
        for pixels in (1, 2):

            def launch(pitch: int, stages: int = stages, pixels: int = pixels) -> triton_engine.Launch:
                block = usual(pitch).block
                return triton_engine.Launch(block, max(1, min(block // (32 * pixels), 16)), stages)

            triton_engine.Launch.of = launch  # type: ignore[method-assign]
            engine = get_engine("triton", "cuda", batch=batch)
            rate = batch / seconds(partial(engine.flow_of_tensors, *here, params), repeats)
            print(f"{stages} iterations a sweep, {pixels} px a thread: {rate:8.0f} pairs/s", flush=True)
    triton_engine.Launch.of = usual  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--pad", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_gpu.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU is usable here: nothing was measured", file=sys.stderr)
        return 1

    params = TVL1Params(pad=options.pad)
    here = {**machine(), **get_engine("triton", "cuda").versions()}
    print(", ".join(f"{k} {v}" for k, v in here.items()))
    bandwidth = copy_bandwidth(options.repeats)
    print(f"copy: {bandwidth / 1e12:.2f} TB/s; batch {options.batch}, 224 x 224, pad {options.pad}")
    results = {case: measure(case, options.batch, params, options.repeats, bandwidth) for case in CASES}
    for name in next(iter(results.values())):
        print(f"{name:28}" + "".join(f"{case:>8} {result[name]:12.4g}" for case, result in results.items()))
    if options.tune:
        tune(options.batch, params, options.repeats)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": here, "batch": options.batch, "pad": options.pad, "repeats": options.repeats,
              "copy_bytes_per_s": bandwidth, "results": results}  # fmt: skip
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
