"""What all corpora share: the clip record, the registry, finding the annotation, settling each row.

A corpus module says only what is peculiar to it (layout, columns, emotion words); see samm.py.  The road
of a row: read, named, corrected, labelled, apex settled, looked for on disk, compared with its doubles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

from mepipe.datasets.aus import AUs, parse_aus
from mepipe.datasets.folders import IMAGE_SUFFIXES, FrameFolders
from mepipe.datasets.manifests import Count, corrections, label_table, published_counts
from mepipe.datasets.sheet import Row
from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.registry import Registry
from mepipe.workspace import safe_name

__all__ = ["CORPORA", "IMAGE_SUFFIXES", "Clip", "Corpus", "FrameFolders", "from_row", "label_table", "number_in"]

# Kinds of problems, by the names that `mepipe verify` prints.
BAD_ROW, NO_FOLDER, UNKNOWN_EMOTION = "unreadable row", "clip folder absent", "unknown emotion"
NO_FRAME, DUPLICATE, NO_SPAN = "no readable frame", "duplicate clip", "offset not after onset"

CORRECTION, NO_APEX, OUTSIDE = "correction: ", "apex cell ", " is outside (onset "  # how notes on a clip read

# Spellings of one emotion in copies of the sheets -> the word of labels.csv.
SYNONYMS = {"other": "others", "happy": "happiness", "sad": "sadness", "angry": "anger", "repressed": "repression"}


@dataclass(frozen=True)
class Clip:
    """One annotated micro-expression.

    onset, apex, offset: frame numbers as in the frames' file names; apex None = to be spotted.
    aus: the cell as it stands; ``action_units`` reads it.
    frames: the folder that holds the frames, None when it is not on disk.
    problem: why the clip cannot be used ('' when it can); notes: visible repairs, one text each.
    measured: onset and offset were read off the folder (SMIC), so no annotation of them can be wrong.
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
    problem_kind: str = ""
    notes: tuple[str, ...] = field(default=())
    measured: bool = False

    def noted(self, *notes: str, **changes: Any) -> Clip:
        return replace(self, notes=(*self.notes, *notes), **changes)

    def refused(self, problem: str, kind: str = BAD_ROW) -> Clip:
        """The clip with a reason why it cannot be used; the first reason stays."""
        return self if self.problem else replace(self, problem=problem, problem_kind=kind)

    @property
    def id(self) -> str:
        return f"{self.subject}/{self.name}"

    @property
    def action_units(self) -> AUs:
        return parse_aus(self.aus)


class Corpus:
    """A corpus as it is distributed. Subclasses set the facts and yield their clips in ``read``."""

    name: ClassVar[str]
    title: ClassVar[str]
    fps: ClassVar[float]  # 0 where it differs from clip to clip
    licence: ClassVar[str]  # where to apply for it
    layout: ClassVar[str]  # one example path
    sheet_names: ClassVar[tuple[str, ...]] = ()  # file name patterns, newest annotation first
    folders_shared: ClassVar[bool] = False  # whether clips with different onsets may lie in one folder

    def clips(self, raw: str | Path, *, sheet: str | Path | None = None, corrections: bool = True) -> list[Clip]:
        """Every row of the annotation as a Clip, in its order, none left out.

        Defects that can be named are in ``problem`` or ``notes``.  Raises DataError when there is no
        annotation, UsageError when RAW is no folder.
        """
        return self.survey(raw, sheet=sheet, corrections=corrections)[0]

    def survey(
        self, raw: str | Path, *, sheet: str | Path | None = None, corrections: bool = True
    ) -> tuple[list[Clip], FrameFolders]:
        """``clips`` and the folders that were found on the way."""
        raw = Path(raw)
        if not raw.is_dir():
            raise UsageError(f"{raw} is not a folder", do="give the folder that holds the corpus as distributed")
        folders = FrameFolders(raw)
        with blamed(self, f"reading {raw}"):
            clips = [named(c) for c in self.read(raw, folders, Path(sheet) if sheet else None)]
            if corrections:
                clips = corrected(self.name, clips)
            settled = [on_disk(settle_apex(self.labelled(c)), folders) for c in clips]
            return marked_duplicates(settled, self.folders_shared), folders

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        """The clips as annotated. sheet: the user's ``--sheet``, None to look for it."""
        raise NotImplementedError

    def labels(self) -> dict[str, dict[str, str]]:
        """Emotion word -> {"label3": ..., "label7": ...}; an emotion that is not in it is an error of the row."""
        return label_table(self.name)

    def published(self) -> Sequence[Count]:
        """The published counts, for ``mepipe datasets`` and ``mepipe verify``."""
        return published_counts(self.name)

    def is_clip_folder(self, folder: Path, folders: FrameFolders) -> bool:
        """Whether a folder of images that no row names could be a clip of this corpus."""
        return True

    def labelled(self, clip: Clip) -> Clip:
        """``clip`` with its emotion word settled and the label sets filled in."""
        table = self.labels()
        word = emotion_word(clip.emotion)
        if word not in table:
            return clip.refused(f"{clip.where}: unknown emotion {clip.emotion!r}; known: {', '.join(table)}",
                                UNKNOWN_EMOTION)  # fmt: skip
        return replace(clip, emotion=word, label3=table[word]["label3"], label7=table[word]["label7"])

    def find_sheet(self, folders: FrameFolders, given: Path | None) -> Path:
        """The annotation: ``given``, else the best match of ``sheet_names`` below RAW. Raises DataError.

        A folder that is ``given`` is looked through as RAW would be.
        """
        if given is not None and not given.is_dir():
            if not given.is_file():
                raise UsageError(f"--sheet {given}: no such file")
            return given
        place = FrameFolders(given) if given else folders
        found = best_sheet(place.sheets, self.sheet_names)
        if found is None:
            if old := best_sheet(place.sheets, [as_xls(pattern) for pattern in self.sheet_names]):
                raise DataError(f"{self.title}: {old} is an old .xls file", do="open it and save it as .xlsx beside it")
            raise DataError(
                f"{self.title}: no annotation sheet in {place.raw} (looked for {', '.join(self.sheet_names)})",
                do="copy the sheet that came with your licence there, or pass --sheet PATH",
            )
        return found


