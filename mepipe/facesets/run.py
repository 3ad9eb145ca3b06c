"""A corpus of labelled faces into shards: streamed, resumable, flat in memory.

The rows of the annotation are cut into parts, one shard each.  Workers make the faces of a part and hand them back; the
shard is written meanwhile, in the order of the rows, and appears when its last face is written, and beside it a small
table of its rows (also of those that were refused).  A face whose files and settings have not changed is copied from
the shard it lies in; a part in which nothing has changed is left alone.  The tables become <corpus>.csv at the end.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mepipe.clipwork import Context
from mepipe.datasets.facecorpus import FaceClip, FaceCorpus
from mepipe.errors import DataError, UsageError
from mepipe.executors import WorkerDied, process_team, serial_team
from mepipe.facesets.work import FaceRecord, FaceTask, Made, Making, key_of, make_face, record_row, start_worker
from mepipe.limits import TABLE_BYTES, read_file
from mepipe.progress import Progress
from mepipe.settings import PrepareConfig, cores
from mepipe.shards import Faces, Sample, ShardFile, ShardWriter, list_shards
from mepipe.shards.read import readable_shards
from mepipe.workspace import Workspace, make_folder, sweep, write_json, write_text

PER_SHARD = {"image": 512, "sequence": 64}  # 77 MB, and 154 MB with 16 frames: what a killed run loses at most
COLUMNS = tuple(f.name for f in fields(FaceRecord) if f.name != "reused")


@dataclass
class FaceSummary:
    """What ``prepare_faces`` did. Every row of the annotation is in exactly one of ok, repaired, refused."""

    corpus: str
    records: list[FaceRecord]
    seconds: float
    reused: int
    folder: Path
    shards: list[Path] = field(default_factory=list)
    dry_run: bool = False

    @property
    def counts(self) -> dict[str, int]:
        return {s: sum(r.status == s for r in self.records) for s in ("ok", "repaired", "refused")}

    @property
    def table(self) -> Path:
        return self.folder / f"{self.corpus}.csv"


Team = Callable[[Sequence[Any]], Iterator[tuple[int, Any]]]


def prepare_faces(
    ws: Workspace, corpus: FaceCorpus, raw: Path, config: PrepareConfig | None = None, progress: Progress | None = None
) -> FaceSummary:
    """Crop every face of ``corpus`` in ``raw`` into WORKSPACE/faces/<corpus>-<NNNNN>.h5; write <corpus>.csv.

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
        progress(done, total) counts faces.

    Returns
    -------
    FaceSummary
        A record for every row of the annotation: ok, repaired or refused with its reason.

    Raises
    ------
    DataError
        There is no annotation or no folder. Damaged clips are refused, not raised.
    UsageError
        Wrong settings.
    """
    config, started = config or PrepareConfig(), time.monotonic()
    check_config(corpus, config)
    length = config.length if corpus.kind == "sequence" else None
    context = Context.of(config)  # first: a wrong option is told before a corpus is read
    clips, _ = corpus.survey(raw, sheet=config.sheet, corrections=config.corrections)
    making = Making(config.crop or corpus.crop_of(clips), length, context)
    if config.dry_run:
        records = [planned(clip) for clip in clips]
        return FaceSummary(corpus.name, records, 0.0, 0, ws.faces, dry_run=True)
    content = Faces(length, corpus.sets(clips), corpus.has_votes)
    with ws.lock("faces"):
        sweep(make_folder(ws.faces))
        job = Job(ws.faces, corpus.name, content, making, config, progress)
        jobs = jobs_of(config, len(clips))
        workers = serial_team if config.executor == "serial" else process_team
        with workers(make_face, jobs, setup=start_worker, setup_args=(config, making)) as team:
            records = job.run([replace(c, crop=config.crop or c.crop) for c in clips if isinstance(c, FaceClip)], team)
        about = {"settings": config.as_dict(), **asdict(making), "raw": str(raw), "finished": time.strftime("%F %T")}
        write_json(ws.faces / f"{corpus.name}.json", about)
    seconds = time.monotonic() - started
    return FaceSummary(corpus.name, records, seconds, sum(r.reused for r in records), ws.faces, job.paths)


def jobs_of(config: PrepareConfig, count: int) -> int:
    return max(1, min(config.jobs or cores(), count))


def as_a_whole(corpus: FaceCorpus, flag: str) -> UsageError:
    """What ``flag``, which asks for a part of the work elsewhere, is answered with."""
    return UsageError(
        f"{flag}: {corpus.name} is prepared as a whole, on one machine",
        do=f"leave {flag} out; --jobs N works in parallel",
    )


def check_config(corpus: FaceCorpus, config: PrepareConfig) -> None:
    """Raises UsageError for options that mean nothing to a corpus of faces."""
    if config.shard is not None:
        raise as_a_whole(corpus, "--shard")
    if config.executor == "slurm":
        raise as_a_whole(corpus, "--executor slurm")
    for name, usual in (("frames", "onset-apex"), ("quality", None)):
        if getattr(config, name) != usual:
            flag = f"--{name}"
            raise UsageError(f"{flag}: {corpus.name} has no onset and apex to keep", do=f"leave {flag} out")
    if config.detector == "none" and (config.crop or corpus.crop) == "aligned":
        raise UsageError("--detector none finds no face to align by", do="use --crop as-is, or a detector")


def planned(clip: Any) -> FaceRecord:
    """What a dry run says of a clip, as far as the annotation tells."""
    status = "refused" if clip.problem else "repaired" if clip.notes else "ok"
    return FaceRecord.of(clip, status=status, reason=clip.problem or "; ".join(clip.notes))


class Job:
    """The parts of one corpus: which are right, which are made, and their tables."""

    def __init__(
        self,
        folder: Path,
        corpus: str,
        content: Faces,
        making: Making,
        config: PrepareConfig,
        progress: Progress | None,
    ) -> None:
        self.folder, self.corpus, self.content, self.making = folder, corpus, content, making
        self.config, self.progress = config, progress
        self.paths: list[Path] = []
        self._old = [] if config.force else readable_shards(list_shards(folder, [corpus]))
        for shard in self._old:  # hundreds of them: no file stays open that is not being read
            shard.close()
        self._known = {s.key: (shard, i) for shard in self._old for i, s in enumerate(shard.samples) if s.key}
        self._records = {} if config.force else known_records(folder, corpus)
        self._done = self._total = 0

    def run(self, clips: Sequence[FaceClip], team: Team) -> list[FaceRecord]:
        """Every clip's record. The shards and the table of the corpus are there afterwards."""
        size, records = PER_SHARD["image" if self.content.frames is None else "sequence"], []
        self._total = len(clips)
        for n, first in enumerate(range(0, len(clips), size)):
            path = self.folder / f"{self.corpus}-{n:05d}.h5"
            rows = self._part(path, clips[first : first + size], team)
            write_text(path.with_suffix(".csv"), to_csv(rows))
            records += rows
        self._known.clear()
        write_text(self.folder / f"{self.corpus}.csv", to_csv(records))
        for path in parts_of(self.folder, self.corpus, ".csv"):
            path.unlink()
        for path in set(parts_of(self.folder, self.corpus, ".h5")) - set(self.paths):
            path.unlink()  # of an earlier, larger set of clips
        return records

    def _part(self, path: Path, clips: Sequence[FaceClip], team: Team) -> list[FaceRecord]:
        tasks = [FaceTask(clip, "" if clip.problem else key_of(clip, self.making)) for clip in clips]
        known = [self._records.get(task.key) if task.key else None for task in tasks]
        wanted = [task.key for task, record in zip(tasks, known, strict=True) if record and record.status != "refused"]
        if all(known) and self._is_right(path, wanted):
            rows = [replace(record, reused=True) for record in known if record]
            self._count(len(rows))
        else:
            rows = self._made(path, tasks, known, team)
        if any(r.status != "refused" for r in rows):
            self.paths.append(path)
        return rows

    def _is_right(self, path: Path, keys: Sequence[str]) -> bool:
        """Whether the shard at ``path`` holds exactly the samples ``keys``, undamaged, as they are wanted."""
        shard = next((s for s in self._old if s.path == path), None)
        if shard is None or not keys:
            return not keys and not path.exists()
        try:
            same = shard.content == self.content and [s.key for s in shard.samples] == list(keys)
            return same and all(shard.intact(i) for i in range(len(shard)))
        except DataError:
            return False
        finally:
            shard.close()

    def _made(
        self, path: Path, tasks: Sequence[FaceTask], known: Sequence[FaceRecord | None], team: Team
    ) -> list[FaceRecord]:
        """Make what is not known and write the shard; a part of which every clip is refused has none."""
        ready: dict[int, Made] = {}
        for i, record in enumerate(known):
            if record is not None and (made := self._copied(record)) is not None:
                ready[i] = made
        self._count(len(ready))
        places = [i for i in range(len(tasks)) if i not in ready]
        coming = team([tasks[i] for i in places])
        rows: list[FaceRecord] = []
        parameters, versions = self.making.parameters(), self.making.context.versions
        samples = 0
        with ShardWriter(
            path, engine="faces", parameters=parameters, versions=versions, content=self.content
        ) as writer:
            for i, task in enumerate(tasks):
                while i not in ready:
                    at, outcome = next(coming)
                    ready[places[at]] = outcome if isinstance(outcome, Made) else died(tasks[places[at]], outcome)
                    self._count(1)
                made = ready.pop(i)
                rows.append(made.record)
                if made.crops is not None:
                    votes = {"votes": np.array(task.clip.votes)} if self.content.votes else {}
                    writer.append(sample_of(task), made.crops, landmarks=made.landmarks, **votes)
                    samples += 1
        if not samples:
            path.unlink()
        return rows

    def _copied(self, record: FaceRecord) -> Made | None:
        """A face that was made earlier, from the shard it lies in; None where it is not there any more, or damaged."""
        if record.status == "refused":
            return Made(replace(record, reused=True))
        if record.key not in self._known:
            return None
        shard, i = self._known[record.key]
        try:
            if shard.content != self.content or not shard.intact(i):
                return None
            return Made(replace(record, reused=True), shard.stored(i), shard.beside("landmarks", i))
        except DataError:  # replaced meanwhile by the shard of another part
            return None
        finally:
            shard.close()

    def _count(self, n: int) -> None:
        self._done += n
        if self.progress and n:
            self.progress(self._done, self._total)


