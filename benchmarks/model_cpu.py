"""What models cost on the CPU at 224 x 224: parameters, forward, forward + backward.

    python benchmarks/model_cpu.py [MODEL ...] [--batch 8] [--threads 2] [--scan-backend numba] [--out FILE]
    python benchmarks/model_cpu.py merba_tiny --threads 1 --baseline CHECKOUT

Milliseconds per sample, the least of the repeats: wall clock, and CPU time of this process, which a
busy machine disturbs less.  No optimiser step.

--baseline: a checkout of an older mepipe, as `git worktree add CHECKOUT COMMIT` makes one (a23d5a8 is the first
version that trained).  Then a whole training step, gradients clipped and weights updated, is timed in processes of
their own, in turn with that version's: what an epoch takes is that times its steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from flow_engines import RESULTS, machine

from mepipe_model.models import create_model, list_models
from mepipe_model.ops import scan_backend

ROUNDS = 3  # of processes, in turn: a busy minute then falls on both versions
STEP = """
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
import mepipe_model
assert mepipe_model.__file__.startswith(sys.argv[1]), mepipe_model.__file__
from mepipe.settings import TrainConfig
from mepipe_model import fold
from mepipe_model.models import create_model
name, batch, threads, repeats = sys.argv[2], *map(int, sys.argv[3:6])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = create_model(name).train()
if hasattr(fold, "make_optimizer"):
    optimizer = fold.make_optimizer(model, TrainConfig(optimizer="adamw", weight_decay=0.05))
else:  # the first version had one optimiser only
    optimizer = torch.optim.AdamW(model.parameter_groups(0.05), betas=(0.9, 0.999))
x, target = torch.randn(batch, 3, 224, 224), torch.arange(batch) % 3
best = float("inf")
for repeat in range(repeats + 1):
    start = time.process_time()
    loss = model.head.loss(model(x), target, 0.0)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    loss.item()
    if repeat:
        best = min(best, time.process_time() - start)
print(1e3 * best / batch)
"""


def step_ms(checkout: Path, name: str, batch: int, threads: int, repeats: int) -> float:
    """CPU time of a training step per sample by the mepipe in ``checkout``."""
    command = [sys.executable, "-c", STEP, str(checkout.resolve()), name, *map(str, (batch, threads, repeats))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def against(baseline: Path, name: str, batch: int, threads: int, repeats: int) -> dict[str, float]:
    """Column -> CPU ms per sample of a training step now and in ``baseline``, and their ratio."""
    here, best = Path(__file__).parents[1], [float("inf")] * 2
    for _ in range(ROUNDS):
        best = [min(b, step_ms(c, name, batch, threads, repeats)) for b, c in zip(best, (here, baseline), strict=True)]
    return {"training step, CPU ms": best[0], "baseline's step, CPU ms": best[1], "times as fast": best[1] / best[0]}


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


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["merba_tiny"], help=f"of {', '.join(list_models())}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scan-backend", default="auto")
    parser.add_argument("--baseline", type=Path, metavar="CHECKOUT")
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
        if options.baseline:
            row |= against(options.baseline, model, options.batch, options.threads, options.repeats)
            ours, theirs, ratio = [*row.values()][-3:]
            print(f"  training step {ours:.1f} CPU ms, baseline's {theirs:.1f}: {ratio:.2f} times as fast", flush=True)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "batch": options.batch, "threads": options.threads, "scan": name,
              "baseline": commit(options.baseline) if options.baseline else None, "per_sample": table}  # fmt: skip
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
