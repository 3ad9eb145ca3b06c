"""Annotation sheets of made-up corpora, as Excel files."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from pathlib import Path

from mepipe.workspace import atomic_file

_MADE = dt.datetime(2014, 5, 8)  # a fixed date inside the file: the same corpus gives the same cells and properties


def write_sheet(path: Path, title: str, rows: Iterable[Sequence[object]]) -> None:
    """Write ``rows`` (None is an empty cell) as sheet ``title`` of the .xlsx file ``path``, atomically."""
    import openpyxl

    book = openpyxl.Workbook()
    book.properties.created = book.properties.modified = _MADE
    sheet = book.active
    sheet.title = title
    for row in rows:
        sheet.append(list(row))
    with atomic_file(path) as temp:
        book.save(temp)


def cell(units: str) -> int | str:
    """Action units as annotators' sheets hold them: a single one is a number, several or a sided one text."""
    return int(units) if units.isdigit() else units
