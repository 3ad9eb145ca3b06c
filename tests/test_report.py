"""The page of a run and its pictures, made from a run folder and shards written here."""

from __future__ import annotations

import base64
import colorsys
import html.parser
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mepipe.errors import DataError, UsageError
from mepipe.report import (
    FlowClip,
    arrows_picture,
    colour_picture,
    confusion_picture,
    curves_picture,
    flow_legend,
    flow_picture,
    magnitude_picture,
    overview_picture,
    prediction_picture,
    report_run,
)
from mepipe.report.colours import MIN_LIMIT, flow_limit, wheel
from mepipe.report.examples import choose
from mepipe.report.flowpictures import arrow_field, magnification, nice, px
from mepipe.report.plots import mean_curve
from mepipe.report.reading import read_run
from mepipe.report.tables import constant_answer, duration, intervals, subject_rows
from mepipe.settings import TrainConfig
from mepipe.shards import Sample, write_shard
from mepipe.workspace import Workspace, write_json, write_text
from mepipe_model.evaluate import LEAKY, score
from mepipe_model.metrics import Scores
from mepipe_model.runs import Prediction, write_predictions

CLASSES = ("negative", "positive", "surprise")
SHAPE = (224, 224)
EVIL = "<script>alert(1)</script>"


# --- a run made up -----------------------------------------------------------------------------------


def smooth_flow(seed: int, strength: float = 1.5) -> np.ndarray:
    """(3, 224, 224) float32 px: two bumps that move, the rest nearly still."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    u, v = (cv2.GaussianBlur(rng.normal(size=SHAPE), (0, 0), 8) * 0.4 for _ in range(2))
    for cx, cy in rng.uniform(60, 164, (2, 2)):
        bump = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 800)
        du, dv = rng.normal(size=2) * strength
        u, v = u + du * bump, v + dv * bump
    return np.stack([u, v, np.hypot(u, v)]).astype(np.float32)


def crop(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(*SHAPE, 3))
    return np.clip(128 + 600 * cv2.GaussianBlur(noise, (0, 0), 12), 0, 255).astype(np.uint8)


@dataclass
class MadeRun:
    """A workspace with one run in it, and what it must say."""

    ws: Workspace
    name: str
    rows: list[Prediction]

    @property
    def folder(self) -> Path:
        return self.ws.runs / self.name

    def page(self) -> str:
        return report_run(self.ws, self.name).read_text("utf-8")


def make_run(
    root: Path, *, subjects: int = 6, clips: int = 4, finished: int | None = None, select: str = "fixed",
    crops: bool = True, flow: bool = True, clip_name: str = "EP{:02d}", epochs: int = 5,
) -> MadeRun:  # fmt: skip
    """Two corpora, LOSO, some three predictions in ten wrong; ``finished`` folds have results."""
    ws, name = Workspace(root), "made-up"
    folder = ws.runs / name
    people = [("casme2" if i % 2 else "samm", f"sub{i:02d}") for i in range(subjects)]
    rng = np.random.default_rng(1)
    rows, samples = [], []
    for n, (corpus, subject) in enumerate(people):
        for k in range(clips):
            true = (n + k) % 3
            pred = (true + int(rng.integers(1, 3))) % 3 if rng.random() < 0.3 else true
            p = rng.dirichlet(np.ones(3) + 8 * np.eye(3)[pred])
            clip, fold = clip_name.format(k), f"{corpus}_{subject}"
            rows.append(Prediction(corpus, subject, clip, fold, CLASSES[true], CLASSES[pred], tuple(p)))
            samples.append(Sample(corpus, subject, clip, label3=CLASSES[true], onset=10, apex=20, offset=30))
    settings = TrainConfig(
        data=("casme2", "samm"), model="merba_tiny", epochs=epochs, batch_size=8, lr=2e-3, select=select
    )
    write_json(folder / "config.json", config_json(settings, [f"{c}_{s}" for c, s in people], len(rows)))
    for fold in [f"{c}_{s}" for c, s in people][:finished]:
        write_fold(folder / "folds" / fold, [r for r in rows if r.fold == fold], epochs, select)
    if flow:
        write_flow(ws, samples)
    if crops:
        write_crops(ws, samples)
    return MadeRun(ws, name, rows)


def config_json(settings: TrainConfig, folds: list[str], clips: int) -> dict:
    return {
        "format": "mepipe.run",
        "version": 1,
        "settings": settings.as_dict(),
        "fingerprint": "loso-made-up-0123abcd",
        "model": {"name": "merba_tiny", "source": "MERba, arXiv 2506.14468", "fidelity": "the paper's, made small"},
        "data": {
            "corpora": list(settings.data),
            "classes": list(CLASSES),
            "clips": clips,
            "left_out_without_label": 3,
            "folds": folds,
            "shards": {"casme2-00000.h5": "c0ffee" * 10, "samm-00000.h5": "badcab" * 10},
        },
        "device": {"type": "cpu", "name": "CPU"},
        "versions": {"mepipe": "0.1.0", "torch": "2.13.0", "mamba-ssm": None},
        "started": "2025-01-02 03:04:05",
    }


def write_fold(folder: Path, rows: list[Prediction], epochs: int, select: str) -> None:
    write_predictions(folder / "predictions.csv", rows, CLASSES)
    extra = {"inner": ",inner_UF1", "oracle": ",oracle_leaky_accuracy"}.get(select, "")
    rng = np.random.default_rng(len(folder.name))
    lines = ["epoch,lr,loss,accuracy" + extra]
    for e in range(epochs):
        rate, loss = 1e-3 * (1 + np.cos(np.pi * e / epochs)), np.exp(-e / 8) + 0.1 * rng.random()
        line = f"{e + 1},{rate:.3e},{loss:.6f},{1 - 0.6 * loss / 1.1:.4f}"
        lines.append(line + (f",{0.5 + 0.2 * rng.random():.4f}" if extra else ""))
    write_text(folder / "log.csv", "\n".join(lines) + "\n")
    facts = {"fold": folder.name, "train_clips": 20, "validation_clips": 0, "test_clips": len(rows), "epochs": epochs}
    write_json(folder / "fold.json", facts | {"judged_epoch": epochs, "seconds": 61.5})


def write_flow(ws: Workspace, samples: list[Sample]) -> None:
    for corpus in sorted({s.corpus for s in samples}):
        mine = [s for s in samples if s.corpus == corpus]
        flows = (smooth_flow(i) for i in range(len(mine)))
        write_shard(ws.flow / f"{corpus}-00000.h5", mine, flows, engine="opencv", parameters={}, versions={})


def write_crops(ws: Workspace, samples: list[Sample]) -> None:
    for n, s in enumerate(samples):
        folder = ws.prepared(s.corpus) / s.subject / s.clip
        folder.mkdir(parents=True, exist_ok=True)
        for frame in (s.onset, s.apex):
            assert cv2.imwrite(str(folder / f"{frame}.png"), crop(n))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> MadeRun:
    return make_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def page(made) -> str:
    return made.page()
