"""Damaged annotation files: a clear error or a correct reading, never a traceback, a wrong clip, a path outside."""

from __future__ import annotations

import csv
import datetime as dt
import io
import random
from pathlib import Path

import openpyxl
import pytest
import tiny

from mepipe import get_corpus
from mepipe.datasets.folders import loose
from mepipe.errors import DataError
from mepipe.verify import verify_corpus
from mepipe.workspace import safe_name

COPIES = 200
ROWS = [
    (f"{s:02d}", f"EP{c:02d}_{n:02d}f", 40 + n, 50 + n, 80 + n, e)
    for s, c, n, e in [(1, 2, 1, "happiness"), (1, 3, 2, "disgust"), (2, 1, 11, "others"), (4, 12, 1, "disgust"),
                       (16, 1, 8, "repression"), (17, 13, 4, "surprise"), (24, 7, 4, "sadness"), (26, 18, 50, "fear")]
]  # fmt: skip
SAMM_ROWS = [
    (f"{s:03d}", f"{s:03d}_{c}_1", 1000 + s, 1010 + s, 1040 + s, e)
    for s, c, e in [(6, 1, "Anger"), (7, 3, "Other"), (11, 5, "Happiness"), (28, 4, "Contempt"), (32, 3, "Fear")]
]
TRICKS = ["../../x", "..", "/etc/passwd", "a/b", "a\\b", "C:\\x", "", " ", ".", "EP\x0002", "EP02_01f\n", "~", "con",
          "x" * 300, "\u202eEP", "😀", "=1+1", "EP02_01f/../../sub02/EP01_11f", "%2e%2e", "NaN", "None"]  # fmt: skip
ODD = ["/", "\\", "?", -1, 0, 1.5, 46.0, 1e300, float("inf"), True, "４６", "46,0", "0x2e", 10**12, "abc", "='x'!A1",
       dt.datetime(2014, 5, 8), dt.time(1, 2), "46 ", "nan", None]  # fmt: skip
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "gb18030", "latin-1", "cp1252", "utf-16-be"]


class Copy:
    """An annotation as a table of cells; ``touched`` rows were damaged, ``header`` tells whether row 0 was."""

    def __init__(self, table: list[list], rng: random.Random) -> None:
        self.table, self.rng = [list(r) for r in table], rng
        self.touched: set[int] = set()
        self.merged: list[tuple[int, int, int, int]] = []

    @property
    def header(self) -> bool:
        return 0 in self.touched

    def any_row(self) -> int:
        return self.rng.randrange(1, len(self.table))

    def any_column(self) -> int:
        return self.rng.randrange(len(self.table[0]))

    def put(self, row: int, column: int, value: object) -> None:
        self.table[row][column] = value
        self.touched.add(row)


def blank_cells(c: Copy) -> None:
    for _ in range(c.rng.randrange(1, 6)):
        c.put(c.any_row(), c.any_column(), None)


def swap_cells(c: Copy) -> None:
    a, b, column = c.any_row(), c.any_row(), c.any_column()
    value = c.table[a][column]
    c.put(a, column, c.table[b][column])
    c.put(b, column, value)


def swap_within_a_row(c: Copy) -> None:
    row, a, b = c.any_row(), c.any_column(), c.any_column()
    value = c.table[row][a]
    c.put(row, a, c.table[row][b])
    c.put(row, b, value)


def retype(c: Copy) -> None:
    for _ in range(c.rng.randrange(1, 5)):
        c.put(c.any_row(), c.any_column(), c.rng.choice(ODD))


def trick_names(c: Copy) -> None:
    c.put(c.any_row(), c.rng.choice([0, 1]), c.rng.choice(TRICKS))


def double_rows(c: Copy) -> None:
    row = c.any_row()
    c.table.append(list(c.table[row]))
    c.touched.add(len(c.table) - 1)


