"""What the flow of a clip (one 224 x 224 pair) costs on one CPU core, for each engine and for what others use.

    python benchmarks/flow_engines.py [--repeats 5] [--pad 16] [--no-compile] [--out FILE]

CPU time of one thread in milliseconds, median over repeats; methods take turns, so that a busy machine slows all
alike.  Beside the engines: torch in its readable form ("plain") and with compile=True, its first minutes not counted;
OpenCV's TV-L1 without padding, as the flow step of the public micro-expression tools calls it; scikit-image's TV-L1;
and Farneback's method, which solves another and easier problem.  Factors are times faster than engine opencv on the
same pair in the same run.  The goals are 8 (noisy) and 5 (clean) for native, 2 for torch.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from flow_pairs import SIDE, pair

from mepipe.errors import MepipeError
from mepipe.flow import ENGINES, TVL1Params, get_engine
from mepipe.flow.engine import Engine
from mepipe.settings import cores
from mepipe.workspace import versions

CASES = {"clean": (0.5, 0.0), "noisy": (0.5, 1.5)}  # peak motion px, noise grey levels
RESULTS = Path(__file__).parent / "results"

Method = Callable[[np.ndarray, np.ndarray], object]


def methods(params: TVL1Params, compiled: bool) -> dict[str, Method]:
    """Name -> function of (onset, apex), each on one thread; ``compiled``: with torch's compiled form."""
    cv2.setNumThreads(1)
    found: dict[str, Method] = {}
    for name in ENGINES:
        if engine := usable(name):
            found[name] = flow_by(engine, params)
    if "torch" in found:
        import torch

        torch.set_num_threads(1)
        found["torch, plain"] = flow_by(get_engine("torch", plain=True), params)
        if compiled and (engine := usable("torch", compile=True)):
            found["torch, compiled"] = flow_by(engine, params)
    found["OpenCV, no padding"] = flow_by(get_engine("opencv", threads=1), replace(params, pad=0))
    from skimage.registration import optical_flow_tvl1

    found["scikit-image"] = lambda a, b: optical_flow_tvl1(a / 255.0, b / 255.0, dtype=np.float32)
    # window 15, three levels, polynomial of 5 and 1.2: the values of OpenCV's own example
    found["Farneback"] = lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    return found


def usable(name: str, threads: int = 1, **options: object) -> Engine | None:
    """The engine on the CPU with ``threads`` threads, if it runs here."""
    try:
        engine = get_engine(name, "cpu", **options)
    except MepipeError as e:
        print(f"{name}: left out, {e}")
        return None
    return get_engine(name, "cpu", threads=threads) if engine.callers else engine


def flow_by(engine: Engine, params: TVL1Params) -> Method:
    return lambda onset, apex: engine.flow(onset[None], apex[None], params)


def measure(repeats: int, params: TVL1Params, side: int = SIDE, compiled: bool = False) -> dict[str, dict[str, float]]:
    """Method -> case -> median CPU milliseconds of a pair."""
    runs = methods(params, compiled)
    pairs = {case: pair(peak, noise, side)[:2] for case, (peak, noise) in CASES.items()}
    for run in runs.values():
        run(*pairs["clean"])  # compile, load libraries, make arrays
    times: dict[str, dict[str, list[float]]] = {name: {case: [] for case in CASES} for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            for case, images in pairs.items():
                started = time.process_time()
                run(*images)
                times[name][case].append((time.process_time() - started) * 1e3)
    return {name: {case: float(np.median(t)) for case, t in cases.items()} for name, cases in times.items()}


def factors(times: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Method -> case -> times faster than opencv."""
    return {name: {case: times["opencv"][case] / ms for case, ms in cases.items()} for name, cases in times.items()}


def machine() -> dict[str, object]:
    """When and on what the figures were taken."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    packages = versions("numpy", "opencv-contrib-python", "torch", "numba", "scikit-image")
    return {"date": today, "cpu": cpu_name(), "cores": cores(), "python": platform.python_version(), **packages}


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
    parser.add_argument("--no-compile", action="store_true", help="leave out torch's compiled form")
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_engines.json")
    options = parser.parse_args()

    times = measure(options.repeats, TVL1Params(pad=options.pad), compiled=not options.no_compile)
    here = machine()
    print(", ".join(f"{k} {v}" for k, v in here.items()))
    faster = factors(times)
    print("CPU ms per clip (one pair)")
    print(f"{'method':20}" + "".join(f"{case + ' ms':>12}{'x opencv':>10}" for case in CASES))
    for name, cases in times.items():
        print(f"{name:20}" + "".join(f"{cases[case]:12.1f}{faster[name][case]:10.2f}" for case in CASES))

    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": here, "pad": options.pad, "repeats": options.repeats,
              "cpu_ms_per_pair": times, "times_faster_than_opencv": faster}  # fmt: skip
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
