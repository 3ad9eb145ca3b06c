"""What a run must know of models that are fitted at once: which settings mean nothing to them, what they read."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.settings import TrainConfig
from mepipe.shards import Content, Sample
from mepipe.workspace import Workspace
from mepipe_model.models import model_info

# Settings of gradient steps; a fitted model takes none
STEPS = (
    "epochs", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "decay", "sam", "warmup", "cooldown",
    "clip_norm", "flip", "shift", "noise", "erase", "order",
)  # fmt: skip


def is_fitted(model: str) -> bool:
    return model_info(model).trained_by == "fit"


def need_sklearn(model: str) -> None:
    """Raises MepipeError where scikit-learn is not installed; only fitting needs it."""
    if find_spec("sklearn") is None:
        what = f"{model} is fitted by scikit-learn, which is not installed"
        raise MepipeError(what, do="pip install 'mepipe[svm]'")


def check_fitted(config: TrainConfig, filled: dict[str, Any]) -> None:
    """Refuse settings of training by epochs for a model that is fitted at once.

    filled: the model's own values of STEPS; a run that goes on brings these, and they pass.
    Raises UsageError, and MepipeError where scikit-learn is missing.
    """
    if not is_fitted(config.model):
        return
    need_sklearn(config.model)
    for name in STEPS:
        if getattr(config, name) not in (None, filled[name]):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag}: {config.model} is fitted at once, not trained by epochs", do=f"leave {flag} out")
    if config.compile:
        raise UsageError(f"--compile: {config.model} is fitted at once, without steps", do="leave --compile out")
    if config.select != "fixed":
        what = f"--select {config.select}: {config.model} is fitted at once"
        raise UsageError(what, do="there is no epoch to choose; leave --select out")


def check_inputs(ws: Workspace, model: str, samples: Sequence[Sample], content: Content) -> None:
    """Raises DataError when the data cannot serve the model: arrays without a zero, or frames that were not kept."""
    info = model_info(model)
    if content.normalised and info.normalised == "refused":
        do = "compute flow with mepipe flow"
        raise DataError(f"{model} needs the flow's direction, and these arrays ({content}) have lost its zero", do=do)
    if info.native == "frames":
        from mepipe_model.sequences import check_sequences

        check_sequences(ws, samples)
