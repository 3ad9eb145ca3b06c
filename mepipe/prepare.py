"""Corpus -> aligned crops and clips.csv.

Per clip, in a worker process: settle onset and apex on the frames that exist, find the face on the
onset frame, estimate one transform, spot the apex where it is missing, write the crops into a
temporary folder and rename it.  A clip whose inputs and settings are unchanged is not touched.
Then, over the corpus: a face whose size does not fit its subject's is looked at again.
"""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from mepipe.clipwork import ClipTask, Context, Record, needed_frames, prepare_clip, settle_frames, start_worker
from mepipe.datasets.base import Clip, Corpus
from mepipe.errors import DataError, UsageError
from mepipe.executors import WorkerDied, process_map
from mepipe.faces.find import fits
from mepipe.frames import FrameFolder
from mepipe.limits import TABLE_BYTES, read_file
from mepipe.progress import Progress
from mepipe.settings import PrepareConfig, cores
from mepipe.verify import places
from mepipe.workspace import Workspace, make_folder, safe_name, sweep, write_json, write_text

if TYPE_CHECKING:
    from mepipe.facesets import FaceSummary

COLUMNS = (
    "corpus", "subject", "clip", "onset", "apex", "offset", "fps", "emotion", "label3", "label7", "split",
    "apex_source", "status", "reason", "detector", "align", "aus", "score", "box_x", "box_y", "box_width",
    "box_height", "eye_distance", "key",
)  # fmt: skip
ENOUGH = 5  # clips needed before a median says anything


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
    ws: Workspace, corpus: Corpus, raw: Path, config: PrepareConfig | None = None, progress: Progress | None = None
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
    started = time.monotonic()
    context = Context.of(config)  # first: a wrong option is told before a corpus is read
    all_clips, folders = corpus.survey(raw, sheet=config.sheet, corrections=config.corrections)
    left_over = places(corpus, all_clips, folders)["left_over"]
    clips = own_part(all_clips, config.shard)
    if config.dry_run:
        planned_records = [planned(c, config) for c in clips]
        return Summary(corpus.name, planned_records, 0.0, 0, ws.prepared(corpus.name), left_over, dry_run=True)
    with ws.lock(f"prepare-{corpus.name}"):
        folder = make_folder(ws.prepared(corpus.name))
        sweep(folder)
        try:
            records, reused = _work(folder, clips, config, context, progress)
            records = _second_look(folder, clips, records, config, context)
        except BaseException:
            with suppress(OSError):  # what has stopped us may stand in the way here too
                sweep(folder)  # the workers were in the middle of a clip
            raise
        drop_refused(folder, records)
        seconds = time.monotonic() - started
        write_results(folder, all_clips, records, config, context, raw)
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
    if shard is None:
        return clips
    try:
        i, n = (int(t) for t in shard.split("/"))
    except ValueError:
        i = n = 0
    if not 1 <= i <= n:
        raise UsageError(f"--shard is {shard!r}", do="write I/N with 1 <= I <= N, for example 2/4")
    places = {key: place for place, key in enumerate(dict.fromkeys((c.subject, c.name) for c in clips))}
    return [c for c in clips if places[c.subject, c.name] % n == i - 1]


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
    for done, (i, record) in enumerate(_map(tasks, config, context), start=1):
        records[i] = record
        reused += record.reused
        if progress:
            progress(done, len(tasks))
    return [r for r in records if r is not None], reused


def _map(tasks: list[ClipTask], config: PrepareConfig, context: Context) -> Iterator[tuple[int, Record]]:
    jobs = max(1, min(config.jobs or cores(), len(tasks)))
    for i, result in process_map(prepare_clip, tasks, jobs, setup=start_worker, setup_args=(config, context)):
        if isinstance(result, WorkerDied):
            yield i, Record.of(tasks[i].clip, status="refused", reason=str(result))
        else:
            yield i, result


# --- the second look: faces whose size does not fit ------------------------------------------------


def _second_look(
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
    for n, record in _map(tasks, config, context):
        out[where[n]] = record
    return out


def usual_widths(records: list[Record]) -> dict[str, float]:
    """Median box width by subject, of the whole corpus where a subject has too few clips; {} when all have too few."""
    by_subject: dict[str, list[float]] = {}
    for r in records:
        if r.box:
            by_subject.setdefault(r.subject, []).append(r.box[2])
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


# --- results ---------------------------------------------------------------------------------------


def write_results(
    folder: Path, clips: list[Clip], records: list[Record], config: PrepareConfig, context: Context, raw: Path
) -> None:
    """clips.csv (one row per annotation row) and prepare.json (settings, versions). clips: the whole annotation."""
    if config.shard:  # a part: keep the rows that other parts have written, as far as the annotation still has them
        others = {(c.subject, c.name) for c in clips} - {(r.subject, r.clip) for r in records}
        records = [r for r in read_records(folder) if (r.subject, r.clip) in others] + records
    write_text(folder / "clips.csv", to_csv(records))
    provenance = {"settings": config.as_dict(), **asdict(context), "raw": str(raw), "finished": time.strftime("%F %T")}
    write_json(folder / "prepare.json", provenance)


def to_csv(records: list[Record]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(r.row() for r in records)
    return out.getvalue()


def read_records(folder: Path) -> list[Record]:
    """The rows of ``folder``/clips.csv; an empty list when it is not there yet."""
    path = folder / "clips.csv"
    if not path.is_file():
        return []
    n = 1
    try:
        reader = csv.DictReader(io.StringIO(read_file(path, TABLE_BYTES).decode("utf-8"), newline=""))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError("its header is not that of clips.csv")
        records = []
        for row in reader:
            n = reader.line_num
            records.append(checked(Record.from_row(row)))
        return records
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as e:
        do = f"run mepipe prepare {folder.name} RAW again; it rewrites the file"
        raise DataError(f"{path} row {n} cannot be read ({e})", do=do) from e


def checked(record: Record) -> Record:
    """``record``, whose names become folders and whose numbers int32. Raises ValueError for others.

    prepare writes no others; but a workspace may come from a stranger.
    """
    try:
        for name in (record.corpus, record.subject, record.clip):
            safe_name(name)
    except DataError as e:
        raise ValueError(e.what) from e
    numbers = [n for n in (record.onset, record.apex, record.offset) if n is not None]
    if any(not 0 <= n < 2**31 for n in numbers):
        raise ValueError(f"frames {numbers} cannot be")
    if len(record.box) not in (0, 4):
        raise ValueError(f"its box has {len(record.box)} numbers")
    if record.status not in ("ok", "repaired", "refused"):
        raise ValueError(f"status {record.status!r} is unknown")
    return record


def wanted(ws: Workspace, corpora: Sequence[str]) -> list[str]:
    """``corpora``, or all that is prepared. Raises DataError for one that is not."""
    prepared = ws.prepared_corpora()
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
