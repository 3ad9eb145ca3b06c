"""Mean error of every apex spotter on made-up aligned clips, by amplitude of the motion.

    python benchmarks/apex.py [--clips 24] [--seed 0]

Clips are those of mepipe.apex.trials: 24 to 100 frames after the onset, the apex 0.2 to 0.8 of the way,
noise of 2 grey levels, flicker of 1 %, head drift of up to 0.8 px, JPEG.  The seeds are not those that
the default was designed on.  Cost: CPU time of one clip of 70 frames with OpenCV on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
from flow_engines import RESULTS, machine

from mepipe import apex
from mepipe.apex.trials import Trial, trial

AMPLITUDES = (0.3, 0.6, 1.0, 1.5)  # px of a 224x224 crop
FIRST_SEED = 10_000  # design used seeds below 1000
HARD = {  # at 1 px: what else a real clip can have
    "drift 4 px": {"drift": 4.0},
    "noise 5": {"noise": 5.0, "flicker": 0.03},
    "8-20 frames": {"lengths": (8, 20)},
}


def columns(clips: int, seed: int) -> dict[str, list[Trial]]:
    """Column name -> its clips."""
    seeds = range(FIRST_SEED + seed * clips, FIRST_SEED + (seed + 1) * clips)
    plain = {f"{a:g} px": [trial(s, a) for s in seeds] for a in AMPLITUDES}
    return plain | {name: [trial(s, 1.0, **how) for s in seeds] for name, how in HARD.items()}


def mean_errors(trials: dict[str, list[Trial]]) -> dict[str, dict[str, float]]:
    """Method -> column -> mean absolute error in frames."""
    table: dict[str, dict[str, float]] = {}
    for method in apex.SPOTTERS:
        table[method] = {
            name: float(np.mean([abs(apex.spot(t.crops, method) - t.apex) for t in column]))
            for name, column in trials.items()
        }
        print(f"{method:12}" + "".join(f"{v:12.2f}" for v in table[method].values()), flush=True)
    return table


def cost() -> dict[str, float]:
    """Method -> CPU seconds for a clip of 70 frames, the best of three."""
    crops = trial(FIRST_SEED, 1.0, lengths=(69, 69)).crops
    out = {}
    for method in apex.SPOTTERS:
        times = []
        for _ in range(3):
            before = time.process_time()
            apex.spot(crops, method)
            times.append(time.process_time() - before)
        out[method] = min(times)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24, help="per column")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "apex.json")
    options = parser.parse_args()

    cv2.setNumThreads(1)
    trials = columns(options.clips, options.seed)
    print(f"{'method':12}" + "".join(f"{name:>12}" for name in trials))
    table = mean_errors(trials)
    seconds = cost()
    print("\nCPU s for 70 frames: " + ", ".join(f"{m} {s:.2f}" for m, s in seconds.items()))

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "clips": options.clips, "seed": options.seed,
              "mean_error_frames": table, "cpu_s_70_frames": seconds}  # fmt: skip
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
