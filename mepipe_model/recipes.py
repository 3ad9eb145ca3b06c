"""How a model is trained by default, and the learning rate of every step.

The paper's recipe (MERba, section IV-B) is the default; a model whose source states another, or that
is too small for it, has its own entry here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from typing import Any

from mepipe.errors import UsageError
from mepipe.settings import TrainConfig
from mepipe.shards import Content
from mepipe.shards.content import AnyContent
from mepipe_model.fitted import check_fitted, is_fitted

START_LR = 1e-6  # of the warm-up; the paper is silent, timm's default


@dataclass(frozen=True)
class Recipe:
    """What ``TrainConfig`` leaves to the model."""

    epochs: int = 70  # "70 epochs per subject" (3DB)
    holdout_epochs: int = 200  # DFME
    batch_size: int = 128
    optimizer: str = "adamw"
    lr: float = 5e-4
    weight_decay: float = 0.05
    schedule: str = "cosine"
    decay: float = 0.98  # of the exponential schedule alone; FERMam's
    sam: float = 0.0
    warmup: int = 5
    cooldown: int = 10
    clip_norm: float = 5.0  # the paper is silent; MambaVision's
    head_motion: str = "keep"  # the paper is silent
    flip: float = 0.5
    shift: float = 0.0
    noise: float = 0.0
    erase: float = 0.0
    order: str = "shuffled"


PAPER = Recipe()
# What the public PyTorch code of STSTNet and HTNet does: 800 epochs of plain Adam over clips in their listed order,
# without augmentation, and (STSTNet) the last epoch.
MEGC2019 = Recipe(
    epochs=800,
    holdout_epochs=800,
    batch_size=256,
    optimizer="adam",
    lr=5e-5,
    weight_decay=0.0,
    schedule="constant",
    warmup=0,
    cooldown=0,
    clip_norm=0.0,
    flip=0.0,
    order="listed",
)
# FERMam's training script for RAF-DB (200 epochs on AffectNet, batches of 200 on FERPlus). Its epoch is chosen on the
# test set, which is not done here. How often it erases is not known to us: 0.5 is the default of torchvision's
# RandomErasing.
FERMAM = Recipe(
    epochs=260,
    holdout_epochs=260,
    batch_size=300,
    optimizer="adam",
    lr=4e-5,
    weight_decay=0.0,
    schedule="exponential",
    decay=0.98,
    sam=0.05,
    warmup=0,
    cooldown=0,
    clip_norm=0.0,
    erase=0.5,  # of flow nothing is erased
)
# Of every model that is fitted at once: one pass, no step, no mirrored clips
FITTED = replace(MEGC2019, epochs=1, holdout_epochs=1, lr=0.0)
# Of the small presets, made for a few dozen clips
SMALL = Recipe(epochs=40, holdout_epochs=60, batch_size=8, lr=2e-3, warmup=4, cooldown=4, head_motion="auto")
# Chosen on real maps of 3db, two of five folds: docs/real-data.md
MAPS = replace(SMALL, epochs=40, holdout_epochs=40, batch_size=32, lr=1e-3, weight_decay=0.1, shift=1 / 14, sam=0.05)
RECIPES: dict[str, Recipe] = {
    "ststnet": MEGC2019,
    "htnet": MEGC2019,
    "off_apexnet": MEGC2019,  # its own settings are not known to us
    # The made-up corpus gives folds of some 43 clips: 128 a step would be one step an epoch. Its heads drift by up to
    # 0.8 px, as much as a weak expression moves. With that removed UF1 is 0.970 (four seeds, 0.960 to 0.980), without
    # 0.93 (two); 25 epochs gave 0.98 and 0.94 (two).
    "merba_tiny": SMALL,
    "merba_maps": MAPS,
    # Their sources' recipes are not known.  MERba's is VMamba's kind (AdamW, cosine, weight decay 0.05), and ms_vssm
    # takes it; a batch of 128 sequences is 2048 images: fewer, and the rate in proportion.
    "msstnet": Recipe(batch_size=32, lr=1.25e-4),
    "fermam": FERMAM,
    **dict.fromkeys(("ms_vssm_tiny", "msstnet_tiny", "fermam_tiny"), SMALL),
}


def resolved(config: TrainConfig) -> TrainConfig:
    """``config`` with every None that a recipe fills, and warm-up and cooldown that fit the epochs.

    A run shorter than twice their sum shortens both by the same factor (rounded down), so that at least half
    of it trains on the cosine.
    """
    recipe = RECIPES.get(config.model, FITTED if is_fitted(config.model) else PAPER)
    check_fitted(config, vars(recipe))
    _check_augmentation(config)
    given = {f.name: getattr(config, f.name) for f in fields(recipe) if hasattr(config, f.name)}
    filled = {name: getattr(recipe, name) if value is None else value for name, value in given.items()}
    if config.erase is None and config.input is None:
        filled["erase"] = 0.0
    epochs = config.epochs or (recipe.holdout_epochs if config.protocol == "holdout" else recipe.epochs)
    factor = min(1.0, epochs / max(2 * (filled["warmup"] + filled["cooldown"]), 1))
    filled |= {"epochs": epochs, **{name: int(filled[name] * factor) for name in ("warmup", "cooldown")}}
    return replace(config, **filled, scale=scaling(config))


def prepares_input(model: str) -> bool:
    """Whether the model makes its input itself, so that the trainer leaves the flow as it is."""
    from mepipe_model.models import model_info

    return model_info(model).flow != "scaled"


def scaling(config: TrainConfig) -> str:
    """``--scale``, or what the model takes. Raises UsageError for scaled flow into a model that needs it in px."""
    raw = config.input is None and prepares_input(config.model)
    if raw and config.scale == "standard":
        do = "leave --scale out"
        raise UsageError(f"--scale standard: {config.model} prepares its own input from flow in px", do=do)
    return config.scale or ("none" if raw else "standard")


def _check_augmentation(config: TrainConfig) -> None:
    """Raises UsageError for shift or noise of a model that prepares its own input: no scaled map is there to move."""
    for name in ("shift", "noise"):
        if getattr(config, name) and prepares_input(config.model):
            what = f"--{name}: {config.model} prepares its own input from flow in px"
            raise UsageError(what, do=f"leave --{name} out")


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of one step: linear warm-up from 1e-6, cosine to ``min_lr``, then ``min_lr`` in the cooldown.

    The constant schedule stays at ``lr`` after the warm-up; the exponential one is lr decay^e, e whole epochs after it.

    With T steps before the cooldown and w of warm-up: t < w: lr0 + t (lr - lr0)/w;
    w <= t < T: lo + (lr - lo)(1 + cos(pi t/T))/2; t >= T: lo.
    """
    assert config.epochs is not None, "the settings must be resolved"
    assert config.lr is not None
    assert config.warmup is not None
    assert config.cooldown is not None
    warm = config.warmup * steps_per_epoch
    end = (config.epochs - config.cooldown) * steps_per_epoch
    low = min(config.min_lr, config.lr)
    if step < warm:
        return START_LR + step * (config.lr - START_LR) / warm
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "exponential":
        assert config.decay is not None
        return float(config.lr * config.decay ** ((step - warm) // steps_per_epoch))
    if step >= end:
        return low
    return low + (config.lr - low) * (1 + math.cos(math.pi * step / end)) / 2


def input_options(model: str, content: AnyContent) -> dict[str, Any]:
    """Options that tell a model which prepares its own input what the shards hold."""
    from mepipe_model.models import model_info

    if isinstance(content, Content) and model_info(model).flow == "px":
        return {"third": content.channels[2]}
    return {}


def model_options(config: TrainConfig) -> dict[str, Any]:
    """``--set key=value`` pairs as model options, and ``--head``; values are read as JSON where they are JSON."""
    options: dict[str, Any] = {} if config.head is None else {"head": config.head}
    for pair in config.options:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UsageError(f"--set {pair!r} is not KEY=VALUE", do="for example --set mixer_sharing=full")
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = value
    return options
