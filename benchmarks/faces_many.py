"""Many small clips through prepare: how fast, in how much memory, and how fast again when nothing has changed.

    python benchmarks/faces_many.py [--clips 20000] [--frames 16] [--jobs N] [--json benchmarks/results/faces_many.json]

The corpus is made up: one hundred drawn clips in clip-folder's layout, and hard links for the rest, so that it
takes little room and every clip is read and cropped for itself.  Faces are looked for with --detect only.  Prepared
twice: clips a second, the most memory of this process so far at a quarter, the half and the end, that of the
largest worker, and the seconds of the second run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from flow_engines import RESULTS, machine

from mepipe import get_corpus
from mepipe.facesets import prepare_faces
from mepipe.settings import PrepareConfig
from mepipe.shards import open_shards
from mepipe.synth import make_corpus
from mepipe.workspace import Workspace

DRAWN = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--frames", type=int, default=16, help="of a sequence")
    parser.add_argument("--jobs", type=int, default=None, help="worker processes")
    parser.add_argument("--detect", action="store_true", help="look for faces and landmarks too")
    parser.add_argument("--folder", type=Path, help="where the corpus and the shards go; default: a temporary one")
    parser.add_argument("--json", type=Path, default=RESULTS / "faces_many.json", help="write the rows here")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        raw = many(place, args.clips)
        rows = [measured(place, raw, args)]
    finally:
        shutil.rmtree(place)
    report = {"machine": machine(), "clips": args.clips, "frames": args.frames, "rows": rows}
    args.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def many(place: Path, clips: int) -> Path:
    """A corpus of ``clips`` clips: DRAWN of them drawn, the others with hard links to their frames."""
    drawn, raw = place / "drawn", place / "raw"
    make_corpus("clip-folder", drawn, subjects=DRAWN // 4, clips=4)
    sources = sorted(p.parent for p in drawn.glob("*/*/*/00000.jpg"))
    for n in range(clips):
        source = sources[n % len(sources)]
        folder = raw / source.parent.relative_to(drawn) / f"clip{n:06d}"
        folder.mkdir(parents=True)
        for frame in source.iterdir():
            os.link(frame, folder / frame.name)
    return raw


def measured(place: Path, raw: Path, args: argparse.Namespace) -> dict[str, object]:
    ws, corpus = Workspace(place / "work"), get_corpus("clip-folder")
    detect = {"detector": "dlib", "crop": "aligned"} if args.detect else {"detector": "none", "crop": "as-is"}
    config = PrepareConfig(jobs=args.jobs, length=args.frames, **detect)
    marks: dict[int, float] = {}

    def progress(done: int, total: int) -> None:
        for part in (25, 50, 100):
            if done * 100 >= part * total and part not in marks:
                marks[part] = round(memory(), 1)
                print(f"{part} %: {marks[part]} MB", flush=True)

    started = time.monotonic()
    summary = prepare_faces(ws, corpus, raw, config, progress)
    first = time.monotonic() - started
    started = time.monotonic()
    again = prepare_faces(ws, corpus, raw, config)
    second = time.monotonic() - started
    size = sum(p.stat().st_size for p in summary.shards) / 1e9
    row = {
        "clips": len(summary.records), "counts": summary.counts, "detect": args.detect, "seconds": round(first, 1),
        "clips_per_second": round(len(summary.records) / first, 1), "megabytes": marks,
        "worker_megabytes": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
        "shards": len(summary.shards), "gigabytes": round(size, 2), "again_seconds": round(second, 1),
        "again_reused": again.reused, "samples": len(open_shards(ws.faces)),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def memory() -> float:
    """Most resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
