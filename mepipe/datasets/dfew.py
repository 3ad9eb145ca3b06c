"""DFEW: 11,697 clips from films with a single label, seven classes, the five folds of its paper.

Layout   Clip/clip_224x224_16f/00001/00001_00001.jpg           16 aligned frames, taken as they are; or
         Clip/clip_224x224/**/00001/*.jpg                       all aligned frames; or
         Clip/original/**/1.mp4 or 00001.mp4                    the clips themselves, then aligned; the first there is
Lists    EmoLabel_DataSplit/test(single-labeled)/set_1.csv ... set_5.csv, columns video_name, label; the training lists
         are their complements and are not read
Labels   1 happy, 2 sad, 3 neutral, 4 angry, 5 surprise, 6 disgust, 7 fear; named as nouns here
Source   Jiang et al., ACM MM 2020; the README of the release (docs/corpora/dfew.md)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, FrameFolders
from mepipe.datasets.facecorpus import FaceClip, FaceCorpus, Media, lists, table_rows
from mepipe.errors import DataError, UsageError

CLASSES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")  # labels 1 to 7
FOLDS = 5


@CORPORA.register("dfew")
class Dfew(FaceCorpus):
    name = "dfew"
    title = "DFEW, single-labelled"
    licence = "https://dfew-dataset.github.io (Southeast University)"
    layout = "Clip/clip_224x224_16f/00001/00001_00001.jpg + EmoLabel_DataSplit/test(single-labeled)/set_{1..5}.csv"
    kind = "sequence"
    class_sets = (CLASSES,)

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        if sheet is not None and not sheet.is_dir():
            raise UsageError(f"--sheet {sheet}: give the folder that holds set_1.csv to set_5.csv")
        videos = Media(raw)
        for fold, path in self._lists(sheet or raw).items():
            for n, row in table_rows(path, ("video_name", "label")):
                yield self._clip(f"{path.parent.name}/{path.name} row {n}", fold, row["video_name"], row["label"],
                                 folders, videos)  # fmt: skip

    def _lists(self, root: Path) -> dict[int, Path]:
        """Fold -> its test list. Raises DataError when one of the five is not there."""
        tests = [p for p in lists(root, "set_[1-5].csv") if p.parent.name.casefold().startswith("test")]
        found = {int(p.stem[-1]): p for p in reversed(tests)}
        if lacking := [f"set_{n}.csv" for n in range(1, FOLDS + 1) if n not in found]:
            do = "copy EmoLabel_DataSplit there, or pass --sheet with the folder that holds it"
            raise DataError(f"{self.title}: no {', '.join(lacking)} in a folder test... of {root}", do=do)
        return dict(sorted(found.items()))

    def _clip(self, where: str, fold: int, name: str, label: str, folders: FrameFolders, videos: Media) -> Clip:
        number = int(name) if re.fullmatch(r"0*[0-9]{1,6}", name, re.ASCII) else None
        frames, raw = self._media(number, folders, videos) if number is not None else (None, False)
        clip = FaceClip(
            self.name, "", f"{number:05d}" if number is not None else name, None, None, None, 0.0,
            CLASSES[int(label) - 1] if label in "1234567" and len(label) == 1 else "", where=where,
            split=f"fold{fold}", frames=frames, crop="aligned" if raw else "",
        )  # fmt: skip
        if number is None:
            return clip.refused(f"{where}: {name[:80]!r} is no number of a clip")
        return clip if clip.emotion else clip.refused(f"{where}: label {label[:80]!r} is none of 1 to 7")

    def _media(self, number: int, folders: FrameFolders, videos: Media) -> tuple[Path | None, bool]:
        """Aligned frames, else the clip itself; and whether it is that."""
        folder = folders.find(f"{number:05d}", prefer="16f", accept=lambda f: f in folders.filled)
        if folder is not None:
            return folder, False
        return videos.named(f"{number:05d}.mp4") or videos.named(f"{number}.mp4"), True
