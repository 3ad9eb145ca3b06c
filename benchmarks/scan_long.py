"""Time and memory of the selective scan on long sequences: a map of 56 x 56 is one of 3136 steps.

    python benchmarks/scan_long.py [--lengths 196 784 3136] [--backends loop recompute numba doubling] [--out FILE]

Each case is a process of its own on one thread: 4 sequences (the paths of one image), 192 channels, 16 states, as in
the first stage of ms_vssm; forward and backward, once to warm up, then the CPU time of the second pass.  Memory is how
far the process's peak rises above what it held before the second pass began to be set up, inputs left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from flow_engines import RESULTS, machine

from mepipe_model.ops import SCAN_BACKENDS, selective_scan

SEQUENCES, CHANNELS, STATES = 4, 192, 16
WARM_UP = 8  # steps: compiles, loads, and raises no peak


def case(length: int) -> list[torch.Tensor]:
    """u, dt, A, B, C, D, dt_bias as a fresh ms_vssm would hand over."""
    g = torch.Generator().manual_seed(0)
    widths = (CHANNELS, CHANNELS, STATES, STATES)
    u, dt, b, c = (torch.randn(SEQUENCES, length, k, generator=g) for k in widths)
    a = -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1)
    return [v.requires_grad_() for v in (u, dt, a, b, c, torch.ones(CHANNELS), torch.full((CHANNELS,), -4.0))]


def both(values: list[torch.Tensor], backend: str) -> None:
    selective_scan(*values, backend=backend).sum().backward()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(length: int, backend: str) -> dict[str, float]:
    """In this process: CPU seconds, and MB above what was there before."""
    torch.set_num_threads(1)
    both(case(WARM_UP), backend)
    values = case(length)
    before, start = peak_mb(), time.process_time()
    both(values, backend)
    return {"seconds": time.process_time() - start, "mb": peak_mb() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[196, 784, 3136])
    parser.add_argument("--backends", nargs="+", default=["loop", "recompute", "numba", "doubling"],
                        choices=[b for b in SCAN_BACKENDS if b != "auto"])  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS / "scan_long.json")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # what each process is started with
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(int(options.one[0]), options.one[1])))
        return
    table: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'steps':>6}" + "".join(f"{b:>24}" for b in options.backends))
    for length in options.lengths:
        row = table.setdefault(str(length), {})
        for backend in options.backends:
            command = [sys.executable, __file__, "--one", str(length), backend]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row[backend] = json.loads(done.stdout)
        cells = (f"{v['seconds']:12.2f} s {v['mb']:6.0f} MB" for v in row.values())
        print(f"{length:6}" + "".join(cells), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "sequences": SEQUENCES, "channels": CHANNELS, "states": STATES, "steps": table}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
