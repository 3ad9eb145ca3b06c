"""The work on many clips: worker processes for them, and what only all of them together can tell.

A face whose size does not fit its subject's is looked at again, expecting that size.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from mepipe.clipwork import ClipTask, Context, Record, prepare_clip, start_worker
from mepipe.datasets.base import Clip
from mepipe.executors import EXECUTORS, WorkerDied
from mepipe.faces.find import fits
from mepipe.settings import PrepareConfig, cores

ENOUGH = 5  # clips needed before a median says anything


def map_clips(tasks: list[ClipTask], config: PrepareConfig, context: Context) -> Iterator[tuple[int, Record]]:
    """(index, record) of every task, as they are done; a clip that kills its worker twice is refused."""
    jobs = max(1, min(config.jobs or cores(), len(tasks)))
    run = EXECUTORS.get(config.executor)
    for i, result in run(prepare_clip, tasks, jobs, setup=start_worker, setup_args=(config, context)):
        if isinstance(result, WorkerDied):
            yield i, Record.of(tasks[i].clip, status="refused", reason=str(result))
        else:
            yield i, result


def second_look(
    folder: Path, clips: list[Clip], records: list[Record], config: PrepareConfig, context: Context
) -> list[Record]:
    """Redo the clips whose face is far from its subject's usual size, expecting that size."""
    if config.detector == "given":
        return records
    usual = usual_widths(records)
    odd = {
        i: usual[r.subject]
        for i, r in enumerate(records)
        if r.box and r.subject in usual and not fits(r.box[2], usual[r.subject])
    }
    if not odd:
        return records
    tasks = [ClipTask(clips[i], folder, force=True, expected_width=width) for i, width in odd.items()]
    where = list(odd)
    out = list(records)
    for n, record in map_clips(tasks, config, context):
        out[where[n]] = record
    return out


def usual_widths(records: list[Record]) -> dict[str, float]:
    """Median box width by subject, of the whole corpus where a subject has too few clips; {} when all have too few."""
    by_subject: dict[str, list[float]] = {}
    for r in records:
        if r.box:
            by_subject.setdefault(r.subject, []).append(r.box[2])
    return usual_of(by_subject)


def usual_of(by_subject: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """``usual_widths`` of subject -> the widths of its faces."""
    everyone = [w for widths in by_subject.values() for w in widths]
    if len(everyone) < ENOUGH:
        return {}
    corpus = median(everyone)
    return {s: median(widths) if len(widths) >= ENOUGH else corpus for s, widths in by_subject.items()}


def drop_refused(folder: Path, records: list[Record]) -> None:
    """Remove crops that an earlier state left for a clip that is refused now.

    A repeated row is refused under the name of the clip it repeats, whose crops stay.
    """
    kept = {(r.subject, r.clip) for r in records if r.status != "refused"}
    for subject, clip in {(r.subject, r.clip) for r in records} - kept:
        shutil.rmtree(folder / subject / clip, ignore_errors=True)
