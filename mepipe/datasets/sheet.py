"""Reading annotation sheets as people really keep them: header anywhere, odd cells, text or numbers.

A sheet is xlsx or csv.  The header is the first of the first 40 rows that holds every needed column;
names are compared without case, spaces and underscores.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mepipe.errors import DataError

HEADER_ROWS = 40  # SAMM has 13 rows of preamble; nobody has 40
MAX_BYTES = 64 << 20  # an annotation is under 1 MB; a sheet of this size is not one
BLANK = {"", "/", "\\", "-", "nan", "none", "n/a"}  # all seen in real sheets for "not coded"


class Row:
    """One row of a sheet: cells by column name, and where it stands."""

    def __init__(self, where: str, cells: dict[str, Any]) -> None:
        self.where = where  # "CASME2-coding-20140508.xlsx row 17"
        self._cells = cells

    def raw(self, column: str) -> Any:
        return self._cells.get(plain(column))

    def text(self, column: str) -> str:
        """The cell as stripped text; whole floats lose their '.0' (Excel turns 17 into 17.0)."""
        value = self.raw(column)
        if value is None:
            return ""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value).strip()

    def frame(self, column: str) -> int | None:
        """The cell as a frame number; None when blank. Raises ValueError that says what is there."""
        text = self.text(column)
        if text.casefold() in BLANK:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise ValueError(f"{column} holds {text!r}, not a frame number")
        return int(text)


def read_sheet(path: Path, needs: Sequence[str], sheet: str | None = None) -> list[Row]:
    """All non-blank rows below the header that holds ``needs``.

    sheet: the worksheet to read; without it (or when absent) the first that has the header.
    Raises DataError when the file cannot be read or no header is found.
    """
    wanted = {plain(n) for n in needs}
    for name, table in _tables(path, sheet):
        for i, cells in enumerate(table[:HEADER_ROWS]):
            header = [plain(c) for c in cells]
            if wanted <= set(header):
                label = path.name if name is None else f"{path.name} [{name}]"
                return _rows(label, header, table[i + 1 :], first=i + 2)
    raise DataError(
        f"{path}: no header row with the columns {', '.join(needs)} in the first {HEADER_ROWS} rows",
        do="check that this is the annotation of this corpus",
    )


def _rows(label: str, header: list[str], table: list[Sequence[Any]], first: int) -> list[Row]:
    rows = []
    for n, cells in enumerate(table, start=first):
        if any(str(c).strip() for c in cells if c is not None):
            # the first of two equal column names wins: copies of sheets append helper columns
            values = dict(reversed(list(zip(header, cells, strict=False))))
            rows.append(Row(f"{label} row {n}", values))
    return rows


def _tables(path: Path, sheet: str | None) -> Iterator[tuple[str | None, list[Sequence[Any]]]]:
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} has {path.stat().st_size >> 20} MB", do="an annotation sheet is far smaller; check it")
    if path.suffix.lower() == ".csv":
        yield None, list(csv.reader(io.StringIO(_decode(path))))
    else:
        yield from _xlsx_tables(path, sheet)


def _decode(path: Path) -> str:
    data = path.read_bytes()
    for encoding in ("utf-8-sig", "gb18030"):  # the corpora come from China: Excel there saves GBK
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _xlsx_tables(path: Path, sheet: str | None) -> Iterator[tuple[str | None, list[Sequence[Any]]]]:
    import openpyxl

    try:
        unpacked = sum(i.file_size for i in zipfile.ZipFile(path).infolist())
        if unpacked > 16 * MAX_BYTES:
            raise DataError(f"{path} unpacks to {unpacked >> 20} MB", do="this is no annotation sheet; check it")
        book = openpyxl.load_workbook(path, data_only=True)
    except DataError:
        raise
    except Exception as e:  # openpyxl raises a dozen kinds (zip, xml, key, value) for damaged files
        raise DataError(f"{path} is not a readable xlsx file ({type(e).__name__})", do="open and save it again") from e
    names = [s for s in book.sheetnames if s == sheet] + [s for s in book.sheetnames if s != sheet]
    for name in names:
        if hasattr(book[name], "iter_rows"):  # chart sheets have no rows
            yield name, [list(r) for r in book[name].iter_rows(values_only=True)]


def plain(name: Any) -> str:
    """A column name without case, spaces and underscores; '' for a blank cell."""
    return "".join(c for c in str(name or "").casefold() if not c.isspace() and c != "_")
