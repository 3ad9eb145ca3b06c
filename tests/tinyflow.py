"""Shards of a few made-up flows, for tests of training and judging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mepipe.settings import TrainConfig
from mepipe.shards import Sample, write_shard
from mepipe.workspace import Workspace
from mepipe_model.data import CLASSES

# the smallest model there is, two steps an epoch, in this process
QUICK = {"model": "ststnet", "epochs": 2, "batch_size": 8, "device": "cpu", "jobs": 1, "threads": 1}


def quick(**options) -> TrainConfig:
    return TrainConfig(**QUICK | options)


def samples(corpus: str, subjects: Mapping[str, str] | Sequence[str], clips: int = 3) -> list[Sample]:
    """``clips`` of each subject, their labels in turn. subjects: their names, or name -> split."""
    splits = subjects if isinstance(subjects, Mapping) else dict.fromkeys(subjects, "")
    rows = []
    for n, (subject, split) in enumerate(splits.items()):
        for c in range(clips):
            three, seven = CLASSES[3][c % 3], CLASSES[7][(n * clips + c) % 7]
            key = f"{corpus} {subject} {c}"
            rows.append(Sample(corpus, subject, f"c{c}", label3=three, label7=seven, split=split, key=key))
    return rows


def write_flow(ws: Workspace, rows: Sequence[Sample], seed: int = 0) -> np.ndarray:
    """One shard of noise in px that says nothing of its labels. Returns it, (N, 3, 224, 224) float32."""
    ws.flow.mkdir(parents=True, exist_ok=True)
    flows = np.random.default_rng(seed).normal(size=(len(rows), 3, 224, 224)).astype(np.float32)
    put_flow(ws, rows, flows)
    return flows


def put_flow(ws: Workspace, rows: Sequence[Sample], flows: np.ndarray) -> None:
    path = ws.flow / f"{rows[0].corpus}-00000.h5"
    path.unlink(missing_ok=True)
    write_shard(path, rows, flows, engine="opencv", parameters={}, versions={})
