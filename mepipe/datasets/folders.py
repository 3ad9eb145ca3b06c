"""The folders of a corpus as they lie on somebody's disk, found in one walk.

Doubled or missing top folders, letter case, zero padding and stray files do not matter: a clip is looked
up by the last parts of its path.
"""

from __future__ import annotations

import os
import re
from collections import deque
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

    all: those folders, sorted.  imageless: folders that hold files of other kinds and no folder, sorted.
    filled: those of ``all`` with an image.  sheets: every xlsx, xls and csv file seen on the way, sorted.
    Links to folders are followed, to each folder once and to none that was reached without one.  outward: folders with
    an image that is a link to a file outside RAW and outside every folder that a link led to, and its name.
    Raises DataError when a folder cannot be read.
    """

    def __init__(self, raw: Path) -> None:
        self.raw = raw
        self.name = Path(os.path.abspath(raw)).name  # noqa: PTH100 - of ``.`` too; a link keeps the name that was given
        self.all: list[Path] = []
        self.imageless: list[Path] = []
        self.filled: set[Path] = set()
        self.sheets: list[Path] = []
        self.outward: dict[Path, str] = {}
        self._roots = [os.path.realpath(raw)]
        self._walk_all()
        for found in (self.all, self.imageless, self.sheets):
            found.sort()
        self._exact: dict[tuple[str, ...], list[Path]] = {}
        self._loose: dict[tuple[str, ...], list[Path]] = {}
        for folder in self.every:
            parts = self.parts(folder)
            for n in range(1, LONGEST_TAIL + 1):
                self._exact.setdefault(parts[-n:], []).append(folder)
                self._loose.setdefault(tuple(map(loose, parts[-n:])), []).append(folder)

    @property
    def every(self) -> list[Path]:
        """``all`` and ``imageless``: whatever can be meant by the name of a clip."""
        return self.all + self.imageless

    def parts(self, folder: Path) -> tuple[str, ...]:
        """The case-folded names from RAW (included) down to ``folder``."""
        return (self.name.casefold(), *self.below(folder))

    def below(self, folder: Path) -> tuple[str, ...]:
        """The case-folded names below RAW: what the owner calls RAW itself decides nothing in them."""
        return tuple(p.casefold() for p in folder.relative_to(self.raw).parts)

    def find(self, *tail: str, prefer: str = "", accept: Callable[[Path], bool] = lambda folder: True) -> Path | None:
        """The folder whose path ends in ``tail`` and that ``accept`` takes.

        Of several the first by path, of those with an image, and of these of one with ``prefer`` in its path below
        RAW.  Case never matters.  Where nothing fits to the letter, zero padding does not either, as long as only
        one name fits then.
        """
        wanted = tuple(t.casefold() for t in tail)
        exact = list(filter(accept, self._exact.get(wanted, [])))
        near = list(filter(accept, self._loose.get(tuple(map(loose, wanted)), [])))
        if len({self.parts(f)[-len(tail) :] for f in near}) > 1:
            near = exact
        for found in ([f for f in exact if f in self.filled], [f for f in near if f in self.filled], exact, near):
            if found:
                return min(found, key=lambda f: (prefer not in "/".join(self.below(f)), f))
        return None

    def spellings(self, subject: str, name: str) -> list[Path]:
        """The folders that differ in their padding alone and could all be clip ``name`` of ``subject``; [] for one."""
        spelled: dict[tuple[str, ...], Path] = {}
        for folder in self._loose.get((loose(name),), []):
            *above, last = self.parts(folder)
            of_subject = [p for p in above if loose(p) == loose(subject)]
            if of_subject or loose(last).startswith(loose(subject)):
                spelled.setdefault((*of_subject, last), folder)
        return list(spelled.values()) if len(spelled) > 1 else []

    def escapes(self, path: Path) -> bool:
        """Whether a file of a folder that was found is a link that leads out of RAW and of every linked folder."""
        return path.is_symlink() and not self._inside(path)

    def _walk_all(self) -> None:
        """Fill the lists: what lies below RAW itself first, then, breadth first, what links lead to."""
        # the folders above RAW count as seen: a link to one of them would only lead back here
        seen = {_identity(p) for p in Path(os.path.realpath(self.raw)).parents}
        links = deque(self._walk(self.raw, MAX_DEPTH, seen, linked=False))
        while links:
            folder, depth = links.popleft()
            self._roots.append(os.path.realpath(folder))
            links.extend(self._walk(folder, depth, seen, linked=True))

    def _walk(self, folder: Path, depth: int, seen: set[_Identity], linked: bool) -> Iterator[tuple[Path, int]]:
        """File ``folder`` and what lies below it; yields the links to folders on the way, with the depth left."""
        if linked and _identity(folder) in seen:
            return
        seen.add(_identity(folder))
        has_image, has_file = False, False
        below: list[Path] = []
        links: list[Path] = []
        for e in _entries(folder):
            if e.is_dir():
                if e.name.casefold() not in _NOT_DATA:
                    (links if e.is_symlink() else below).append(Path(e.path))
                continue
            suffix = os.path.splitext(e.name)[1].lower()  # noqa: PTH122 - a Path per frame would double the walk
            has_image = has_image or suffix in IMAGE_SUFFIXES
            if suffix in IMAGE_SUFFIXES and e.is_symlink() and not self._inside(e.path):
                self.outward.setdefault(folder, e.name)
            has_file = has_file or not (suffix == ".lnk" or e.name.casefold() in _STRAY)
            if suffix in SHEET_SUFFIXES and not e.name.startswith("~$"):
                self.sheets.append(Path(e.path))
        if has_image:
            self.filled.add(folder)
        if has_image or not (below or links or has_file):
            self.all.append(folder)
        elif not (below or links):
            self.imageless.append(folder)
        if depth:
            # sorted: of two links to one folder always the same is taken
            yield from ((link, depth - 1) for link in sorted(links))
            for b in below:
                yield from self._walk(b, depth - 1, seen, linked)

    def _inside(self, path: str | Path) -> bool:
        """Whether a link leads to a place in RAW, or in a folder that a link led to."""
        target = os.path.realpath(path)
        return any(os.path.commonpath((root, target)) == root for root in self._roots)


_Identity = tuple[int, int]  # device and inode: one folder has one, whatever paths lead to it


def _identity(folder: Path) -> _Identity:
    try:
        stat = folder.stat()
    except OSError as e:
        raise DataError(f"cannot read {folder}: {e.strerror}", do="check the permissions") from e
    return stat.st_dev, stat.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".")]
    except OSError as e:
        raise DataError(f"cannot read {folder}: {e.strerror}", do="check the permissions") from e


def loose(name: str) -> str:
    """``name`` without case and without the zeros that pad its numbers: ``S01_ne_01`` and ``s1_ne_1`` are one."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name.casefold())
