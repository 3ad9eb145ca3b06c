"""Shards of faces from prepared micro-expression corpora: the apex crop, or the sequence from onset to offset.

For models that read an image or a sequence of a micro-expression: the crops are those that ``mepipe prepare`` left,
their landmarks those of the onset frame, taken through the clip's one transform.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mepipe.clipfiles import RECORD
from mepipe.cliptable import read_records
from mepipe.clipwork import AROUND, Context, Record
from mepipe.datasets.facecorpus import FaceClip
from mepipe.errors import DataError
from mepipe.executors import process_team
from mepipe.faces import align
from mepipe.facesets.run import FaceSummary, Job
from mepipe.facesets.work import Making, make_face, start_worker
from mepipe.frames import FrameFolder
from mepipe.limits import read_json
from mepipe.merging import merge_lost
from mepipe.prepare import wanted
from mepipe.progress import Progress
from mepipe.settings import FacesConfig, PrepareConfig, cores
from mepipe.shards import Faces
from mepipe.workspace import Workspace, make_folder, sweep, versions

PREPARED = "prepared"  # how the shards say that their crops are those of mepipe prepare


def faces_of_crops(
    ws: Workspace,
    corpora: Sequence[str] = (),
    config: FacesConfig | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> list[FaceSummary]:
    """Write the apex images, or the sequences, of all that is prepared, or of ``corpora``, into shards of faces.

    Parameters
    ----------
    ws
        Where the prepared corpora lie and the shards go.
    corpora
        Only these.
    config
        None is all defaults.
    progress
        progress(done, total) counts the clips of a corpus.
    say
        say(line) is told which corpus is next.

    Returns
    -------
    list[FaceSummary]
        One for each corpus.

    Raises
    ------
    DataError
        Nothing is prepared, or only onset and apex were kept where sequences are meant.
    """
    config = config or FacesConfig()
    names, out = wanted(ws, corpora), []
    for name in names:
        if (lost := merge_lost(ws, name)) and say:
            say(lost)
    with ws.lock("faces"):
        sweep(make_folder(ws.faces))
        for name in names:
            if say:
                say(f"{config.kind}s of {name}")
            out.append(_one(ws, name, config, progress))
    return out


def _one(ws: Workspace, corpus: str, config: FacesConfig, progress: Progress | None) -> FaceSummary:
    started = time.monotonic()
    length = config.length if config.kind == "sequence" else None
    context = Context("", None, align.METHOD_VERSION, 0, versions("opencv-contrib-python", "numpy"))
    making = Making(PREPARED, length, context)
    folder = ws.prepared(corpus)
    clips = [clip_of(r, folder / r.subject / r.clip, length) for r in read_records(folder) if r.status != "refused"]
    worker = PrepareConfig(detector="none", force=config.force)
    job = Job(ws.faces, corpus, Faces(length), making, worker, progress)
    jobs = max(1, min(config.jobs or cores(), len(clips)))
    with process_team(make_face, jobs, setup=start_worker, setup_args=(worker, making)) as team:
        records = job.run(clips, team)
    seconds = time.monotonic() - started
    return FaceSummary(corpus, records, seconds, sum(r.reused for r in records), ws.faces, job.paths)


def clip_of(record: Record, folder: Path, length: int | None) -> FaceClip:
    """A prepared clip as a face: its apex crop, or its folder of crops.

    Raises DataError where a sequence is meant and only onset and apex were kept.
    """
    apex = folder / f"{record.apex}.png"
    if length is not None and folder.is_dir():
        check_sequence(record, FrameFolder(folder).numbers)
    return FaceClip(
        record.corpus, record.subject, record.clip, record.onset, record.apex, record.offset, record.fps,
        record.emotion, label3=record.label3, label7=record.label7, split=record.split, where=f"{record.clip}",
        frames=folder if length is not None else apex, points=landmarks_of(folder),
    )  # fmt: skip


def check_sequence(record: Record, numbers: Sequence[int]) -> None:
    near = {(n or 0) + d for n in (record.onset, record.apex) for d in range(-AROUND, AROUND + 1)}
    span = (record.offset or 0) - (record.onset or 0) + 1
    if not set(numbers) - near and span > len(numbers):
        what = f"{record.corpus} {record.subject}/{record.clip}: {len(numbers)} aligned frames of {span} were kept"
        raise DataError(what, do=f"run mepipe prepare {record.corpus} RAW --frames all")


def landmarks_of(folder: Path) -> tuple[tuple[float, float], ...]:
    """The 68 landmarks of a prepared clip in px of its crop; () where it has none."""
    try:
        said = read_json(folder / RECORD) or {}
        points, matrix = np.array(said["landmarks"], float), np.array(said["matrix"], float)
    except (DataError, ValueError, KeyError, TypeError):
        return ()
    if points.shape != (68, 2) or matrix.shape != (2, 3) or not np.isfinite(points @ matrix[:, :2].T).all():
        return ()
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return tuple((float(x), float(y)) for x, y in moved)
