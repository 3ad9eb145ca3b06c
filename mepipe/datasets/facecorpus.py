"""What corpora of expressions have in common that are no micro-expressions: labelled faces, as images or sequences.

Such a clip has no onset and no apex: it is one image, or one sequence that is resampled as a whole.  ``prepare`` writes
it straight into shards (mepipe.facesets), for there are tens of thousands of them.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from mepipe.datasets.base import DUPLICATE, NO_FRAME, UNKNOWN_EMOTION, Clip, Corpus, FrameFolders
from mepipe.datasets.folders import IMAGE_SUFFIXES
from mepipe.errors import DataError, UsageError
from mepipe.limits import TABLE_BYTES, read_file
from mepipe.workspace import safe_name

VIDEO_SUFFIXES = frozenset({".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
LONGEST = 200  # characters of a clip's name, class or split
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class FaceClip(Clip):
    """One labelled face. frames: an image, a video, or a folder of frames; None when it is not on disk.

    subject: "" where the corpus does not say who is seen.
    box: of the face, (x, y, width, height) in px, and points: its 68 landmarks, where the corpus gives them.
    pixels: where in the file ``frames`` the text of a picture begins, and its side in px (fer2013.csv).
    votes: the annotators' shares for the corpus's classes, () where there are none.
    crop: "as-is" or "aligned" where it differs from the corpus's own.
    """

    box: tuple[float, ...] = ()
    points: Points = ()
    pixels: tuple[int, int] | None = None
    votes: tuple[float, ...] = ()
    crop: str = ""

    @property
    def id(self) -> str:
        return f"{self.subject}/{self.name}" if self.subject else self.name


class FaceCorpus(Corpus):
    """A corpus of labelled faces. Subclasses set the facts and yield ``FaceClip`` in ``read``.

    kind: what a clip is.  crop: whether its pictures are crops already, whole faces that are only resized ("as-is"),
    or have to be aligned by landmarks ("aligned").  class_sets: its lists of classes, the usual one first.
    """

    kind: ClassVar[Literal["image", "sequence"]] = "image"
    crop: ClassVar[Literal["as-is", "aligned"]] = "as-is"
    class_sets: ClassVar[tuple[tuple[str, ...], ...]] = ()
    has_votes: ClassVar[bool] = False
    fps: ClassVar[float] = 0.0

    def survey(
        self, raw: str | Path, *, sheet: str | Path | None = None, corrections: bool = True
    ) -> tuple[list[Clip], FrameFolders]:
        """Every row of the annotation, or every file where the folders are the annotation, and the folders."""
        raw = Path(raw)
        if not raw.is_dir():
            raise UsageError(f"{raw} is not a folder", do="give the folder that holds the corpus as distributed")
        folders = FrameFolders(raw)
        clips = list(self.read(raw, folders, Path(sheet) if sheet else None))
        if not clips:
            raise DataError(f"{self.title}: nothing to read in {raw}", do=f"expected {self.layout}")
        return once([settled(self, clip, folders) for clip in clips]), folders

    def sets(self, clips: Sequence[Clip]) -> tuple[tuple[str, ...], ...]:
        """The lists of classes of this copy: the corpus's, or where it has none the words that occur, sorted."""
        words = sorted({c.emotion for c in clips if not c.problem})
        return self.class_sets or ((tuple(words),) if len(words) > 1 else ())

    def crop_of(self, clips: Sequence[Clip]) -> str:
        """How the pictures of this copy are cropped: as its clips say where they agree, else as the corpus says."""
        said = {c.crop or self.crop for c in clips if isinstance(c, FaceClip) and not c.problem}
        return said.pop() if len(said) == 1 else self.crop

    def labels(self) -> dict[str, dict[str, str]]:
        return {word: {"label3": "", "label7": ""} for words in self.class_sets for word in words}


def settled(corpus: FaceCorpus, clip: Clip, folders: FrameFolders) -> Clip:
    """``clip``, refused for a class that the corpus has not, for a file that is not there or that lies elsewhere."""
    clip = printable(clip)
    classes = {word for words in corpus.class_sets for word in words}
    if classes and clip.emotion and clip.emotion not in classes:
        clip = clip.refused(f"{clip.where}: unknown class {clip.emotion!r}; known: {', '.join(sorted(classes))}",
                            UNKNOWN_EMOTION)  # fmt: skip
    if clip.frames is None:
        return clip.refused(f"{clip.where}: there is no file of {clip.name} under {folders.raw}", NO_FRAME)
    if folders.escapes(clip.frames) or clip.frames in folders.outward:
        return clip.refused(f"{clip.frames} is a link that leads out of {folders.raw}", NO_FRAME)
    return clip


def once(clips: Sequence[Clip]) -> list[Clip]:
    """The second and later clips of one name, or of one file, are refused; the first is kept."""
    seen: dict[object, str] = {}
    out = []
    for clip in clips:
        keys: list[object] = [(clip.subject.casefold(), clip.name.casefold())]
        if clip.frames and not clip.problem:  # a row that is refused anyway takes no file from a sound one
            keys.append((clip.frames, getattr(clip, "pixels", None)))
        first = next((seen[key] for key in keys if key in seen), None)
        out.append(clip if first is None else clip.refused(f"{clip.where} repeats {first}", DUPLICATE))
        for key in keys:
            seen.setdefault(key, clip.where)
    return out


