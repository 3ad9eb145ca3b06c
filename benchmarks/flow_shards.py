"""How fast shards are written and read: samples per second of CPU time, one process.

    python benchmarks/flow_shards.py [--samples 256] [--folder DIR] [--out benchmarks/results/flow_shards.json]

CPU time, so that a busy machine counts less; waiting for the disk is not in it.  Reading is random and warm (from
the page cache), the best of five rounds, into new arrays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flow_engines import RESULTS, machine
from flow_pairs import SIDE, motion

from mepipe.shards import Sample, Shards, open_shards, verify_shards, write_shard

VARIANTS = [("float32", None), ("float16", None), ("float32", "gzip"), ("float16", "gzip")]


def realistic(count: int) -> list[np.ndarray]:
    """(3, 224, 224) float32 flows with noise in their last digits, as estimated flow has."""
    rng = np.random.default_rng(0)
    base = motion(SIDE, 1.0)
    made = []
    for _ in range(count):
        flow = base * rng.uniform(0.2, 3) + 0.02 * rng.standard_normal(base.shape)
        made.append(np.concatenate([flow, np.hypot(*flow)[None]]).astype(np.float32))
    return made


def rate(count: int, work: Callable[[], object]) -> float:
    """Items per second of CPU time."""
    started = time.process_time()
    work()
    return count / (time.process_time() - started)


def read_each(shards: Shards, order: list[int]) -> None:
    """Read and let go, as a loader does; keeping all would measure the memory's first use."""
    for i in order:
        shards.flow(i)


def measure(folder: Path, count: int) -> dict[str, dict[str, float]]:
    flows = realistic(count)
    samples = [Sample("made-up", "s1", str(i)) for i in range(count)]
    order = np.random.default_rng(1).permutation(count).tolist()
    table = {}
    for dtype, compression in VARIANTS:
        path = folder / "made-up-00000.h5"
        options = {"engine": "none", "parameters": {}, "versions": {}, "dtype": dtype, "compression": compression}
        written = rate(count, lambda path=path, options=options: write_shard(path, samples, flows, **options))
        shards = open_shards(path)
        read = max(rate(count, lambda shards=shards: read_each(shards, order)) for _ in range(5))
        table[f"{dtype} {compression or 'plain'}"] = {
            "kilobytes": path.stat().st_size / count / 1e3,
            "written": written,
            "read": read,
            "verified": rate(count, lambda path=path: verify_shards(path)),
        }
        shards.close()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_shards.json")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        table = measure(Path(folder), options.samples)
    print(f"{'stored as':16}{'KB/sample':>11}{'written/s':>11}{'read/s':>11}{'verified/s':>11}")
    for name, row in table.items():
        print(f"{name:16}" + "".join(f"{value:11.0f}" for value in row.values()))

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "samples": options.samples, "per_cpu_second": table}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
