"""CAS(ME)^3, part A: 860 micro-expressions of 94 subjects (second annotation), 30 fps, colour.

Layout   part_A/.../<subject>/<video>/color/<frame>.jpg                 spNO.1/a/color/166.jpg
Sheet    cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx, sheet "label", header in row 1 (v1 is an .xls file: save it as
         .xlsx); one video holds many expressions, so a clip is called <video>_<onset>: a_112
Defects  an offset of 0 (two rows) says that the end was not coded: the apex stands in.  55 rows have
         apex = onset and one an apex before it: spotted.  About a tenth of the clips lack frames.
Source   Li et al. 2023 (IEEE T-PAMI, 10.1109/TPAMI.2022.3174895); frame rate from the paper, not checked here
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, Corpus, FrameFolders, from_row, number_in
from mepipe.datasets.sheet import read_sheet


@CORPORA.register("casme3")
class Casme3(Corpus):
    name = "casme3"
    title = "CAS(ME)^3 part A"
    fps = 30.0
    licence = "http://casme.psych.ac.cn/casme/e4 (Institute of Psychology, Chinese Academy of Sciences)"
    layout = "part_A/spNO.1/a/color/166.jpg + cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"
    folders_shared = True
    sheet_names = ("cas*3*part_A_ME_label*v2.xlsx", "cas*3*part_A*ME*.xlsx", "cas*3*part_A*.csv")

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        needs = ("subject", "clip", "onset", "apex", "offset", "emotion")
        for row in read_sheet(self.find_sheet(folders, sheet), needs, "label"):
            number, video = number_in(row.text("subject"), r"sp\s*no\.?\s*"), row.text("clip")
            subject = row.text("subject") if number is None else f"spNO.{number}"
            clip = from_row(
                row, corpus=self.name, subject=subject, name=video, fps=self.fps,
                frames=folders.find(subject, video, "color") or folders.find(subject, video),
            )  # fmt: skip
            yield _ended(clip) if clip.onset is None else _ended(clip.noted(name=video and f"{video}_{clip.onset}"))

    def is_clip_folder(self, folder: Path, folders: FrameFolders) -> bool:
        """Videos without a micro-expression are normal here, and each has a folder of depth images too."""
        return False


def _ended(clip: Clip) -> Clip:
    if clip.offset == 0 and clip.onset is not None and clip.apex is not None and clip.apex > clip.onset:
        return clip.noted("offset 0: the end is not coded, the apex stands in", offset=clip.apex)
    return clip