def printable(clip: Clip) -> Clip:
    """``clip`` with texts that can be shown, and a subject that can name a fold, or refused without them."""
    where = re.sub(r"[^ -~]+", " ", clip.where)[:200]
    texts = {"name": clip.name, "emotion": clip.emotion, "split": clip.split}
    bad = [what for what, text in texts.items() if not text.isprintable() or len(text) > LONGEST]
    texts |= {what: re.sub(r"[^ -~]+", "_", texts[what])[:LONGEST] for what in bad}
    clip = replace(clip, where=where, name=texts["name"], emotion=texts["emotion"], split=texts["split"])
    if bad:
        clip = clip.refused(f"{where}: a {bad[0]} of characters that cannot be shown, or of more than {LONGEST}")
    try:
        return replace(clip, subject=safe_name(clip.subject) if clip.subject else "")
    except DataError as e:
        return replace(clip, subject="").refused(f"{where}: subject {e.what}")


class Media:
    """The images and videos at or below one folder, each found by its name: one walk for tens of thousands.

    Names are compared without case.  ``below`` finds by a path that an annotation states, and never leaves the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _named(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in walk(self.root):
            found.setdefault(path.name.casefold(), path)
        return found

    def named(self, name: str) -> Path | None:
        """The first file by path that is called ``name``."""
        return self._named.get(name.casefold())

    def below(self, *parts: str) -> Path | None:
        """The file or folder at ``parts`` below the folder; None where it is absent or the parts would lead out."""
        words = [word for part in parts for word in part.replace("\\", "/").split("/") if word not in ("", ".")]
        if not words or any(word == ".." or not word.isprintable() or len(word) > 255 for word in words):
            return None
        path = self.root.joinpath(*words)
        return path if path.exists() else None


def walk(root: Path, seen: set[tuple[int, int]] | None = None) -> Iterator[Path]:
    """Every image and video below ``root``, sorted by folder and name. Links to folders are followed, each folder once.

    Raises DataError when a folder cannot be read.
    """
    seen = set() if seen is None else seen
    try:
        status = root.stat()
        with os.scandir(root) as entries:
            found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as e:
        raise DataError(f"cannot read {root}: {e.strerror}", do="check the path and its permissions") from e
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in found:
        if entry.is_dir():
            yield from walk(Path(entry.path), seen)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:  # noqa: PTH122 - see folders.py
            yield Path(entry.path)


def text_lines(path: Path, limit: int = 10_000) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of every line of a list file that is not blank. Raises DataError that names file and line.

    limit: characters of a line.
    """
    try:
        text = read_file(path, TABLE_BYTES).decode("utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError) as e:
        raise DataError(f"{path} is no readable text ({e})", do="copy the list that came with the corpus") from e
    for n, line in enumerate(text.splitlines(), start=1):
        if len(line) > limit:
            raise DataError(f"{path} line {n} has {len(line)} characters", do="copy the list that came with the corpus")
        if line.strip():
            yield n, line.strip()


def table_rows(path: Path, needs: Sequence[str], may: Sequence[str] = ()) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(row from 2, its cells by column) of a CSV whose first row has the columns ``needs``, whatever their case.

    may: further columns; a row has those that the first row has.
    Raises DataError that names the file and what is wrong.
    """
    try:
        text = read_file(path, TABLE_BYTES).decode("utf-8-sig")
        rows = csv.reader(text.splitlines())
        header = [cell.strip().casefold() for cell in next(rows, [])]
        absent = [name for name in needs if name.casefold() not in header]
        if absent:
            raise DataError(f"{path} has no column {', '.join(absent)}", do="check that it is this corpus's list")
        wanted = [*needs, *(name for name in may if name.casefold() in header)]
        for row in rows:
            if any(cell.strip() for cell in row):
                cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
                yield rows.line_num, {name: cells.get(name.casefold(), "") for name in wanted}
    except (FileNotFoundError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path} cannot be read as CSV ({e})", do="copy the list that came with the corpus") from e


def find_list(folders: FrameFolders, given: Path | None, names: Sequence[str], title: str) -> Path:
    """The list file: ``given``, else the first by path below RAW whose name is one of ``names`` (patterns).

    Raises UsageError for a file that was given and is not there, DataError where none is found.
    """
    if given is not None and not given.is_dir():
        if not given.is_file():
            raise UsageError(f"--sheet {given}: no such file")
        return given
    if found := lists(given or folders.raw, *names):
        return found[0]
    do = "copy the list that came with the corpus there, or pass --sheet PATH"
    raise DataError(f"{title}: no list {' or '.join(names)} in {given or folders.raw}", do=do)


def lists(root: Path, *patterns: str) -> list[Path]:
    """The files at or below ``root`` whose names fit one of ``patterns``, whatever their case; least deep first."""
    found = [
        Path(folder, name)
        for folder, below, names in os.walk(root)
        for name in _visible(below, names)
        if any(fnmatch(name.casefold(), pattern.casefold()) for pattern in patterns)
    ]
    return sorted(found, key=lambda p: (len(p.parts), p))


def _visible(below: list[str], names: list[str]) -> list[str]:
    """``names`` of one folder; those of ``below`` that are not to be entered are taken out of it."""
    below[:] = [b for b in below if not b.startswith(".")]
    return [n for n in names if not n.startswith(".")]
