"""Batches of random sizes, images, parameters, paddings and initial flows: where an engine is not OpenCV to the bit.

    python benchmarks/flow_fuzz.py [--seconds 120] [--seed 0] [--compiled]

Sides of 16 to 149 px, 1 to 4 pairs, motion of 0 to 20 px, noise, uint8 or float32, every parameter of TV-L1 drawn
from a few values, paddings of 0 to 16 px, and for a third of the batches an initial flow of noise of up to 50 px,
which lets one wrong bit grow to tens of px.  native, and with --compiled torch in compiled loops (the first use
compiles for two minutes), against cv2 >= 5.  differ: batches with any difference; outside: those with one above
0.05 px; largest: px.  A batch that differs is printed with its settings.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from flow_engines import RESULTS, machine

from mepipe.flow import TVL1Params, get_engine

CHOICES: dict[str, tuple[Any, ...]] = {
    "pad": (0, 1, 2, 3, 8, 16),
    "gamma": (0.0, 0.0, 0.05, 0.2),
    "median": (1, 3, 5),
    "scale_step": (0.5, 0.7, 0.8, 0.9),
    "epsilon": (0.001, 0.01, 0.05),
    "lambda_": (0.05, 0.15, 0.4),
    "tau": (0.1, 0.25),
    "theta": (0.1, 0.3, 0.5),
    "fixed": (False, False, False, True),
    "smooth": (0.0, 0.0, 1.0),
    "nscales": (1, 2, 3, 4, 5, 6),
    "warps": (1, 2, 3, 4, 5),
    "inner": (1, 5, 12, 30),
    "outer": (1, 2, 3),
}


def drawn(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict[str, Any], np.ndarray | None]:
    """(onsets, apexes, settings, initial flow or None) of one batch."""
    count, height, width = rng.integers(1, 5), *rng.integers(16, 150, 2)
    texture = [
        cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), rng.uniform(0.5, 4)) for _ in range(count)
    ]
    onsets = [np.clip(cv2.normalize(t, None, 0, 1, cv2.NORM_MINMAX), 0, 1).astype(np.float32) for t in texture]
    far, noise = rng.choice([0, 0.3, 1, 3, 20]), rng.choice([0, 0.004, 0.02])
    apexes = [np.clip(moved(rng, onset, far) + noise * rng.standard_normal(onset.shape), 0, 1) for onset in onsets]
    pair = [np.stack(images).astype(np.float32) for images in (onsets, apexes)]
    if rng.random() < 0.6:
        pair = [np.round(255 * images).astype(np.uint8) for images in pair]
    settings = {name: values[rng.integers(len(values))] for name, values in CHOICES.items()}
    start = None
    if rng.random() < 0.3:
        start = (rng.choice([0.1, 1, 50]) * rng.standard_normal((count, 2, height, width))).astype(np.float32)
    return pair[0], pair[1], settings, start


def moved(rng: np.random.Generator, image: np.ndarray, far: float) -> np.ndarray:
    """``image`` under a smooth field of up to ``far`` px."""
    field = cv2.GaussianBlur(rng.standard_normal((*image.shape, 2)), (0, 0), 8)
    field *= far / max(np.abs(field).max(), 1e-9)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    where = (field + np.stack([x, y], -1)).astype(np.float32)
    return cv2.remap(image, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def measure(engine: str, seconds: float, seed: int, **options: Any) -> dict[str, float]:
    rng, wrong, batches = np.random.default_rng(seed), [], 0
    ours, theirs = get_engine(engine, **options), get_engine("opencv")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        onsets, apexes, settings, start = drawn(rng)
        params = TVL1Params(**settings)
        off = float(np.abs(ours.flow(onsets, apexes, params, start) - theirs.flow(onsets, apexes, params, start)).max())
        batches += 1
        if off:
            wrong.append(off)
            started = "" if start is None else ", from a flow"
            print(f"{engine} batch {batches}: {off:.2g} px, {onsets.shape} {onsets.dtype}{started}, {settings}")
    return {
        "batches": batches,
        "differ": len(wrong),
        "outside": sum(w > 0.05 for w in wrong),
        "largest": max(wrong, default=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compiled", action="store_true", help="torch in compiled loops too")
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_fuzz.json")
    options = parser.parse_args()
    table = {"native": measure("native", options.seconds, options.seed)}
    if options.compiled:
        table["torch, compiled"] = measure("torch", options.seconds, options.seed, compile=True)
    print(json.dumps(table, indent=2))
    report = {"machine": machine(), "seed": options.seed, "against opencv": table}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
