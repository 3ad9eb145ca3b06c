"""Looking at a clip's images without decoding them: is the file whole, how large is the picture?

``verify`` opens two images of a clip and of these reads the ends; its ``--deep`` decodes all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mepipe.errors import DataError
from mepipe.frames import FrameFolder, read_image
from mepipe.imageheads import bomb, damage, picture_size
from mepipe.settings import cores

ENDS = 64 << 10  # bytes read at either end of an image: its header and its end marker lie there


class Images:
    """The images of clips, looked at no more often than needed. opened: how many files so far."""

    def __init__(self, deep: bool) -> None:
        self.deep = deep
        self.opened = 0
        self._folders: dict[Path, FrameFolder | str] = {}
        self._damaged: dict[Path, dict[int, str]] = {}

    def folder(self, path: Path) -> FrameFolder | str:
        """The numbered images of ``path``, or why there are none; several clips may share a folder."""
        if path not in self._folders:
            try:
                self._folders[path] = FrameFolder(path)
            except DataError as e:
                self._folders[path] = str(e)
        return self._folders[path]

    def damaged(self, folder: FrameFolder, needed: Iterable[int]) -> dict[int, str]:
        """Frame -> what is wrong with it: of ``needed`` by a glance, of all frames when deep."""
        if not self.deep:
            checked = sorted(set(needed))
            self.opened += len(checked)
            return {n: why for n in checked if (why := glance(file_of(folder, n)))}
        if folder.folder not in self._damaged:
            self.opened += len(folder.numbers)
            with ThreadPoolExecutor(cores(), "verify") as pool:  # OpenCV decodes outside Python's lock
                whys = pool.map(lambda n: _decoded(folder, n), folder.numbers)
                self._damaged[folder.folder] = {n: w for n, w in zip(folder.numbers, whys, strict=True) if w}
        return self._damaged[folder.folder]


def file_of(folder: FrameFolder, number: int) -> Path:
    return folder.folder / str(folder.signature(number)[0])


def _decoded(folder: FrameFolder, number: int) -> str:
    try:
        read_image(file_of(folder, number))
    except DataError as e:
        return str(e)
    return ""


def glance(path: Path) -> str:
    """Why the file at ``path`` is no whole image, or '', as far as its size and its two ends tell."""
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            data = f.read(ENDS)
            if size > 2 * ENDS:
                f.seek(-ENDS, os.SEEK_END)
            rest = f.read()
    except OSError as e:
        return f"{path.name} cannot be read: {e.strerror}"
    if data[:2] == b"BM":  # the header of a BMP says how long the file is
        broken = "is a truncated BMP" if size < int.from_bytes(data[2:6], "little") else ""
    else:
        broken = damage(data + rest)
    broken = broken or bomb(data)
    return f"{path.name} {broken}" if broken else ""


def image_size(path: Path) -> tuple[int, int] | None:
    """(width, height) in px as the header of a PNG, BMP, JPEG or TIFF says; None where the first bytes do not tell."""
    with path.open("rb") as f:
        return picture_size(f.read(ENDS))
