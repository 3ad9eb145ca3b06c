"""The whole `mepipe flow` command against the time its engine needs: what reading, hashing and writing cost.

    python benchmarks/flow_command.py [--pairs 255] [--jobs N] [--engines native] [--rounds 3] [--strain]

Prepares N made-up noisy pairs (as many as CASME II has clips), then per engine, in turns, and the best of the rounds:
start-up    the command over one pair: interpreter, imports, engine, its compiled code from the cache
idle        the command over all pairs when nothing is to be done: start-up, hashing all crops, checking all samples
command     the command over all pairs with --force
engine      the engine alone over the same images, in memory, in one call on the same number of cores
overhead    (command - start-up) / engine time of the other pairs - 1; the goal is 10 % at most
Wall time needs a quiet machine; CPU time (user + system, of all threads) hardly does.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from flow_engines import RESULTS, machine
from flow_pairs import pair

from mepipe.cliptable import to_csv
from mepipe.clipwork import Record
from mepipe.flow import Engine, get_engine
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


class Cost(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def command(ws: Workspace, engine: str, *options: str) -> Cost:
    """One run of `mepipe flow` in a process of its own."""
    words = ["-w", str(ws.root), "--no-progress", "flow", "--engine", engine, *options]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "mepipe", *words], check=True, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def engine_alone(solver: Engine, images: list[np.ndarray]) -> Cost:
    """The engine over all pairs, images in memory, warm."""
    started, before = time.perf_counter(), time.process_time()
    solver.flow(*images)
    return Cost(time.perf_counter() - started, time.process_time() - before)


def best(runs: list[Cost]) -> Cost:
    return Cost(min(run.wall for run in runs), min(run.cpu for run in runs))


def measure(engines: list[str], count: int, jobs: int, rounds: int, extra: list[str]) -> dict[str, dict[str, Any]]:
    """extra: further options of every command."""
    made = kinds()
    pairs = [made[n % KINDS] for n in range(count)]
    images = [np.stack(side) for side in zip(*pairs, strict=True)]
    options = ["--jobs", str(jobs), *extra]
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        one, many = Workspace(Path(folder) / "one"), Workspace(Path(folder) / "many")
        prepare(one, pairs[:1])
        prepare(many, pairs)
        for engine in engines:
            solver = get_engine(engine, threads=jobs)
            solver.flow(*(side[:jobs] for side in images))
            command(one, engine, *options)  # compiles, fills the file cache
            runs: dict[str, list[Cost]] = {"start_up": [], "command": [], "idle": [], "engine": []}
            for _ in range(rounds):
                runs["start_up"].append(command(one, engine, *options, "--force"))
                runs["command"].append(command(many, engine, *options, "--force"))
                runs["idle"].append(command(many, engine, *options))
                runs["engine"].append(engine_alone(solver, images))
            table[engine] = row({name: best(costs) for name, costs in runs.items()}, count)
    return table


def row(costs: dict[str, Cost], count: int) -> dict[str, Any]:
    """The costs by kind, and the overhead; start-up holds one pair already."""
    others = (count - 1) / count
    overhead = [
        (whole - start) / (alone * others) - 1
        for whole, start, alone in zip(costs["command"], costs["start_up"], costs["engine"], strict=True)
    ]
    return {**{name: cost._asdict() for name, cost in costs.items()}, "overhead": Cost(*overhead)._asdict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=255, help="two or more; some hundred for native")
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--strain", action="store_true", help="of the command only")
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_command.json")
    options = parser.parse_args()

    extra = ["--strain"] if options.strain else []
    table = measure(options.engines, options.pairs, options.jobs, options.rounds, extra)
    print(f"{options.pairs} pairs on {options.jobs} cores, best of {options.rounds}; seconds of wall time / CPU time")
    names = ("start_up", "idle", "command", "engine")
    print(f"{'engine':10}" + "".join(f"{name:>18}" for name in (*names, "overhead")))
    for name, costs in table.items():
        seconds = [f"{costs[n]['wall']:.2f} / {costs[n]['cpu']:.2f}" for n in names]
        seconds.append(f"{costs['overhead']['wall']:.1%} / {costs['overhead']['cpu']:.1%}")
        print(f"{name:10}" + "".join(f"{text:>18}" for text in seconds))

    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"pairs": options.pairs, "jobs": options.jobs, "rounds": options.rounds, "extra": extra}
    report = {"machine": machine(), **facts, **{kind: flat(table, kind) for kind in Cost._fields}}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def flat(table: dict[str, dict[str, Any]], kind: str) -> dict[str, dict[str, float]]:
    """Engine -> what was measured -> its wall or CPU seconds."""
    return {
        engine: {name if name == "overhead" else f"{name}_s": cost[kind] for name, cost in costs.items()}
        for engine, costs in table.items()
    }


if __name__ == "__main__":
    main()
