"""CASME II: 255 coded micro-expressions of 26 subjects, 200 fps, colour 640x480.

Layout   CASME2_RAW_selected/<subject>/<clip>/img<frame>.jpg        sub01/EP02_01f/img46.jpg
         Cropped/<subject>/<clip>/reg_img<frame>.jpg                (the supplied crops)
         the top folder is often doubled by unzipping
Sheet    CASME2-coding-20140508.xlsx or -20190701.xlsx, header in row 1, two nameless columns
Source   Yan et al. 2014 (PLoS ONE 9:e86041); clip names are unique only within a subject
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, Corpus, FrameFolders, from_row, number_in
from mepipe.datasets.sheet import read_sheet


@CORPORA.register("casme2")
class Casme2(Corpus):
    name = "casme2"
    title = "CASME II"
    fps = 200.0
    licence = "http://casme.psych.ac.cn/casme/e2 (Institute of Psychology, Chinese Academy of Sciences)"
    layout = "CASME2_RAW_selected/sub01/EP02_01f/img46.jpg + CASME2-coding-20140508.xlsx"
    sheet_names = ("CASME2-coding-2*.xlsx", "CASME2-coding*.xlsx", "CASME2-coding*.csv")

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        needs = ("subject", "clip", "onset", "apex", "offset", "emotion")
        for row in read_sheet(self.find_sheet(folders, sheet), needs):
            number, name = number_in(row.text("subject"), "sub"), row.text("clip")
            subject = row.text("subject") if number is None else f"sub{number:02d}"
            frames = folders.find(subject, name, prefer="raw") or folders.find(subject.removeprefix("sub"), name)
            yield from_row(row, corpus=self.name, subject=subject, name=name, fps=self.fps, frames=frames)
