"""Time models on the CPU at 224x224 and print a table: parameters, forward, forward + backward.

    python benchmarks/model_cpu.py [MODEL ...] [--batch 8] [--threads 2] [--scan-backend numba]

Milliseconds per sample, the least of the repeats: wall clock, and CPU time of this process, which a
busy machine disturbs less.  No optimiser step.
"""

from __future__ import annotations

import argparse
import time

import torch

from mepipe_model.models import create_model, list_models
from mepipe_model.ops import scan_backend


def least_ms(work, repeats: int, samples: int) -> tuple[float, float]:
    """(wall, CPU) per sample after one round to warm up."""
    best = [float("inf")] * 2
    for repeat in range(repeats + 1):
        start = time.perf_counter(), time.process_time()
        work()
        spent = time.perf_counter() - start[0], time.process_time() - start[1]
        if repeat:
            best = [min(b, 1e3 * s / samples) for b, s in zip(best, spent, strict=True)]
    return best[0], best[1]


def measure(name: str, batch: int, repeats: int, backend: str) -> str:
    torch.manual_seed(0)
    model = create_model(name, scan_backend=backend)
    x, target = torch.randn(batch, 3, 224, 224), torch.arange(batch) % 3

    def forward() -> None:
        with torch.no_grad():
            model.eval()(x)

    def step() -> None:
        model.zero_grad()
        model.head.loss(model.train()(x), target, 0.0).backward()

    times = [least_ms(work, repeats, batch) for work in (forward, step)]
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    cells = "".join(f"{wall:11.1f} {cpu:9.1f}" for wall, cpu in times)
    return f"{name:16}{millions:9.2f} M{cells}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["merba_tiny"], help=f"of {', '.join(list_models())}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scan-backend", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name, reason = scan_backend("cpu", options.scan_backend)
    print(f"batch {options.batch}, {options.threads} threads, scan {name} ({reason}), ms per sample")
    print(f"{'':27}{'forward wall':>11} {'CPU':>8}{'f + b wall':>11} {'CPU':>9}")
    for model in options.models:
        print(measure(model, options.batch, options.repeats, options.scan_backend), flush=True)


if __name__ == "__main__":
    main()
