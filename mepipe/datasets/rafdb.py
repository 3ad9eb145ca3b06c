"""RAF-DB, single-label subset ("basic"): 15,339 faces from the internet, seven classes, official train and test parts.

Layout   basic/EmoLabel/list_patition_label.txt      one line per image: train_00001.jpg 5
         basic/Image/aligned/train_00001_aligned.jpg 100x100 px, taken as they are; Image/original/ is not read
Labels   1 surprise, 2 fear, 3 disgust, 4 happiness, 5 sadness, 6 anger, 7 neutral
Source   Li, Deng, Du, CVPR 2017; the layout as public loaders read it (docs/corpora/rafdb.md)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, FrameFolders
from mepipe.datasets.facecorpus import FaceClip, FaceCorpus, Media, find_list, text_lines

CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # labels 1 to 7


@CORPORA.register("rafdb")
class RafDb(FaceCorpus):
    name = "rafdb"
    title = "RAF-DB, basic"
    licence = "http://www.whdeng.cn/RAF/model1.html (Beijing University of Posts and Telecommunications)"
    layout = "basic/Image/aligned/train_00001_aligned.jpg + basic/EmoLabel/list_patition_label.txt"
    class_sets = (CLASSES,)

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        path = find_list(folders, sheet, ("list_patition_label.txt", "list_partition_label.txt"), self.title)
        media = Media(folders.find("aligned") or raw)
        for n, line in text_lines(path):
            yield self._clip(f"{path.name} line {n}", line.split(), media)

    def _clip(self, where: str, words: list[str], media: Media) -> Clip:
        name = Path(words[0]).stem.removesuffix("_aligned")
        label = int(words[-1]) if len(words) == 2 and words[-1] in "1234567" else 0
        clip = FaceClip(
            self.name, "", name, None, None, None, 0.0, CLASSES[label - 1] if label else "", where=where,
            split=next((part for part in ("train", "test") if name.startswith(part)), ""),
            frames=media.named(f"{name}_aligned.jpg") or media.named(f"{name}.jpg"),
        )  # fmt: skip
        if not label:
            return clip.refused(f"{where}: {' '.join(words)[:80]!r} is no name and label 1 to 7")
        return clip if clip.split else clip.refused(f"{where}: {name!r} says neither train nor test")
