"""4DME: 267 micro-expressions, the grey 2D videos, several emotions to a clip.

Layout   gray_micro/<subject>/<clip>/<images>
Sheet    4DME_Labelling_Micro_release v1.xlsx, header in row 1: sub_ID, fold_name, Emotion, Onset, Apex, Offset, AUs
Labels   a clip with several emotions has a label only where all of them agree on it
Source   Li et al. 2022 (IEEE T-AFFC); one loader says that the AUs of two neighbouring rows are swapped, which
         could not be checked here and is left as it is; so is the frame rate
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mepipe.datasets.base import (
    CORPORA,
    UNKNOWN_EMOTION,
    Clip,
    Corpus,
    FrameFolders,
    emotion_word,
    from_row,
    number_in,
)
from mepipe.datasets.sheet import read_sheet

_BETWEEN = re.compile(r"[+,;/&\s]+|\band\b", re.IGNORECASE)  # each emotion is one word
_LETTERS = r"(?:subject|sub|s)[ _]?"  # before the number of a subject


@CORPORA.register("4dme")
class FourDme(Corpus):
    name = "4dme"
    title = "4DME (grey micro clips)"
    fps = 60.0
    licence = "https://www.oulu.fi/cmvs (University of Oulu, Center for Machine Vision)"
    layout = "gray_micro/<subject>/<clip>/<images> + 4DME_Labelling_Micro_release v1.xlsx"
    sheet_names = ("4DME_Labelling_Micro*.xlsx", "4DME*Micro*.xlsx", "4DME*Micro*.csv")

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        needs = ("subject", "clip", "onset", "apex", "offset", "emotion")
        for row in read_sheet(self.find_sheet(folders, sheet), needs):
            cell, name = row.text("subject"), row.text("clip")
            frames = folders.find(cell, name, prefer="gray") or _by_number(folders, cell, name)
            subject = frames.parent.name if frames else cell  # 12, sub12 and SUB12 are one person
            yield from_row(row, corpus=self.name, subject=subject, name=name, fps=self.fps, frames=frames)

    def labelled(self, clip: Clip) -> Clip:
        """``clip`` with the labels on which all its emotions agree."""
        table = self.labels()
        words = [emotion_word(w) for w in _BETWEEN.split(clip.emotion) if w.strip()]
        if not words or any(w not in table for w in words):
            known = f"known: {', '.join(table)}, and several of them"
            return clip.refused(f"{clip.where}: unknown emotion {clip.emotion!r}; {known}", UNKNOWN_EMOTION)
        sets = {name: {table[w][name] for w in words} for name in ("label3", "label7")}
        agreed = {name: next(iter(found)) if len(found) == 1 else "" for name, found in sets.items()}
        emotion = "+".join(dict.fromkeys(words))
        return replace(clip, emotion=emotion, label3=agreed["label3"], label7=agreed["label7"])


def _by_number(folders: FrameFolders, subject: str, name: str) -> Path | None:
    """The folder of a clip whose subject is spelled with letters in one place and without them in the other."""
    number = number_in(subject, _LETTERS)
    if number is None:
        return None
    return folders.find(name, prefer="gray", accept=lambda f: number_in(f.parent.name, _LETTERS) == number)
