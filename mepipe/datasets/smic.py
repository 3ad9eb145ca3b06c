"""SMIC: three cameras (HS 100 fps, VIS and NIR 25 fps), labels negative, positive, surprise; no apex.

Layout   SMIC_all_raw/HS/<subject>/micro/<emotion>/<clip>/image<count>.bmp     s1/micro/negative/s1_ne_01
         SMIC_all_cropped/HS/...  with reg_image<count>.bmp
         SMIC-E_raw image/HS_long/SMIC-HS-E/<subject>/<clip>/image<count>.jpg  s01/s1_ne_01 (extended clips)
Sheet    none is needed: a short clip runs from its folder's first image to its last, its label is the folder
         above it.  Extended clips need SMIC-HS-E_annotation.xlsx (157 rows; a second and third expression in
         one clip stand in columns of their own).
Source   Li et al. 2013 (FG); ids are spelled s1_ne_01 here, the official list of MEGC2019 writes s01_ne_01
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple

from mepipe.datasets.base import (
    CORPORA,
    NO_FRAME,
    Clip,
    Corpus,
    FrameFolders,
    best_sheet,
    emotion_word,
)
from mepipe.datasets.sheet import Row, read_sheet
from mepipe.errors import DataError, UsageError
from mepipe.frames import FrameFolder

EMOTIONS = {"ne": "negative", "po": "positive", "sur": "surprise"}
CAMERAS = frozenset({"hs", "vis", "nir"})
_ID = re.compile(r"s0*(\d{1,3})_(ne|po|sur)_0*(\d{1,3})", re.IGNORECASE | re.ASCII)
_IMAGE = re.compile(r"(?:reg_)?(?:image|img)_?[0-9]+", re.IGNORECASE | re.ASCII)
JUMP = 1000  # ten seconds of HS: the longest clip has 58 frames, and no clip lacks that many
LATER = (2, 3)  # the sheet has columns for at most three expressions of one extended clip


class ClipId(NamedTuple):
    """A clip's name taken apart; it sorts as a person would."""

    subject_number: int
    kind: str
    number: int

    @property
    def subject(self) -> str:
        return f"s{self.subject_number}"

    def __str__(self) -> str:
        return f"{self.subject}_{self.kind}_{self.number:02d}"


def clip_id(name: str) -> ClipId | None:
    """The id in ``s1_ne_01`` or ``s01_ne_1``; None for any other name."""
    found = _ID.fullmatch(name.strip())
    return ClipId(int(found[1]), found[2].lower(), int(found[3])) if found else None


