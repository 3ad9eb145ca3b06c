"""Reading annotation sheets as people really keep them: header anywhere, odd cells, text or numbers.

A sheet is xlsx or csv.  The header is the first of the first 40 rows that holds every needed column;
names are compared without case, spaces and punctuation, and each field knows its names (``COLUMNS``).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from mepipe.datasets.workbook import xlsx_tables
from mepipe.errors import DataError
from mepipe.limits import SHEET_BYTES, SHEET_CELLS, read_file

HEADER_ROWS = 40  # SAMM has 13 rows of preamble; nobody has 40
BLANK = {"", "/", "\\", "-", "nan", "none", "n/a"}  # all seen in real sheets for "not coded"

# Field -> what corpora and common copies of their sheets call its column, the most specific name first.
COLUMNS: dict[str, tuple[str, ...]] = {
    "subject": ("Subject", "sub_ID", "Sub", "Subject ID"),
    "clip": ("Filename", "fold_name", "Clip"),
    "onset": ("OnsetFrame", "Onset", "OnsetF"),
    "apex": ("ApexFrame", "Apex", "ApexF", "ApexF1"),
    "offset": ("OffsetFrame", "Offset", "OffsetF"),
    "aus": ("Action Units", "AUs", "AU"),
    "emotion": ("Estimated Emotion", "Emotion"),
    "fps": ("Fps",),
}


class Row:
    """One row of a sheet: cells by field or column name, and where it stands."""

    def __init__(self, where: str, header: dict[str, str], cells: dict[str, Any]) -> None:
        self.where = where  # "CASME2-coding-20140508.xlsx row 17"
        self._header = header  # plain name -> as the sheet spells it
        self._cells = cells

    def column(self, field: str) -> str:
        """What the sheet calls ``field``; its usual name where the sheet has no such column."""
        names = [n for n in spellings(field) if n in self._header]
        return self._header[names[0]] if names else COLUMNS.get(field, (field,))[0]

    def raw(self, field: str) -> Any:
        return next((self._cells[n] for n in spellings(field) if n in self._cells), None)

    def text(self, field: str) -> str:
        """The cell as stripped text; whole floats lose their '.0' (Excel turns 17 into 17.0)."""
        value = self.raw(field)
        if value is None:
            return ""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value).strip()

    def frame(self, field: str) -> int | None:
        """The cell as a frame number; None when blank. Raises ValueError that says what is there."""
        text = self.text(field)
        if text.casefold() in BLANK:
            return None
        number = re.fullmatch(r"0*([0-9]{1,9})(\.0+)?", text)
        if not number:
            raise ValueError(f"{self.column(field)} holds {text!r}, not a frame number")
        return int(number[1])


def spellings(field: str) -> list[str]:
    """The plain names under which ``field`` may stand; a name that is no field stands for itself."""
    return [plain(n) for n in COLUMNS.get(field, (field,))]


def read_sheet(
    path: Path,
    needs: Sequence[str],
    sheet: str | None = None,
    skip: Collection[str] = (),
    may_be_empty: bool = False,
) -> list[Row]:
    """All non-blank rows below the header that has every field of ``needs``.

    sheet: the worksheet to read first; without it (or where it holds nothing) the first that has the header with
    rows below it and whose name, in lower case, is not in ``skip``.
    Raises DataError when the file cannot be read, no header is found, or (unless ``may_be_empty``) there is
    no row below it.
    """
    lacking: list[str] = list(needs)
    empty = False
    for name, table in _tables(path, sheet):
        if name is not None and name.casefold() in skip:
            continue
        for i, cells in enumerate(table[:HEADER_ROWS]):
            header = [plain(c) for c in cells]
            absent = [n for n in needs if not set(spellings(n)) & set(header)]
            if not absent:
                label = path.name if name is None else f"{path.name} [{name}]"
                rows = _rows(label, cells, table[i + 1 :], first=i + 2)
                if rows:
                    return rows
                empty = True  # a summary may stand before the worksheet that is meant
                break
            lacking = min(lacking, absent, key=len)
    if empty and may_be_empty:
        return []
    if empty:
        raise DataError(f"{path} has a header but no rows", do="check that the download is complete")
    raise DataError(
        f"{path}: no header row with the columns {_listed(needs)} in the first {HEADER_ROWS} rows"
        + (f" (the nearest lacks {_listed(lacking)})" if len(lacking) < len(needs) else ""),
        do="check that this is the annotation of this corpus",
    )


def _listed(fields: Sequence[str]) -> str:
    return ", ".join(COLUMNS.get(f, (f,))[0] for f in fields)


def _rows(label: str, header: Sequence[Any], table: list[Sequence[Any]], first: int) -> list[Row]:
    # the first of two equal column names wins: copies of sheets append helper columns
    places = {plain(name): place for place, name in reversed(list(enumerate(header))) if plain(name)}
    spelled = {name: str(header[place]).strip() for name, place in places.items()}
    rows = []
    for n, cells in enumerate(table, start=first):
        if any(str(c).strip() for c in cells if c is not None):
            values = {name: cells[place] for name, place in places.items() if place < len(cells)}
            rows.append(Row(f"{label} row {n}", spelled, values))
    return rows


def _tables(path: Path, sheet: str | None) -> Iterator[tuple[str | None, list[Sequence[Any]]]]:
    try:
        data = read_file(path, SHEET_BYTES, do="check the permissions")
    except FileNotFoundError as e:
        raise DataError(f"cannot read {path}: {e.strerror}", do="check the path") from e
    if path.suffix.lower() == ".csv":
        yield from _csv_tables(path, _decode(data))
    else:
        yield from xlsx_tables(path, data, sheet)


def _csv_tables(path: Path, text: str) -> Iterator[tuple[None, list[Sequence[Any]]]]:
    for delimiter in (",", ";", "\t"):  # Excel writes what the country of its owner uses
        yield None, _csv_rows(path, text, delimiter)


def _csv_rows(path: Path, text: str, delimiter: str) -> list[Sequence[Any]]:
    """The rows; a cell of more than 131072 characters is refused by the csv module itself."""
    limit, cells = SHEET_CELLS(), 0
    rows: list[Sequence[Any]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            cells += len(row) + 1
            if cells > limit:
                raise SHEET_CELLS.exceeded(str(path), f"more than {limit}")
            rows.append(row or ())
    except csv.Error as e:
        raise DataError(f"{path} is not a readable csv file ({e})", do="open and save it again") from e
    return rows


def _decode(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data[:2]:  # the same without its mark; no text begins with a NUL
        return data.decode("utf-16-be" if data[0] == 0 else "utf-16-le", errors="replace")
    for encoding in ("utf-8-sig", "gb18030"):  # the corpora come from China: Excel there saves GBK
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def plain(name: Any) -> str:
    """A column name without case, spaces and punctuation; '' for a blank cell."""
    return "".join(c for c in str(name or "").casefold() if c.isalnum())
