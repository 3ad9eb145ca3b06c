"""Whether saliency points at what truly moved: made-up clips, explained by models that had not seen the subject.

    python benchmarks/saliency.py [--subjects 8] [--clips 6] [--seed 3]

The corpus is that of `mepipe synth casme2 RAW --subjects 8 --clips 6 --seed 3`, prepared, TV-L1, each model trained by
its own recipe but for what its row names.  Right: the region with the highest score truly moves at least half as much
as the one that moves most.  The truth is the expression alone, without the head's drift, in the regions of the clip's
own landmarks.  Two rows have no model: the flow's length itself, and a region taken blindly.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from flow_engines import RESULTS, machine

from mepipe.datasets import get_corpus
from mepipe.faces.align import SIZE
from mepipe.flow.run import flow_corpora
from mepipe.prepare import prepare_corpus
from mepipe.progress import say
from mepipe.settings import FlowConfig, PrepareConfig, TrainConfig
from mepipe.shards import open_shards
from mepipe.synth import SyntheticClip, make_corpus, synthetic_clip
from mepipe.workspace import Workspace
from mepipe_model.saliency import by_region, explain_run, landmarks_of, region_map
from mepipe_model.train import train_run

CORPUS = "casme2"
MODELS: dict[str, tuple[TrainConfig, str]] = {  # row -> how it is trained, how it is explained
    f"merba_tiny, kfold {k}, seed {seed}": (
        TrainConfig(data=(CORPUS,), model="merba_tiny", protocol="kfold", k=k, seed=seed),
        "integrated",
    )
    for k, seed in ((4, 0), (4, 1), (4, 2), (2, 0), (2, 1))  # folds of 36 and of 24 training clips
} | {"ststnet, loso, 30 epochs": (TrainConfig(data=(CORPUS,), model="ststnet", epochs=30), "gradient")}
Truth = dict[tuple[str, str], np.ndarray]  # (subject, clip) -> (regions,) mean true motion in px


def truth_of(ws: Workspace, options: argparse.Namespace) -> Truth:
    """How far each region of each clip truly moves, by the expression alone."""
    out: Truth = {}
    for i in range(options.subjects):
        for j in range(options.clips):
            made = synthetic_clip(CORPUS, options.seed, i, j)
            folder = ws.prepared(CORPUS) / made.plan.subject / made.plan.name
            matrix = np.array(json.loads((folder / "clip.json").read_text("utf-8"))["matrix"])
            moved = np.hypot(*expression(made, matrix))
            out[made.plan.subject, made.plan.name] = by_region(moved, region_map(landmarks_of(folder)))
    return out


def expression(made: SyntheticClip, matrix: np.ndarray) -> np.ndarray:
    """Onset to apex without the head's drift, (2, 224, 224) px of the crop."""
    height, width = made.displacement(made.apex).shape[:2]
    alone = made._expression.bumps.on_grid(*(np.arange(n, dtype=np.float32) for n in (width, height)))
    return (cv2.warpAffine(alone, matrix, (SIZE, SIZE)) @ matrix[:, :2].T).transpose(2, 0, 1)


def shares(truth: Truth, score: Callable[[tuple[str, str]], np.ndarray]) -> tuple[float, float]:
    """Percent of the clips whose region of the highest score is a moved one, and is the one that moves most."""
    best = {key: int(score(key).argmax()) for key in truth}
    right = [moved[best[key]] >= 0.5 * moved.max() for key, moved in truth.items()]
    very = [best[key] == moved.argmax() for key, moved in truth.items()]
    return round(100 * float(np.mean(right)), 1), round(100 * float(np.mean(very)), 1)


def of_model(ws: Workspace, name: str, truth: Truth) -> dict[str, Any]:
    config, method = MODELS[name]
    outcome = train_run(ws, config, say=say)
    assert outcome.metrics is not None
    found = explain_run(ws, outcome.folder, method=method)
    at = {(subject, clip): n for n, (_, subject, clip) in enumerate(found.clips)}
    seen = {key: moved for key, moved in truth.items() if key in at}
    right, very = shares(seen, lambda key: found.regions[at[key]])
    occlusion, _ = shares(seen, lambda key: found.occlusion[at[key]])
    return {"clips": len(seen), "UF1": round(outcome.metrics["UF1"], 2), "method": method, "right_attribution": right,
            "right_occlusion": occlusion, "the_very_region": very}  # fmt: skip


def without_model(ws: Workspace, truth: Truth) -> dict[str, dict[str, Any]]:
    """The two rows to hold the models against."""
    lengths: Truth = {}
    with contextlib.closing(open_shards(ws.flow, [CORPUS], channels=3)) as shards:
        for n, s in enumerate(shards.samples):
            points = landmarks_of(ws.prepared(CORPUS) / s.subject / s.clip)
            lengths[s.subject, s.clip] = by_region(shards.flow(n)[2], region_map(points))
    right, very = shares({key: truth[key] for key in lengths}, lengths.__getitem__)
    moved = [float((truth[key] >= 0.5 * truth[key].max()).mean()) for key in lengths]
    return {
        "the flow's length itself": {"clips": len(lengths), "right_attribution": right, "the_very_region": very},
        "a region taken blindly": {
            "clips": len(lengths),
            "right_attribution": round(100 * float(np.mean(moved)), 1),
            "the_very_region": round(100 / len(next(iter(truth.values()))), 1),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--clips", type=int, default=6, help="of each subject")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "saliency.json")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="mepipe-saliency-") as folder:
        ws, raw = Workspace(Path(folder) / "work"), Path(folder) / "raw"
        make_corpus(CORPUS, raw, subjects=options.subjects, clips=options.clips, seed=options.seed)
        prepare_corpus(ws, get_corpus(CORPUS), raw, PrepareConfig())
        flow_corpora(ws, (CORPUS,), FlowConfig())
        truth = truth_of(ws, options)
        rows = without_model(ws, truth)
        for name in MODELS:
            rows[name] = of_model(ws, name, truth)
            print(name, rows[name], flush=True)
    for name, row in rows.items():
        print(f"{name:26}  {row}")
    report = {"machine": machine(), "subjects": options.subjects, "clips": options.clips, "seed": options.seed,
              "percent": rows}  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
