"""One fold: train on its training subjects, predict its test subjects, leave everything on disk.

Every epoch draws its order, flips, shifts, noise and dropout from a seed made of (seed, fold, epoch), so a fold that
was killed and goes on gives the numbers of one that was not, on whichever worker it runs.
"""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mepipe.errors import DataError
from mepipe.settings import TrainConfig
from mepipe.stopping import Stopped, stop_wanted
from mepipe.workspace import Workspace, atomic_file, hash_file, make_folder, write_json, write_text
from mepipe_model.augment import augmented
from mepipe_model.compiled import compiled
from mepipe_model.data import FlowDataset, FlowStore, PreparedStore, Scale, batches, fitted_scale, moments
from mepipe_model.facedata import IMAGENET, Batch, FaceDataset, FaceStore, Looked
from mepipe_model.feeding import Tally
from mepipe_model.inputs import open_data
from mepipe_model.metrics import confusion_matrix
from mepipe_model.models import create_model, model_info
from mepipe_model.models.base import FlowModel, PreparingModel
from mepipe_model.models.starting import check_start
from mepipe_model.models.svm import FittedModel
from mepipe_model.protocols import Fold, inner_split, make_folds
from mepipe_model.recipes import input_options, learning_rate, model_options
from mepipe_model.runs import ORACLE_FILE, Prediction, Run, load_run, write_predictions
from mepipe_model.sequences import SequenceStore
from mepipe_model.sharpness import uphill
from mepipe_model.tensorfiles import read_torch
from mepipe_model.together import group
from mepipe_model.weights import save_weights

STATE_EVERY = 20.0  # seconds between two resumable states: little is lost, and a large state costs seconds
LOG = ("epoch", "lr", "loss", "accuracy", "inner_UF1", "oracle_leaky_accuracy")


class Bench:
    """What a process loads once for all its folds: the data, their moments, the device."""

    def __init__(self, workspace: Path, run_folder: Path, device: str) -> None:
        self.run: Run = load_run(run_folder)
        self.config = self.run.settings
        self.device = torch.device(device)
        about = self.run.config["data"]
        self.workspace = Workspace(workspace)
        kind = self.config.input or "flow"
        self.data = open_data(self.workspace, kind, about["corpora"], self.config.classes, about.get("composite"))
        self._flow: FlowStore | None = None
        self._faces: FaceStore | None = None
        if isinstance(self.data, FlowDataset):
            self._flow = FlowStore(self.data, self.device, self.config.head_motion or "keep")
        assert self.config.protocol is not None, "the settings of a run are settled"
        folds = make_folds(self.config.protocol, self.data.samples, k=self.config.k, seed=self.config.seed)
        self.folds = {f.id: f for f in folds}
        self._prepared: PreparedStore | SequenceStore | None = None

    @property
    def store(self) -> FlowStore:
        assert self._flow is not None, "this run reads faces"
        return self._flow

    @cached_property
    def moments(self) -> np.ndarray:
        return moments(self.store, len(self.data))

    def fitted_scale(self, train: Sequence[int]) -> Scale:
        """The scaling of a fold's inputs: fitted to its training clips, or of faces that of natural images."""
        if self.config.scale != "standard":
            return Scale.none()
        return fitted_scale(self.moments, train) if self._flow else IMAGENET

    def inputs(self, model: FlowModel) -> FlowStore | FaceStore | PreparedStore | SequenceStore:
        """Where ``model``'s batches come from; all folds of a run prepare alike, so the first one's serves all."""
        if isinstance(self.data, FaceDataset):
            if self._faces is None:
                size = model_info(self.config.model).shape[-1]
                self._faces = FaceStore(self.data, self.device, size, model.wants_landmarks)
            return self._faces
        return self.prepared(model) if isinstance(model, PreparingModel) else self.store

    def prepared(self, model: PreparingModel) -> PreparedStore | SequenceStore:
        """What ``model`` makes of every clip, by index."""
        if self._prepared is None and model_info(self.config.model).native == "frames":
            self._prepared = SequenceStore(self.workspace, self.data.samples, model.prepare, self.device)
        elif self._prepared is None:
            self._prepared = PreparedStore(self.store, model.prepare)
        return self._prepared

    @property
    def mixed(self) -> bool:
        """bf16 on CUDA unless fp32 was asked for; the scan keeps its state in fp32 either way."""
        auto = self.device.type == "cuda" and self.config.precision == "auto"
        return auto or self.config.precision == "bf16"


_bench: Bench | None = None


