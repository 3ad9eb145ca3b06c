"""Shards of faces as tensors: samples, labels by the corpus's own classes, and batches of images or sequences.

Crops stay uint8, as large as the model was made for, until they meet it: then float32 RGB in 0..1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mepipe.errors import DataError, UsageError
from mepipe.shards import Faces, Sample, Shards, open_shards
from mepipe_model.data import CLASSES, MEMORY_SHARE, Scale, composite_labels, free_memory, label_of
from mepipe_model.feeding import ahead, uploaded

SIDE = 224
# Of natural images (ImageNet), as every published recipe for faces has it: nothing is fitted, so nothing can leak.
IMAGENET = Scale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# dlib's 68 points of a mirrored face: jaw, brows, nose, eyes and mouth change sides
MIRRORED = (
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
)  # fmt: skip
FRAME_MARK = "#"  # between a clip's name and the number of its frame, where each frame is a sample


class Looked(NamedTuple):
    """A batch for a model that takes landmarks: images or sequences, and (B, 68, 2) float32 in px of ``x``, NaN where
    there are none.
    """

    x: Tensor
    points: Tensor


Batch = Tensor | Looked


class FaceDataset(Dataset[tuple[Tensor, int]]):
    """The labelled samples of shards of faces: (RGB float32 in 0..1, class index).

    kind: "image", (3, 224, 224), where every frame of a sequence is a sample of its own, named ``<clip>#<frame>``; or
    "sequence", (T, 3, 224, 224).
    classes: of the corpus's own lists the one of so many; of micro-expression corpora a label set (3, 5, 7).  None: the
    usual one.  composite: as for FlowDataset.
    Raises DataError for images where sequences are meant, and for corpora whose classes differ.
    """

    missing: Sequence[str] = ()

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        corpora: Sequence[str] | None = None,
        kind: str = "image",
        classes: int | None = None,
        composite: str | None = None,
    ) -> None:
        self.shards: Shards = open_shards(source, corpora)
        content = self.shards.content
        if not isinstance(content, Faces):
            raise DataError(f"{self.shards.files[0].path} holds flow, not faces", do="name the folder of faces")
        if kind == "sequence" and content.frames is None:
            raise DataError(f"{self.shards.files[0].path} holds images, and sequences are meant")
        self.content, self.kind = content, kind
        self.frames = content.frames if kind == "sequence" else None
        rows = self.shards.samples
        labels, self.classes, self.missing = _labels(self.shards, classes, composite)
        per = content.frames if kind == "image" and content.frames else 1
        kept = [i for i, label in enumerate(labels) if label]
        self.unlabelled = (len(rows) - len(kept)) * per
        self._where = [(i, t) for i in kept for t in range(per)]
        self.targets = [self.classes.index(labels[i]) for i, _ in self._where]
        self.samples: list[Sample] = [
            rows[i] if per == 1 else replace(rows[i], clip=f"{rows[i].clip}{FRAME_MARK}{t + 1:03d}")
            for i, t in self._where
        ]

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return as_tensor(self.crops([i]))[0], self.targets[i]

    def crops(self, indices: Sequence[int]) -> np.ndarray:
        """(n, 224, 224, 3) or (n, T, 224, 224, 3) uint8 RGB."""
        where = [self._where[i] for i in indices]
        if self.kind == "image" and self.content.frames:
            return np.stack([self.shards.frame(at, t) for at, t in where])
        return self.shards.read_many([at for at, _ in where])

    def landmarks(self, indices: Sequence[int]) -> np.ndarray:
        """(n, 68, 2) float32, px of the 224x224 crop, NaN where there are none; of a frame those of its clip."""
        return np.stack([self.shards.beside("landmarks", self._where[i][0]) for i in indices])


def _labels(
    shards: Shards, classes: int | None, composite: str | None
) -> tuple[list[str], tuple[str, ...], Sequence[str]]:
    """The label of every sample ("" for none), the classes, and who is missing of a composite."""
    sets = list(dict.fromkeys(file.content.class_sets for file in shards.files if isinstance(file.content, Faces)))
    if composite is not None or sets == [()]:
        count = classes or 3
        if count not in (3, 5, 7):
            raise UsageError(f"--classes {count}", do="valid: 3 (MEGC2019), 5 (each corpus's own five), 7 (DFME)")
        labels = [label_of(s, count) for s in shards.samples]
        missing: Sequence[str] = ()
        if composite is not None:
            labels, missing = composite_labels(composite, shards.samples, count)
        return labels, CLASSES.get(count) or tuple(sorted({label for label in labels if label})), missing
    if len({frozenset(s[0]) if s else None for s in sets}) > 1:
        names = sorted({s.corpus for s in shards.samples})
        raise DataError(f"{' and '.join(names)} have different classes", do="train on one of them at a time")
    chosen = next((s for s in sets[0] if classes in (None, len(s))), None)
    if chosen is None:
        there = " or ".join(str(len(s)) for s in sets[0])
        raise UsageError(f"--classes {classes}: the corpus has {there}", do="leave --classes out")
    return [s.emotion if s.emotion in chosen else "" for s in shards.samples], chosen, ()


def sized(crops: np.ndarray, size: int) -> np.ndarray:
    """(..., 224, 224, 3) uint8 as large as the model reads them, by area means: (..., size, size, 3) uint8."""
    if size == SIDE:
        return crops
    import cv2

    flat = crops.reshape(-1, *crops.shape[-3:])
    how = cv2.INTER_AREA if size < SIDE else cv2.INTER_CUBIC
    out = np.stack([cv2.resize(crop, (size, size), interpolation=how) for crop in flat])
    return out.reshape(*crops.shape[:-3], size, size, 3)


def as_tensor(crops: np.ndarray | Tensor) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in 0..1."""
    return (torch.as_tensor(crops).movedim(-1, -3).float() / 255).contiguous()


