"""WORKSPACE/prepared/<corpus>/report.html: everything ``prepare`` and ``flow`` made of a corpus, to be looked at."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mepipe.apex.base import DEFAULT
from mepipe.cliptable import read_records
from mepipe.clipwork import Record
from mepipe.errors import DataError, UsageError
from mepipe.limits import read_json
from mepipe.progress import Progress
from mepipe.report.clipfacts import OLDER
from mepipe.report.counting import count_rows
from mepipe.report.html import wheel_picture, write_page
from mepipe.report.lengths import px
from mepipe.report.outliers import CHECKS, Flag, flags, usual_widths
from mepipe.report.packing import Packed, Source, pack_clips
from mepipe.workspace import Workspace

PAGE = "report.html"


@dataclass(frozen=True)
class Row:
    """A clip as the page's table shows it."""

    record: Record
    packed: Packed
    flags: Sequence[Flag]

    @property
    def id(self) -> str:
        return f"{self.record.corpus}/{self.record.subject}/{self.record.clip}"

    @property
    def rank(self) -> float:
        """The larger, the earlier it is looked at: the number of failed checks, then how far beyond their bounds."""
        return round(sum(min(f.weight, 100.0) for f in self.flags), 3)


def report_corpus(ws: Workspace, corpus: str, progress: Progress | None = None) -> Path:
    """Write the page of a prepared corpus.

    Works before ``mepipe flow`` has run, too: then there is no flow to show.

    Parameters
    ----------
    ws
        The workspace.
    corpus
        Its name.
    progress
        progress(done, total) is called after every clip.

    Returns
    -------
    Path
        WORKSPACE/prepared/<corpus>/report.html.

    Raises
    ------
    UsageError
        The corpus is not prepared.
    DataError
        clips.csv is damaged.
    """
    if corpus not in ws.prepared_corpora():
        there = ", ".join(ws.prepared_corpora()) or "none"
        raise UsageError(f"{corpus} is not prepared in {ws.root}", do=f"prepared here: {there}")
    folder = ws.prepared(corpus)
    records = read_records(folder)
    packed = pack_clips(ws, [source_of(r) for r in records], progress)
    rows = ranked(records, packed)
    return write_page(folder / PAGE, "corpus.html", **values(corpus, rows, _provenance(folder)))


def source_of(r: Record) -> Source:
    """What to pack of a clip: nothing of a refused one, whose frames are not there."""
    if r.status == "refused":
        return Source(r.corpus, r.subject, r.clip, None, None)
    spotted = r.apex_source.startswith("spotted:")
    spotter = r.apex_source.removeprefix("spotted:") if spotted else DEFAULT
    return Source(r.corpus, r.subject, r.clip, r.onset, r.apex, spotter, spotted)


def ranked(records: Sequence[Record], packed: Sequence[Packed]) -> list[Row]:
    """The clips, outliers first, the others in the order of clips.csv."""
    usual = usual_widths([(r.subject, r.box[2]) for r in records if r.box])
    rows = []
    for r, p in zip(records, packed, strict=True):
        found = flags(
            p.measures, status=r.status, score=r.score, detector=r.detector, width=r.box[2] if r.box else None,
            usual=usual.get(r.subject),
        )  # fmt: skip
        rows.append(Row(r, p, found))
    return sorted(rows, key=lambda row: -row.rank)


def values(corpus: str, rows: Sequence[Row], provenance: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Everything the template shows."""
    records = [row.record for row in rows]
    statuses = Counter(r.status for r in records)
    return {
        "corpus": corpus,
        "rows": rows,
        "clips": [(row.id, view(row)) for row in rows],
        "statuses": [(s, statuses[s]) for s in ("ok", "repaired", "refused") if s in statuses],
        "subjects": sorted({r.subject for r in records}),
        "emotions": sorted({r.emotion for r in records}),
        "counts": count_rows(corpus, records),
        "tables": tables(records),
        "checks": [(n, sum(any(f.name == n for f in row.flags) for row in rows), text) for n, text in CHECKS.items()],
        "sources": Counter(r.apex_source for r in records if r.status != "refused").most_common(),
        "notes": missing(rows),
        "provenance": provenance,
        "legend": wheel_picture(),
    }


def tables(records: Sequence[Record]) -> dict[str, list[tuple[str, int, float]]]:
    """Clips by emotion, by label and by subject: (name, clips, share of the largest)."""
    out = {}
    for name in ("emotion", "label3", "split"):
        counts = Counter(getattr(r, name) or "none" for r in records).most_common()
        if len(counts) > 1 or name == "emotion":
            out[name] = [(n, c, c / counts[0][1]) for n, c in counts]
    return out


def missing(rows: Sequence[Row]) -> list[str]:
    """What the page cannot show, said once for all clips of which it is true."""
    notes = Counter(note.split(":")[0] for row in rows for note in row.packed.notes)
    out = [f"{what} of {n} of {len(rows)} clips: open one for the reason" for what, n in notes.items()]
    usable = [row.packed.view for row in rows if row.record.status != "refused"]
    reasons = Counter(view["uncurved"] for view in usable if "uncurved" in view)
    out += [f"no apex curve of {n} of {len(usable)} clips: {why}" for why, n in reasons.most_common()]
    unseen = sum("source" not in view for view in usable)
    if unseen:
        out.append(f"no source frame of {unseen} of {len(usable)} clips: {OLDER}")
    return out


def view(row: Row) -> dict[str, Any]:
    """What the page's script shows of a clip that is opened."""
    r, m = row.record, row.packed.measures
    facts: list[tuple[str, str]] = [
        ("status", r.status),
        ("reason", r.reason),
        ("emotion", ", ".join(filter(None, (r.emotion, r.label3, r.aus and f"AU {r.aus}")))),
        ("frames", f"onset {r.onset}, apex {r.apex}, offset {r.offset}" + (f" at {r.fps:g} fps" if r.fps else "")),
        ("apex", r.apex_source),
        ("face", face_words(r)),
        ("split", r.split),
    ]
    if m.length is not None and m.head is not None and m.border is not None:
        motion = f"99.5 % of the crop below {px(m.length)} px, head {px(m.head)} px, border {px(m.border)} px"
        facts.append(("motion", motion))
    facts += [(f.name, f.text) for f in row.flags if f.name != "refused"]
    notes = list(row.packed.notes)
    shown = [(name, value) for name, value in facts if value]
    return {**row.packed.view, "name": f"{r.subject}/{r.clip}", "offset": r.offset, "facts": shown, "notes": notes}


def face_words(r: Record) -> str:
    if not r.box:
        return ""
    x, y, w, h = r.box
    score = "" if r.score is None else f", score {r.score:.2f}"
    eyes = "" if r.eye_distance is None else f", eyes {r.eye_distance:.0f} px apart"
    return f"{r.detector}{score}: box {w:.0f} × {h:.0f} px at ({x:.0f}, {y:.0f}){eyes}; aligned by {r.align}"


def _words(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _provenance(folder: Path) -> list[tuple[str, str]]:
    """prepare.json in rows; [] where there is none."""
    try:
        saved = read_json(folder / "prepare.json") or {}
    except DataError:
        return []
    rows = [("raw data", str(saved.get("raw", ""))), ("finished", str(saved.get("finished", "")))]
    for name in ("detector", "landmarks"):
        rows.append((name, str(saved.get(name) or "none")))
    rows += [(f"setting {k}", json.dumps(v)) for k, v in _words(saved.get("settings")).items() if v is not None]
    rows += [(f"version of {k}", str(v)) for k, v in _words(saved.get("versions")).items()]
    return rows
