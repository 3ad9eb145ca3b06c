"""clips.csv: one row per row of the annotation, as records."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mepipe.clipwork import Record
from mepipe.errors import DataError
from mepipe.limits import TABLE_BYTES, read_file
from mepipe.workspace import safe_name

COLUMNS = (
    "corpus", "subject", "clip", "onset", "apex", "offset", "fps", "emotion", "label3", "label7", "split",
    "apex_source", "status", "reason", "detector", "align", "aus", "score", "box_x", "box_y", "box_width",
    "box_height", "eye_distance", "key",
)  # fmt: skip


def cells(record: Record) -> Iterator[Any]:
    """The cells of its row, in the order of COLUMNS."""
    row = record.row()
    return (row[name] for name in COLUMNS)


def to_csv(records: list[Record]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(r.row() for r in records)
    return out.getvalue()


def read_records(folder: Path) -> list[Record]:
    """The rows of ``folder``/clips.csv; an empty list when it is not there yet."""
    return list(iter_records(folder))


def iter_records(folder: Path, keep: Callable[[dict[str, str]], bool] | None = None) -> Iterator[Record]:
    """The rows of ``folder``/clips.csv one by one, or those that ``keep`` takes; none when it is not there yet.

    A part of the work reads a table of a million rows for a thousand of them: the others never become records.
    """
    path = folder / "clips.csv"
    if not path.is_file():
        return
    n = 1
    try:
        text = io.TextIOWrapper(io.BytesIO(read_file(path, TABLE_BYTES)), "utf-8", newline="")
        reader = csv.DictReader(text)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError("its header is not that of clips.csv")
        for row in reader:
            n = reader.line_num
            if keep is None or keep(row):
                yield checked(Record.from_row(row))
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