def mirrored_points(points: Tensor, size: int) -> Tensor:
    """(B, 68, 2) landmarks of the mirrored faces, in a crop of ``size`` px."""
    out = points[:, list(MIRRORED)].clone()
    out[..., 0] = size - 1 - out[..., 0]
    return out


class FaceStore:
    """All faces of a data set by index: uint8 on the device when they fit, else in RAM, else read for each batch.

    size: of the images in px.  landmarks: give them too (Looked).  place: "device", "ram" or "disk"; default: the first
    whose free memory they take no more than MEMORY_SHARE of.
    """

    def __init__(
        self,
        data: FaceDataset,
        device: torch.device,
        size: int = SIDE,
        landmarks: bool = False,
        place: str | None = None,
    ) -> None:
        self.data, self.device, self.size, self._landmarks = data, device, size, landmarks
        whole = len(data) * (data.frames or 1) * size * size * 3
        places = {"device": device, "ram": torch.device("cpu")}
        fitting = (name for name, d in places.items() if whole <= MEMORY_SHARE * free_memory(d))
        self.place = place or next(fitting, "disk")
        self._all: Tensor | None = None
        if self.place != "disk" and len(data):
            self._all = torch.empty((len(data), *sized(data.crops([0]), size).shape[1:]), dtype=torch.uint8)
            for i in range(len(data)):  # one by one: no second copy of all
                self._all[i] = torch.from_numpy(sized(data.crops([i]), size)[0])
            self._all = self._all.to(device if self.place == "device" else "cpu")

    def batch(self, indices: Sequence[int], mirrored: Tensor | None = None) -> Batch:
        """(n, 3, size, size) or (n, T, 3, size, size) float32 in 0..1 on the device; Looked where landmarks are wanted.

        mirrored: (n,) bool, the samples to mirror left to right.
        """
        return self._mirrored(self._fetch(indices), mirrored)

    def batches(self, pieces: Sequence[Sequence[int]], mirrored: Sequence[Tensor] | None = None) -> Iterator[Batch]:
        """``batch`` of every piece in turn; what is not on the device comes while the one before is in use."""
        flips: Sequence[Tensor | None] = [None] * len(pieces) if mirrored is None else list(mirrored)
        coming = map(self._fetch, pieces) if self.place == "device" else ahead(self._fetch, pieces)
        for batch, which in zip(coming, flips, strict=True):
            yield self._mirrored(batch, which)

    def _fetch(self, indices: Sequence[int]) -> Batch:
        at = torch.as_tensor(list(indices))
        if self._all is None:
            crops = uploaded(torch.from_numpy(sized(self.data.crops(indices), self.size)), self.device)
        elif self.place == "device":
            crops = self._all[at.to(self.device)]
        else:
            crops = uploaded(self._all[at], self.device)
        x = as_tensor(crops)
        if not self._landmarks:
            return x
        points = torch.from_numpy(self.data.landmarks(indices)) * (self.size / SIDE)
        return Looked(x, points.to(self.device))

    def _mirrored(self, batch: Batch, which: Tensor | None) -> Batch:
        if which is None or not which.any():
            return batch
        which = which.to(self.device)
        x = batch.x if isinstance(batch, Looked) else batch
        x = torch.where(which.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
        if not isinstance(batch, Looked):
            return x
        points = torch.where(which.view(-1, 1, 1), mirrored_points(batch.points, self.size), batch.points)
        return Looked(x, points)
