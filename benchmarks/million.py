"""What a corpus of up to a million clips costs before and after the work: planning, resume check, status, merge.

    python benchmarks/million.py [--clips 1000 10000 100000 1000000] [--tasks 1000]

A made-up manifest, no pixels: N clips of N / 100 subjects (10 at least), prepared by `--tasks` parts, in shards of 64
clips (empty files), sent as `--tasks` array tasks.  Every step runs in a process of its own; cpu_s is its user and
system time without its imports, peak_mb the most memory that the process had, libraries and all.
plan prepare   who does which clip, and the mark of the parts
plan flow      from clips.csv to the shards and to the clips of one task
plan train     5 groups of subjects, their training and test clips, the run's fingerprint
resume         which parts of prepare and which shards of flow are there
status         `mepipe status` of three jobs
merge          the parts of prepare to clips.csv, with a look at the size of every face
The goal at a million clips: each under 60 s and 1 GB.  Results go to results/million.json, a plot of the growth to
docs/images/million.svg.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from flow_engines import RESULTS, machine

from mepipe.cliptable import cells
from mepipe.clipwork import Context, Record
from mepipe.datasets import get_corpus
from mepipe.datasets.base import Clip
from mepipe.flow.cut import cuts_of
from mepipe.jobs import status
from mepipe.jobs.job import DONE, Job, job_folder
from mepipe.merging import merge_parts, own_places, part_mark
from mepipe.preparedparts import read_parts, write_part
from mepipe.settings import PrepareConfig
from mepipe.shards import Sample
from mepipe.shares import Share
from mepipe.workspace import Workspace, digest, write_text
from mepipe_model.protocols import make_folds

PLOT = RESULTS.parents[1] / "docs/images/million.svg"
CORPUS = "casme2"
SHARD = 64  # clips of a shard, as FlowConfig has it
CONTEXT = Context("dlib", None, 1, 1, {})
LABELS = ("negative", "positive", "surprise")


def names(n: int, clips: int) -> tuple[str, str]:
    """Subject and name of clip ``n`` of ``clips``."""
    return f"s{n % max(10, clips // 100):05d}", f"c{n:07d}"


def record(n: int, clips: int) -> Record:
    subject, clip = names(n, clips)
    return Record(
        CORPUS, subject, clip, 1, 40, 90, 200.0, "happiness", LABELS[n % 3], "happiness", "", "annotated", "ok", "",
        "AU12", "dlib", "landmarks68", 1.25, (100.0, 80.0, 210.0 + n % 7, 210.0), 81.5, f"{n:032x}",
    )  # fmt: skip


def annotation(clips: int) -> list[Clip]:
    facts = (1, 40, 90, 200.0, "happiness")
    return [Clip(CORPUS, *names(n, clips), *facts, label3=LABELS[n % 3]) for n in range(clips)]


@mock.patch("mepipe.workspace.fsync", new=mock.Mock())  # what is made up need not outlive a power cut
def lay_out(ws: Workspace, clips: int, tasks: int) -> None:
    """The workspace after the last part of everything, and before any merge."""
    folder = ws.prepared(CORPUS)
    settings = {"settings": PrepareConfig().as_dict(), "raw": "raw"}
    for i in range(1, tasks + 1):
        share = Share(i, tasks)
        rows = ((n, list(cells(record(n, clips)))) for n in range(i - 1, clips, tasks))
        write_part(folder, share, rows, "mark", clips, settings)
    ws.flow.mkdir()
    for n in range(-(-clips // SHARD)):
        (ws.flow / f"{CORPUS}-{n:05d}.h5").touch()
    for command in ("prepare", "flow", "train"):
        job = Job(job_folder(ws, command), command, [], {}, tasks, "mark")
        job.save()
        for i in range(1, tasks + 1):
            job.say(i, DONE, attempt=1, seconds=1.0)


def plan_prepare(ws: Workspace, clips: int, tasks: int) -> int:
    found = annotation(clips)
    part_mark(found, PrepareConfig(), CONTEXT)
    return len(own_places(found, Share(1, tasks)))


def plan_flow(ws: Workspace, clips: int, tasks: int) -> int:
    (cut,) = cuts_of(ws, [CORPUS], SHARD, Share(1, tasks))
    return len(cut.own_records)


def plan_train(ws: Workspace, clips: int, tasks: int) -> int:
    samples = [Sample(CORPUS, *names(n, clips), label3=LABELS[n % 3], key=f"{n:032x}") for n in range(clips)]
    digest([[s.key, s.subject, n % 3] for n, s in enumerate(samples)])
    return sum(len(f.train) + len(f.test) for f in make_folds("kfold", samples, k=5, seed=0))


def resume(ws: Workspace, clips: int, tasks: int) -> int:
    shards = [ws.flow / f"{CORPUS}-{n:05d}.h5" for n in range(-(-clips // SHARD))]
    return len(read_parts(ws.prepared(CORPUS))) + sum(path.is_file() for path in shards)


def look(ws: Workspace, clips: int, tasks: int) -> int:
    found = status(ws)
    found.lines()
    return sum(len(job.tasks) for job in found.jobs)


def merge(ws: Workspace, clips: int, tasks: int) -> int:
    assert merge_parts(ws, get_corpus(CORPUS))
    return clips


STEPS: dict[str, Callable[[Workspace, int, int], int]] = {
    "plan prepare": plan_prepare, "merge": merge, "plan flow": plan_flow, "plan train": plan_train, "resume": resume,
    "status": look,
}  # fmt: skip  # merge before plan flow, which reads what it has written


def measured(step: str, folder: Path, clips: int, tasks: int) -> dict[str, float]:
    """One step in a process of its own."""
    words = [sys.executable, __file__, "--step", step, str(folder), "--clips", str(clips), "--tasks", str(tasks)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def run_step(step: str, folder: Path, clips: int, tasks: int) -> None:
    before, started = time.process_time(), time.perf_counter()
    STEPS[step](Workspace(folder), clips, tasks)
    facts = {"cpu_s": round(time.process_time() - before, 3), "wall_s": round(time.perf_counter() - started, 3)}
    print(json.dumps({**facts, "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))


def draw(found: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mepipe"  # the same figures give the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, what, goal, label in zip(
        axes, ("cpu_s", "peak_mb"), (60, 1024), ("CPU time (s)", "peak memory (MB)"), strict=True
    ):
        for step, rows in found.items():
            axis.loglog([int(n) for n in rows], [row[what] for row in rows.values()], marker="o", label=step)
        axis.axhline(goal, color="grey", linestyle=":", label="goal")
        axis.set(xlabel="clips", ylabel=label)
    axes[0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "million.json")
    options = parser.parse_args()
    if options.step:
        run_step(options.step[0], Path(options.step[1]), options.clips[0], options.tasks)
        return
    found: dict[str, dict[str, Any]] = {step: {} for step in STEPS}
    for clips in options.clips:
        with tempfile.TemporaryDirectory() as folder:
            tasks = min(options.tasks, clips)
            lay_out(Workspace(folder), clips, tasks)
            for step in STEPS:
                found[step][str(clips)] = measured(step, Path(folder), clips, tasks)
                print(f"{clips:>8} {step:13} {found[step][str(clips)]}", flush=True)
    write_text(options.out, json.dumps({"machine": machine(), "tasks": options.tasks, "steps": found}, indent=2) + "\n")
    draw(found, PLOT if options.out.parent == RESULTS else options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