def rename_columns(c: Copy) -> None:
    column = c.any_column()
    name = str(c.table[0][column] or "")
    renamed = [name.upper(), f" {name} ", name.replace("Frame", " frame"), "Column 7", None, "Subject", f"{name}\ufeff"]
    c.put(0, column, c.rng.choice(renamed))


def drop_a_column(c: Copy) -> None:
    column = c.any_column()
    for row in c.table:
        del row[column]
    c.touched.add(0)


def merge_cells(c: Copy) -> None:
    row, column = c.any_row(), c.rng.randrange(len(c.table[0]) - 1)
    c.merged.append((row, column, min(row + c.rng.randrange(3), len(c.table) - 1), column + c.rng.randrange(2)))
    c.touched.update(range(c.merged[0][0], c.merged[0][2] + 1))


def preamble(c: Copy) -> None:
    rows = c.rng.randrange(1, 45)
    c.table[:0] = [["note"] * c.rng.randrange(3) for _ in range(rows)]
    c.touched = {0} if rows >= 40 else set()


def nothing(c: Copy) -> None:
    """The file's form alone is what differs."""


DAMAGES = [blank_cells, swap_cells, swap_within_a_row, retype, trick_names, double_rows, rename_columns, drop_a_column,
           merge_cells, preamble, nothing]  # fmt: skip


def write_xlsx(path: Path, c: Copy) -> None:
    book = openpyxl.Workbook()
    for row in c.table:
        book.active.append([_legal(v) for v in row])
    for top, left, bottom, right in c.merged:
        book.active.merge_cells(start_row=top + 1, start_column=left + 1, end_row=bottom + 1, end_column=right + 1)
    book.save(path)
    if c.rng.random() < 0.05:  # a download that broke off
        data = path.read_bytes()
        path.write_bytes(data[: c.rng.randrange(len(data))])


def _legal(value: object) -> object:
    """openpyxl itself refuses control characters; Excel files of others may hold them, csv files surely."""
    return value.replace("\x00", "") if isinstance(value, str) else value


def write_csv(path: Path, c: Copy) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=c.rng.choice(",;\t"), lineterminator=c.rng.choice(["\r\n", "\n", "\r"])).writerows(
        ["" if v is None else v for v in row] for row in c.table
    )
    data = text.getvalue().encode(c.rng.choice(ENCODINGS), errors="replace")
    if c.rng.random() < 0.1:
        at = c.rng.randrange(len(data))
        data = data[:at] + c.rng.randbytes(5) + data[at:]
        c.touched = set(range(len(c.table)))
    path.write_bytes(data)


def read(corpus: str, raw: Path, sheet: Path) -> list:
    """The clips; none where the file is refused, which must be in one line that names it."""
    try:
        return get_corpus(corpus).clips(raw, sheet=sheet)
    except DataError as e:
        refusal = str(e)
    assert "\n" not in refusal
    assert sheet.name in refusal
    return []


def check(clip, corpus: str, raw: Path) -> None:
    """What must hold of any clip, however damaged its row was."""
    assert safe_name(clip.subject)
    assert safe_name(clip.name)
    if clip.problem:
        assert clip.problem_kind
        assert "\n" not in repr(clip.problem)[1:-1]
        return
    assert clip.onset < clip.offset
    assert clip.apex is None or clip.onset < clip.apex <= clip.offset
    assert clip.apex is not None or clip.notes
    assert clip.emotion in get_corpus(corpus).labels()
    assert clip.frames.resolve().is_relative_to(raw.resolve())
    assert loose(clip.frames.name) == loose(clip.name)
    assert loose(clip.frames.parent.name) == loose(clip.subject)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, tuple[Path, list[list], list]]:
    """Corpus -> (RAW, its table with the header, its clips as they are without damage)."""
    root = tmp_path_factory.mktemp("fuzz")
    made = {}
    for corpus, rows, kwargs in (("casme2", ROWS, {}), ("samm", SAMM_ROWS, {"preamble": 0})):
        raw = getattr(tiny, corpus)(root / corpus, rows, **kwargs)
        sheet = next(raw.glob("*.xlsx"))
        table = [list(r) for r in openpyxl.load_workbook(sheet).active.iter_rows(values_only=True)]
        clips = get_corpus(corpus).clips(raw)
        assert not any(c.problem for c in clips)
        made[corpus] = raw, table, clips
    return made


