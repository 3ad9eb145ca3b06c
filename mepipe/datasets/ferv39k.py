"""FERV39k: 38,935 clips of 22 scenes, seven classes, official train and test parts.

Layout   2_ClipsforFaceCrop/<scene>/<emotion>/<clip>/*.jpg       Action/Happy/0267/; face crops, taken as they are
Lists    4_setups/All_scenes/train_All.csv, test_All.csv: lines of a path and an emotion, "Action/Happy/0267 Happy"; a
         first line without a path is a header
Source   Wang et al., CVPR 2022; the layout as public loaders read it (docs/corpora/ferv39k.md)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, FrameFolders
from mepipe.datasets.facecorpus import FaceClip, FaceCorpus, find_list, text_lines

WORDS = {"angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happiness", "neutral": "neutral",
         "sad": "sadness", "surprise": "surprise"}  # fmt: skip


@CORPORA.register("ferv39k")
class Ferv39k(FaceCorpus):
    name = "ferv39k"
    title = "FERV39k"
    licence = "https://wangyanckxx.github.io/Proj_CVPR2022_FERV39k.html (Fudan University)"
    layout = "2_ClipsforFaceCrop/Action/Happy/0267/*.jpg + 4_setups/All_scenes/{train,test}_All.csv"
    kind = "sequence"
    class_sets = (tuple(WORDS.values()),)

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        for split in ("train", "test"):
            path = find_list(folders, self._given(sheet, split), (f"{split}_All.csv",), self.title)
            for n, line in text_lines(path):
                words = line.replace(",", " ").split()
                if n > 1 or "/" in words[0].replace("\\", "/"):
                    yield self._clip(f"{path.name} line {n}", words, split, folders)

    def _given(self, sheet: Path | None, split: str) -> Path | None:
        """``--sheet`` names the folder of both lists, or one of them beside the other."""
        return sheet if sheet is None or sheet.is_dir() else sheet.with_name(f"{split}_All.csv")

    def _clip(self, where: str, words: list[str], split: str, folders: FrameFolders) -> Clip:
        parts = words[0].replace("\\", "/").strip("/").split("/")
        word = words[-1].casefold() if len(words) > 1 else parts[-2].casefold() if len(parts) > 1 else ""
        clip = FaceClip(
            self.name, "", "-".join(parts), None, None, None, 0.0, WORDS.get(word, ""), where=where, split=split,
            frames=folders.find(*parts) if len(parts) == 3 else None,
        )  # fmt: skip
        if len(parts) != 3:
            return clip.refused(f"{where}: {words[0][:80]!r} is no scene/emotion/clip")
        return clip if clip.emotion else clip.refused(f"{where}: unknown emotion {word[:80]!r}")
