"""What all corpora share: the clip record, the registry, finding sheets and folders, known corrections.

A corpus module says only what is peculiar to it (layout, columns, emotion words); see casme2.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import data_manifests
from mepipe.datasets.sheet import Row, read_sheet
from mepipe.errors import DataError, UsageError
from mepipe.registry import Registry
from mepipe.workspace import safe_name

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
MAX_DEPTH = 8  # folders below RAW; the deepest real layout (SMIC) needs six


@dataclass(frozen=True)
class Clip:
    """One annotated micro-expression.

    onset, apex, offset: frame numbers as in the frames' file names; apex None = to be spotted.
    frames: the folder that holds the frames, None when it is not on disk.
    problem: why the clip cannot be used ('' when it can); notes: visible repairs, one text each.
    """

    corpus: str
    subject: str
    name: str
    onset: int | None
    apex: int | None
    offset: int | None
    fps: float
    emotion: str
    aus: str = ""
    label3: str = ""
    label7: str = ""
    split: str = ""
    frames: Path | None = None
    where: str = ""
    apex_source: str = "annotated"
    problem: str = ""
    notes: tuple[str, ...] = field(default=())

    def noted(self, *notes: str, **changes: Any) -> Clip:
        return replace(self, notes=(*self.notes, *notes), **changes)

    def refused(self, problem: str) -> Clip:
        return self if self.problem else replace(self, problem=problem)

    @property
    def id(self) -> str:
        return f"{self.subject}/{self.name}"


class Corpus:
    """A corpus as it is distributed. Subclasses set the facts and yield their clips in ``read``."""

    name: ClassVar[str]
    title: ClassVar[str]
    fps: ClassVar[float]
    licence: ClassVar[str]  # where to apply for it
    layout: ClassVar[str]  # one example path
    sheet_names: ClassVar[tuple[str, ...]] = ()  # glob patterns, newest annotation first
    synonyms: ClassVar[dict[str, str]] = {}  # emotion words of some copies -> the word in labels.csv

    def clips(self, raw: str | Path, *, sheet: str | Path | None = None, corrections: bool = True) -> list[Clip]:
        """Every row of the annotation as a Clip, in its order, none left out.

        Defects that can be named are in ``problem`` or ``notes``.  Raises DataError when there is no
        annotation or no clip folder at all.
        """
        raw = Path(raw)
        if not raw.is_dir():
            raise UsageError(f"{raw} is not a folder", do="give the folder that holds the corpus as distributed")
        folders = FrameFolders(raw)
        clips = [named(c) for c in self.read(raw, folders, Path(sheet) if sheet else None)]
        if corrections:
            clips = corrected(self.name, clips)
        return marked_duplicates(on_disk(settle_apex(c), folders) for c in clips)

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        raise NotImplementedError

    def labelled(self, clip: Clip) -> Clip:
        """``clip`` with its emotion word settled and the label sets filled in."""
        table = label_table(self.name)
        word = clip.emotion.strip().casefold()
        word = self.synonyms.get(word, word)
        if word not in table:
            return clip.refused(f"unknown emotion {clip.emotion!r}; known: {', '.join(table)}")
        return replace(clip, emotion=word, label3=table[word]["label3"], label7=table[word]["label7"])

    def find_sheet(self, raw: Path, given: Path | None) -> Path:
        """The annotation: ``given``, else the first match of ``sheet_names`` in RAW or two folders below."""
        if given is not None:
            if not given.is_file():
                raise UsageError(f"--sheet {given}: no such file")
            return given
        for pattern in self.sheet_names:
            for depth in ("", "*/", "*/*/"):
                found = sorted(p for p in raw.glob(depth + pattern) if not p.name.startswith(("~$", ".")))
                if found:
                    return found[-1]  # the names carry dates: the last is the newest
        raise DataError(
            f"{self.title}: no annotation sheet in {raw} (looked for {', '.join(self.sheet_names)} there "
            f"and two folders below)",
            do="copy the sheet that came with your licence there, or pass --sheet PATH",
        )


CORPORA: Registry[type[Corpus]] = Registry("corpus")


def frame_or_problem(row: Row, column: str) -> tuple[int | None, str]:
    """A frame number from a cell, or why there is none (`` for a blank cell, which may be legal)."""
    try:
        return row.frame(column), ""
    except ValueError as e:
        return None, str(e)


def from_row(row: Row, columns: dict[str, str], **facts: Any) -> Clip:
    """A Clip whose onset, apex and offset come from ``columns``; bad cells become its problem.

    A bad or blank apex is no problem here: it is noted and spotted later.
    """
    frames, problem, notes = {}, "", ()
    for name in ("onset", "apex", "offset"):
        frames[name], why = frame_or_problem(row, columns[name])
        if name == "apex" and frames[name] is None:
            cell = row.text(columns[name])
            notes = (f"apex cell holds {cell!r}",) if cell else ("apex cell is blank",)
        elif frames[name] is None:
            problem = problem or f"{row.where}: {why or columns[name] + ' is blank'}"
    return Clip(where=row.where, problem=problem, notes=notes, **frames, **facts)


def named(clip: Clip) -> Clip:
    """``clip`` with names that can be folders of ours, or refused under a name made from its row."""
    for what, name in (("subject", clip.subject), ("clip name", clip.name)):
        try:
            safe_name(name)
        except DataError as e:
            row = re.sub(r"\D+", "-", clip.where).strip("-") or "x"
            reason = f"{clip.where}: {what} {e.what}"
            clip = replace(clip, subject=_fallback(clip.subject, "unknown"), name=f"row-{row}", problem="")
            return clip.refused(reason)
    return clip


def on_disk(clip: Clip, folders: FrameFolders) -> Clip:
    """``clip``, refused when it has no folder."""
    return clip if clip.frames else clip.refused(f"no folder with frames for {clip.id} under {folders.raw}")


def _fallback(name: str, other: str) -> str:
    try:
        return safe_name(name)
    except DataError:
        return other


def marked_duplicates(clips: Iterable[Clip]) -> list[Clip]:
    """The second and later rows of one subject and clip are refused; the first is kept."""
    seen: dict[tuple[str, str], str] = {}
    out = []
    for clip in clips:
        key = (clip.subject.casefold(), clip.name.casefold())
        if key in seen:
            twice = replace(clip, problem="").refused(f"{clip.where} repeats {clip.id} of {seen[key]}")
            out.append(twice)
        else:
            seen[key] = clip.where
            out.append(clip)
    return out


def settle_apex(clip: Clip) -> Clip:
    """Check onset < apex <= offset. An apex outside that range is dropped, noted, and spotted later."""
    if clip.problem or clip.onset is None or clip.offset is None:
        return clip
    if clip.offset <= clip.onset:
        return clip.refused(f"{clip.where}: offset {clip.offset} is not after onset {clip.onset}")
    if clip.apex is not None and not clip.onset < clip.apex <= clip.offset:
        note = f"apex {clip.apex} is outside (onset {clip.onset}, offset {clip.offset}]"
        return clip.noted(note, apex=None)
    return clip


# --- tables of data_manifests ----------------------------------------------------------------------


def label_table(corpus: str) -> dict[str, dict[str, str]]:
    """Emotion word -> row of data_manifests/labels.csv, for one corpus."""
    return {r["emotion"]: r for r in data_manifests.rows("labels") if r["corpus"] == corpus}


def corrected(corpus: str, clips: list[Clip]) -> list[Clip]:
    """Apply data_manifests/corrections.csv where the old value is there; each use is a note on the clip."""
    table: dict[tuple[str, str], list[dict[str, str]]] = {}
    for r in data_manifests.rows("corrections"):
        if r["corpus"] == corpus:
            table.setdefault((r["subject"], r["clip"]), []).append(r)
    return [_apply(c, table.get((c.subject, c.name), [])) for c in clips]


def _apply(clip: Clip, fixes: list[dict[str, str]]) -> Clip:
    for fix in fixes:
        name, old, new = fix["field"], fix["old"], fix["new"]
        value = getattr(clip, name)
        is_there = any(n == f"apex cell holds {old!r}" for n in clip.notes) if value is None else str(value) == old
        if not is_there:
            continue
        note = f"correction: {name} {old} -> {new} ({fix['reason']})"
        if new == "spot":
            clip = clip.noted(note, apex=None)
        elif isinstance(value, str):
            clip = clip.noted(note, **{name: new})
        else:
            changes: dict[str, Any] = {name: int(new)}
            if name == "apex":
                changes["apex_source"] = f"corrected:{old}->{new}"
            clip = clip.noted(note, **changes)
    return clip


# --- folders on disk -------------------------------------------------------------------------------


class FrameFolders:
    """Every folder below RAW that directly holds images, found in one walk.

    Doubled or missing top folders, letter case and stray files do not matter: a clip is looked up by
    the last parts of its path.
    """

    def __init__(self, raw: Path) -> None:
        self.raw = raw
        self.all = sorted(_image_folders(raw, MAX_DEPTH))
        self._by_tail: dict[tuple[str, ...], list[Path]] = {}
        for folder in self.all:
            parts = tuple(p.casefold() for p in folder.relative_to(raw.parent).parts)
            for n in (1, 2):
                self._by_tail.setdefault(parts[-n:], []).append(folder)

    def find(self, *tail: str, prefer: str = "") -> Path | None:
        """The folder whose path ends in ``tail``; of several, one whose path holds ``prefer``."""
        found = self._by_tail.get(tuple(t.casefold() for t in tail), [])
        liked = [f for f in found if prefer.casefold() in str(f.relative_to(self.raw)).casefold()]
        return (liked or found or [None])[0]


def _image_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Folders at or below ``folder`` with at least one image name in them. Links are not followed."""
    has_image, below = False, []
    try:
        with os.scandir(folder) as entries:
            for e in entries:
                if e.name.startswith("."):
                    continue
                if e.is_dir(follow_symlinks=False):
                    below.append(Path(e.path))
                elif not has_image:
                    has_image = Path(e.name).suffix.lower() in IMAGE_SUFFIXES
    except OSError as e:
        raise DataError(f"cannot read {folder}: {e.strerror}", do="check the permissions") from e
    if has_image or not below:  # an empty leaf may be a clip whose frames were lost: it must be named as such
        yield folder
    if depth:
        for b in below:
            yield from _image_folders(b, depth - 1)


def sheet_rows(path: Path, needs: Iterable[str], sheet: str | None = None) -> list[Row]:
    """Rows of the annotation; DataError when it has none."""
    rows = read_sheet(path, tuple(needs), sheet)
    if not rows:
        raise DataError(f"{path} has a header but no rows", do="check that the download is complete")
    return rows
