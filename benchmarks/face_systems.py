"""MS-VSSM, MSSTNet and FERMam from an empty folder to a prediction, each on its own kind of corpus, made up.

    python benchmarks/face_systems.py [--only MODEL] [--jobs N]

Each row is the commands of a user, with the small preset and its own recipe: `mepipe synth`, `prepare`, `train`,
`evaluate`, and `predict` on a second made-up corpus of people whom nobody has seen (seed 1).  The expressions are
plain ones, no micro-expressions.  acc and uar: of the test parts, people not trained on; new: accuracy of `predict`
on the new people; chance: the share of the largest class of the test part.  cpu_s: CPU seconds of all commands
together, which other work on the machine hardly changes; *_s: seconds of each by the clock.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from flow_engines import RESULTS, machine

from mepipe.synth import synthetic_clip

NEW = 1  # seed of the people who are only predicted
NEW_CLIPS = 40  # of them


@dataclass(frozen=True)
class System:
    """A model, its kind of corpus, and what the commands are given beside their names."""

    model: str
    corpus: str
    synth: tuple[str, ...]
    train: tuple[str, ...]
    prepare: tuple[str, ...] = ()


SYSTEMS = (
    System("fermam_tiny", "rafdb", ("--subjects", "40"), ("--protocol", "holdout")),
    System("msstnet_tiny", "dfew", ("--subjects", "20"), ("--protocol", "folds", "--classes", "7")),
    System("ms_vssm_tiny", "deap", ("--subjects", "12"), ("--protocol", "kfold", "--k", "3"), ("--length", "4")),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[s.model for s in SYSTEMS], help="one row; the others stay as they are")
    parser.add_argument("--jobs", default="2", help="worker processes of prepare and train")
    args = parser.parse_args()
    path = RESULTS / "face_systems.json"
    known = json.loads(path.read_text("utf-8"))["rows"] if path.is_file() else []
    rows = {row["model"]: row for row in known}
    for system in SYSTEMS:
        if args.only in (None, system.model):
            with tempfile.TemporaryDirectory() as place:
                rows[system.model] = measured(system, Path(place), args.jobs)
                print(json.dumps(rows[system.model]), flush=True)
    report = {"machine": machine(), "rows": [rows[s.model] for s in SYSTEMS if s.model in rows]}
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def measured(system: System, place: Path, jobs: str) -> dict[str, object]:
    """One row: the commands one after the other in the empty folder ``place``."""
    seconds: dict[str, float] = {}
    before = cpu_seconds()

    def run(command: str, *words: str) -> str:
        started = time.monotonic()
        said = subprocess.run(
            [sys.executable, "-m", "mepipe", command, *words], cwd=place, check=True, text=True, stdout=subprocess.PIPE
        )
        seconds[f"{command}_s"] = round(time.monotonic() - started, 1)
        return said.stdout

    run("synth", system.corpus, "new", "--seed", str(NEW))
    run("synth", system.corpus, "raw", *system.synth)
    run("prepare", system.corpus, "raw", *system.prepare, "--jobs", jobs)
    run("train", "--data", system.corpus, "--model", system.model, *system.train, "--jobs", jobs)
    name = next((place / "mepipe-work" / "runs").iterdir()).name
    scores = json.loads(run("evaluate", name, "--json"))
    truth = new_people(system.corpus, place / "new")
    answers = json.loads(run("predict", name, *truth, "--json"))["answers"]  # in their order, when none is refused
    right = [a["prediction"].casefold() == t.casefold() for a, t in zip(answers, truth.values(), strict=True)]
    classes = Counter(p["true"] for p in predictions(place / "mepipe-work" / "runs" / name))
    return {
        "model": system.model, "corpus": system.corpus, "samples": sum(classes.values()),
        "chance": round(max(classes.values()) / sum(classes.values()), 3), "acc": round(scores["ACC"], 3),
        "uar": round(scores["UAR"], 3), "new": round(sum(right) / len(right), 3), "new_clips": len(right),
        "cpu_s": round(cpu_seconds() - before), **seconds,
    }  # fmt: skip


def cpu_seconds() -> float:
    """Of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def new_people(corpus: str, raw: Path) -> dict[str, str]:
    """What `predict` is given, relative to the folder of ``raw``, and what it truly shows."""
    with (raw / "truth.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:NEW_CLIPS]
    plans = [synthetic_clip(corpus, NEW, int(r["subject_index"]), int(r["clip_index"])).plan for r in rows]
    return {str(Path(raw.name) / plan.folder): plan.emotion for plan in plans}


def predictions(run: Path) -> list[dict[str, str]]:
    """The rows of a run's predictions."""
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())
