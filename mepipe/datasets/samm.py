"""SAMM: 159 micro-expressions of 29 subjects, 200 fps, grey, released at 960x650.

Layout   SAMM/<subject>/<clip>/<subject>_<frame>.jpg     006/006_1_2/006_05562.jpg, 028/028_4_1/028_1071.jpg
         frame numbers are those of a long recording; their zero padding varies by clip
Sheet    SAMM_Micro_FACS_Codes_v2.xlsx, sheet MICRO_ONLY, header in row 14 (row 1 in some copies)
Source   Davison et al. 2018 (IEEE T-AFFC 9:116); the long videos (SAMM_LongVideos_V2) are another set
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, Corpus, FrameFolders, from_row, number_in
from mepipe.datasets.sheet import read_sheet


@CORPORA.register("samm")
class Samm(Corpus):
    name = "samm"
    title = "SAMM"
    fps = 200.0
    licence = "https://personalpages.manchester.ac.uk/staff/adrian.davison/SAMM.html (Davison and Yap)"
    layout = "SAMM/006/006_1_2/006_05562.jpg + SAMM_Micro_FACS_Codes_v2.xlsx"
    sheet_names = ("SAMM*Micro_FACS_Codes*.xlsx", "SAMM*.xlsx", "SAMM*Micro_FACS_Codes*.csv")

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        needs = ("subject", "clip", "onset", "apex", "offset", "emotion")
        for row in read_sheet(self.find_sheet(folders, sheet), needs, "MICRO_ONLY"):
            number, name = number_in(row.text("subject"), ""), row.text("clip")
            subject = row.text("subject") if number is None else f"{number:03d}"
            frames = folders.find(subject, name) or folders.find(name)
            clip = from_row(row, corpus=self.name, subject=subject, name=name, fps=self.fps, frames=frames)
            if number_in(name.partition("_")[0], "") != number:
                clip = clip.refused(f"{row.where}: clip {name!r} does not belong to subject {subject!r}")
            yield clip