def died(task: FaceTask, outcome: WorkerDied) -> Made:
    return Made(FaceRecord.of(task.clip, status="refused", reason=str(outcome)))


def sample_of(task: FaceTask) -> Sample:
    clip = task.clip
    return Sample(
        clip.corpus,
        clip.subject,
        clip.name,
        clip.emotion,
        clip.label3,
        clip.label7,
        clip.split,
        clip.onset or 0,
        clip.apex or 0,
        clip.offset or 0,
        task.key,
    )


def parts_of(folder: Path, corpus: str, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"{corpus}-[0-9][0-9][0-9][0-9][0-9]{suffix}"))


# --- tables ----------------------------------------------------------------------------------------


def to_csv(records: Sequence[FaceRecord]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(record_row, records))
    return out.getvalue()


def known_records(folder: Path, corpus: str) -> dict[str, FaceRecord]:
    """Key -> record of every row that an earlier run has left, in the table or in those of parts.

    A table that cannot be read is passed over: its faces are made again.
    """
    found: dict[str, FaceRecord] = {}
    for path in (folder / f"{corpus}.csv", *parts_of(folder, corpus, ".csv")):
        try:
            found |= {r.key: r for r in read_table(path) if r.key}
        except DataError:
            continue
    return found


def read_table(path: Path) -> list[FaceRecord]:
    """The rows of a <corpus>.csv. Raises DataError that names the file and the row."""
    n = 1
    try:
        reader = csv.DictReader(io.StringIO(read_file(path, TABLE_BYTES).decode("utf-8"), newline=""))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError("its header is another one")
        rows = []
        for row in reader:
            n = reader.line_num
            rows.append(_record(row))
        return rows
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as e:
        do = f"run mepipe prepare {path.stem} RAW again; it rewrites the file"
        raise DataError(f"{path} row {n} cannot be read ({e})", do=do) from e


