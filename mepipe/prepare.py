"""Corpus -> aligned crops and clips.csv.

Per clip, in a worker process: settle onset and apex on the frames that exist, find the face on the
onset frame, estimate one transform, spot the apex where it is missing, write the crops into a
temporary folder and rename it.  A clip whose inputs and settings are unchanged is not touched.
Then, over the corpus: a face whose size does not fit its subject's is looked at again.

With --shard I/N all but the last happens for a part of the clips; ``merge_parts`` does the rest once all are done.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mepipe.cliptable import read_records
from mepipe.clipwork import ClipTask, Context, Record, needed_frames, settle_frames
from mepipe.corpuswork import drop_refused, map_clips, second_look
from mepipe.datasets.base import Clip, Corpus
from mepipe.errors import DataError, UsageError
from mepipe.executors import check_here
from mepipe.frames import FrameFolder
from mepipe.merging import Busy, leave_part, merge_parts, own_places, prepared_corpora, write_results
from mepipe.progress import Progress
from mepipe.settings import PrepareConfig
from mepipe.shares import Share
from mepipe.verify import places
from mepipe.workspace import Workspace, make_folder, safe_name, sweep

if TYPE_CHECKING:
    from mepipe.facesets import FaceSummary


@dataclass
class Summary:
    """What ``prepare_corpus`` did. Every row of the annotation is in exactly one of ok, repaired, refused.

    left_over: clip folders on disk that no row names.
    """

    corpus: str
    records: list[Record]
    seconds: float
    reused: int
    folder: Path
    left_over: list[Path] = field(default_factory=list)
    dry_run: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.counts = Counter(r.status for r in self.records)

    @property
    def table(self) -> Path:
        return self.folder / "clips.csv"

    def listed(self, status: str) -> list[Record]:
        return [r for r in self.records if r.status == status]


def prepare_corpus(
    ws: Workspace,
    corpus: Corpus,
    raw: Path,
    config: PrepareConfig | None = None,
    progress: Progress | None = None,
    in_job: bool = False,
) -> Summary:
    """Detect, align and crop every clip of ``corpus`` in ``raw``; write WORKSPACE/prepared/<corpus>/.

    It starts worker processes: a script calls it below ``if __name__ == "__main__":``.

    Parameters
    ----------
    ws
        Where results go.
    corpus
        From ``get_corpus``.
    raw
        The folder that holds the corpus as distributed.
    config
        None is all defaults.
    progress
        progress(done, total) is called after every clip.
    in_job
        This is one of many parts: clips.csv appears with the last of them.

    Returns
    -------
    Summary
        A record for every row of the annotation: ok, repaired or refused with its reason.

    Raises
    ------
    DataError
        There is no annotation or no folder. Damaged clips are refused, not raised.
    UsageError
        Wrong settings.
    """
    config = config or PrepareConfig()
    check_for_clips(config)
    check_here(config.executor, "prepare")
    started = time.monotonic()
    context = Context.of(config)  # first: a wrong option is told before a corpus is read
    all_clips, folders = corpus.survey(raw, sheet=config.sheet, corrections=config.corrections)
    left_over = places(corpus, all_clips, folders)["left_over"]
    clips = own_part(all_clips, config.shard)
    if config.dry_run:
        planned_records = [planned(c, config) for c in clips]
        return Summary(corpus.name, planned_records, 0.0, 0, ws.prepared(corpus.name), left_over, dry_run=True)
    share = Share.parse(config.shard)
    with ws.lock(f"prepare-{corpus.name}", share):
        folder = make_folder(ws.prepared(corpus.name))
        mine = {(c.subject, c.name) for c in clips}
        own = None if share is None else lambda path: (path.parent.name, path.name) in mine
        sweep(folder, own)
        try:
            records, reused = _work(folder, clips, config, context, progress)
            if share is None:
                records = second_look(folder, clips, records, config, context)
        except BaseException:
            with suppress(OSError):  # what has stopped us may stand in the way here too
                sweep(folder, own)  # the workers were in the middle of a clip
            raise
        drop_refused(folder, records)
        seconds = time.monotonic() - started
        if share is None:
            write_results(folder, records, config, context, raw)
        else:
            leave_part(folder, share, all_clips, records, config, context, raw)
    if share is not None:
        with suppress(Busy):  # who is merging has our part, or the next command merges again
            merge_parts(ws, corpus, all_clips, incomplete=not in_job)
    return Summary(corpus.name, records, seconds, reused, folder, left_over)


def prepare_any(
    ws: Workspace, corpus: Corpus, raw: Path, config: PrepareConfig, progress: Progress | None = None
) -> Summary | FaceSummary:
    """``prepare_corpus``, or of a corpus of labelled faces ``mepipe.facesets.prepare_faces``."""
    from mepipe.datasets.facecorpus import FaceCorpus

    if isinstance(corpus, FaceCorpus):
        from mepipe.facesets import prepare_faces

        return prepare_faces(ws, corpus, raw, config, progress)
    return prepare_corpus(ws, corpus, raw, config, progress)


def check_for_clips(config: PrepareConfig) -> None:
    """Raises UsageError for options that mean nothing to a corpus of micro-expressions."""
    if config.crop is not None:
        raise UsageError("--crop goes with corpora of labelled faces", do="leave it out: clips are always aligned")
    if config.detector == "none":
        raise UsageError("--detector none finds no face to align by", do="use another detector")


def own_part(clips: list[Clip], shard: str | None) -> list[Clip]:
    """The clips of part I of N, for ``--shard I/N``: every N-th, so that parts are equally long.

    A row that repeats a clip goes where that clip goes.
    """
    share = Share.parse(shard)
    return clips if share is None else [clips[i] for i in own_places(clips, share)]


def planned(clip: Clip, config: PrepareConfig) -> Record:
    """What a dry run says of a clip: the same verdict as far as the annotation and the names of its files tell."""
    if not clip.problem and clip.frames is not None:
        try:
            numbers = FrameFolder(clip.frames).numbers
            clip = settle_frames(clip, numbers, config.max_gap)
            needed_frames(clip, numbers, config.frames)
        except DataError as e:
            clip = clip.refused(str(e))
    status = "refused" if clip.problem else "repaired" if clip.notes else "ok"
    return Record.of(clip, status=status, reason=clip.problem or "; ".join(clip.notes))


def _work(
    folder: Path, clips: list[Clip], config: PrepareConfig, context: Context, progress: Progress | None
) -> tuple[list[Record], int]:
    tasks = [ClipTask(c, folder, force=config.force) for c in clips]
    records: list[Record | None] = [None] * len(tasks)
    reused = 0
    for done, (i, record) in enumerate(map_clips(tasks, config, context), start=1):
        records[i] = record
        reused += record.reused
        if progress:
            progress(done, len(tasks))
    return [r for r in records if r is not None], reused


def counted(ws: Workspace, corpus: str) -> list[str]:
    """What clips.csv holds, as a line: for a corpus whose parts were prepared elsewhere."""
    counts = Counter(r.status for r in read_records(ws.prepared(corpus)))
    total, told = sum(counts.values()), ", ".join(f"{counts[s]} {s}" for s in ("ok", "repaired", "refused"))
    return [f"{corpus}: {total} clips prepared: {told} -> {ws.prepared(corpus) / 'clips.csv'}"]


def wanted(ws: Workspace, corpora: Sequence[str]) -> list[str]:
    """``corpora``, or all that is prepared. Raises DataError for one that is not."""
    prepared = prepared_corpora(ws, corpora)
    for name in corpora:
        if name not in prepared and (ws.faces / f"{safe_name(name)}.json").is_file():
            do = f"train on it: mepipe train --data {name}"
            raise DataError(f"{name} is a corpus of labelled faces, whose shards mepipe prepare has written", do=do)
        if name not in prepared:
            known = f"prepared here: {', '.join(prepared) or 'nothing'}"
            raise DataError(f"{name} is not prepared in {ws.root} ({known})", do=f"run mepipe prepare {name} RAW")
    if not prepared:
        raise DataError(f"nothing is prepared in {ws.root}", do="run mepipe prepare CORPUS RAW first")
    return list(dict.fromkeys(corpora)) or prepared


def summary_lines(summary: Summary | FaceSummary, most: int = 20) -> list[str]:
    """The summary as text: counts, every repaired and refused clip with its reason (``most`` of each), time."""
    if not isinstance(summary, Summary):
        from mepipe.facesets.run import summary_lines as lines_of_faces

        return lines_of_faces(summary, most)
    total = len(summary.records)
    c = summary.counts
    verb = "would be prepared" if summary.dry_run else "prepared"
    lines = [f"{summary.corpus}: {total} clips {verb}: {c['ok']} ok, {c['repaired']} repaired, {c['refused']} refused"]
    for status in ("repaired", "refused"):
        group = summary.listed(status)
        lines += [f"  {status:9} {r.subject}/{r.clip}  {r.reason}" for r in group[:most]]
        if len(group) > most:
            lines.append(f"  {status:9} ... and {len(group) - most} more, see clips.csv")
    lines += [
        f"  no row    {folder}  a clip on disk that the annotation does not name" for folder in summary.left_over[:most]
    ]
    if not summary.dry_run:
        new = total - summary.reused
        rate = f" ({new / max(summary.seconds, 1e-9):.1f} clips/s)" if new else ""
        fresh = f"{new} looked at{rate}, {summary.reused} up to date"
        lines.append(f"  {summary.seconds:.1f} s ({fresh}) -> {summary.table}")
    return lines
