"""How long a 224 x 224 pair takes on one CPU core, for each engine and for scikit-image's TV-L1.

    python benchmarks/flow_engines.py [--repeats 5] [--pad 16] [--out benchmarks/results/flow_engines.json]

CPU time of one thread, median over repeats; methods take turns, so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flow_pairs import pair

from mepipe.errors import MepipeError
from mepipe.flow import ENGINES, TVL1Params, get_engine

CASES = {"clean": (0.5, 0.0), "noisy": (0.5, 1.5)}  # peak motion px, noise grey levels
RESULTS = Path(__file__).parent / "results"


def methods(params: TVL1Params) -> dict[str, Callable[[np.ndarray, np.ndarray], object]]:
    """Name -> function of (onset, apex), each on one thread."""
    found: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {}
    for name in ENGINES:
        try:
            engine = get_engine(name, "cpu")
        except MepipeError as e:
            print(f"{name}: left out, {e}")
            continue
        if hasattr(engine, "threads"):
            engine.threads = 1
        found[name] = lambda a, b, engine=engine: engine.flow(a[None], b[None], params)
    if "torch" in found:
        import torch

        torch.set_num_threads(1)
    from skimage.registration import optical_flow_tvl1

    found["scikit-image"] = lambda a, b: optical_flow_tvl1(a / 255.0, b / 255.0, dtype=np.float32)
    return found


def measure(repeats: int, params: TVL1Params) -> dict[str, dict[str, float]]:
    """Method -> case -> median CPU milliseconds of a pair."""
    runs = methods(params)
    pairs = {case: pair(peak, noise)[:2] for case, (peak, noise) in CASES.items()}
    for run in runs.values():
        run(*(image[:64, :64] for image in pairs["clean"]))  # compile, load libraries
    times: dict[str, dict[str, list[float]]] = {name: {case: [] for case in CASES} for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            for case, images in pairs.items():
                started = time.process_time()
                run(*images)
                times[name][case].append((time.process_time() - started) * 1e3)
    return {name: {case: float(np.median(t)) for case, t in cases.items()} for name, cases in times.items()}


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    from importlib.metadata import version

    packages = ("numpy", "opencv-contrib-python", "torch", "numba", "scikit-image")
    return {"cpu": cpu_name(), "python": platform.python_version(), **{p: version(p) for p in packages}}


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pad", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_engines.json")
    options = parser.parse_args()

    times = measure(options.repeats, TVL1Params(pad=options.pad))
    here = machine()
    print(", ".join(f"{k} {v}" for k, v in here.items()))
    print(f"{'method':14}" + "".join(f"{case + ' ms':>12}{'x opencv':>10}" for case in CASES))
    for name, cases in times.items():
        ratios = {case: times["opencv"][case] / cases[case] for case in CASES}
        print(f"{name:14}" + "".join(f"{cases[case]:12.1f}{ratios[case]:10.2f}" for case in CASES))

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": here, "pad": options.pad, "repeats": options.repeats, "cpu_ms_per_pair": times}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