def facts(clip) -> tuple:
    return clip.id, clip.onset, clip.apex, clip.offset, clip.emotion, clip.label3, clip.frames


@pytest.mark.parametrize("seed", range(COPIES))
def test_a_damaged_annotation_is_read_right_or_refused_in_one_line(corpora, tmp_path, seed):
    rng = random.Random(seed)
    corpus = rng.choice(["casme2", "casme2", "samm"])
    raw, table, before = corpora[corpus]
    copy = Copy(table, rng)
    damage = DAMAGES[seed % len(DAMAGES)]
    damage(copy)
    sheet = tmp_path / rng.choice(["sheet.xlsx", "sheet.csv"])
    (write_xlsx if sheet.suffix == ".xlsx" else write_csv)(sheet, copy)
    clips = read(corpus, raw, sheet)
    for clip in clips:
        check(clip, corpus, raw)
    if seed % 4 == 0:
        assert verify_corpus(get_corpus(corpus), raw, sheet=sheet).lines()
    if clips and not copy.header:
        kept = [c for row, c in enumerate(before, start=1) if row not in copy.touched]
        after = {facts(c) for c in clips} | {facts(c)[:1] for c in clips if c.problem_kind == "duplicate clip"}
        assert all(facts(c) in after or facts(c)[:1] in after for c in kept), "undamaged rows are read as before"


def test_most_damaged_copies_can_still_be_read(corpora, tmp_path):
    """A reader that refuses everything would pass the test above."""
    readable = 0
    raw, table, _ = corpora["casme2"]
    for seed in range(44):
        copy = Copy(table, random.Random(seed))
        DAMAGES[seed % len(DAMAGES)](copy)
        sheet = tmp_path / f"{seed}.csv"
        sheet.write_text("\n".join(",".join("" if v is None else f'"{v}"' for v in row) for row in copy.table))
        readable += len([c for c in read("casme2", raw, sheet) if not c.problem]) >= len(ROWS) - 5
    assert readable >= 30


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "gb18030"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encoding_and_delimiter_do_not_change_the_reading(corpora, tmp_path, encoding, delimiter):
    raw, table, before = corpora["casme2"]
    with (tmp_path / "sheet.csv").open("w", newline="", encoding=encoding) as f:
        csv.writer(f, delimiter=delimiter).writerows([["" if v is None else v for v in row] for row in table])
    assert [facts(c) for c in get_corpus("casme2").clips(raw, sheet=tmp_path / "sheet.csv")] == [
        facts(c) for c in before
    ]


def test_formulas_are_read_by_their_stored_values_or_as_blank(corpora, tmp_path):
    raw, table, _ = corpora["casme2"]
    book = openpyxl.Workbook()
    for row in table:
        book.active.append(row)
    book.active["D2"] = "=40+1"  # written without Excel: no stored value
    book.save(tmp_path / "sheet.xlsx")
    clips = get_corpus("casme2").clips(raw, sheet=tmp_path / "sheet.xlsx")
    assert "OnsetFrame is blank" in clips[0].problem
    assert not any(c.problem for c in clips[1:])


@pytest.mark.parametrize("trick", TRICKS)
def test_no_name_leads_out_of_the_workspace(corpora, tmp_path, trick):
    raw, table, _ = corpora["casme2"]
    rows = [list(r) for r in table]
    rows[1][1], rows[2][0] = trick, trick
    with (tmp_path / "sheet.csv").open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([["" if v is None else v for v in row] for row in rows])
    for clip in read("casme2", raw, tmp_path / "sheet.csv"):
        place = (tmp_path / "prepared" / clip.subject / clip.name).resolve()
        assert place.is_relative_to(tmp_path / "prepared")
        assert len(place.relative_to(tmp_path / "prepared").parts) == 2
