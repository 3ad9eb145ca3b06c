"""An xlsx file from a stranger: unpacked within limits, free of what could grow in a parser, read row by row.

A workbook is a zip of XML.  Before openpyxl sees it, every part is unpacked once to count its real bytes (what the zip
says of them is not believed), and a part with a document type is refused: entities are defined there, and nowhere else
can a few bytes of XML become gigabytes.  Excel writes none.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mepipe.errors import DataError
from mepipe.limits import SHEET_CELLS, SHEET_UNPACKED

BLOCK = 1 << 20
MAX_PARTS = 1000  # of the zip; a workbook has about ten, and some more for each worksheet and picture
MAX_ROWS = 1 << 20  # Excel's own
# Parts that are not read row by row (styles, names, relations) become trees of 40 times their size in memory
TREE_SHARE = 16  # so they get a sixteenth of SHEET_UNPACKED each: real ones have some 10 kB
TAGS_PER_CELL = 4  # <c><v>1</v></c>; whatever else is in a row costs as much memory as a cell
XML = (".xml", ".rels", ".vml")

Table = list[Sequence[Any]]


def xlsx_tables(path: Path, data: bytes, first: str | None) -> Iterator[tuple[str, Table]]:
    """(name, rows) of each worksheet of the file ``data``, that of the name ``first`` before the others.

    Raises DataError for what is no workbook, or beyond the limits.
    """
    if data[:4] == b"\xd0\xcf\x11\xe0":  # the container of Excel 97-2003, whatever the suffix says
        raise DataError(f"{path} is an old .xls file", do="open it and save it as .xlsx or .csv")
    try:
        _check_parts(path, data)
        book = _open(data)
        names = [s for s in book.sheetnames if s == first] + [s for s in book.sheetnames if s != first]
        tables = ((name, _rows(path, book[name])) for name in names if hasattr(book[name], "iter_rows"))
        yield from tables  # chart sheets have no rows
    except DataError:
        raise
    except Exception as e:  # openpyxl raises a dozen kinds (zip, xml, key, value) for damaged files
        raise DataError(f"{path} is not a readable xlsx file ({type(e).__name__})", do="open and save it again") from e


def _open(data: bytes) -> Any:
    """The workbook, its rows read when asked for: a book in memory takes 50 times its size."""
    import warnings

    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on extensions and styles that it leaves out: we read neither
        return openpyxl.load_workbook(io.BytesIO(data), data_only=True, read_only=True, keep_links=False)


def _rows(path: Path, sheet: Any) -> Table:
    """All rows from the first on, blank ones as empty; what the sheet says of its own size is not believed."""
    sheet.reset_dimensions()
    limit, cells = SHEET_CELLS(), 0
    table: Table = []
    for row in sheet.iter_rows(values_only=True):
        cells += len(row)
        if cells > limit:
            raise SHEET_CELLS.exceeded(f"{path} [{sheet.title}]", f"more than {limit}")
        if len(table) == MAX_ROWS:
            raise DataError(f"{path} [{sheet.title}] has more than {MAX_ROWS} rows", do="save it again with Excel")
        table.append(row if any(cell is not None for cell in row) else ())
    return table


def _check_parts(path: Path, data: bytes) -> None:
    """Raises DataError for a zip that unpacks to too much, or that holds XML with a document type."""
    if data.count(b"PK\x01\x02") > MAX_PARTS:
        raise DataError(f"{path} is a zip of more than {MAX_PARTS} parts", do="this is no annotation sheet; check it")
    left, tags = SHEET_UNPACKED(), TAGS_PER_CELL * SHEET_CELLS()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for part in archive.infolist():
            if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{path} is packed as no xlsx is (method {part.compress_type})", do="save it again")
            name = part.filename.casefold()
            streamed = "/worksheets/" in name or "sharedstrings" in name or not name.endswith(XML)
            share = 1 if streamed else TREE_SHARE
            size, used = _check_part(path, data, part, min(left, SHEET_UNPACKED() // share), tags // share)
            left, tags = left - size, tags - used


def _check_part(path: Path, data: bytes, part: zipfile.ZipInfo, most: int, most_tags: int) -> tuple[int, int]:
    """(bytes, XML tags) that ``part`` really unpacks to. Raises DataError for more, or for a document type."""
    size, tags, end = 0, 0, b""
    where = f"{path}, {part.filename}"
    for block in _unpacked(data, part):
        size += len(block)
        if size > most:
            raise SHEET_UNPACKED.exceeded(where, f"more than {most}")
        if part.filename.casefold().endswith(XML):
            tags += block.count(b"<")
            if tags > most_tags:
                raise SHEET_CELLS.exceeded(where, f"{tags} XML tags, as of more than {most_tags // TAGS_PER_CELL}")
            text = end + block
            if b"<!" in text and (b"<!DOCTYPE" in text or b"<!ENTITY" in text):
                raise DataError(f"{where} defines entities", do="no xlsx does; save it again")
            if b"\0" in block:  # UTF-16, in which the search above would be blind; Excel writes UTF-8
                raise DataError(f"{where} is not UTF-8", do="save it again with Excel")
            end = block[-16:]
    if size != part.file_size:
        raise DataError(f"{where}: {size} bytes, and its zip says {part.file_size}", do="save it again")
    return size, tags


def _unpacked(data: bytes, part: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content of ``part``, at most BLOCK bytes at a time, whatever size its zip says it has."""
    start = part.header_offset
    if data[start : start + 4] != b"PK\x03\x04":
        raise DataError("its zip is damaged")
    start += 30 + int.from_bytes(data[start + 26 : start + 28], "little")
    start += int.from_bytes(data[part.header_offset + 28 : part.header_offset + 30], "little")
    packed = data[start : start + part.compress_size]
    if part.compress_type == zipfile.ZIP_STORED:
        yield from (packed[i : i + BLOCK] for i in range(0, len(packed), BLOCK))
        return
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    while packed and not unpacker.eof:
        yield unpacker.decompress(packed, BLOCK)
        packed = unpacker.unconsumed_tail
    yield unpacker.flush()
