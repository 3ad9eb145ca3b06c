"""How much faster two threads are than one: native and opencv, pairs per second of wall time.

    python benchmarks/flow_threads.py [--pairs 16] [--repeats 5] [--threads 2] [--out FILE]

The same pairs for all, clean and noisy, half a pixel of motion; one thread and several take turns.  The least time of
the repeats counts: anything else that runs on the machine slows several threads more than one, so run it on a quiet
one.  The goal is a factor of at least 1.9 for native with two threads on two cores.

"arithmetic" is the machine's own limit: loops of multiplications in registers, which share nothing.  Where its factor
is below 2, the cores are not two (hyperthreads, a busy host, a lower clock), and no program gets more.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from flow_engines import CASES, RESULTS, machine, usable
from flow_pairs import SIDE, pair
from numba import njit

from mepipe.flow.engine import Engine, for_each

ENGINES = ("native", "opencv")
ROUNDS = 15_000_000  # of a loop of the control: about as long as a noisy pair


@njit(nogil=True)
def _multiply(rounds: int) -> float:
    """Eight chains that do not wait for each other, so that the core's arithmetic is what limits it."""
    a = b = c = d = e = f = g = h = 1.0
    for _ in range(rounds):
        a, b, c, d = a * 0.999 + 0.1, b * 0.998 + 0.1, c * 0.997 + 0.1, d * 0.996 + 0.1
        e, f, g, h = e * 0.995 + 0.1, f * 0.994 + 0.1, g * 0.993 + 0.1, h * 0.992 + 0.1
    return a + b + c + d + e + f + g + h


def stack(case: str, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(onsets, apexes), (count, side, side) uint8 each; peaks of 0.4 to 0.6 px, so that no two pairs are alike."""
    _, noise = CASES[case]
    made = [pair(peak, noise, side, seed)[:2] for seed, peak in enumerate(np.linspace(0.4, 0.6, count))]
    onsets, apexes = zip(*made, strict=True)
    return np.stack(onsets), np.stack(apexes)


def seconds(engine: Engine, images: tuple[np.ndarray, np.ndarray]) -> float:
    started = time.perf_counter()
    engine.flow(*images)
    return time.perf_counter() - started


def control_seconds(count: int, threads: int) -> float:
    started = time.perf_counter()
    for_each(lambda _: _multiply(ROUNDS), count, threads)
    return time.perf_counter() - started


def compare(times: list[tuple[float, float]], count: int, threads: int) -> dict[str, float]:
    """(seconds with one thread, with ``threads``) of each repeat -> per second, and their ratio."""
    alone, together = (count / min(column) for column in zip(*times, strict=True))
    return {"1 thread": alone, f"{threads} threads": together, "factor": together / alone}


def measure(count: int, repeats: int, threads: int, side: int = SIDE) -> dict[str, dict[str, dict[str, float]]]:
    """Engine -> case -> pairs per second with one thread and with ``threads``, and their ratio."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name in ENGINES:
        one, many = usable(name, 1), usable(name, threads)
        if one is None or many is None:
            continue
        table[name] = {}
        for case in CASES:
            images = stack(case, count, side)
            many.flow(*images)  # compile, start threads
            times = [(seconds(one, images), seconds(many, images)) for _ in range(repeats)]
            table[name][case] = compare(times, count, threads)
    control_seconds(1, 1)  # compile
    times = [(control_seconds(count, 1), control_seconds(count, threads)) for _ in range(repeats)]
    table["arithmetic"] = {"loops": compare(times, count, threads)}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16, help="a multiple of the threads, else one of them waits")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_threads.json")
    options = parser.parse_args()

    table = measure(options.pairs, options.repeats, options.threads)
    print(f"{'engine':12}{'pairs':8}{'1 thread/s':>12}{f'{options.threads} threads/s':>13}{'factor':>8}")
    for name, cases in table.items():
        for case, row in cases.items():
            alone, together, factor = row.values()
            print(f"{name:12}{case:8}{alone:12.2f}{together:13.2f}{factor:8.2f}")

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "pairs": options.pairs, "repeats": options.repeats, "pairs_per_second": table}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
