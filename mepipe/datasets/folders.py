"""The folders of a corpus as they lie on somebody's disk, found in one walk.

Doubled or missing top folders, letter case, zero padding and stray files do not matter: a clip is looked
up by the last parts of its path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mepipe.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
SHEET_SUFFIXES = frozenset({".xlsx", ".xlsm", ".xls", ".csv"})
MAX_DEPTH = 8  # folders below RAW; the deepest real layouts (SMIC, CAS(ME)^3) need six
LONGEST_TAIL = 3  # CAS(ME)^3 looks a clip up by subject, video and "color"
_STRAY = frozenset({"thumbs.db", "desktop.ini"})  # what systems leave in folders; shortcuts go by suffix
_NOT_DATA = frozenset({"__macosx"})  # resource forks beside every file of an archive made on a Mac


class FrameFolders:
    """Every folder at or below ``raw`` that directly holds images, or nothing at all (a clip that was lost).

    all: those folders, sorted.  sheets: every xlsx, xls and csv file seen on the way, sorted.
    Links are not followed.  Raises DataError when a folder cannot be read.
    """

    def __init__(self, raw: Path) -> None:
        self.raw = raw
        self.sheets: list[Path] = []
        self.all = sorted(self._walk(raw, MAX_DEPTH))
        self.sheets.sort()
        self._exact: dict[tuple[str, ...], list[Path]] = {}
        self._loose: dict[tuple[str, ...], list[Path]] = {}
        for folder in self.all:
            parts = self.parts(folder)
            for n in range(1, LONGEST_TAIL + 1):
                self._exact.setdefault(parts[-n:], []).append(folder)
                self._loose.setdefault(tuple(map(loose, parts[-n:])), []).append(folder)

    def parts(self, folder: Path) -> tuple[str, ...]:
        """The case-folded names from RAW (included) down to ``folder``."""
        return tuple(p.casefold() for p in folder.relative_to(self.raw.parent).parts)

    def find(self, *tail: str, prefer: str = "", accept: Callable[[Path], bool] = lambda folder: True) -> Path | None:
        """The folder whose path ends in ``tail`` and that ``accept`` takes; of several, one with ``prefer`` in it.

        Case never matters.  Where nothing fits to the letter, zero padding does not either, as long as
        only one name fits then.
        """
        wanted = tuple(t.casefold() for t in tail)
        found = list(filter(accept, self._exact.get(wanted, [])))
        if not found:
            found = list(filter(accept, self._loose.get(tuple(map(loose, wanted)), [])))
            if len({self.parts(f)[-len(tail) :] for f in found}) > 1:
                return None
        liked = [f for f in found if prefer in "/".join(self.parts(f))]
        return (liked or found or [None])[0]

    def _walk(self, folder: Path, depth: int) -> Iterator[Path]:
        has_image, has_file, below = False, False, []
        for e in _entries(folder):
            if e.is_dir(follow_symlinks=False):
                if e.name.casefold() not in _NOT_DATA:
                    below.append(Path(e.path))
                continue
            suffix = os.path.splitext(e.name)[1].lower()  # noqa: PTH122 - a Path per frame would double the walk
            has_image = has_image or suffix in IMAGE_SUFFIXES
            has_file = has_file or not (suffix == ".lnk" or e.name.casefold() in _STRAY)
            if suffix in SHEET_SUFFIXES and not e.name.startswith("~$"):
                self.sheets.append(Path(e.path))
        if has_image or not (below or has_file):
            yield folder
        if depth:
            for b in below:
                yield from self._walk(b, depth - 1)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".")]
    except OSError as e:
        raise DataError(f"cannot read {folder}: {e.strerror}", do="check the permissions") from e


def loose(name: str) -> str:
    """``name`` without case and without the zeros that pad its numbers: ``S01_ne_01`` and ``s1_ne_1`` are one."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name.casefold())
