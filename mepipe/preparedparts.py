"""Parts of one prepare (--shard I/N), made anywhere, put together into clips.csv.

Part    PREPARED/.parts/<I>of<N>.rows    one row of clips.csv a line, as JSON, its place in the annotation first
        PREPARED/.parts/<I>of<N>.json    written after it: of which annotation and settings, how many rows
Merge   the rows of all parts by their place.  It holds a million rows as lines, not as records: 0.5 kB each.

A merge that was lost is repeated by whoever needs clips.csv: prepare.json says which parts went into it.
"""

from __future__ import annotations

import csv
import io
import json
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, MepipeError
from mepipe.limits import read_json
from mepipe.shares import Share
from mepipe.workspace import digest, write_json, write_text

PARTS = ".parts"  # no subject's folder: their names begin with a letter or a digit


@dataclass(frozen=True)
class PartFile:
    """One finished part. mark: of annotation and settings, equal in parts that belong together; total: rows of all."""

    share: Share
    mark: str
    total: int
    rows: Path
    provenance: dict[str, Any]
    stamp: str

    def lines(self) -> Iterator[list[Any]]:
        """Place in the annotation, then the cells of clips.csv, row by row. Raises DataError for a damaged file."""
        do = f"run the part {self.share} again"
        if not self.rows.is_file():
            raise DataError(f"{self.rows} is missing or no file", do=do)
        try:
            with self.rows.open(encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)
        except (OSError, ValueError, RecursionError) as e:
            raise DataError(f"{self.rows} cannot be read ({e})", do=do) from e


def write_part(
    folder: Path, share: Share, rows: Iterable[tuple[int, list[Any]]], mark: str, total: int, provenance: dict[str, Any]
) -> None:
    """Leave one part's rows in ``folder`` (PREPARED); the .json makes them count."""
    text = "".join(json.dumps([place, *cells], ensure_ascii=False) + "\n" for place, cells in rows)
    path = folder / PARTS / f"{share.word}.json"
    path.unlink(missing_ok=True)
    write_text(path.with_suffix(".rows"), text)
    stamp = digest([mark, text])
    write_json(path, {"share": str(share), "mark": mark, "total": total, "stamp": stamp, "provenance": provenance})


def read_parts(folder: Path) -> list[PartFile]:
    """The parts in ``folder`` that belong together: those of the cut and settings that were finished last."""
    found = []
    for path in sorted((folder / PARTS).glob("*of*.json"), key=lambda p: p.stat().st_mtime_ns):
        try:
            about = read_json(path) or {}
            share = Share.parse(about["share"])
            assert share is not None
            facts = (about["mark"], int(about["total"]), path.with_suffix(".rows"), about["provenance"], about["stamp"])
            found.append(PartFile(share, *facts))
        except (MepipeError, ValueError, KeyError, TypeError):
            continue  # half a part is none: it is made again
    return [p for p in found if (p.mark, p.share.of) == (found[-1].mark, found[-1].share.of)]


def is_complete(parts: list[PartFile]) -> bool:
    """Whether every part of the cut is there."""
    return bool(parts) and len({p.share.number for p in parts}) == parts[0].share.of


def is_merged(folder: Path, parts: list[PartFile]) -> bool:
    """Whether clips.csv holds just these parts."""
    try:
        merged = read_json(folder / "prepare.json", missing_ok=True) or {}
    except DataError:
        return False
    return (folder / "clips.csv").is_file() and merged.get("parts") == stamps(parts)


def stamps(parts: list[PartFile]) -> dict[str, str]:
    """Part -> what it held, for prepare.json."""
    return {str(p.share): p.stamp for p in sorted(parts, key=lambda p: p.share.number)}


def box_widths(parts: list[PartFile], columns: tuple[str, ...]) -> dict[str, array[float]]:
    """Subject -> widths of its faces in px, of all parts."""
    subject, width = columns.index("subject") + 1, columns.index("box_width") + 1
    widths: dict[str, array[float]] = defaultdict(lambda: array("d"))
    for part in parts:
        for row in part.lines():
            if row[width] not in ("", None):
                widths[row[subject]].append(float(row[width]))
    return widths


def merged_table(parts: list[PartFile], columns: tuple[str, ...], changed: dict[int, list[Any]]) -> str:
    """clips.csv of complete ``parts``. changed: rows to take instead, by place.

    Raises DataError where the rows are not those of one annotation.
    """
    lines = [""] * parts[0].total
    for part in parts:
        for place, *cells in part.lines():
            lines[place] = _line(changed.get(place, cells))
    if not all(lines):
        raise DataError(
            f"{parts[0].rows.parent} lacks row {lines.index('') + 1} of {len(lines)} of the annotation",
            do="run the parts again",
        )
    return "".join([_line(list(columns)), *lines])


def _line(cells: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()
