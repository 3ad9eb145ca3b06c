from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import openpyxl
import pytest

from mepipe import get_corpus, list_corpora
from mepipe.datasets.base import label_table
from mepipe.datasets.sheet import read_sheet
from mepipe.errors import DataError, UsageError

HEADER = ["Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units",
          "Estimated Emotion"]  # fmt: skip


def write_corpus(raw: Path, rows: list[list], *, header=HEADER, frames=True, top="CASME2_RAW_selected") -> Path:
    book = openpyxl.Workbook()
    book.active.append(header)
    for row in rows:
        book.active.append(row)
    raw.mkdir(parents=True, exist_ok=True)
    book.save(raw / "CASME2-coding-20140508.xlsx")
    for row in rows if frames else []:
        folder = raw / top / f"sub{int(row[0]):02d}" / str(row[1])
        folder.mkdir(parents=True, exist_ok=True)
        for n in (row[3], row[4], row[5]):
            if isinstance(n, int):
                (folder / f"img{n}.jpg").write_bytes(b"x")
    return raw


def row(subject="01", name="EP02_01f", onset=46, apex=59, offset=86, emotion="happiness", aus="12"):
    return [subject, name, None, onset, apex, offset, None, aus, emotion]


def clips(raw: Path, **kw):
    return get_corpus("casme2").clips(raw, **kw)


def test_every_row_becomes_one_clip_in_order(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row(), row("02", "EP01_11f", 46, 91, 166, "disgust"), row("17", "EP13_04")])
    found = clips(raw)
    assert [c.id for c in found] == ["sub01/EP02_01f", "sub02/EP01_11f", "sub17/EP13_04"]
    assert (found[1].onset, found[1].apex, found[1].offset, found[1].fps) == (46, 91, 166, 200.0)
    assert [c.label3 for c in found] == ["positive", "negative", "positive"]
    assert not any(c.problem or c.notes for c in found)


@pytest.mark.parametrize("subject", ["01", 1, 1.0, "sub01", " 1 "])
def test_subject_may_be_text_or_number(tmp_path, subject):
    raw = write_corpus(tmp_path / "raw", [row()])
    rewrite(raw, "A2", subject)
    assert clips(raw)[0].subject == "sub01"


@pytest.mark.parametrize("top", ["CASME2_RAW_selected/CASME2_RAW_selected", "", "casme2_raw_SELECTED", "a/b/Cropped"])
def test_top_folders_may_be_doubled_missing_or_spelled_otherwise(tmp_path, top):
    raw = write_corpus(tmp_path / "raw", [row()], top=top)
    assert clips(raw)[0].frames == raw / top / "sub01" / "EP02_01f"


def test_raw_frames_are_preferred_to_crops(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row()], top="Cropped")
    write_corpus(raw, [row()], top="CASME2_RAW_selected")
    assert "CASME2_RAW_selected" in str(clips(raw)[0].frames)


def test_header_may_stand_below_a_preamble_with_other_case_and_spaces(tmp_path):
    header = [
        "subject ",
        "FILENAME",
        None,
        "Onset Frame",
        "apex_frame",
        "Offset Frame",
        None,
        "AU",
        "estimated emotion",
    ]
    raw = write_corpus(tmp_path / "raw", [row()], header=["made by", "somebody"])
    book = openpyxl.load_workbook(raw / "CASME2-coding-20140508.xlsx")
    book.active.insert_rows(2, 5)
    for column, value in enumerate(header, start=1):
        book.active.cell(6, column, value)
    book.save(raw / "CASME2-coding-20140508.xlsx")
    assert clips(raw)[0].onset == 46


def test_the_slash_of_sub04_is_spotted_by_a_visible_rule(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row("04", "EP12_01f", 261, "/", 321, "disgust")])
    (clip,) = clips(raw)
    assert clip.apex is None
    assert "correction: apex / -> spot" in "; ".join(clip.notes)
    (plain,) = clips(raw, corrections=False)
    assert plain.apex is None
    assert plain.notes == ("apex cell holds '/'",)


def test_a_correction_applies_only_where_the_old_value_is(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row("16", "EP01_08", 20, 60, 110), row("16", "EP01_09", 20, 60, 110)])
    first, second = clips(raw)
    assert first.offset == 96
    assert "offset 110 -> 96" in first.notes[0]
    assert second.offset == 110
    assert not second.notes
    raw = write_corpus(tmp_path / "other", [row("16", "EP01_08", 20, 60, 100)])
    assert clips(raw)[0].offset == 100
    assert not clips(raw)[0].notes