def _record(row: dict[str, str]) -> FaceRecord:
    """Raises ValueError, TypeError, KeyError for a row that is none of ours."""
    if row["status"] not in ("ok", "repaired", "refused") or not "".join(row.values()).isprintable():
        raise ValueError("a status or text that cannot be")
    box = tuple(float(v) for v in row["box"].split())
    numbers = {"frames": int(row["frames"]), "landmarks": int(row["landmarks"])}
    score = float(row["score"]) if row["score"] else None
    return FaceRecord(**{**row, **numbers, "score": score, "box": box})  # type: ignore[arg-type]  # converted above


def summary_lines(summary: FaceSummary, most: int = 20) -> list[str]:
    """The summary as text: counts, repaired and refused clips with their reasons (``most`` of each), time."""
    c, total = summary.counts, len(summary.records)
    verb = "would be prepared" if summary.dry_run else "prepared"
    lines = [f"{summary.corpus}: {total} faces {verb}: {c['ok']} ok, {c['repaired']} repaired, {c['refused']} refused"]
    for status in ("repaired", "refused"):
        group = [r for r in summary.records if r.status == status]
        lines += [f"  {status:9} {'/'.join(filter(None, (r.subject, r.clip)))}  {r.reason}" for r in group[:most]]
        if len(group) > most:
            lines.append(f"  {status:9} ... and {len(group) - most} more, see {summary.table.name}")
    if summary.dry_run:
        return lines
    kept = [r for r in summary.records if r.status != "refused"]
    without = sum(r.landmarks == 0 for r in kept)
    if without:
        lines.append(f"  landmarks were found in {len(kept) - without} of {len(kept)}; the others have none (NaN)")
    new = total - summary.reused
    rate = f" ({new / max(summary.seconds, 1e-9):.1f} faces/s)" if new else ""
    fresh = f"{new} looked at{rate}, {summary.reused} up to date"
    lines.append(f"  {summary.seconds:.1f} s ({fresh}) -> {len(summary.shards)} shards in {summary.folder}")
    return lines


__all__ = ["FaceSummary", "Job", "ShardFile", "known_records", "prepare_faces", "read_table", "summary_lines"]
