"""From the rows of clips to clips.csv and prepare.json: at once, or from parts made anywhere (--shard I/N)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mepipe.cliptable import COLUMNS, cells, read_records, to_csv
from mepipe.clipwork import ClipTask, Context, Record
from mepipe.corpuswork import drop_refused, map_clips, usual_of
from mepipe.datasets import get_corpus, list_corpora
from mepipe.datasets.base import Clip, Corpus
from mepipe.errors import MepipeError
from mepipe.faces.find import fits
from mepipe.locks import living
from mepipe.preparedparts import (
    PARTS,
    PartFile,
    box_widths,
    is_complete,
    is_merged,
    merged_table,
    read_parts,
    stamps,
    write_part,
)
from mepipe.settings import PrepareConfig
from mepipe.shares import Share
from mepipe.workspace import Workspace, digest, write_json, write_text

NAMED = 5  # missing parts that a message names
PATIENCE = 60.0  # seconds to wait for another part's merge: a million rows take less (benchmarks/million.py)
# settings that change no row: parts made with different ones belong together
BESIDE = frozenset({"jobs", "shard", "dry_run", "force", "strict", "executor", "crop", "length"})


def own_places(clips: Sequence[Clip], share: Share) -> list[int]:
    """Where in the annotation the clips of ``share`` stand; a row that repeats a clip goes where that clip goes."""
    order = {key: n for n, key in enumerate(dict.fromkeys((c.subject, c.name) for c in clips))}
    return [i for i, c in enumerate(clips) if share.owns(order[c.subject, c.name])]


def write_results(folder: Path, records: list[Record], config: PrepareConfig, context: Context, raw: Path) -> None:
    """clips.csv (one row per annotation row) and prepare.json (settings, versions), of a corpus done as a whole."""
    write_text(folder / "clips.csv", to_csv(records))
    write_json(folder / "prepare.json", provenance(config, context, raw))
    shutil.rmtree(folder / PARTS, ignore_errors=True)  # of an earlier cut


def provenance(config: PrepareConfig, context: Context, raw: Path) -> dict[str, Any]:
    """What prepare.json says."""
    return {"settings": config.as_dict(), **asdict(context), "raw": str(raw), "finished": time.strftime("%F %T")}


class Busy(MepipeError):
    """Another process is putting the same parts together."""


def leave_part(
    folder: Path,
    share: Share,
    annotation: list[Clip],
    records: list[Record],
    config: PrepareConfig,
    context: Context,
    raw: Path,
) -> None:
    """Write the rows of one part, each with its place in the annotation."""
    mark = part_mark(annotation, config, context)
    rows = zip(own_places(annotation, share), (list(cells(r)) for r in records), strict=True)
    whole = replace(config, shard=None, executor="local", force=False)
    write_part(folder, share, rows, mark, len(annotation), provenance(whole, context, raw.absolute()))


def part_mark(annotation: Sequence[Clip], config: PrepareConfig, context: Context) -> str:
    """What parts that belong together have in common: clips, settings and tools."""
    settings = {k: v for k, v in config.as_dict().items() if k not in BESIDE}
    return digest([settings, asdict(context), [[c.subject, c.name] for c in annotation]])


def merge_parts(
    ws: Workspace, corpus: Corpus, annotation: list[Clip] | None = None, *, incomplete: bool = False
) -> bool:
    """Put the finished parts of ``corpus`` together: a second look at odd faces, then clips.csv.

    Parameters
    ----------
    ws
        Where they lie.
    corpus
        From ``get_corpus``.
    annotation
        Its clips, where they have been read already.
    incomplete
        While parts are missing and none is at work, let clips.csv hold the rows there are.

    Returns
    -------
    bool
        Whether clips.csv is of all parts, or there are none.

    Raises
    ------
    Busy
        Another process is at it.
    DataError
        A part is damaged.
    """
    folder, stage = ws.prepared(corpus.name), f"prepare-{corpus.name}"
    if not (folder / PARTS).is_dir():
        return True
    with _merging(ws, corpus.name):
        parts = read_parts(folder)
        if is_merged(folder, parts) or not is_complete(parts):
            if incomplete and annotation is not None and not is_complete(parts) and not living(ws.locks, stage):
                write_text(folder / "clips.csv", to_csv(_rows_so_far(folder, parts, annotation)))
                write_json(folder / "prepare.json", parts[-1].provenance)
            return is_complete(parts)
        changed = _second_look_at_parts(folder, corpus, parts, annotation)
        write_text(folder / "clips.csv", merged_table(parts, COLUMNS, changed))
        write_json(folder / "prepare.json", {**parts[-1].provenance, "parts": stamps(parts)})
    return True


def merge_lost(ws: Workspace, name: str) -> str | None:
    """Repeat the merge of corpus ``name`` where the last part could not finish it. Returns what is missing still."""
    merges = (ws.prepared(name) / PARTS).is_dir() and not merge_parts(ws, get_corpus(name))
    return missing_parts(ws, name) if merges else None


def missing_parts(ws: Workspace, name: str) -> str | None:
    """A line that names the parts of corpus ``name`` that were never prepared; None where it is whole."""
    parts = read_parts(ws.prepared(name))
    missing = sorted(set(range(1, parts[0].share.of + 1)) - {p.share.number for p in parts}) if parts else []
    named = ", ".join(f"{n}/{parts[0].share.of}" for n in missing[:NAMED])
    named += f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return f"{name}: only a part of its clips is prepared; missing parts: {named}" if missing else None


def prepared_corpora(ws: Workspace, asked: Sequence[str] = ()) -> list[str]:
    """Corpora that are prepared; one that has all its parts and no table yet is put together first.

    asked: those the command is about, none for all: what is damaged elsewhere is no concern of it.
    """
    for parts in sorted(ws.root.glob(f"prepared/*/{PARTS}")):
        name = parts.parent.name
        if name in (asked or list_corpora()) and not (parts.parent / "clips.csv").is_file():
            merge_lost(ws, name)
    return ws.prepared_corpora()


@contextmanager
def _merging(ws: Workspace, corpus: str) -> Iterator[None]:
    stage = f"merge-prepare-{corpus}"
    with ExitStack() as stack:
        try:
            stack.enter_context(ws.lock(stage, patience=PATIENCE))
        except MepipeError as e:
            raise Busy(e.what, do=e.do) from e
        yield


def _rows_so_far(folder: Path, parts: list[PartFile], annotation: list[Clip]) -> list[Record]:
    """The rows of ``parts``, and for the others what clips.csv has of clips that the annotation still names."""
    places: dict[tuple[str, str], list[int]] = {}
    for i, c in enumerate(annotation):
        places.setdefault((c.subject, c.name), []).append(i)
    rows: dict[int, Record] = {}
    for record in read_records(folder):
        if left := places.get((record.subject, record.clip)):
            rows[left.pop(0)] = record
    for part in parts:
        for place, *row in part.lines():
            rows[place] = Record.from_row(dict(zip(COLUMNS, map(str, row), strict=True)))
    return [rows[place] for place in sorted(rows)]


def _second_look_at_parts(
    folder: Path, corpus: Corpus, parts: list[PartFile], annotation: list[Clip] | None
) -> dict[int, list[Any]]:
    """Redo the clips whose face is far from its subject's usual size. Place -> new row."""
    config = PrepareConfig(**parts[-1].provenance["settings"])
    if config.detector == "given":
        return {}
    usual = usual_of(box_widths(parts, COLUMNS))
    subject, width = COLUMNS.index("subject") + 1, COLUMNS.index("box_width") + 1
    odd = {
        row[0]: usual[row[subject]]
        for part in parts
        for row in part.lines()
        if row[width] != "" and row[subject] in usual and not fits(float(row[width]), usual[row[subject]])
    }
    if not odd:
        return {}
    if annotation is None:
        raw = Path(parts[-1].provenance["raw"])
        annotation = corpus.survey(raw, sheet=config.sheet, corrections=config.corrections)[0]
    tasks = [ClipTask(annotation[i], folder, force=True, expected_width=odd[i]) for i in sorted(odd)]
    records = dict(map_clips(tasks, config, Context.of(config)))
    drop_refused(folder, list(records.values()))
    return {place: list(cells(records[n])) for n, place in enumerate(sorted(odd))}
