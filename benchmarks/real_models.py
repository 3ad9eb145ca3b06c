"""Models on real flow of 3db, without leaks: the settings under which MERba does best there, and how it compares.

    python benchmarks/real_models.py MAPS.npz search [--only ROW...]
    python benchmarks/real_models.py MAPS.npz judge [--only ROW...]

MAPS.npz holds 28x28 maps of u, v and strain of the 442 clips (docs/real-data.md says how it must look).  search: trial
settings of merba_tiny on 2 of 5 folds of whole subjects, seed 0; one may choose by these.  judge: each row on all
folds of seeds 1, 2 and 3; what is reported is pooled over the people who were tested in no fold of the search, so no
figure of judge was seen when the settings were chosen.  UF1, UAR: mean over seeds; sd: of seeds; low and high: 95 %
interval over subjects of the first seed; against: UF1 less STSTNet's, the seeds' mean; by seed: of each seed, with its
95 % interval by a paired bootstrap over subjects.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from flow_engines import RESULTS, machine

from mepipe.progress import say
from mepipe.settings import TrainConfig
from mepipe.shards import list_shards
from mepipe.shards.importing import import_npz
from mepipe.workspace import Workspace
from mepipe_model.evaluate import score
from mepipe_model.runs import Prediction, find_run
from mepipe_model.statistics import compare
from mepipe_model.train import train_run

SEARCHED, SEEDS = 2, (1, 2, 3)  # folds of seed 0; seeds that are judged
COMMON: dict[str, Any] = {"data": ("3db",), "protocol": "kfold", "k": 5, "weights": "none", "threads": 1}
STSTNET: dict[str, Any] = {"model": "ststnet", "epochs": 40, "batch_size": 32, "lr": 5e-4, "order": "shuffled"}
# A quarter as wide as published, 16 times fewer products: at its full width an epoch takes a minute and more of a core
HTNET = STSTNET | {"model": "htnet", "epochs": 20, "lr": 2e-4, "options": ("dim=64",)}
REAL: dict[str, Any] = {"model": "merba_tiny", "epochs": 40, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.1}
FIRM = ("drop_rate=0.2", "drop_path=0.3")
SMOOTH = "label_smoothing=0.1"
SHIFTED: dict[str, Any] = {"options": ("input_size=28", *FIRM, SMOOTH), "shift": 1 / 14}
LARGER = SHIFTED | {"options": ("input_size=56", *FIRM, SMOOTH)}
TRIALS: dict[str, dict[str, Any]] = {
    "ststnet": STSTNET,
    "28 px, dropped": REAL | {"options": ("input_size=28", *FIRM)},
    "28 px, dropped, noise": REAL | {"options": ("input_size=28", *FIRM, SMOOTH), "noise": 0.3},
    "28 px, dropped, shift": REAL | SHIFTED,
    "28 px, dropped, noise, shift": REAL | SHIFTED | {"noise": 0.3},
    "28 px, dropped, shift, balanced": REAL | SHIFTED | {"class_weights": "balanced"},
    "28 px, dropped, shift, 80 epochs": REAL | SHIFTED | {"epochs": 80},
    "28 px, dropped, shift, SAM": REAL | SHIFTED | {"sam": 0.05},
    "56 px, dropped, shift": REAL | LARGER,
    "28 px, dropped, shift, SAM 0.1": REAL | SHIFTED | {"sam": 0.1},
    "56 px, dropped, shift, SAM": REAL | LARGER | {"sam": 0.05},
    "56 px, dropped, shift, SAM 0.1": REAL | LARGER | {"sam": 0.1},
    "ststnet, SAM": STSTNET | {"sam": 0.05},
    "htnet, a quarter as wide": HTNET,
}
CHOSEN = "28 px, dropped, shift, SAM"  # by the search; the preset merba_maps
JUDGED = {name: TRIALS[name] for name in ("ststnet", "ststnet, SAM", CHOSEN, "htnet, a quarter as wide")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("maps", type=Path)
    parser.add_argument("what", choices=("search", "judge"))
    parser.add_argument("--only", nargs="+", help="these rows; the others stay as they are")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("real-work"), help="workspace; what is trained stays there")
    args = parser.parse_args()
    ws = Workspace(args.work)
    if not list_shards(ws.flow):
        import_npz(ws.flow, args.maps)
    path = RESULTS / "real_models.json"
    report: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {"search": [], "judge": []}
    table = TRIALS if args.what == "search" else JUDGED
    rows = {row["row"]: row for row in report[args.what]}
    for name in args.only or table:
        settings = TrainConfig(**COMMON | {"jobs": args.jobs} | table[name])
        rows[name] = {"row": name} | (searched if args.what == "search" else judged)(ws, settings)
        say(json.dumps(rows[name]))
        report = {**report, "machine": machine(), args.what: [rows[n] for n in table if n in rows]}
        path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def searched(ws: Workspace, config: TrainConfig) -> dict[str, Any]:
    """The scores of the first folds of seed 0."""
    scores = score(*trained(ws, config, 0, SEARCHED))
    return figures([scores]) | {"clips": scores["clips"]}


def judged(ws: Workspace, config: TrainConfig) -> dict[str, Any]:
    """The scores of all folds of the other seeds, over the people whom the search did not test."""
    seen = {(r.corpus, r.subject) for r in trained(ws, TrainConfig(**COMMON | STSTNET), 0, SEARCHED)[0]}
    found = [fresh(trained(ws, config, seed), seen) for seed in SEEDS]
    base = [fresh(trained(ws, TrainConfig(**COMMON | STSTNET), seed), seen) for seed in SEEDS]
    scores = [score(rows, classes) for rows, classes in found]
    against = [compare(rows, other, classes) for (rows, classes), (other, _) in zip(found, base, strict=True)]
    gain = [c.differences["UF1"] for c in against]
    low, high = scores[0]["interval"]["UF1"]
    return figures(scores) | {
        "low": round(low, 3), "high": round(high, 3), "clips": scores[0]["clips"],
        "against": round(statistics.fmean(d.difference for d in gain), 4),
        "by seed": ", ".join(f"{d.difference:+.3f} ({d.interval[0]:+.3f} to {d.interval[1]:+.3f})" for d in gain),
    }  # fmt: skip


def trained(
    ws: Workspace, config: TrainConfig, seed: int, folds: int | None = None
) -> tuple[list[Prediction], tuple[str, ...]]:
    """Predictions of a run, or of its first folds, trained where they are not yet, and the classes."""
    numbers = folds and ",".join(str(n + 1) for n in range(folds))
    run = find_run(ws, train_run(ws, replace(config, seed=seed, folds=numbers), say=say).folder)
    return run.predictions(folds=run.fold_ids[:folds]), run.classes


def fresh(
    of: tuple[list[Prediction], tuple[str, ...]], seen: set[tuple[str, str]]
) -> tuple[list[Prediction], tuple[str, ...]]:
    """The predictions of people who are not in ``seen``."""
    rows, classes = of
    return [r for r in rows if (r.corpus, r.subject) not in seen], classes


def figures(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the spread where there are several."""
    out = {name: round(statistics.fmean(s[name] for s in scores), 4) for name in ("UF1", "UAR", "ACC")}
    return out | ({"sd": round(statistics.stdev(s["UF1"] for s in scores), 4)} if len(scores) > 1 else {})


if __name__ == "__main__":
    sys.exit(main())
