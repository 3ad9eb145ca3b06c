"""How fast shards are written and read, one process, against copying the same bytes from memory to memory.

    python benchmarks/flow_shards.py [--samples 256] [--folder DIR] [--out benchmarks/results/flow_shards.json]

Samples per second of wall time, of CPU time in brackets: a busy machine spoils the first.  Reading is random and warm
(from the page cache), the best of some rounds; the ways of reading plain float32 take turns with plain copies:
copy        np.copyto from an array in memory into one array again and again: what the machine's memory can do
into        Shards.read_many into one array again and again
new         Shards.flow, a new array each time, let go at once
kept        Shards.read_all, a new array for all: the system has to find and clear the memory first
copy, kept  np.copy of an array in memory, for comparison with that
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flow_engines import RESULTS, machine
from flow_pairs import SIDE, motion

from mepipe.shards import Sample, Shards, open_shards, verify_shards, write_shard

ROUNDS = 5  # of every variant
TURNS = 15  # of the ways of reading: short, and wall time needs a moment in which nothing else runs
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


class Rate(NamedTuple):
    """Items per second."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.0f} ({self.cpu:.0f})"


def rate(count: int, work: Callable[[], object]) -> Rate:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Rate(count / (time.perf_counter() - wall), count / (time.process_time() - cpu))


def best(rates: Iterable[Rate]) -> Rate:
    return Rate(*map(max, zip(*rates, strict=True)))


def read_each(shards: Shards, order: list[int]) -> None:
    """Read and let go, as a loader does; keeping all would measure the memory's first use."""
    for i in order:
        shards.flow(i)


def measure(folder: Path, count: int) -> dict[str, dict[str, Any]]:
    flows = realistic(count)
    samples = [Sample("made-up", "s1", str(i)) for i in range(count)]
    order = np.random.default_rng(1).permutation(count).tolist()
    table = {}
    for dtype, compression in VARIANTS:
        path = folder / "made-up-00000.h5"
        options = {"engine": "none", "parameters": {}, "versions": {}, "dtype": dtype, "compression": compression}
        written = rate(count, lambda path=path, options=options: write_shard(path, samples, flows, **options))
        shards = open_shards(path)
        table[f"{dtype} {compression or 'plain'}"] = {
            "kilobytes": path.stat().st_size / count / 1e3,
            "written": written,
            "read": best(rate(count, lambda shards=shards: read_each(shards, order)) for _ in range(ROUNDS)),
            "verified": rate(count, lambda path=path: verify_shards(path)),
        }
        shards.close()
    return table


def reading(folder: Path, count: int) -> dict[str, Rate]:
    """Ways to read plain float32, beside plain copies of as many bytes, in turns."""
    flows = np.stack(realistic(count))
    path = folder / "made-up-00000.h5"
    samples = [Sample("made-up", "s1", str(i)) for i in range(count)]
    write_shard(path, samples, flows, engine="none", parameters={}, versions={})
    shards = open_shards(path)
    order = np.random.default_rng(1).permutation(count).tolist()
    one = np.empty_like(flows[:1])

    def copy() -> None:
        for i in order:
            np.copyto(one[0], flows[i])

    def into() -> None:
        for i in order:
            shards.read_many([i], one)

    ways: dict[str, Callable[[], object]] = {
        "copy": copy,
        "into": into,
        "new": lambda: read_each(shards, order),
        "kept": shards.read_all,
        "copy, kept": flows.copy,
    }
    rounds = [{name: rate(count, work) for name, work in ways.items()} for _ in range(TURNS)]
    shards.close()
    return {name: best(found[name] for found in rounds) for name in ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_shards.json")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        table, ways = measure(Path(folder), options.samples), reading(Path(folder), options.samples)
    print(f"{'stored as':16}{'KB/sample':>11}{'written/s':>16}{'read/s':>16}{'verified/s':>16}")
    for name, row in table.items():
        size, *rates = row.values()
        print(f"{name:16}{size:11.0f}" + "".join(f"{found!s:>16}" for found in rates))
    print("reading float32 plain, samples/s: " + ", ".join(f"{name} {found}" for name, found in ways.items()))
    print(f"into one array: {ways['into'].cpu / ways['copy'].cpu:.0%} of the speed of copying in memory (CPU time)")

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": machine(),
        "samples": options.samples,
        "per_second": of_kind(table, "wall"),
        "per_cpu_second": of_kind(table, "cpu"),
        "reading_float32": {name: found._asdict() for name, found in ways.items()},
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def of_kind(table: dict[str, dict[str, Any]], kind: str) -> dict[str, dict[str, float]]:
    """The rates of wall or CPU time alone, for JSON."""
    return {
        name: {k: getattr(v, kind) if isinstance(v, Rate) else v for k, v in row.items()} for name, row in table.items()
    }


if __name__ == "__main__":
    main()
