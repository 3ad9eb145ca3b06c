"""Corpora on disk in their real layouts with frames of a few bytes, for tests of reading and checking."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import openpyxl

CASME2 = ("Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units",
          "Estimated Emotion")  # fmt: skip
SAMM = ("Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame", "Duration", "Micro",
        "Action Units", "Estimated Emotion", "Objective Classes", "Notes")  # fmt: skip
SMIC_E = ("Subject", "Filename", None, "OnsetF", "OffsetF", "Onset2F", "Offset2F", "Onset3F", "Offset3F", None,
          "FirstF", "LastF", "TotalMF1", "TotalMF2", "TotalMF3", "TotalVL", "Emotion")  # fmt: skip
DFME = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion", "EmotionId", "Fps", "AU")
CASME3 = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion")
MMEW = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion", "remarks")
FOURDME = ("sub_ID", "fold_name", "Emotion", "Onset", "Apex", "Offset", "AUs")


@cache
def image(suffix: str) -> bytes:
    """The smallest whole image of a format."""
    return cv2.imencode(suffix, np.full((2, 2, 3), 90, np.uint8))[1].tobytes()


def frames(folder: Path, numbers: Iterable[int], name: str = "img{}.jpg") -> Path:
    """A folder of tiny images, one for each of ``numbers``."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        file = folder / name.format(n)
        file.write_bytes(image(file.suffix))
    return folder


def sheet(path: Path, header: Sequence, rows: Iterable[Sequence], title: str = "Sheet1", preamble: int = 0) -> Path:
    """An .xlsx file with one sheet; ``preamble`` rows of text stand above the header."""
    book = openpyxl.load_workbook(path) if path.exists() else openpyxl.Workbook()
    page = book.create_sheet(title) if path.exists() else book.active
    page.title = title
    for i in range(preamble):
        page.append([f"line {i + 1} of a preamble"])
    page.append(list(header))
    for row in rows:
        page.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def casme2(raw: Path, rows: list[Sequence], *, top: str = "CASME2_RAW_selected", edition: str = "20140508") -> Path:
    """rows: (subject, clip, onset, apex, offset, emotion)."""
    cells = [(s, c, None, on, ap, off, None, "4", e) for s, c, on, ap, off, e in rows]
    sheet(raw / f"CASME2-coding-{edition}.xlsx", CASME2, cells)
    for s, c, *numbers, _ in rows:
        frames(raw / top / f"sub{int(s):02d}" / c, (n for n in numbers if isinstance(n, int)))
    return raw


def samm(raw: Path, rows: list[Sequence], *, digits: int = 5, preamble: int = 13) -> Path:
    """rows: (subject, clip, onset, apex, offset, emotion)."""
    cells = [(s, c, 1, on, ap, off, off - on + 1, "Micro - 1/2", "4", e, 7, None) for s, c, on, ap, off, e in rows]
    sheet(raw / "SAMM_Micro_FACS_Codes_v2.xlsx", SAMM, cells, "MICRO_ONLY", preamble)
    for s, c, *numbers, _ in rows:
        frames(raw / "SAMM" / f"{int(s):03d}" / c, numbers, f"{int(s):03d}_{{:0{digits}d}}.jpg")
    return raw


def smic(raw: Path, rows: list[Sequence], *, camera: str = "HS", top: str = "SMIC_all_raw") -> Path:
    """rows: (clip, onset, offset, emotion)."""
    for c, onset, offset, emotion in rows:
        folder = raw / top / camera / c.split("_")[0] / "micro" / emotion / c
        frames(folder, (onset, (onset + offset) // 2, offset), "image{:06d}.bmp")
    return raw


def smic_e(raw: Path, rows: list[Sequence]) -> Path:
    """rows: (clip, emotion, [(onset, offset), ...])."""
    cells = []
    for c, emotion, spans in rows:
        number = int(c.split("_")[0][1:])
        flat = [n for span in spans for n in span] + [None] * (6 - 2 * len(spans))
        first, last = min(spans)[0] - 20, max(spans)[1] + 20
        cells.append((number, c, None, *flat, None, first, last, None, None, None, last - first, emotion))
        name = "image{:06d}.jpg"
        frames(
            raw / "SMIC-E_raw image" / "HS_long" / "SMIC-HS-E" / f"s{number:02d}" / c,
            (first, *sum(spans, ()), last),
            name,
        )
    sheet(raw / "SMIC-HS-E_annotation.xlsx", SMIC_E, cells, "HS")
    return raw


def dfme(raw: Path, rows: list[Sequence], *, whole: bool = True) -> Path:
    """rows: (split, subject, clip, onset, apex, offset, emotion, fps). whole: write more than the onset frame."""
    ids = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
    places = {"train": ("train_data", "training"), "testA": ("test_data_A", "testA"), "testB": ("test_data_B", "testB")}
    for split, (folder, name) in places.items():
        mine = [r[1:] for r in rows if r[0] == split]
        cells = [(s, c, on, ap, off, e, ids.index(e), fps, "4") for s, c, on, ap, off, e, fps in mine]
        inner = raw / "full_release_annotation" / "full_release_annotation"
        sheet(inner / f"{name}_full_with_AU.xlsx", DFME, cells)
        for _, c, on, ap, off, *_ in mine:
            frames(raw / folder / folder / c, {0, on, ap, off} if whole else (on,), "{:05d}.png")
    return raw


def casme3(raw: Path, rows: list[Sequence]) -> Path:
    """rows: (subject, video, onset, apex, offset, emotion)."""
    name = "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"
    sheet(raw / name, CASME3, [(s, v, on, ap, off, "4", 7, e) for s, v, on, ap, off, e in rows], "label")
    for s, v, *numbers, _ in rows:
        for kind in ("color", "depth"):
            suffix = "jpg" if kind == "color" else "png"
            frames(raw / "part_A" / s / v / kind, (n for n in numbers if n), "{}." + suffix)
    return raw


def mmew(raw: Path, rows: list[Sequence], *, by_subject: bool = False) -> Path:
    """rows: (subject, clip, onset, apex, offset, emotion)."""
    sheet(raw / "MMEW_Micro_Exp.xlsx", MMEW, [(s, c, on, ap, off, "4", e, None) for s, c, on, ap, off, e in rows])
    for _, c, *numbers, e in rows:
        above = Path(c[:3]) / e if by_subject else Path(e)
        frames(raw / "MMEW_Final" / "Micro_Expression" / above / c, numbers, "{}.jpg")
    return raw


def fourdme(raw: Path, rows: list[Sequence]) -> Path:
    """rows: (subject, clip, onset, apex, offset, emotion)."""
    cells = [(s, c, e, on, ap, off, "AU4") for s, c, on, ap, off, e in rows]
    sheet(raw / "4DME_Labelling_Micro_release v1.xlsx", FOURDME, cells)
    for s, c, *numbers, _ in rows:
        frames(raw / "gray_micro" / s / c, numbers, "{:04d}.jpg")
    return raw


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))
