"""End-point error (px, mean over the face) of flow methods on pairs with known motion.

    python benchmarks/flow_epe.py [--seeds 1] [--out benchmarks/results/flow_epe.json]

Columns: peak motion in px, c = clean, n = with sensor noise of 1.5 grey levels in both frames.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from flow_engines import RESULTS, machine
from flow_pairs import end_point_error, pair
from skimage.registration import optical_flow_tvl1

from mepipe.errors import MepipeError
from mepipe.flow import ENGINES, TVL1Params, get_engine

PEAKS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0)
NOISES = {"c": 0.0, "n": 1.5}
VARIANTS = {  # of the first engine in ENGINES, which is OpenCV
    "no padding": TVL1Params(pad=0),
    "fixed iterations": TVL1Params(fixed=True),
    "epsilon 0.001": TVL1Params(epsilon=0.001),
    "lambda 0.05": TVL1Params(lambda_=0.05),
    "no median": TVL1Params(median=0),
}
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def methods() -> dict[str, Method]:
    """Name -> function of (onset, apex) that gives (2, H, W) flow."""
    found: dict[str, Method] = {}
    for name in ENGINES:
        try:
            engine = get_engine(name, "cpu")
        except MepipeError as e:
            print(f"{name}: left out, {e}")
            continue
        found[f"tvl1 {name}"] = lambda a, b, e=engine: e.flow(a[None], b[None])[0, :2]
    # every engine gives these within the bounds of docs/flow.md; the fastest one computes them
    fast = get_engine("native" if "tvl1 native" in found else "opencv")
    for label, params in VARIANTS.items():
        found[f"tvl1 {label}"] = lambda a, b, p=params: fast.flow(a[None], b[None], p)[0, :2]
    found["scikit-image tvl1"] = scikit_image
    found["Farneback"] = farneback
    found["DIS medium"] = dis
    found["zero flow"] = lambda a, b: np.zeros((2, *a.shape), np.float32)
    return found


def scikit_image(onset: np.ndarray, apex: np.ndarray) -> np.ndarray:
    """Its defaults; it returns (row, column)."""
    return optical_flow_tvl1(onset / 255.0, apex / 255.0, dtype=np.float32)[::-1]


def farneback(onset: np.ndarray, apex: np.ndarray) -> np.ndarray:
    """Window 15, three levels, polynomial of 5 and 1.2: the values of OpenCV's own example."""
    return cv2.calcOpticalFlowFarneback(onset, apex, None, 0.5, 3, 15, 3, 5, 1.2, 0).transpose(2, 0, 1)


def dis(onset: np.ndarray, apex: np.ndarray) -> np.ndarray:
    solver = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return solver.calc(onset, apex, None).transpose(2, 0, 1)


def measure(seeds: int) -> dict[str, dict[str, float]]:
    """Method -> column -> mean end-point error."""
    table: dict[str, dict[str, float]] = {name: {} for name in methods()}
    for peak in PEAKS:
        for letter, noise in NOISES.items():
            pairs = [pair(peak, noise, seed=seed) for seed in range(seeds if noise else 1)]
            for name, method in methods().items():
                errors = [end_point_error(method(onset, apex), truth).mean() for onset, apex, truth in pairs]
                table[name][f"{peak:g}{letter}"] = float(np.mean(errors))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="noise drawn this many times")
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_epe.json")
    options = parser.parse_args()

    table = measure(options.seeds)
    columns = list(next(iter(table.values())))
    print(f"{'method':24}" + "".join(f"{c:>8}" for c in columns))
    for name, row in table.items():
        print(f"{name:24}" + "".join(f"{row[c]:8.4f}" for c in columns))

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "seeds": options.seeds, "error_px": table}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
