"""The aligned frames of clips, for models that read the whole sequence instead of its flow.

``mepipe prepare --frames all`` leaves them in WORKSPACE/prepared/<corpus>/<subject>/<clip>/<frame number>.png.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mepipe.clipwork import AROUND, grey
from mepipe.errors import DataError
from mepipe.frames import FrameFolder
from mepipe.shards import Sample
from mepipe.workspace import Workspace


class SequenceStore:
    """What a model's preparation makes of every clip's frames, by index: once for all folds of a process."""

    def __init__(
        self, ws: Workspace, samples: Sequence[Sample], prepare: Callable[[Tensor], Tensor], device: torch.device
    ) -> None:
        """Raises DataError, naming the clip, where its frames are not there or too few."""
        check_sequences(ws, samples)
        rows = []
        for sample in samples:
            try:
                rows.append(prepare(torch.from_numpy(clip_frames(ws, sample))[None].to(device)))
            except DataError as e:
                raise DataError(f"{sample}: {e.what}", do=e.do) from e
        self._features = torch.cat(rows)

    def batch(self, indices: Sequence[int], mirrored: Tensor | None = None) -> Tensor:
        """(len(indices), F). mirrored: only False is known here; fitted models see no mirrored clips."""
        assert mirrored is None or not mirrored.any(), "sequences are not mirrored"
        return self._features[torch.as_tensor(indices, device=self._features.device)]


def check_sequences(ws: Workspace, samples: Sequence[Sample]) -> None:
    """Raises DataError for the first clip of which not all frames from onset to offset were kept."""
    for sample in samples:
        numbers = _folder(ws, sample).numbers
        if _is_sequence(sample, numbers):
            continue
        do = f"run mepipe prepare {sample.corpus} RAW --frames all, then mepipe flow {sample.corpus}"
        kept = f"{len(numbers)} aligned frames of {sample.offset - sample.onset + 1}"
        raise DataError(f"{sample}: only {kept} are kept, and this model reads all of them", do=do)


def clip_frames(ws: Workspace, sample: Sample) -> np.ndarray:
    """The clip from onset to offset, (T, H, W) uint8 grey. Raises DataError for what is absent or damaged."""
    folder = _folder(ws, sample)
    inside = [n for n in folder.numbers if sample.onset <= n <= sample.offset]
    return np.stack([grey(folder.read(n)) for n in inside])


def _folder(ws: Workspace, sample: Sample) -> FrameFolder:
    path = ws.prepared(sample.corpus) / sample.subject / sample.clip
    if not path.is_dir():
        do = f"run mepipe prepare {sample.corpus} RAW --frames all, then mepipe flow {sample.corpus}"
        raise DataError(f"{sample}: there are no aligned frames in {path}", do=do)
    return FrameFolder(path)


def _is_sequence(sample: Sample, numbers: Sequence[int]) -> bool:
    """Whether more is kept than onset, apex and their neighbours, or there is no more: a corpus may lack frames."""
    near = {m + d for m in (sample.onset, sample.apex) for d in range(-AROUND, AROUND + 1)}
    return bool(set(numbers) - near) or set(range(sample.onset, sample.offset + 1)) <= set(numbers)
