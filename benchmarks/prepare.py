"""How fast `mepipe prepare` is, and how much memory a worker takes.

    python benchmarks/prepare.py [--clips 400] [--jobs 2]

A corpus in CASME II's layout with onset and apex frames only (640x480 JPEG), made from a few made-up clips by
linking their files.  Prints clips per second (start-up included and without) and the largest memory of a worker.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import openpyxl

from mepipe import get_corpus
from mepipe.prepare import prepare_corpus
from mepipe.settings import PrepareConfig, cores
from mepipe.synth import make_corpus
from mepipe.workspace import Workspace, versions

HEADER = [
    "Subject",
    "Filename",
    None,
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    None,
    "Action Units",
    "Estimated Emotion",
]


def linked_corpus(seed_corpus: Path, raw: Path, clips: int) -> None:
    """``clips`` clips whose onset and apex frames are links to those of ``seed_corpus``."""
    sources = [c for c in get_corpus("casme2").clips(seed_corpus) if c.frames]
    book = openpyxl.Workbook()
    book.active.append(HEADER)
    for n in range(clips):
        c = sources[n % len(sources)]
        subject, name = f"{n // 20 + 1:02d}", f"EP{n:05d}"
        folder = raw / "CASME2_RAW_selected" / f"sub{subject}" / name
        folder.mkdir(parents=True)
        for frame in (c.onset, c.apex):
            os.link(c.frames / f"img{frame}.jpg", folder / f"img{frame}.jpg")
        book.active.append([subject, name, None, c.onset, c.apex, c.offset, None, c.aus, c.emotion])
    book.save(raw / "CASME2-coding-20140508.xlsx")


def largest_child() -> int:
    """The largest memory any living child process has had so far, in kB (VmHWM; getrusage counts the parent's too)."""
    largest = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if facts["PPid"].strip() == str(os.getpid()) and "VmHWM" in facts:
            largest = max(largest, int(facts["VmHWM"].split()[0]))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=cores())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        make_corpus("casme2", here / "few", subjects=4, clips=2)
        linked_corpus(here / "few", here / "raw", options.clips)
        first: list[float] = []
        memory = 0

        def tick(done: int, total: int) -> None:
            nonlocal memory
            first.append(time.monotonic())
            if done % 20 == 0 or done == total:
                memory = max(memory, largest_child())

        start = time.monotonic()
        summary = prepare_corpus(
            Workspace(here / "work"),
            get_corpus("casme2"),
            here / "raw",
            PrepareConfig(jobs=options.jobs),
            tick,
        )
        seconds = time.monotonic() - start
    steady = (len(first) - 1) / (first[-1] - first[0])
    result = {
        "clips": options.clips,
        "jobs": options.jobs,
        "refused": summary.counts["refused"],
        "seconds": round(seconds, 1),
        "clips_per_second": round(options.clips / seconds, 1),
        "clips_per_second_after_start": round(steady, 1),
        "worker_megabytes": round(memory / 1024),
        "machine": f"{platform.machine()}, {cores()} cores",
        "versions": versions("opencv-contrib-python", "dlib-bin", "numpy"),
    }
    print(json.dumps(result, indent=2))
    (Path(__file__).parent / "results" / "prepare.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
