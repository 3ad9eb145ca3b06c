"""How much faster two threads are than one: native and opencv, pairs per second of wall time.

    python benchmarks/flow_threads.py [--pairs 32] [--repeats 5] [--threads 2] [--out FILE]

The same pairs for all, clean and noisy, half a pixel of motion; a repeat is one thread, several, one thread again, and
its factor the mean of the first and the last over the second, so that a clock that drifts does not count.  The median
of the repeats is printed.  Many pairs, since some take longer and a thread that is done waits for the other.  The goal
is a factor of at least 1.9 for native with two threads on two cores.

"arithmetic" is the machine's own limit in the same turns: loops of multiplications in registers, which share nothing.
Where that is below 2, the cores are not two (hyperthreads, a busy host, a lower clock), and no program gets more.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
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


def turn(work: Callable[[int], float], threads: int) -> tuple[float, float]:
    """``work`` with a number of threads -> its seconds with one, before and after, and with ``threads``."""
    before, together, after = work(1), work(threads), work(1)
    return (before + after) / 2, together


def compare(turns: list[tuple[float, float]]) -> float:
    """How many times faster several threads are: the median of the turns."""
    return float(np.median([alone / together for alone, together in turns]))


def measure(count: int, repeats: int, threads: int, side: int = SIDE) -> dict[str, dict[str, dict[str, float]]]:
    """Engine -> case -> pairs per second with one thread and with ``threads``, their ratio, and the machine's."""
    control_seconds(1, 1)  # compile
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name in ENGINES:
        engines = {n: usable(name, n) for n in (1, threads)}
        if None in engines.values():
            continue
        table[name] = {}
        for case in CASES:
            images = stack(case, count, side)
            engines[threads].flow(*images)  # compile, start threads
            turns, limits = [], []
            for _ in range(repeats):
                turns.append(turn(lambda n, images=images, engines=engines: seconds(engines[n], images), threads))
                limits.append(turn(lambda n: control_seconds(2 * threads, n), threads))
            alone, together = (count / float(np.median(column)) for column in zip(*turns, strict=True))
            rates = {"1 thread": alone, f"{threads} threads": together}
            table[name][case] = {**rates, "factor": compare(turns), "arithmetic": compare(limits)}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=32, help="a multiple of the threads, else one of them waits")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_threads.json")
    options = parser.parse_args()

    table = measure(options.pairs, options.repeats, options.threads)
    print(
        f"{'engine':12}{'pairs':8}{'1 thread/s':>12}{f'{options.threads} threads/s':>13}{'factor':>8}{'arithmetic':>12}"
    )
    for name, cases in table.items():
        for case, row in cases.items():
            alone, together, factor, limit = row.values()
            print(f"{name:12}{case:8}{alone:12.2f}{together:13.2f}{factor:8.2f}{limit:12.2f}")

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "pairs": options.pairs, "repeats": options.repeats, "pairs_per_second": table}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
