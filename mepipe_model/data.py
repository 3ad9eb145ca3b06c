"""Flow shards as tensors: labels, scaling statistics of a training fold, and batches.

Flow stays in pixels until it meets the model; scaling uses the training clips of the fold only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mepipe.errors import DataError, UsageError
from mepipe.shards import Content, Sample, Shards, open_shards
from mepipe_model.feeding import ahead, uploaded

CLASSES: dict[int, tuple[str, ...]] = {
    3: ("negative", "positive", "surprise"),  # MEGC2019's numbers 0, 1, 2
    7: ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"),  # DFME's EmotionId
}
LABEL_FIELD = {3: "label3", 5: "label5", 7: "label7"}
MODEL_CHANNELS = 3  # u, v, magnitude: a stored strain is not read; models that want it compute it from u and v
PREPARED_AT_ONCE = 32  # 20 MB of flow
MEMORY_SHARE = 0.4  # of the free memory of a device or of the machine: flow up to this size is held there


class FlowDataset(Dataset[tuple[Tensor, int]]):
    """The labelled samples of one or many shards: (flow (3, H, W) float32 in px, class index).

    source: a folder of shards or a list of files; corpora: only these.  composite: a list such as "3db" that
    decides which clips belong and their labels (3 classes); its clips that are not there are in ``missing``.
    Samples without a label in the set of ``classes`` (3, 5 or 7) are left out, see ``unlabelled``.  Files are
    opened in each worker.  ``transform`` is applied to the flow tensor.
    Raises DataError for shards of faces.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        corpora: Sequence[str] | None = None,
        classes: int = 3,
        transform: Any = None,
        composite: str | None = None,
    ) -> None:
        if classes not in LABEL_FIELD:
            do = "valid: 3 (MEGC2019), 5 (each corpus's own five), 7 (DFME)"
            raise UsageError(f"--classes {classes}", do=do)
        self.transform = transform
        self.shards: Shards = open_shards(source, corpora, channels=MODEL_CHANNELS)
        content = self.shards.content
        if not isinstance(content, Content):
            raise DataError(f"{self.shards.files[0].path} holds faces, not flow", do="name the folder of flow")
        self.content = content
        labels = [label_of(s, classes) for s in self.shards.samples]
        self.classes = CLASSES.get(classes) or tuple(sorted({label for label in labels if label}))
        self.missing: list[str] = []
        if composite is not None:
            labels, self.missing = composite_labels(composite, self.shards.samples, classes)
        self._where = [i for i, label in enumerate(labels) if label]
        self.unlabelled = len(labels) - len(self._where)
        self.targets = [self._index(i, labels[i]) for i in self._where]

    def _index(self, i: int, label: str) -> int:
        if label not in self.classes:
            s = self.shards.samples[i]
            raise DataError(f"{s.corpus} {s.subject}/{s.clip}: label {label!r} is none of {', '.join(self.classes)}")
        return self.classes.index(label)

    @property
    def samples(self) -> list[Sample]:
        return [self.shards.samples[i] for i in self._where]

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        flow = torch.from_numpy(self.flow(i))
        return (self.transform(flow) if self.transform else flow), self.targets[i]

    def flow(self, i: int) -> np.ndarray:
        """The flow of sample ``i``, (3, H, W) float32 in px."""
        return self.shards.flow(self._where[i])

    def flows(self, indices: Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        """The flow of samples ``indices``, (len(indices), 3, H, W) float32 in px, in ``out`` where it is given."""
        return self.shards.read_many([self._where[i] for i in indices], out)


def label_of(sample: Sample, classes: int) -> str:
    """The sample's label in a label set, "" for none.

    The five classes differ by corpus: they follow from the emotion by data_manifests/labels.csv and are not stored.
    """
    if classes != 5:
        return str(getattr(sample, LABEL_FIELD[classes]))
    from mepipe.datasets.manifests import label_table

    return label_table(sample.corpus).get(sample.emotion, {}).get("label5", "")


def composite_labels(name: str, samples: Sequence[Sample], classes: int) -> tuple[list[str], list[str]]:
    """The label of every sample by the composite's list ("" for clips that are not on it), and who is missing."""
    from mepipe.datasets.composite import select

    if classes != 3:
        raise UsageError(f"{name} has 3 classes, not {classes}", do="use --classes 3")
    chosen = select(name, samples)
    labels = [""] * len(samples)
    for i, label in zip(chosen.indices, chosen.labels, strict=True):
        labels[i] = label
    return labels, [str(m) for m in chosen.missing]


class FlowStore:
    """All flows of a data set by index: on the device when they fit, else in RAM, else read for each batch.

    head_motion: "keep" or "remove" (``without_head_motion``).  place: "device", "ram" or "disk"; default: the first
    whose free memory they take no more than MEMORY_SHARE of.
    """

    def __init__(
        self, data: FlowDataset, device: torch.device, head_motion: str = "keep", place: str | None = None
    ) -> None:
        self.data, self.device, self._still = data, device, head_motion == "remove"
        size = len(data) * data.flow(0).nbytes if len(data) else 0
        self.place = place or self._fitting(size)
        self._all: Tensor | None = None
        if self.place != "disk":
            self._all = self._load().to(device if self.place == "device" else "cpu")

    @property
    def in_memory(self) -> bool:
        return self._all is not None

    def _fitting(self, size: int) -> str:
        places = {"device": self.device, "ram": torch.device("cpu")}
        return next((name for name, d in places.items() if size <= MEMORY_SHARE * free_memory(d)), "disk")

    def _load(self) -> Tensor:
        x = torch.from_numpy(self.data.flows(range(len(self.data))))
        for part in x.split(PREPARED_AT_ONCE) if self._still else ():
            part.copy_(without_head_motion(part))
        return x

    def batch(self, indices: Sequence[int] | Tensor, mirrored: Tensor | None = None) -> Tensor:
        """(len(indices), 3, H, W) float32 on the store's device, in px, or as the shards are normalised.

        mirrored: (len(indices),) bool, the samples to mirror left to right.
        """
        if self._all is not None and self.place == "device":
            x = self._all[torch.as_tensor(indices, device=self.device)]
        else:
            x = self._fetch(indices)
        return x if mirrored is None else flip(x, mirrored.to(self.device), self.data.content.mirror)

    def batches(self, pieces: Sequence[Sequence[int]], mirrored: Sequence[Tensor] | None = None) -> Iterator[Tensor]:
        """``batch`` of every piece in turn; what is not on the device comes while the one before is in use."""
        flips: Sequence[Tensor | None] = [None] * len(pieces)
        sizes = [len(piece) for piece in pieces]
        if mirrored:  # once per epoch: every copy from pageable memory waits for the GPU
            flips = torch.cat(list(mirrored)).to(self.device).split(sizes)
        if self.place == "device":
            order = torch.tensor([i for piece in pieces for i in piece], device=self.device)
            yield from map(self.batch, order.split(sizes), flips)
            return
        for x, which in zip(ahead(self._fetch, pieces), flips, strict=True):
            yield x if which is None else flip(x, which, self.data.content.mirror)

    def _fetch(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Samples from RAM or from the shards, brought to the device."""
        if self._all is not None:
            return uploaded(self._all[torch.as_tensor(indices)], self.device)
        x = torch.from_numpy(self.data.flows([int(i) for i in indices]))
        return uploaded(without_head_motion(x) if self._still else x, self.device)


class PreparedStore:
    """What a model's own preparation makes of every flow and of its mirror image: once for all epochs and folds."""

    def __init__(self, store: FlowStore, prepare: Callable[[Tensor], Tensor]) -> None:
        self._store, self._prepare = store, prepare
        self._plain = self._prepared(mirror=False)
        self._mirrored: Tensor | None = None

    def batch(self, indices: Sequence[int], mirrored: Tensor | None = None) -> Tensor:
        """The prepared samples ``indices``, as FlowStore.batch gives them unprepared."""
        at = torch.as_tensor(indices, device=self._store.device)
        if mirrored is None or not mirrored.any():
            return self._plain[at]
        if self._mirrored is None:
            self._mirrored = self._prepared(mirror=True)
        which = mirrored.to(self._store.device).view(-1, *[1] * (self._plain.ndim - 1))
        return torch.where(which, self._mirrored[at], self._plain[at])

    @torch.no_grad()
    def _prepared(self, mirror: bool) -> Tensor:
        parts = []
        for part in batches(range(len(self._store.data)), PREPARED_AT_ONCE):
            which = torch.ones(len(part), dtype=torch.bool) if mirror else None
            parts.append(self._prepare(self._store.batch(part, which)))
        return torch.cat(parts)


def free_memory(device: torch.device) -> float:
    """Bytes that can still be used, on the GPU or in the machine."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        words = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return float(words["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4e9  # not Linux: assume a small machine


@dataclass(frozen=True)
class Scale:
    """Per-channel shift and factor, x -> (x - mean) / std, for (u, v, magnitude) in px."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def none(cls) -> Scale:
        return cls((0.0,) * 3, (1.0,) * 3)

    def __call__(self, x: Tensor) -> Tensor:
        if self == Scale.none():
            return x  # of any shape: what a model prepared for itself need not be maps
        return (x - _column(self.mean, x.device)) / _column(self.std, x.device)


@lru_cache(maxsize=64)
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1) on ``device``, made once: a copy to a GPU in every step would wait for it."""
    with torch.inference_mode(mode=False):  # whoever asks first: training uses it too
        return torch.tensor(values, device=device).view(-1, 1, 1)


def moments(store: FlowStore, count: int) -> np.ndarray:
    """(count, 2, 3) float64: mean of x and of x^2 per sample and channel. One pass serves every fold."""
    out = np.empty((count, 2, 3))
    for i in range(count):
        x = store.batch([i])[0].double()
        out[i] = np.stack([x.mean((1, 2)).cpu().numpy(), (x**2).mean((1, 2)).cpu().numpy()])
    return out


def fitted_scale(sample_moments: np.ndarray, train: Sequence[int]) -> Scale:
    """Mean and standard deviation over the training clips ``train``, and over them only."""
    first, second = sample_moments[list(train)].mean(0)
    std = np.sqrt(np.maximum(second - first**2, 1e-12))  # a corpus without any motion must not divide by zero
    return Scale(tuple(first.tolist()), tuple(std.tolist()))


def without_head_motion(x: Tensor) -> Tensor:
    """Flow (B, 3, H, W) in px without each clip's own shift of the whole face.

    u and v less their (lower) medians over the crop: most of a face rests during a micro-expression, so that what
    most pixels share is the head's motion, or what alignment left of it.  The magnitude is that of what remains.
    One clip at a time: nothing is learned, nothing can leak.
    """
    uv = x[:, :2] - x[:, :2].flatten(2).median(2).values[..., None, None]
    return torch.cat((uv, uv.norm(dim=1, keepdim=True)), 1)


def flip(x: Tensor, which: Tensor, mirror: float = 0.0) -> Tensor:
    """Mirror the samples ``which`` (B,) bool of x (B, 3, H, W) left to right; u becomes mirror - u.

    mirror: 0 for flow in px, where u changes its sign; lowest + highest value of flow that was min-max scaled.
    """
    mirrored = x.flip(-1)
    mirrored[:, 0].neg_()
    if mirror:
        mirrored[:, 0] += mirror
    return torch.where(which.view(-1, 1, 1, 1), mirrored, x)


def batches(order: Sequence[int], size: int) -> Iterator[list[int]]:
    """``order`` in pieces of ``size``; a last piece of one clip joins the piece before (BatchNorm needs two)."""
    order = list(order)
    cuts = list(range(0, len(order), size))
    if len(cuts) > 1 and len(order) - cuts[-1] == 1:
        cuts.pop()
    yield from (order[a:b] for a, b in zip(cuts, [*cuts[1:], len(order)], strict=True))
