"""Spotting in made-up videos of a minute: F1 by the MEGC rule, time, memory, what tracking costs beside detecting.

    python benchmarks/spot.py [--seeds 1 2 3] [--seconds 60] [--videos FOLDER]

Each video has 60 s at 100 fps of 640x480 with 12 micro-expressions of 0.3 to 2 px (at 224 px face scale), 12 blinks and
6 head sways (`mepipe synth-video`). Settings were chosen on the seeds 100, 101 and 102; those measured here were not
looked at meanwhile. CPU time is of all threads, decoding included: below the video's length one core alone keeps up.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from flow_engines import RESULTS, machine

from mepipe.spot import SpotConfig, read_truth, spot
from mepipe.spot.reading import open_source
from mepipe.spot.run import finder
from mepipe.spot.scoring import Score
from mepipe.spot.tracking import FaceTracker
from mepipe.synth.video import make_video


def measure(path: Path, truth: Path) -> tuple[dict[str, float], Score]:
    """One video: its score, times and this process's largest memory so far."""
    before, began = time.process_time(), time.monotonic()
    result = spot(path).against(read_truth(truth))
    cpu, wall = time.process_time() - before, time.monotonic() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    score = result.scored
    assert score is not None
    row = {"f1": score.f1, "found": score.tp, "false": score.fp, "missed": score.fn, "video s": result.seconds,
           "cpu s": cpu, "wall s": wall, "memory MB": memory}  # fmt: skip
    return row, score


def tracking(path: Path, frames: int = 200) -> dict[str, float]:
    """CPU ms a frame of following a face and of finding it anew, and how far each wanders from frame to frame.

    Wandering: the root mean square of the second difference of the crop's centre, in px of the 224 px crop; a head
    moves smoothly, so what is left is the method's own.
    """
    config = SpotConfig()
    find, source = finder(config), open_source(path)
    tracker, centres = FaceTracker(find, source.fps), {"tracked": [], "detected": []}
    spent = dict.fromkeys(centres, 0.0)
    first = find(source.read(0))
    for number in range(frames):
        image = source.read(number)
        start = time.process_time()
        seen = tracker.see(number, image)
        middle = time.process_time()
        matrix = find(image)
        spent["detected"] += time.process_time() - middle
        spent["tracked"] += middle - start
        assert seen is not None
        centres["tracked"].append(2 * seen.pose[:2])
        # where the source point that the first frame's crop is centred on lies
        centre = np.linalg.solve(matrix[:, :2], (112, 112) - matrix[:, 2])
        centres["detected"].append(first[:, :2] @ centre + first[:, 2])
    out = {}
    for name, track in centres.items():
        wander = np.diff(np.array(track), 2, axis=0)
        out |= {f"{name} ms": 1000 * spent[name] / frames, f"{name} wander px": float(np.sqrt((wander**2).mean()))}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--videos", type=Path, help="keep the videos here, 450 MB a minute; default: nowhere")
    parser.add_argument("--out", type=Path, default=RESULTS / "spot.json")
    options = parser.parse_args()

    cv2.setNumThreads(1)
    rows, total = {}, Score(0, 0, 0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.videos or Path(temporary)
        for seed in options.seeds:
            path = folder / f"v{seed}.avi"
            if not path.exists():
                print(make_video(path, seconds=options.seconds, seed=seed), flush=True)
            rows[f"seed {seed}"], score = measure(path, path.with_suffix(".truth.csv"))
            total += score
            print(seed, {k: round(v, 3) for k, v in rows[f"seed {seed}"].items()}, flush=True)
        followed = tracking(path)
    print(f"pooled: {total}\n{followed}")
    report = {"machine": machine(), "f1 pooled": total.f1, "videos": rows, "following a face": followed}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
