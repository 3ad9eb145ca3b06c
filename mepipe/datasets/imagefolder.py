"""Any images in folders named by their class.

Layout   <class>/<image>, or <split>/<class>/<image> with the splits train, val (valid, validation) and test
Sheet    optional: labels.csv with the columns file, class, and if you have them subject, split; it then decides
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, FrameFolders
from mepipe.datasets.facecorpus import VIDEO_SUFFIXES, FaceClip, FaceCorpus, Media, lists, table_rows, walk
from mepipe.datasets.folders import IMAGE_SUFFIXES
from mepipe.errors import UsageError

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
        for n, row in table_rows(path, ("file", "class"), ("subject", "split")):
            where = f"{path.name} row {n}"
            found = media.below(row["file"])
            parts = tuple(row["file"].replace("\\", "/").split("/"))
            clip = self._clip(where, parts, row["class"], found)
            split = row.get("split", "")
            clip = clip.noted(subject=row.get("subject", ""), split=SPLITS.get(split.casefold(), ""))
            if wrong := wrong_in(row):
                clip = clip.refused(f"{where}: {wrong}")
            yield clip

    def _clip(self, where: str, parts: tuple[str, ...], emotion: str, media: Path | None) -> Clip:
        stem = Path(parts[-1]).stem if media is None or media.is_file() else parts[-1]
        name = "-".join((*(p for p in parts[:-1] if p not in ("", ".")), stem))[-100:]
        return FaceClip(self.name, "", name, None, None, None, 0.0, emotion, where=where, frames=media)


def wrong_in(row: Mapping[str, str]) -> str:
    """Why a row of labels.csv says too little to be trained or tested on; "" for one that is right."""
    split = row.get("split", "")
    if not row["class"]:
        return "no class"
    if split and split.casefold() not in SPLITS:
        return f"unknown split {split[:40]!r}; known: {', '.join(SPLITS)}"
    if row.get("subject") == "":  # it would stand as a person of its own, also beside clips of the same person
        return "no subject, in a table that has them"
    return ""


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
