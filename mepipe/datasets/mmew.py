"""MMEW: 300 micro-expressions of 30 subjects, 90 fps, colour.

Layout   MMEW_Final/Micro_Expression/<emotion>/<clip>/<frame>.jpg       happiness/S03-01-002/1.jpg
         Micro_Expression/<subject>/<emotion>/<clip>/...                (as its web page says)
Sheet    MMEW_Micro_Exp.xlsx, header in row 1; a clip is called <subject>-<emotion>-<number>
Source   Ben et al. 2021 (IEEE T-PAMI 44:5826); frame rate and the 30 subjects from the paper, not checked here
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, Corpus, FrameFolders, from_row, number_in
from mepipe.datasets.sheet import read_sheet


@CORPORA.register("mmew")
class Mmew(Corpus):
    name = "mmew"
    title = "MMEW"
    fps = 90.0
    licence = "http://www.dpailab.com/database.html (Shandong University)"
    layout = "MMEW_Final/Micro_Expression/happiness/S03-01-002/1.jpg + MMEW_Micro_Exp.xlsx"
    sheet_names = ("MMEW_Micro_Exp*.xlsx", "MMEW*Micro*.xlsx", "MMEW*Micro*.csv")

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        needs = ("subject", "clip", "onset", "apex", "offset", "emotion")
        for row in read_sheet(self.find_sheet(folders, sheet), needs):
            number, name = number_in(row.text("subject"), "s"), row.text("clip")
            subject = row.text("subject") if number is None else f"S{number:02d}"
            frames = folders.find(name, accept=partial(self.is_clip_folder, folders=folders))
            clip = from_row(row, corpus=self.name, subject=subject, name=name, fps=self.fps, frames=frames)
            if number_in(name.partition("-")[0], "s") != number:
                clip = clip.refused(f"{row.where}: clip {name!r} does not belong to subject {subject!r}")
            yield clip

    def is_clip_folder(self, folder: Path, folders: FrameFolders) -> bool:
        """MMEW also holds macro-expressions, which are no clips here."""
        return not any(p.startswith("macro") for p in folders.below(folder))