def test_apex_equal_to_onset_is_spotted(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row("05", "EP09_05f", 69, 69, 123), row("06", "EP01_01", 10, 300, 60)])
    for clip in clips(raw):
        assert clip.apex is None
        assert clip.notes
        assert not clip.problem


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"onset": None}, "OnsetFrame is blank"),
        ({"onset": "abc"}, "not a frame number"),
        ({"offset": -4}, "not a frame number"),
        ({"offset": 40}, "not after onset"),
        ({"emotion": "bored"}, "unknown emotion 'bored'"),
        ({"name": "../../x"}, "cannot be a folder name"),
        ({"name": None}, "cannot be a folder name"),
        ({"subject": "a/b"}, "cannot be a folder name"),
    ],
)
def test_a_damaged_row_is_refused_by_name_and_the_others_stay(tmp_path, change, reason):
    raw = write_corpus(tmp_path / "raw", [row("03", "EP01_02")])
    book = openpyxl.load_workbook(raw / "CASME2-coding-20140508.xlsx")
    book.active.append(row(**change))
    book.save(raw / "CASME2-coding-20140508.xlsx")
    good, bad = clips(raw)
    assert not good.problem
    assert reason in bad.problem
    assert "row 3" in bad.problem or "emotion" in reason


def test_a_second_row_of_a_clip_is_refused(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row(), row(apex=60)])
    first, second = clips(raw)
    assert not first.problem
    assert "repeats sub01/EP02_01f of CASME2-coding-20140508.xlsx [Sheet] row 2" in second.problem


def test_clip_names_are_unique_only_within_a_subject(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row(s, "EP13_04") for s in ("02", "17", "23")])
    found = clips(raw)
    assert len({c.frames for c in found}) == 3
    assert not any(c.problem for c in found)


def test_a_clip_without_folder_is_refused_and_named(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row(), row("02", "EP01_11f")])
    shutil.rmtree(raw / "CASME2_RAW_selected" / "sub02")
    assert "no folder with frames for sub02/EP01_11f" in clips(raw)[1].problem


def test_no_sheet_says_what_was_looked_for(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match=r"no annotation sheet .* CASME2-coding-2\*.xlsx, .* --sheet PATH"):
        clips(tmp_path / "raw")


def test_a_sheet_that_is_no_sheet_is_one_line(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row()])
    (raw / "CASME2-coding-20140508.xlsx").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="not a readable xlsx file"):
        clips(raw)


def test_the_newer_annotation_wins(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row(emotion="sadness")])
    book = openpyxl.load_workbook(raw / "CASME2-coding-20140508.xlsx")
    book.active["I2"] = "surprise"
    book.save(raw / "CASME2-coding-20190701.xlsx")
    assert clips(raw)[0].emotion == "surprise"
    assert clips(raw, sheet=raw / "CASME2-coding-20140508.xlsx")[0].emotion == "sadness"


def test_a_csv_copy_in_gbk_or_with_bom_reads_the_same(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row()])
    table = [[c or "" for c in HEADER], [str(c or "") for c in row()]]
    for encoding in ("utf-8-sig", "gb18030"):
        with (raw / "copy.csv").open("w", newline="", encoding=encoding) as f:
            csv.writer(f).writerows([["注释"], *table])
        (clip,) = clips(raw, sheet=raw / "copy.csv")
        assert (clip.subject, clip.onset, clip.label3) == ("sub01", 46, "positive")


def test_unknown_corpus_lists_the_valid_ones():
    with pytest.raises(UsageError, match="did you mean 'casme2'"):
        get_corpus("cassme2")
    assert "casme2" in list_corpora()


def test_every_emotion_word_has_known_labels():
    for corpus in list_corpora():
        for r in label_table(corpus).values():
            assert r["label3"] in ("", "negative", "positive", "surprise")
            assert r["label7"] in ("", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")


def test_real_annotation_gives_the_published_counts(tmp_path, real_data):
    """All 255 rows of the real coding, on a few frames a clip; MEGC2019's classes for CASME II."""
    with (real_data / "slstt_casme2_coding.csv").open(newline="") as f:
        real = list(csv.DictReader(f))
    names = ("OnsetFrame", "ApexFrame", "OffsetFrame")
    rows = [row(f"{int(r['Subject']):02d}", r["Filename"], *(int(r[k]) for k in names), r["Emotion"]) for r in real]
    found = clips(write_corpus(tmp_path / "raw", rows))
    assert len(found) == 255
    assert not any(c.problem for c in found)
    with (real_data / "megc2019_combined_3class_gt.csv").open(newline="") as f:
        official = {(s, c): int(label) for db, s, c, label in csv.reader(f) if db == "casme2"}
    labels = {(c.subject, c.name): c.label3 for c in found}
    assert Counter(labels[k] for k in official) == {"negative": 88, "positive": 32, "surprise": 25}
    assert all(["negative", "positive", "surprise"].index(labels[k]) == n for k, n in official.items())


def rewrite(raw: Path, cell: str, value) -> None:
    book = openpyxl.load_workbook(raw / "CASME2-coding-20140508.xlsx")
    book.active[cell] = value
    book.save(raw / "CASME2-coding-20140508.xlsx")


def test_read_sheet_names_the_row(tmp_path):
    raw = write_corpus(tmp_path / "raw", [row(), row("02")])
    rows = read_sheet(raw / "CASME2-coding-20140508.xlsx", ("Subject", "OnsetFrame"))
    assert rows[1].where == "CASME2-coding-20140508.xlsx [Sheet] row 3"
