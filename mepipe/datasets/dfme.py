"""DFME-public: 2629 micro-expressions of 259 subjects in three fixed parts, 200, 300 or 500 fps, colour PNG.

Layout   train_data/train_data/<clip>/<frame>.png, test_data_A/..., test_data_B/...    sub0003_01/00109.png
         no subject folders; frames are numbered from 0 within the clip
Sheets   full_release_annotation/full_release_annotation/{training,testA,testB}_full_with_AU.xlsx, header in row 1;
         --sheet takes one of them or the folder that holds them
Source   Zhao et al. 2023 (IEEE T-AFFC, document 10354506), CCAC2024 micro-expression task
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, Corpus, FrameFolders, best_sheet, emotion_word, from_row, number_in
from mepipe.datasets.sheet import Row, read_sheet
from mepipe.errors import DataError

_PART = {  # how folders and sheets spell the parts: train_data, training_full..., test_data_A, testA_full...
    "train": re.compile(r"train"),
    "testA": re.compile(r"test[^a-z]?(data)?[^a-z]?a(?![a-z])"),
    "testB": re.compile(r"test[^a-z]?(data)?[^a-z]?b(?![a-z])"),
}
EMOTION_IDS = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")  # 0 to 6


def split_of(name: str) -> str:
    """``train``, ``testA`` or ``testB`` as a folder or file name says it; '' when it says nothing."""
    return next((split for split, pattern in _PART.items() if pattern.search(name.casefold())), "")


def _part_of(sheet: Path) -> str:
    """The split of a sheet. Raises DataError where its name does not say it: a clip's part must not be guessed."""
    if split := split_of(sheet.name):
        return split
    raise DataError(
        f"DFME-public: the name of {sheet} does not say which part it is",
        do="call it train..., testA... or testB..., as training_full_with_AU.xlsx is",
    )


@CORPORA.register("dfme")
class Dfme(Corpus):
    name = "dfme"
    title = "DFME-public"
    fps = 0.0
    licence = "https://mea-lab-421.github.io (University of Science and Technology of China)"
    layout = "train_data/sub0003_01/00109.png, test_data_A/, test_data_B/ + {training,testA,testB}_full_with_AU.xlsx"
    sheet_names = ("*_full_with_AU.xlsx", "train*.xlsx", "test*.xlsx", "train*.csv", "test*.csv")

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        needs = ("subject", "clip", "onset", "apex", "offset", "emotion")
        sheets = self.sheets(folders, sheet)
        rows = [(split, row) for split, path in sheets.items() for row in read_sheet(path, needs, may_be_empty=True)]
        if not rows:
            names = ", ".join(path.name for path in sheets.values())
            raise DataError(f"{self.title}: no row in {names}", do="check that the download is complete")
        for split, row in rows:
            yield self._clip(row, split, folders)

    def sheets(self, folders: FrameFolders, given: Path | None) -> dict[str, Path]:
        """Split -> its sheet, as far as they are there. Raises DataError when none is, or when none says its part."""
        if given is not None and not given.is_dir():
            return {_part_of(self.find_sheet(folders, given)): given}
        place = FrameFolders(given) if given else folders
        any_sheet = self.find_sheet(place, None)  # raises when there is none at all
        found = {}
        for split in _PART:
            sheets = [s for s in place.sheets if split_of(s.name) == split]
            if path := best_sheet(sheets, self.sheet_names):
                found[split] = path
        return found or {_part_of(any_sheet): any_sheet}

    def _clip(self, row: Row, split: str, folders: FrameFolders) -> Clip:
        name, number = row.text("clip"), number_in(row.text("subject"), "sub")
        subject = row.text("subject") if number is None else f"sub{number:04d}"
        clip = from_row(
            row, corpus=self.name, subject=subject, name=name, fps=0.0, split=split,
            frames=folders.find(name, accept=partial(_in_split, folders, split)),
        )  # fmt: skip
        if number_in(name.partition("_")[0], "sub") != number:
            clip = clip.refused(f"{row.where}: clip {name!r} does not belong to subject {subject!r}")
        ident = row.text("EmotionId")
        known = re.fullmatch("[0-9]{1,3}", ident)  # isdigit() is true of what int() refuses
        if known and emotion_word(clip.emotion) != dict(enumerate(EMOTION_IDS)).get(int(ident)):
            clip = clip.refused(f"{row.where}: Emotion {clip.emotion!r} and EmotionId {ident} contradict each other")
        return with_fps(clip, row)


def with_fps(clip: Clip, row: Row) -> Clip:
    """``clip`` with the frame rate of its row; 0 and a note where the cell holds none."""
    try:
        fps = row.frame("fps")
    except ValueError:
        fps = None
    if fps:
        return replace(clip, fps=float(fps))
    return clip.noted(f"frame rate unknown: the cell holds {row.text('fps')!r}")


def _in_split(folders: FrameFolders, split: str, folder: Path) -> bool:
    """Whether a folder can hold a clip of ``split``: the nearest part that its path names is that, or it names none."""
    above = (split_of(part) for part in reversed(folders.parts(folder)[:-1]))
    return next(filter(None, above), split) == split
