"""Time the selective scan's backends on one CPU thread and print a table.

    python benchmarks/scan_cpu.py [--repeats 7] [--backends loop recompute numba] [--small] [--out FILE]

Sizes are those of MERba at batch 8 (stages 2, 3, 4; four directions), with --small those of
merba_tiny.  A time is the least of the repeats, in CPU milliseconds of this process, backends taken
in turn so that a busy machine treats them alike.  "x" is the factor over the first backend named.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from flow_engines import RESULTS, machine

from mepipe.errors import UsageError
from mepipe_model.ops import SCAN_BACKENDS, scan_backend, selective_scan

LENGTH, STATES = 49, 8
SIZES = ((512, 128), (128, 256), (32, 512))  # sequences, channels
SMALL_SIZES = ((512, 16), (128, 32), (32, 64))


def inputs(sequences: int, channels: int) -> list[torch.Tensor]:
    """u, dt, A, B, C, D, dt_bias as a fresh MERba would hand over."""
    g = torch.Generator().manual_seed(0)
    per_step = [torch.randn(sequences, LENGTH, k, generator=g) for k in (channels, channels, STATES, STATES)]
    a = -torch.arange(1.0, STATES + 1).repeat(channels, 1)
    u, dt, b, c = per_step
    return [u, dt, a, b, c, torch.ones(channels), torch.zeros(channels)]


def forward(values: list[torch.Tensor], backend: str) -> None:
    with torch.no_grad():
        selective_scan(*values, backend=backend)


def both(values: list[torch.Tensor], backend: str) -> None:
    leaves = [v.detach().requires_grad_() for v in values]
    selective_scan(*leaves, backend=backend).sum().backward()


def least_ms(work, values, backends: list[str], repeats: int) -> dict[str, float]:
    best = dict.fromkeys(backends, float("inf"))
    for repeat in range(repeats + 1):
        for backend in backends:
            start = time.process_time()
            work(values, backend)
            if repeat:  # the first round warms up, and compiles
                best[backend] = min(best[backend], 1e3 * (time.process_time() - start))
    return best


def usable(names: list[str]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(scan_backend("cpu", name)[0])
        except UsageError as error:
            print(f"left out: {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--backends",
        nargs="+",
        default=["loop", "recompute", "numba"],
        choices=[b for b in SCAN_BACKENDS if b != "auto"],
    )
    parser.add_argument("--small", action="store_true", help="the sizes of merba_tiny")
    parser.add_argument("--out", type=Path, default=RESULTS / "scan_cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backends = usable(options.backends)
    print(f"{'S':>5} {'E':>5}  {'':18}" + "".join(f"{b:>20}" for b in backends))
    table: dict[str, dict[str, dict[str, float]]] = {}
    for sequences, channels in SMALL_SIZES if options.small else SIZES:
        values = inputs(sequences, channels)
        for label, work in (("forward", forward), ("forward + backward", both)):
            ms = least_ms(work, values, backends, options.repeats)
            cells = "".join(f"{ms[b]:9.1f} ms {ms[backends[0]] / ms[b]:6.1f}x" for b in backends)
            print(f"{sequences:5} {channels:5}  {label:18}{cells}", flush=True)
            table.setdefault(f"{sequences} sequences, {channels} channels", {})[label] = ms

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "repeats": options.repeats, "cpu_ms": table}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
