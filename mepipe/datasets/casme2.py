"""CASME II: 255 coded micro-expressions of 26 subjects, 200 fps, colour 640x480.

Layout   CASME2_RAW_selected/<subject>/<clip>/img<frame>.jpg        sub01/EP02_01f/img46.jpg
         Cropped/<subject>/<clip>/reg_img<frame>.jpg                (the supplied crops)
         the top folder is often doubled by unzipping
Sheet    CASME2-coding-20140508.xlsx or -20190701.xlsx, header in row 1, two nameless columns
Source   Yan et al. 2014 (PLoS ONE 9:e86041); clip names are unique only within a subject
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, Corpus, FrameFolders, from_row, sheet_rows

COLUMNS = {"onset": "OnsetFrame", "apex": "ApexFrame", "offset": "OffsetFrame"}


@CORPORA.register("casme2")
class Casme2(Corpus):
    name = "casme2"
    title = "CASME II"
    fps = 200.0
    licence = "apply to the CASME team, Institute of Psychology, Chinese Academy of Sciences"
    layout = "CASME2_RAW_selected/sub01/EP02_01f/img46.jpg + CASME2-coding-20140508.xlsx"
    sheet_names = ("CASME2-coding-2*.xlsx", "CASME2-coding*.xlsx", "CASME2-coding*.csv")
    synonyms = {"other": "others"}  # noqa: RUF012 - ClassVar by the base class

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        needs = ("Subject", "Filename", *COLUMNS.values(), "Estimated Emotion")
        for row in sheet_rows(self.find_sheet(raw, sheet), needs):
            subject, name = subject_id(row.text("Subject")), row.text("Filename")
            clip = from_row(
                row,
                COLUMNS,
                corpus=self.name,
                subject=subject,
                name=name,
                fps=self.fps,
                emotion=row.text("Estimated Emotion"),
                aus=row.text("Action Units"),
                frames=folders.find(subject, name, prefer="raw"),
            )
            yield self.labelled(clip)


def subject_id(cell: str) -> str:
    """'01', '1' and 'sub01' are all sub01; anything else is left as it is, to be refused by name."""
    number = re.fullmatch(r"(?:sub)?0*(\d{1,3})", cell.strip(), re.IGNORECASE)
    return f"sub{int(number[1]):02d}" if number else cell.strip()