class Smic(Corpus):
    camera: ClassVar[str]
    folders_shared = True  # an extended clip may hold three expressions
    licence = "https://www.oulu.fi/cmvs/node/41319 (University of Oulu, Center for Machine Vision)"

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        short, extended = self._folders(folders)
        given = sheet is not None or not short  # without short clips the sheet is a must
        path = self.find_sheet(folders, sheet) if given else best_sheet(folders.sheets, self.sheet_names)
        if not short and not extended:
            raise DataError(f"{self.title}: no clip folder (such as s1_ne_01) in {raw}", do=f"expected {self.layout}")
        rows, odd = self._rows(path, extended) if path else ({}, [])
        for clip in sorted({*short, *rows}):
            yield self._measured(clip, short[clip]) if clip in short else rows[clip]
        yield from odd

    def is_clip_folder(self, folder: Path, folders: FrameFolders) -> bool:
        return clip_id(folder.name) is not None and self._ours(folders, folder)

    def _ours(self, folders: FrameFolders, folder: Path) -> bool:
        """Whether a folder is of this camera (or none is named) and not one of the clips without an expression."""
        camera = next(filter(None, map(_camera, reversed(folders.below(folder)))), None)
        if camera is None:
            camera = next(filter(None, map(_camera, _names_of(folders))), self.camera)
        above = [*folders.below(folder), *(n for n in _names_of(folders) if "micro" in n)]
        return camera == self.camera and not any(p.startswith("non") for p in above)

    def _folders(self, folders: FrameFolders) -> tuple[dict[ClipId, Path], dict[ClipId, Path]]:
        """The folders of short clips and of extended ones, by id; of doubles the raw and filled one.

        Raises UsageError when RAW itself is called after another camera, and nothing below it after this one.
        """
        short: dict[ClipId, Path] = {}
        extended: dict[ClipId, Path] = {}
        for folder in folders.every:
            clip = clip_id(folder.name)
            if clip and self._ours(folders, folder):
                place = extended if _is_extended(folders, folder) else short
                if clip not in place or _rank(folder, folders) < _rank(place[clip], folders):
                    place[clip] = folder
        other = next(filter(None, map(_camera, _names_of(folders))), self.camera)
        if not short and not extended and other != self.camera and any(clip_id(f.name) for f in folders.every):
            do = f"ask for smic-{other}, or give the folder that holds {self.camera.upper()}"
            raise UsageError(f"{folders.raw} holds no clip of {self.title} and is called after {other.upper()}", do=do)
        return short, extended

    def _measured(self, clip: ClipId, folder: Path) -> Clip:
        """A short clip: onset and offset are its first and last image, the label is the folder above."""
        above = folder.parent.name.casefold()
        record = Clip(
            self.name, clip.subject, str(clip), None, None, None, self.fps, EMOTIONS[clip.kind],
            frames=folder, where=f"folder {folder.name}", measured=True,
        )  # fmt: skip
        if above in EMOTIONS.values() and above != record.emotion:
            record = record.noted(f"lies in the folder {above!r}; its name says {record.emotion}")
        try:
            numbers, notes = _counted(FrameFolder(folder))
        except DataError as e:
            return record.refused(str(e), NO_FRAME)
        return record.noted(*notes, onset=numbers[0], offset=numbers[-1])

    def _rows(self, path: Path, extended: dict[ClipId, Path]) -> tuple[dict[ClipId, Clip], list[Clip]]:
        """The clips of a SMIC-E sheet by id, and its rows without an id of their own (nameless, doubled).

        The second and third expression of an extended clip are clips too.
        """
        needs = ("subject", "clip", "onset", "offset", "emotion")
        rows = read_sheet(path, needs, self.camera.upper(), skip=CAMERAS - {self.camera})
        named: dict[ClipId, Clip] = {}
        odd: list[Clip] = []
        for row in rows:
            clip = clip_id(row.text("clip"))
            record = self._from_row(row, clip, "onset", "offset", extended.get(clip) if clip else None)
            if clip is None or clip in named:
                odd.append(record)
            else:
                named[clip] = record
        for row in rows:
            self._put_later(named, row, extended)
        return named, odd

    def _put_later(self, named: dict[ClipId, Clip], row: Row, extended: dict[ClipId, Path]) -> None:
        """Expression k of clip N is clip N + k - 1; a value that cannot be one (broken formulas) is none."""
        first = clip_id(row.text("clip"))
        before = named[first].offset if first and first in named else None
        for k in LATER:
            if first is None or before is None:
                return
            clip = first._replace(number=first.number + k - 1)
            record = self._from_row(row, clip, f"Onset{k}F", f"Offset{k}F", extended.get(first))
            if clip in named or record.problem or not before < (record.onset or 0) < (record.offset or 0):
                return
            named[clip] = record.noted(f"expression {k} of the extended clip {first}")
            before = record.offset

    def _from_row(self, row: Row, clip: ClipId | None, onset: str, offset: str, frames: Path | None) -> Clip:
        """A clip of a SMIC-E row. Its label is the sheet's; one that contradicts its name is noted."""
        numbers, problem = {}, ""
        for name, column in (("onset", onset), ("offset", offset)):
            try:
                numbers[name] = row.frame(column)
                problem = problem or ("" if numbers[name] is not None else f"{row.column(column)} is blank")
            except ValueError as e:
                numbers[name], problem = None, str(e)
        record = Clip(
            self.name, clip.subject if clip else row.text("subject"), str(clip) if clip else row.text("clip"),
            numbers["onset"], None, numbers["offset"], self.fps, row.text("emotion"), frames=frames, where=row.where,
        )  # fmt: skip
        if clip is None:
            problem = f"clip name {row.text('clip')!r} is none of SMIC's (s1_ne_01)"
        elif _number(row.text("subject")) not in (None, clip.subject_number):
            problem = f"clip {clip} does not belong to subject {row.text('subject')!r}"
        return record.refused(f"{row.where}: {problem}") if problem else record

    def labelled(self, clip: Clip) -> Clip:
        clip = super().labelled(clip)
        ident = clip_id(clip.name)
        if ident and not clip.problem and EMOTIONS[ident.kind] != emotion_word(clip.emotion):
            return clip.noted(f"the annotation says {clip.emotion}, the clip's name {EMOTIONS[ident.kind]}")
        return clip


