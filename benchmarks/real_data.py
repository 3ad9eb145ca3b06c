"""STSTNet on real flow of 3db, leave one subject out: what it scores, and how far seeds and looking move that.

    python benchmarks/real_data.py MAPS.npz [--seeds 0 1 2]

MAPS.npz holds 28x28 maps of u, v and strain of the 442 clips (docs/real-data.md says how it must look).  The training is
that of docs/real-data.md.  Of the first seed: scores of the last epoch, 95 % intervals over subjects (low, high), the
confusion matrix (truth by row), and under "oracle (leaky)" the scores when each subject's epoch is chosen on that very
subject.  Of all seeds: mean, standard deviation, least and most.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from flow_engines import RESULTS, machine
from real_models import STSTNET

from mepipe.progress import say
from mepipe.settings import TrainConfig
from mepipe.shards import list_shards
from mepipe.shards.importing import import_npz
from mepipe.workspace import Workspace
from mepipe_model.evaluate import LEAKY, run_metrics
from mepipe_model.runs import find_run
from mepipe_model.seeds import Spread
from mepipe_model.statistics import FIGURES
from mepipe_model.train import train_run

CONFIG = TrainConfig(**STSTNET, data=("3db",), protocol="loso", select="oracle", weights="none", threads=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("maps", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("real-work"), help="workspace; what is trained stays there")
    parser.add_argument("--out", type=Path, default=RESULTS / "real_data.json")
    args = parser.parse_args()
    ws = Workspace(args.work)
    if not list_shards(ws.flow):
        import_npz(ws.flow, args.maps)
    configs = [replace(CONFIG, seed=seed, jobs=args.jobs) for seed in args.seeds]
    metrics = [run_metrics(find_run(ws, train_run(ws, config, say=say).folder)) for config in configs]
    seeds = ", ".join(map(str, args.seeds))
    report = {
        "machine": machine(),
        f"seed {args.seeds[0]}": of_one(metrics[0]),
        "confusion": confusion(metrics[0]),
        **({f"seeds {seeds}": of_all(metrics)} if len(metrics) > 1 else {}),
    }
    say(json.dumps(report, indent=2))
    args.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def apart(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores of all clips and of each corpus."""
    return {"all": metrics, **metrics["per_corpus"]}


def of_one(metrics: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Corpus -> scores of the last epoch, their intervals, and what looking at the test subject makes of them."""
    leaky = apart(metrics[LEAKY])
    table = {}
    for name, scores in apart(metrics).items():
        row = {"clips": scores["clips"], **{figure: round(scores[figure], 4) for figure in FIGURES}}
        for figure in FIGURES:
            row[f"{figure} low"], row[f"{figure} high"] = (round(x, 4) for x in scores["interval"][figure])
        table[name] = row | {f"{LEAKY} {figure}": round(leaky[name][figure], 4) for figure in FIGURES}
    return table


def confusion(metrics: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Truth -> prediction -> clips."""
    labels, matrix = metrics["confusion"]["labels"], metrics["confusion"]["matrix"]
    return {truth: dict(zip(labels, row, strict=True)) for truth, row in zip(labels, matrix, strict=True)}


def of_all(metrics: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Corpus -> mean, standard deviation, least and most of the seeds."""
    table: dict[str, dict[str, float]] = {}
    for prefix, found in (("", metrics), (f"{LEAKY} ", [m[LEAKY] for m in metrics])):
        for name in apart(metrics[0]):
            for figure in FIGURES:
                spread = Spread.of([apart(m)[name][figure] for m in found])
                facts = {"": spread.mean, " sd": spread.sd, " least": spread.min, " most": spread.max}
                row = {f"{prefix}{figure}{what}": round(value, 4) for what, value in facts.items()}
                table[name] = table.get(name, {}) | row
    return table


if __name__ == "__main__":
    sys.exit(main())