CORPORA: Registry[type[Corpus]] = Registry("corpus")


def best_sheet(sheets: Sequence[Path], patterns: Sequence[str]) -> Path | None:
    """The sheet that fits the earliest pattern; of several the newest by the date in its name, however deep.

    Of one date (or without any) the one least deep, then the last by name.  Case does not matter.
    """
    for pattern in patterns:
        found = [s for s in sheets if fnmatch(s.name.casefold(), pattern.casefold())]
        if found:
            return max(found, key=lambda s: (_edition(s.name), -len(s.parts), s.name))
    return None


def _edition(name: str) -> str:
    """The date in the name of a sheet, as 20140508; '' when there is none."""
    found = re.search(r"(?<![0-9])(?:19|20)[0-9]{6}(?![0-9])", name)
    return found[0] if found else ""


def as_xls(pattern: str) -> str:
    """A pattern for .xlsx files as one for .xls files; others stay as they are."""
    return pattern.removesuffix("x") if pattern.endswith(".xlsx") else pattern


@contextmanager
def blamed(corpus: Corpus, doing: str) -> Iterator[None]:
    """Whatever a corpus of another package raises is told as its own, by name. Raises MepipeError."""
    try:
        yield
    except MepipeError:
        raise
    except Exception as e:
        whose = type(corpus).__module__
        if whose.split(".")[0] == "mepipe":
            raise
        what = f"the corpus plug-in {corpus.name} ({whose}) failed while {doing}: {type(e).__name__}: {e}"
        raise MepipeError(what, do="repair or uninstall the package that brings it") from e


# --- reading one row -------------------------------------------------------------------------------


def from_row(row: Row, **facts: Any) -> Clip:
    """A Clip whose onset, apex, offset, emotion and aus come from ``row``; bad cells become its problem.

    A bad or blank apex is no problem here: it is noted and spotted later.
    """
    frames: dict[str, int | None] = {}
    notes: tuple[str, ...] = ()
    problem = ""
    for name in ("onset", "apex", "offset"):
        frames[name], why = _frame_or_problem(row, name)
        if name == "apex" and frames[name] is None:
            cell = row.text("apex")
            notes = (f"{NO_APEX}holds {cell!r}",) if cell else (f"{NO_APEX}is blank",)
        elif frames[name] is None:
            problem = problem or f"{row.where}: {why or row.column(name) + ' is blank'}"
    clip = Clip(
        where=row.where, notes=notes, onset=frames["onset"], apex=frames["apex"], offset=frames["offset"],
        emotion=row.text("emotion"), aus=row.text("aus"), **facts,
    )  # fmt: skip
    return clip.refused(problem) if problem else clip


def _frame_or_problem(row: Row, field: str) -> tuple[int | None, str]:
    try:
        return row.frame(field), ""
    except ValueError as e:
        return None, str(e)


def number_in(cell: str, prefix: str) -> int | None:
    """The number of a subject: 7 for ``7``, ``007``, and with ``prefix`` (a regular expression) before it.

    None when the cell holds anything else.
    """
    found = re.fullmatch(rf"(?:{prefix})?0*(\d{{1,4}})", cell.strip(), re.IGNORECASE | re.ASCII)
    return int(found[1]) if found else None