def _names_of(folders: FrameFolders) -> tuple[str, str]:
    """What RAW itself is called: as it was given, and where a link leads."""
    return folders.name.casefold(), folders.raw.resolve().name.casefold()


def _camera(part: str) -> str | None:
    """The camera that one folder name says; None where it says none or several (``HS_VIS_NIR``)."""
    said = CAMERAS & set(_words(part))
    return next(iter(said)) if len(said) == 1 else None


def _words(part: str) -> list[str]:
    return re.split(r"[^a-z]+", part)


def _is_extended(folders: FrameFolders, folder: Path) -> bool:
    """Whether a folder is of SMIC-E: the nearest name above it that tells the layout decides, RAW's own last."""
    for part in (*reversed(folders.below(folder)[:-1]), *_names_of(folders)):
        words = _words(part)
        if "long" in words or ("smic" in words and "e" in words):
            return True
        if part == "micro" or "all" in words:  # s1/micro/negative, SMIC_all_raw
            return False
    return False


def _rank(folder: Path, folders: FrameFolders) -> tuple[bool, bool, int, Path]:
    """Smaller is better: not empty, not the supplied crops, not deep; then the first by path."""
    parts = folders.below(folder)
    return folder not in folders.filled, any("crop" in p for p in parts), len(parts), folder


def _counted(frames: FrameFolder) -> tuple[list[int], list[str]]:
    """The numbers of the camera's images in a folder, and notes on what else lies there and on gaps.

    A copy such as ``image506767 (1).bmp`` has a last number too, which must not become the onset.
    """
    names = {n: str(frames.signature(n)[0]) for n in frames.numbers}
    own = [n for n, name in names.items() if _IMAGE.fullmatch(Path(name).stem)]
    notes = []
    if not own:
        own = frames.numbers
        notes = [f"no image is called image<number>: onset and offset go by names such as {names[own[0]]}"]
    elif strange := [names[n] for n in frames.numbers if n not in set(own)]:
        notes = [f"images left out of onset and offset: {len(strange)}, such as {strange[0]} (not image<number>)"]
    jump = next(((a, b) for a, b in pairwise(own) if b - a > JUMP), None)
    if jump:
        notes.append(f"the frame numbers jump from {jump[0]} to {jump[1]}: check that this is one recording")
    return own, notes


def _number(cell: str) -> int | None:
    found = re.fullmatch(r"s?0*(\d{1,3})", cell, re.IGNORECASE | re.ASCII)
    return int(found[1]) if found else None


@CORPORA.register("smic-hs")
class SmicHs(Smic):
    name, camera, title, fps = "smic-hs", "hs", "SMIC-HS", 100.0
    layout = "SMIC_all_raw/HS/s1/micro/negative/s1_ne_01/image559740.bmp (no sheet), or SMIC-E with its sheet"
    sheet_names = ("SMIC-HS-E_annotation.xlsx", "SMIC-HS-E_annotation_2019.xlsx", "SMIC*HS*E*annotation*.xlsx")


@CORPORA.register("smic-vis")
class SmicVis(Smic):
    name, camera, title, fps = "smic-vis", "vis", "SMIC-VIS", 25.0
    layout = "SMIC_all_raw/VIS/s11/micro/negative/s11_ne_01/image000123.bmp (no sheet), or SMIC-E with its sheet"
    sheet_names = ("SMIC*VIS*E*annotation*.xlsx", "SMIC-HS-E_annotation.xlsx", "SMIC*E*annotation*.xlsx")


@CORPORA.register("smic-nir")
class SmicNir(Smic):
    name, camera, title, fps = "smic-nir", "nir", "SMIC-NIR", 25.0
    layout = "SMIC_all_raw/NIR/s11/micro/negative/s11_ne_01/image000123.bmp (no sheet), or SMIC-E with its sheet"
    sheet_names = ("SMIC*NIR*E*annotation*.xlsx",)
