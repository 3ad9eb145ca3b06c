"""A fold's weights on disk: safetensors beside a JSON with all that is needed to use them. No pickle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mepipe.errors import DataError, UsageError
from mepipe.workspace import atomic_file, hash_file, write_json
from mepipe_model.runs import read_json

if TYPE_CHECKING:
    from mepipe_model.data import Scale
    from mepipe_model.models.base import FlowModel

WEIGHTS, ABOUT = "weights.safetensors", "weights.json"


def save_weights(folder: Path, model: FlowModel, scale: Scale, classes: Sequence[str]) -> None:
    """Write weights.safetensors and weights.json into ``folder``."""
    from safetensors.torch import save_file

    with atomic_file(folder / WEIGHTS) as temp:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temp)
    about = {
        "model": model.config,
        "classes": list(classes),
        "scale": {"mean": scale.mean, "std": scale.std},
        "sha256": hash_file(folder / WEIGHTS),
    }
    write_json(folder / ABOUT, about)


def load_weights(folder: Path) -> tuple[FlowModel, Scale]:
    """The model of ``folder`` in evaluation mode, and the scaling of its inputs.

    Raises DataError, naming the file, when it is damaged or does not fit its description.
    """
    from mepipe_model.data import Scale
    from mepipe_model.models import create_model
    from mepipe_model.tensorfiles import check_options, read_safetensors, within

    about = read_json(folder / ABOUT) or {}
    try:
        tensors = read_safetensors(folder / WEIGHTS)
        if hash_file(folder / WEIGHTS) != about["sha256"]:
            raise ValueError("its sha256 is not the one in weights.json")
        options = check_options(about["model"])
        with within(tensors):
            model = create_model(**options)
        if younger := sorted(model.config.keys() - options.keys()):  # a preset's value would be a guess
            raise ValueError(f"it was saved by a version whose model had no option {', '.join(younger)}")
        model.load_state_dict(tensors)
        scale = Scale(_three(about["scale"]["mean"]), _three(about["scale"]["std"]))
    except (KeyError, TypeError, ValueError, UsageError, OSError, RuntimeError, MemoryError) as e:
        do = "train the fold again: remove its folder and run the same train command"
        raise DataError(f"{folder / WEIGHTS} cannot be used ({type(e).__name__}: {e})", do=do) from e
    model.eval()
    return model, scale


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    """One finite number for each channel. Raises TypeError, ValueError."""
    first, second, third = map(float, values)
    if not all(map(math.isfinite, (first, second, third))):
        raise ValueError(f"its scale is {values}")
    return first, second, third
