"""The whole `mepipe flow` command against the time its engine needs: what reading, hashing and writing cost.

    python benchmarks/flow_command.py [--pairs 128] [--jobs N] [--out benchmarks/results/flow_command.json]

Prepares N made-up noisy pairs, then for opencv and native: `mepipe flow` over one pair (start-up: imports, engine),
over all pairs, and the engine alone on all cores over the same pairs.  Wall time: run it on a quiet machine.
The goal is overhead <= 10 %: (command - start-up) / engine time of the other pairs - 1.  Shards are written while
the next is computed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from flow_engines import RESULTS, machine
from flow_pairs import pair

from mepipe.clipwork import Record
from mepipe.flow import get_engine
from mepipe.prepare import to_csv
from mepipe.settings import cores
from mepipe.workspace import Workspace, write_text

ENGINES = ("opencv", "native")
KINDS = 16  # different pairs; the others are the same files again, as reading them costs the same
CORPUS = "casme2"


def kinds() -> list[tuple[np.ndarray, np.ndarray]]:
    """(onset, apex) uint8 with motion of 0.25 to 2 px and noise of 1.5 grey levels."""
    return [pair(peak, 1.5, seed=seed)[:2] for seed, peak in enumerate(np.geomspace(0.25, 2.0, KINDS))]


def prepare(ws: Workspace, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """``pairs`` as `mepipe prepare` leaves them: crops and clips.csv."""
    records = []
    for n, images in enumerate(pairs):
        clip = ws.prepared(CORPUS) / f"sub{n // 20:02d}" / f"EP{n:05d}"
        clip.mkdir(parents=True)
        for number, image in enumerate(images, 1):
            cv2.imwrite(str(clip / f"{number}.png"), image)
        records.append(
            Record(
                *(CORPUS, clip.parent.name, clip.name, 1, 2, 3, 200.0),
                *("happiness", "positive", "happiness", "", "annotated", "ok", ""),
            )
        )
    write_text(ws.prepared(CORPUS) / "clips.csv", to_csv(records))


def command(ws: Workspace, engine: str, jobs: int) -> float:
    """Wall seconds of `mepipe flow --force`."""
    words = ["-w", str(ws.root), "--no-progress", "flow", "--engine", engine, "--jobs", str(jobs), "--force"]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mepipe", *words], check=True, capture_output=True)
    return time.perf_counter() - started


def engine_alone(engine: str, pairs: list[tuple[np.ndarray, np.ndarray]], jobs: int) -> float:
    """Wall seconds of the engine over ``pairs`` on ``jobs`` cores, images in memory, warm."""
    solver = get_engine(engine, threads=jobs)
    onsets, apexes = (np.stack(images) for images in zip(*pairs, strict=True))
    solver.flow(onsets[:1], apexes[:1])
    started = time.perf_counter()
    solver.flow(onsets, apexes)
    return time.perf_counter() - started


def measure(count: int, jobs: int) -> dict[str, dict[str, float]]:
    made = kinds()
    pairs = [made[n % KINDS] for n in range(count)]
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        one, many = Workspace(Path(folder) / "one"), Workspace(Path(folder) / "many")
        prepare(one, pairs[:1])
        prepare(many, pairs)
        for engine in ENGINES:
            command(one, engine, jobs)  # compiles, fills the file cache
            start_up = command(one, engine, jobs)
            whole, alone = command(many, engine, jobs), engine_alone(engine, pairs, jobs)
            overhead = (whole - start_up) / (alone * (count - 1) / count) - 1  # start-up held one pair already
            table[engine] = {"start_up_s": start_up, "command_s": whole, "engine_s": alone, "overhead": overhead}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=128, help="two or more; some hundred for native")
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_command.json")
    options = parser.parse_args()

    table = measure(options.pairs, options.jobs)
    print(f"{options.pairs} pairs on {options.jobs} cores")
    print(f"{'engine':10}{'start-up s':>12}{'command s':>12}{'engine s':>12}{'overhead':>12}")
    for name, row in table.items():
        *seconds, overhead = row.values()
        print(f"{name:10}" + "".join(f"{s:12.2f}" for s in seconds) + f"{overhead:12.1%}")

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "pairs": options.pairs, "jobs": options.jobs, "wall": table}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