def emotion_word(cell: str) -> str:
    """An emotion as labels.csv spells it: lower case, ``Other`` as ``others``."""
    word = cell.strip().casefold()
    return SYNONYMS.get(word, word)


# --- settling it -----------------------------------------------------------------------------------


def named(clip: Clip) -> Clip:
    """``clip`` with names that can be folders of ours, or refused under a name made from its row."""
    for what, name in (("subject", clip.subject), ("clip name", clip.name)):
        try:
            safe_name(name)
        except DataError as e:
            row = re.sub(r"\D+", "-", clip.where).strip("-") or "x"
            reason = f"{clip.where}: {what} {e.what}"
            clip = replace(clip, subject=_fallback(clip.subject), name=f"row-{row}"[:100], frames=None, problem="")
            return clip.refused(reason)
    return clip


def _fallback(subject: str) -> str:
    try:
        return safe_name(subject)
    except DataError:
        return "unknown"


def corrected(corpus: str, clips: list[Clip]) -> list[Clip]:
    """Apply data_manifests/corrections.csv where the old value is there; each use is a note on the clip."""
    table = corrections(corpus)
    return [_apply(c, table.get((c.subject, c.name), [])) for c in clips]


def _apply(clip: Clip, fixes: list[dict[str, str]]) -> Clip:
    for fix in fixes:
        name, old, new = fix["field"], fix["old"], fix["new"]
        if (clip.measured and name in ("onset", "offset")) or not _holds(clip, name, old):
            continue
        note = f"{CORRECTION}{name} {old} -> {new} ({fix['reason']})"
        if new == "spot":
            clip = clip.noted(note, apex=None)
        elif name == "emotion":
            clip = clip.noted(note, emotion=new)
        else:
            source = {"apex_source": f"corrected:{old}->{new}"} if name == "apex" else {}
            clip = clip.noted(note, **{name: int(new)}, **source)
    return clip


def _holds(clip: Clip, name: str, old: str) -> bool:
    value = getattr(clip, name)
    if value is None:
        return f"{NO_APEX}holds {old!r}" in clip.notes
    return str(value) == old or (name == "emotion" and emotion_word(value) == old)


def settle_apex(clip: Clip) -> Clip:
    """Check onset < apex <= offset. An apex outside that range is dropped, noted, and spotted later."""
    if clip.problem or clip.onset is None or clip.offset is None:
        return clip
    if clip.offset <= clip.onset:
        return clip.refused(f"{clip.where}: offset {clip.offset} is not after onset {clip.onset}", NO_SPAN)
    if clip.apex is not None and not clip.onset < clip.apex <= clip.offset:
        return clip.noted(f"apex {clip.apex}{OUTSIDE}{clip.onset}, offset {clip.offset}]", apex=None)
    return clip


def on_disk(clip: Clip, folders: FrameFolders) -> Clip:
    """``clip``, refused when it has no folder, several that may be meant, or images that lie elsewhere."""
    if clip.frames:
        if out := folders.outward.get(clip.frames):
            return clip.refused(f"{clip.frames / out} is a link that leads out of {folders.raw}", NO_FRAME)
        return clip
    if several := folders.spellings(clip.subject, clip.name):
        names = " and ".join(str(f.relative_to(folders.raw)) for f in several)
        return clip.refused(f"{names} may both be {clip.id}: rename or remove one", NO_FOLDER)
    return clip.refused(f"no folder with frames for {clip.id} under {folders.raw}", NO_FOLDER)


def marked_duplicates(clips: Iterable[Clip], folders_shared: bool = False) -> list[Clip]:
    """The second and later rows of one subject and clip, or of one folder, are refused; the first is kept.

    folders_shared: a folder may hold several clips, if only their onsets differ.
    """
    names: dict[tuple[str, str], str] = {}
    places: dict[tuple[Path, int | None], Clip] = {}
    out = []
    for clip in clips:
        key = (clip.subject.casefold(), clip.name.casefold())
        if key in names:
            out.append(clip.refused(f"{clip.where} repeats {clip.id} of {names[key]}", DUPLICATE))
            continue
        names[key] = clip.where
        if clip.frames and not clip.problem:  # a row that is refused anyway takes no folder from a sound one
            first = places.setdefault((clip.frames, clip.onset if folders_shared else None), clip)
            if first is not clip:
                why = f"{clip.where}: its frames are those of {first.id} of {first.where} ({clip.frames})"
                clip = clip.refused(f"{why}; correct the name in one of the rows", DUPLICATE)
        out.append(clip)
    return out