def start_worker(workspace: Path, run_folder: Path, device: str, threads: int) -> None:
    """Load this process's bench. threads: of torch."""
    global _bench  # a worker process has one bench, loaded once
    torch.set_num_threads(threads)
    if device == "cpu" or load_run(run_folder).settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's first matrix product starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    _bench = Bench(workspace, run_folder, device)


def stop_worker() -> None:
    """Let go of the bench: its data, its device memory. The process may start on another run, or test one."""
    global _bench
    _bench = None


def train_fold(fold_id: str) -> str:
    """Train and judge one fold in this process; a finished fold is left alone. Returns its id."""
    assert _bench is not None, "start_worker has not run in this process"
    if _bench.run.fold_facts(fold_id) is None:
        if stop_wanted():
            raise Stopped(f"fold {fold_id} was not begun")
        _Training(_bench, _bench.folds[fold_id]).run()
    return fold_id


@dataclass
class _Best:
    """The epoch a selection rule has chosen so far."""

    epoch: int = -1
    score: float = -1.0
    kept: Any = None  # inner: the weights; oracle: the predictions' logits

    def offer(self, epoch: int, score: float, kept: Any) -> None:
        if score > self.score:
            self.epoch, self.score, self.kept = epoch, score, kept


class _Training:
    """The training of one fold."""

    def __init__(self, bench: Bench, fold: Fold) -> None:
        self.bench, self.fold, self.config = bench, fold, bench.config
        self.folder = make_folder(bench.run.fold(fold.id))
        samples, seed = bench.data.samples, self.config.seed
        inner = inner_split(samples, fold.train, seed) if self.config.select == "inner" else None
        self.train = list(inner.train if inner else fold.train)
        self.validation = list(inner.test) if inner else []
        self.scale = bench.fitted_scale(self.train)
        torch.manual_seed(seed_of(seed, fold.id, "weights"))
        options = {**input_options(self.config.model, bench.data.content), **model_options(self.config)}
        self.group = group()
        model = create_model(self.config.model, num_classes=len(bench.data.classes), **options).to(bench.device)
        self.model = self.group.alike(model)
        check_start(self.model, bench.run.config["model"])
        self.inputs = bench.inputs(self.model)
        self.network: Callable[..., Tensor] = self.model
        if isinstance(self.model, PreparingModel):
            self.network = self.model.network
        if self.config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads lack it
        if self.config.compile and not isinstance(self.model, FittedModel):
            self.network = compiled(self.model, self.network)
        if self.config.class_weights == "balanced":
            self.model.head.weigh(self._targets(self.train).bincount(minlength=len(bench.data.classes)))
        self.optimizer = make_optimizer(self.model, self.config)
        self.best = _Best()
        self.log: list[dict[str, float | int | str]] = []
        self.started = time.monotonic()

    def run(self) -> None:
        if isinstance(self.model, FittedModel):
            self._fit(self.model)
        else:
            self._train()
        self._finish()

    def _fit(self, model: FittedModel) -> None:
        """Fit at once. A fold that was killed starts again: nothing is kept of half a fit."""
        x, target = self.bench.prepared(model).batch(self.train), self._targets(self.train)
        model.fit(x, target)
        with torch.inference_mode():
            out = model.network(x)
            accuracy = float((model.head.decide(out) == target).float().mean())
            loss = float(model.head.loss(out, target, 0.0))
        self.log.append({"epoch": 1, "lr": "0", "loss": round(loss, 6), "accuracy": round(accuracy, 4)})
        self._write_log()

    def _targets(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor([self.bench.data.targets[i] for i in indices], device=self.bench.device)

    def _train(self) -> None:
        epochs, saved = self.config.epochs or 0, time.monotonic()
        for epoch in range(self._load_state(), epochs):
            loss, accuracy = self._epoch(epoch)
            row: dict[str, float | int | str] = {"epoch": epoch + 1, "lr": f"{self._rate(epoch, 0):.3e}"}
            row |= {"loss": round(loss, 6), "accuracy": round(accuracy, 4), **self._look(epoch)}
            self.log.append(row)
            self._write_log()
            patient = self.config.select != "inner" or epoch - self.best.epoch < self.config.patience
            if not self.group.agreed(patient, self.bench.device):
                break
            stop = self.group.agreed(stop_wanted(), self.bench.device)
            if (stop or time.monotonic() - saved > STATE_EVERY) and epoch + 1 < epochs:
                self._save_state(epoch + 1)
                saved = time.monotonic()
            if stop and epoch + 1 < epochs:
                raise Stopped(f"fold {self.fold.id} is kept after {epoch + 1} of {epochs} epochs")

    def _epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over the training clips. Returns their mean loss and the accuracy while training."""
        generator = torch.Generator().manual_seed(seed_of(self.config.seed, self.fold.id, f"epoch {epoch}"))
        torch.manual_seed(seed_of(self.config.seed, self.fold.id, f"dropout {epoch}{self.group.word}"))
        shuffled = torch.randperm(len(self.train), generator=generator).tolist()
        order = self.train if self.config.order == "listed" else [self.train[i] for i in shuffled]
        assert self.config.batch_size is not None
        assert self.config.epochs is not None
        assert self.config.flip is not None
        pieces, together = list(batches(order, self.config.batch_size)), self.group
        which = [torch.rand(len(piece), generator=generator) < self.config.flip for piece in pieces]
        own, own_which = ([together.own(part) for part in parts] for parts in (pieces, which))
        if together.size > 1:  # what is drawn for the clips of a part is not what is drawn for another's
            generator.manual_seed(seed_of(self.config.seed, self.fold.id, f"moved {epoch}{together.word}"))
        targets = self._targets(order).split([len(piece) for piece in pieces])
        tally = Tally(f"fold {self.fold.id}", epoch, len(pieces))
        self.model.train()
        for step, (x, target) in enumerate(zip(self._batches(own, own_which), targets, strict=True)):
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = self._rate(epoch, step, len(pieces))
            batch = self._augmented(self._scaled(x), generator)
            loss, out = self._backward(batch, target, epoch / self.config.epochs)
            if self.config.clip_norm:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
            self.optimizer.step()
            tally.add(loss, self.model.head.decide(out.detach()) == target)
        return tally.result()

    def _backward(self, x: Batch, target: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """The gradients of a batch, with SAM those uphill. Returns its loss and outputs at the weights as they are.

        x: the group's part of the batch that this process has; target, what is returned and the gradients are of the
        whole batch.
        """
        loss, out = self._gradients(x, target, progress)
        if self.config.sam:
            with uphill(self.model, self.config.sam):  # along the summed gradient: as far up in every process
                self._gradients(x, target, progress)
        return loss, out

    def _gradients(self, x: Batch, target: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """One pass forward and backward at the weights as they are. Returns loss and outputs of the whole batch."""
        out = self.group.whole(self._forward(x), len(target))
        loss = self.model.head.loss(out, target, progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.group.sum_gradients(self.model.parameters(), len(target))
        return loss, out

    def _batches(self, pieces: Sequence[Sequence[int]], mirrored: Sequence[Tensor] | None = None) -> Iterator[Batch]:
        """The inputs of every piece in turn."""
        if isinstance(self.inputs, FlowStore | FaceStore):
            yield from self.inputs.batches(pieces, mirrored)
            return
        for i, piece in enumerate(pieces):
            yield self.inputs.batch(piece, None if mirrored is None else mirrored[i])

    def _scaled(self, batch: Batch) -> Batch:
        return batch._replace(x=self.scale(batch.x)) if isinstance(batch, Looked) else self.scale(batch)

    def _augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        """A scaled batch of flow, shifted and with noise, or of faces, some with a rectangle erased."""
        how, x = self.config, batch.x if isinstance(batch, Looked) else batch
        x = augmented(x, how.shift or 0.0, how.noise or 0.0, generator, how.erase or 0.0)
        return batch._replace(x=x) if isinstance(batch, Looked) else x

    def _forward(self, batch: Batch) -> Tensor:
        """Raw outputs of a scaled batch."""
        x, beside = (batch.x, (batch.points,)) if isinstance(batch, Looked) else (batch, ())
        if self.config.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if not self.bench.mixed or isinstance(self.model, FittedModel):  # an SVM's decisions need their last digits
            return self.network(x, *beside)
        with torch.autocast(self.bench.device.type, torch.bfloat16):
            return self.network(x, *beside).float()

    def _rate(self, epoch: int, step: int, steps: int | None = None) -> float:
        assert self.config.batch_size is not None
        steps = steps or len(list(batches(self.train, self.config.batch_size)))
        return learning_rate(self.config, epoch * steps + step, steps)

    @torch.inference_mode()
    def _logits(self, indices: Sequence[int]) -> Tensor:
        """Raw outputs for clips, (len(indices), K') on the CPU."""
        self.model.eval()
        assert self.config.batch_size is not None
        pieces = [indices[i : i + self.config.batch_size] for i in range(0, len(indices), self.config.batch_size)]
        return torch.cat([self._forward(self._scaled(x)).cpu() for x in self._batches(pieces)])

    def _look(self, epoch: int) -> dict[str, float]:
        """What the selection rule looks at after an epoch. ``fixed`` looks at nothing."""
        if self.config.select == "inner":
            pred = self.model.head.decide(self._logits(self.validation)).tolist()
            true = [self.bench.data.targets[i] for i in self.validation]
            score = _macro_f1(true, pred, len(self.bench.data.classes))
            if score > self.best.score:
                self.best.offer(epoch, score, copy.deepcopy(self.model.state_dict()))
            return {"inner_UF1": round(score, 4)}
        if self.config.select == "oracle":
            logits = self._logits(self.fold.test)
            target = torch.tensor([self.bench.data.targets[i] for i in self.fold.test])
            score = float((self.model.head.decide(logits) == target).float().mean())
            self.best.offer(epoch, score, logits)
            return {"oracle_leaky_accuracy": round(score, 4)}
        return {}

    # --- what is left on disk ---

    def _finish(self) -> None:
        if not self.group.first:
            return
        if self.config.select == "inner":
            self.model.load_state_dict(self.best.kept)
        self._write_predictions("predictions.csv", self._logits(self.fold.test))
        if self.config.select == "oracle":
            self._write_predictions(ORACLE_FILE, self.best.kept)
        if self.config.weights == "all":
            save_weights(self.folder, self.model, self.scale, self.bench.data.classes)
        facts = {
            "fold": self.fold.id,
            "train_clips": len(self.train),
            "validation_clips": len(self.validation),
            "test_clips": len(self.fold.test),
            "epochs": len(self.log),
            "judged_epoch": self.best.epoch + 1 if self.config.select == "inner" else len(self.log),
            "scale": {"mean": self.scale.mean, "std": self.scale.std},
            "seconds": round(time.monotonic() - self.started, 2),
            "run": self.bench.run.config["fingerprint"],
            "sha256": {p.name: hash_file(p) for p in sorted(self.folder.glob("predictions*.csv"))},
        }
        write_json(self.folder / "fold.json", facts)
        (self.folder / "state.pt").unlink(missing_ok=True)

    def _write_predictions(self, name: str, logits: Tensor) -> None:
        head, classes = self.model.head, self.bench.data.classes
        pred, p = head.decide(logits).tolist(), head.probabilities(logits.float()).tolist()
        rows = []
        for at, i in enumerate(self.fold.test):
            s = self.bench.data.samples[i]
            true = classes[self.bench.data.targets[i]]
            rows.append(Prediction(s.corpus, s.subject, s.clip, self.fold.id, true, classes[pred[at]], tuple(p[at])))
        write_predictions(self.folder / name, rows, classes)

    def _write_log(self) -> None:
        if not self.group.first:
            return
        used = [c for c in LOG if c in self.log[0]]
        lines = [",".join(used), *(",".join(str(r.get(c, "")) for c in used) for r in self.log)]
        write_text(self.folder / "log.csv", "\n".join(lines) + "\n")

    def _save_state(self, next_epoch: int) -> None:
        if not self.group.first:
            return
        state = {
            "next_epoch": next_epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": [self.best.epoch, self.best.score, self.best.kept],
            "log": self.log,
        }
        with atomic_file(self.folder / "state.pt") as temp:
            torch.save(state, temp)

    def _load_state(self) -> int:
        """Go on from state.pt when it is there. Returns the epoch to start with."""
        path = self.folder / "state.pt"
        if not path.is_file():
            return 0
        try:
            state = read_torch(path, self.bench.device)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = _Best(*state["best"])
            self.log = state["log"]
            return int(state["next_epoch"])
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
            do = "remove it: the fold then starts again"
            why = type(e.__cause__ or e).__name__
            raise DataError(f"{path} is no state of this fold ({why})", do=do) from e


def make_optimizer(model: FlowModel, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, or Adam as older recipes have it; the rate is set at every step."""
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    assert config.optimizer is not None, "the settings must be resolved"
    assert config.weight_decay is not None
    # fused: one pass over all parameters instead of some ten small operations for each
    return kinds[config.optimizer](model.parameter_groups(config.weight_decay), betas=(0.9, 0.999), fused=True)


def seed_of(seed: int, fold: str, what: str) -> int:
    """A seed of its own for every (run seed, fold, purpose), the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{fold}/{what}".encode()).digest()[:7], "little")


def _macro_f1(true: Sequence[int], pred: Sequence[int], classes: int) -> float:
    """UF1 over the classes that occur: a small validation set need not hold all of them."""
    matrix = confusion_matrix(true, pred, range(classes))
    size = matrix.sum(0) + matrix.sum(1)
    return float((2 * matrix.diagonal()[size > 0] / size[size > 0]).mean())
