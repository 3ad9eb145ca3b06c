"""How closely the engines agree with OpenCV, and OpenCV with itself, over many pairs of 224 x 224.

    python benchmarks/flow_agreement.py [--draws 8] [--out benchmarks/results/flow_agreement.json]

Difference of the flow in px.  "opencv, perturbed": the same pair with noise of 1e-4 grey levels, the size of
float rounding; no engine can agree better than that.  "late stops": pairs whose mean differs by over 1e-3 px,
because some warp ran an iteration more or less.  "outside": pairs beyond what docs/flow.md promises at default
settings: a mean of 2e-4 px, a 99th percentile of 2e-3, a largest difference of 0.05.  draws: of the noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from flow_engines import RESULTS, machine
from flow_epe import NOISES, PEAKS
from flow_pairs import end_point_error, pair

from mepipe.errors import MepipeError
from mepipe.flow import ENGINES, TVL1Params, get_engine

SETTINGS = {
    "default": TVL1Params(),
    "fixed": TVL1Params(fixed=True),
    "pad 0": TVL1Params(pad=0),
}
PERTURBATION = 1e-4  # grey levels
MEAN, P99, WORST = 2e-4, 2e-3, 0.05  # px


def perturbed(images: np.ndarray) -> np.ndarray:
    """``images`` as float32 grey in 0..1 with noise of rounding size."""
    rng = np.random.default_rng(0)
    noisy = images + PERTURBATION * rng.standard_normal(images.shape)
    return np.clip(noisy / 255, 0, 1).astype(np.float32)


def differences(onset: np.ndarray, apex: np.ndarray, params: TVL1Params) -> dict[str, np.ndarray]:
    """Name -> (pairs, H, W) px from OpenCV's flow."""
    opencv = get_engine("opencv")
    found = {"opencv, perturbed": opencv.flow(perturbed(onset), perturbed(apex), params)}
    forms = {name: (name, {}) for name in ENGINES if name != "opencv"}
    forms["torch, compiled"] = "torch", {"compile": True}
    for form, (name, options) in forms.items():
        try:
            found[form] = get_engine(name, "cpu", **options).flow(onset, apex, params)
        except MepipeError as e:
            print(f"{form}: left out, {e}")
    reference = opencv.flow(onset, apex, params)
    return {name: end_point_error(flow, reference) for name, flow in found.items()}


def summary(difference: np.ndarray) -> dict[str, float]:
    """(pairs, H, W) px -> figures; mean and 99th percentile are medians over the pairs."""
    means, worst = difference.mean(axis=(1, 2)), difference.max(axis=(1, 2))
    p99 = np.percentile(difference, 99, axis=(1, 2))
    return {
        "mean": float(np.median(means)),
        "p99": float(np.median(p99)),
        "max": float(difference.max()),
        "worst mean": float(means.max()),
        "late stops": int((means > 1e-3).sum()),
        "outside": int(((means > MEAN) | (p99 > P99) | (worst > WORST)).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_agreement.json")
    options = parser.parse_args()

    torch.set_num_threads(1)  # threads that wait in a spin slow a busy machine down
    pairs = [
        pair(peak, noise, seed=draw)
        for peak in PEAKS
        for noise in NOISES.values()
        for draw in range(options.draws if noise else 1)
    ]
    onset, apex = (np.stack([p[i] for p in pairs]) for i in (0, 1))
    table = {
        label: {name: summary(d) for name, d in differences(onset, apex, params).items()}
        for label, params in SETTINGS.items()
    }
    columns = ("mean", "p99", "max", "worst mean", "late stops", "outside")
    print(f"{'settings':10}{'engine':20}" + "".join(f"{c:>12}" for c in columns))
    for label, rows in table.items():
        for name, row in rows.items():
            print(f"{label:10}{name:20}" + "".join(f"{value:12.2g}" for value in row.values()))

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "pairs": len(pairs), "difference_px": table}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
