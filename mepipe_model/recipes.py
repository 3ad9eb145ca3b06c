"""How a model is trained by default, and the learning rate of every step.

The paper's recipe (MERba, section IV-B) is the default; a model whose source states another, or that
is too small for it, has its own entry here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from mepipe.settings import TrainConfig

START_LR = 1e-6  # of the warm-up; the paper is silent, timm's default


@dataclass(frozen=True)
class Recipe:
    """What ``TrainConfig`` leaves to the model."""

    epochs: int = 70  # "70 epochs per subject" (3DB)
    holdout_epochs: int = 200  # DFME
    batch_size: int = 128
    lr: float = 5e-4
    warmup: int = 5
    cooldown: int = 10


PAPER = Recipe()
RECIPES: dict[str, Recipe] = {
    # The made-up corpus gives folds of some 43 clips: 128 a step would be one step an epoch. UF1 there, seed 0:
    # 0.78 after 20 epochs, 0.92 after 40.
    "merba_tiny": Recipe(epochs=40, holdout_epochs=60, batch_size=8, lr=2e-3, warmup=4, cooldown=4),
}


def resolved(config: TrainConfig) -> TrainConfig:
    """``config`` with every None that a recipe fills, and warm-up and cooldown that fit the epochs.

    A run shorter than twice their sum shortens both by the same factor (rounded down), so that at least half
    of it trains on the cosine.
    """
    recipe = RECIPES.get(config.model, PAPER)
    epochs = config.epochs or (recipe.holdout_epochs if config.protocol == "holdout" else recipe.epochs)
    warmup = recipe.warmup if config.warmup is None else config.warmup
    cooldown = recipe.cooldown if config.cooldown is None else config.cooldown
    factor = min(1.0, epochs / max(2 * (warmup + cooldown), 1))
    return replace(
        config,
        epochs=epochs,
        batch_size=config.batch_size or recipe.batch_size,
        lr=recipe.lr if config.lr is None else config.lr,
        warmup=int(warmup * factor),
        cooldown=int(cooldown * factor),
    )


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of one step: linear warm-up from 1e-6, cosine to ``min_lr``, then ``min_lr`` in the cooldown.

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
    if step >= end:
        return low
    return low + (config.lr - low) * (1 + math.cos(math.pi * step / end)) / 2


def model_options(config: TrainConfig) -> dict[str, Any]:
    """``--set key=value`` pairs as model options, and ``--head``; values are read as JSON where they are JSON."""
    import json

    from mepipe.errors import UsageError

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
