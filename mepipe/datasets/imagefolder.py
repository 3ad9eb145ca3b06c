"""Any images in folders named by their class.

Layout   <class>/<image>, or <split>/<class>/<image> with the splits train, val (valid, validation) and test
Sheet    optional: labels.csv with the columns file, class, and if you have them subject, split; it then decides
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, FrameFolders
from mepipe.datasets.facecorpus import VIDEO_SUFFIXES, FaceClip, FaceCorpus, Media, lists, table_rows, walk
from mepipe.datasets.folders import IMAGE_SUFFIXES
from mepipe.errors import DataError, UsageError

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
          "testing": "test"}  # fmt: skip
LABELS = "labels.csv"


class ClassFolders(FaceCorpus):
    """What ``image-folder`` and ``clip-folder`` share."""

    licence = "your own"
    crop = "aligned"

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        if sheet is not None and not sheet.is_file():
            raise UsageError(f"--sheet {sheet}: no such file")
        found = [sheet] if sheet else lists(raw, LABELS)[:1]
        if found:
            yield from self._listed(raw, found[0])
            return
        for media in self.media(raw):
            yield self._of_folders(raw, media)

    def media(self, raw: Path) -> Iterator[Path]:
        """The pictures, videos or folders of frames below ``raw`` that are one clip each."""
        raise NotImplementedError

    def _of_folders(self, raw: Path, media: Path) -> Clip:
        parts = media.relative_to(raw).parts
        splits = [SPLITS[p.casefold()] for p in parts[:-1] if p.casefold() in SPLITS]
        words = [p for p in parts[:-1] if p.casefold() not in SPLITS]
        clip = self._clip(str(media.relative_to(raw)), parts, words[-1] if words else "", media)
        clip = clip.noted(split=splits[0] if splits else "")
        return clip if words else clip.refused(f"{clip.where} lies in no folder that could be its class")

    def _listed(self, raw: Path, path: Path) -> Iterator[Clip]:
        media = Media(raw)
        with_columns = {"subject": "", "split": ""}
        needs = ["file", "class", *(name for name in with_columns if name in _header(path))]
        for n, row in table_rows(path, needs):
            where = f"{path.name} row {n}"
            found = media.below(row["file"])
            parts = tuple(row["file"].replace("\\", "/").split("/"))
            clip = self._clip(where, parts, row["class"], found)
            split = row.get("split", "")
            clip = clip.noted(subject=row.get("subject", ""), split=SPLITS.get(split.casefold(), split))
            yield clip if row["class"] else clip.refused(f"{where}: no class")

    def _clip(self, where: str, parts: tuple[str, ...], emotion: str, media: Path | None) -> Clip:
        stem = Path(parts[-1]).stem if media is None or media.is_file() else parts[-1]
        name = "-".join((*(p for p in parts[:-1] if p not in ("", ".")), stem))[-100:]
        return FaceClip(self.name, "", name, None, None, None, 0.0, emotion, where=where, frames=media)


def _header(path: Path) -> set[str]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as f:
            return {cell.strip().casefold() for cell in f.readline(10_000).split(",")}
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}", do="check the permissions") from e


@CORPORA.register("image-folder")
class ImageFolder(ClassFolders):
    name = "image-folder"
    title = "images in class folders"
    layout = "train/happiness/0001.jpg or happiness/0001.jpg, or any files + labels.csv (file, class, subject, split)"

    def media(self, raw: Path) -> Iterator[Path]:
        return (path for path in walk(raw) if path.suffix.lower() in IMAGE_SUFFIXES)


@CORPORA.register("clip-folder")
class ClipFolder(ClassFolders):
    name = "clip-folder"
    title = "clips in class folders"
    kind = "sequence"
    layout = "train/happiness/clip1/0001.jpg or happiness/clip1.mp4, or any clips + labels.csv (file, class, ...)"

    def media(self, raw: Path) -> Iterator[Path]:
        seen: Path | None = None
        for path in walk(raw):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield path
            elif path.parent != seen:  # walk gives a folder's files one after the other
                seen = path.parent
                yield seen
