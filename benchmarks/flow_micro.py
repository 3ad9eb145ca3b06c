"""End-point error (px, mean over the crop) of the micro preset on noisy sub-pixel motion, on people not tuned on.

    python benchmarks/flow_micro.py [--people held-out] [--engine native] [--out benchmarks/results/flow_micro.json]
    python benchmarks/flow_micro.py --search 100      # random search on the tuning people, prints the best

Texture  made-up people (mepipe.synth), clean, as 224 x 224 crops of the face box
Motion   an expression drawn for each (action units as Gaussian bumps), scaled to the peak of the column
Truth    exact: the apex is the crop and the onset is sampled from the same picture at x + flow(x), by cubic spline
Noise    Gaussian with the stated sigma in grey levels, drawn for each frame, then 8 bits
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from flow_engines import RESULTS, machine
from flow_pairs import SIDE, end_point_error
from scipy.ndimage import map_coordinates

from mepipe.flow import TVL1Params, get_engine
from mepipe.flow.images import average_frames
from mepipe.synth.corpora import WRITERS
from mepipe.synth.identity import MARGIN, SUPERSAMPLE, canvas_of, identity
from mepipe.synth.motion import draw_expression
from mepipe.synth.seeds import stream

PEAKS = (0.1, 0.25, 0.5, 1.0, 2.0)  # px
NOISES = (0.0, 1.0, 2.0)  # grey levels
GOAL = [(peak, noise) for peak in (0.1, 0.25, 0.5) for noise in (1.0, 2.0)]  # what the preset is for
FRAMES = 3  # of the last row: averaged around onset and around apex

Person = tuple[str, int, int, str]  # corpus, seed, subject, expression
Pair = tuple[np.ndarray, np.ndarray, np.ndarray]  # onsets and apexes (FRAMES, H, W) uint8, flow (2, H, W)
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]

PEOPLE: dict[str, tuple[Person, ...]] = {
    "tuning": (
        ("casme2", 100, 0, "happiness"),
        ("casme2", 100, 1, "surprise"),
        ("casme2", 100, 2, "disgust"),
        ("casme2", 100, 3, "repression"),
        ("samm", 100, 1, "anger"),
        ("samm", 100, 2, "happiness"),
        ("samm", 101, 6, "fear"),
        ("casme2", 101, 7, "contempt"),
        ("casme2", 102, 8, "anger"),
        ("smic-hs", 101, 2, "sadness"),
    ),
    "held-out": (  # other seeds: other faces, colours, cameras, places and sizes of the pushes
        ("casme2", 970, 4, "happiness"),
        ("casme2", 970, 5, "others"),
        ("casme2", 971, 6, "surprise"),
        ("samm", 970, 3, "contempt"),
        ("samm", 971, 4, "sadness"),
        ("samm", 972, 5, "disgust"),
        ("smic-hs", 970, 0, "fear"),
        ("smic-hs", 971, 1, "repression"),
    ),
}


@cache
def scene(person: Person) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The picture a person is sampled from, the (x, y) in it of every crop pixel, and the motion with peak 1."""
    corpus, seed, subject, expression = person
    who = identity(WRITERS.get(corpus).camera, seed, corpus, subject)
    canvas = canvas_of(who).astype(float)
    grey = canvas if canvas.ndim == 2 else canvas @ [0.114, 0.587, 0.299]
    along = np.arange(SIDE) * (who.side / SIDE)
    x, y = (who.face_box[axis] + along for axis in (0, 1))
    bumps = draw_expression(stream(seed, corpus, subject, "micro", expression), expression, who).bumps
    flow = bumps.on_grid(x.astype(np.float32), y.astype(np.float32)).transpose(2, 0, 1).astype(float)
    places = (np.stack(np.meshgrid(x, y)) + MARGIN) * SUPERSAMPLE
    return grey, places, flow / np.hypot(*flow).max()


def make_pair(person: Person, peak: float, noise: float, seed: int) -> Pair:
    grey, places, unit = scene(person)
    step = (places[0, 0, 1] - places[0, 0, 0]) * peak  # crop px to picture px
    apex, onset = (map_coordinates(grey, at[::-1], order=3, mode="nearest") for at in (places, places + step * unit))
    rng = np.random.default_rng(seed)
    return _frames(onset, noise, rng), _frames(apex, noise, rng), peak * unit


