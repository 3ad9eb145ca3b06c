"""What models cost on the CPU at 224 x 224: parameters, forward, forward + backward.

    python benchmarks/model_cpu.py [MODEL ...] [--batch 8] [--threads 2] [--scan-backend numba] [--out FILE]

Milliseconds per sample, the least of the repeats: wall clock, and CPU time of this process, which a
busy machine disturbs less.  No optimiser step.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from flow_engines import RESULTS, machine

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


def measure(name: str, batch: int, repeats: int, backend: str, side: int = 224) -> dict[str, float]:
    """Column -> millions of parameters, or milliseconds per sample."""
    torch.manual_seed(0)
    model = create_model(name, scan_backend=backend)
    x, target = torch.randn(batch, 3, side, side), torch.arange(batch) % 3

    def forward() -> None:
        with torch.no_grad():
            model.eval()(x)

    def step() -> None:
        model.zero_grad()
        model.head.loss(model.train()(x), target, 0.0).backward()

    row = {"million parameters": sum(p.numel() for p in model.parameters()) / 1e6}
    for label, work in (("forward", forward), ("forward + backward", step)):
        wall, cpu = least_ms(work, repeats, batch)
        row |= {f"{label}, wall ms": wall, f"{label}, CPU ms": cpu}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["merba_tiny"], help=f"of {', '.join(list_models())}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scan-backend", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS / "model_cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name, reason = scan_backend("cpu", options.scan_backend)
    print(f"batch {options.batch}, {options.threads} threads, scan {name} ({reason}), ms per sample")
    print(f"{'':25}{'parameters':>12}{'forward wall':>13} {'CPU':>8}{'f + b wall':>11} {'CPU':>9}")
    table = {}
    for model in options.models:
        row = table[model] = measure(model, options.batch, options.repeats, options.scan_backend)
        millions, *times = row.values()
        print(f"{model:25}{millions:10.2f} M" + "".join(f"{ms:11.1f}" for ms in times), flush=True)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "batch": options.batch, "threads": options.threads, "scan": name,
              "per_sample": table}  # fmt: skip
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