def _frames(image: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    noisy = image + noise * rng.standard_normal((FRAMES, *image.shape))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def methods(engine: str) -> dict[str, Method]:
    """Name -> function of (onsets, apexes) that gives (2 or 3, H, W) flow."""
    solver = get_engine(engine, threads=1)

    def with_params(params: TVL1Params) -> Method:
        return lambda onsets, apexes: solver.flow(onsets[:1], apexes[:1], params)[0]

    def averaged(onsets: np.ndarray, apexes: np.ndarray) -> np.ndarray:
        return solver.flow(average_frames(onsets)[None], average_frames(apexes)[None], TVL1Params.micro())[0]

    return {
        "zero flow": lambda onsets, apexes: np.zeros((2, *onsets.shape[1:])),
        "OpenCV's default (pad 0)": with_params(TVL1Params(pad=0)),
        "default preset (pad 16)": with_params(TVL1Params()),
        "micro preset": with_params(TVL1Params.micro()),
        f"micro, {FRAMES} frames averaged": averaged,
    }


def errors(
    found: dict[str, Method], people: Sequence[Person], columns: Sequence[tuple[float, float]]
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Method -> column -> end-point error, mean over the people; and method -> median CPU ms of a noisy pair."""
    table: dict[str, dict[str, float]] = {name: {} for name in found}
    times: dict[str, list[float]] = {name: [] for name in found}
    for peak, noise in columns:
        pairs = [make_pair(person, peak, noise, seed) for seed, person in enumerate(people, 1)]
        for name, method in found.items():
            off = []
            for onsets, apexes, truth in pairs:
                started = time.process_time()
                flow = method(onsets, apexes)
                times[name] += [1e3 * (time.process_time() - started)] if noise else []
                off.append(end_point_error(flow, truth).mean())
            table[name][f"{peak:g}/{noise:g}"] = float(np.mean(off))
    return table, {name: float(np.median(t)) for name, t in times.items()}


def search(tries: int, seed: int) -> None:
    """Random parameters on the tuning people; the smallest mean ratio to OpenCV's default is the best."""
    rng = np.random.default_rng(seed)
    solver = get_engine("native", threads=1)
    pairs = [make_pair(p, *column, n) for column in GOAL for n, p in enumerate(PEOPLE["tuning"], 1)]

    def mean_errors(params: TVL1Params) -> np.ndarray:
        off = [end_point_error(solver.flow(a[:1], b[:1], params)[0], truth).mean() for a, b, truth in pairs]
        return np.reshape(off, (len(GOAL), -1)).mean(axis=1)

    usual = mean_errors(TVL1Params(pad=0))
    tried = []
    for _ in range(tries):
        params = draw(rng)
        found = mean_errors(params)
        tried.append((float((found / usual).mean()), params, found))
    for score, params, found in sorted(tried, key=lambda t: t[0])[:10]:
        print(f"{score:.3f}", np.round(found, 4), dict(params.as_dict().items() - TVL1Params().as_dict().items()))


def draw(rng: np.random.Generator) -> TVL1Params:
    """Somewhere in the box that was searched."""
    return TVL1Params(
        lambda_=float(np.exp(rng.uniform(np.log(0.03), np.log(0.4)))),
        theta=float(np.exp(rng.uniform(np.log(0.08), np.log(1.2)))),
        nscales=int(rng.choice([1, 2, 5])),
        warps=int(rng.choice([1, 2, 5])),
        epsilon=float(rng.choice([0.0, 0.002, 0.006])),
        inner=int(np.exp(rng.uniform(np.log(30), np.log(250)))),
        outer=int(rng.choice([1, 2, 3, 5])),
        median=int(rng.choice([0, 5])),
        scale_step=float(rng.choice([0.5, 0.8])),
        smooth=float(rng.choice([0.0, 0.5, 0.8])),
        pad=int(rng.choice([0, 16])),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", choices=list(PEOPLE), default="held-out")
    parser.add_argument("--engine", default="native", help="native or opencv")
    parser.add_argument("--search", type=int, metavar="N", help="try N random settings on the tuning people instead")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--out", type=Path, default=RESULTS / "flow_micro.json")
    options = parser.parse_args()
    if options.search:
        search(options.search, options.seed)
        return

    columns = [(peak, noise) for noise in NOISES for peak in PEAKS]
    table, times = errors(methods(options.engine), PEOPLE[options.people], columns)
    print(f"{'peak px / noise':26}" + "".join(f"{c:>9}" for c in next(iter(table.values()))) + f"{'CPU ms':>9}")
    for name, row in table.items():
        print(f"{name:26}" + "".join(f"{value:9.4f}" for value in row.values()) + f"{times[name]:9.1f}")

    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine(), "people": options.people, "engine": options.engine}
    report = {**facts, "micro": TVL1Params.micro().as_dict(), "error_px": table, "cpu_ms": times}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
