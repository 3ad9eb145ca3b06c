"""The models of a run's folds, asked about clips that no fold has in its data: the mean of their answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mepipe.errors import DataError, UsageError
from mepipe_model.runs import Run


def usable_folds(run: Run, fold: str | None) -> list[str]:
    """The folds whose weights are there. Raises UsageError for an unknown fold, DataError when there are none."""
    if fold is not None and fold not in run.fold_ids:
        raise UsageError(f"{run.name} has no fold {fold!r}", do=f"valid: {', '.join(run.fold_ids)}")
    wanted = [fold] if fold else run.finished()
    there = [f for f in wanted if (run.fold(f) / "weights.safetensors").is_file()]
    if there:
        return there
    what = f"fold {fold} of {run.folder}" if fold else str(run.folder)
    if fold not in (None, *run.finished()) or not wanted:
        raise DataError(f"{what} has no weights yet", do="the same train command finishes it")
    if run.settings.weights == "none":
        raise DataError(f"{what} has no weights: it was trained with --weights none", do="train it with --weights all")
    do = "put them back, or remove the folds' fold.json and the same train command trains them again"
    raise DataError(f"{what} has no weights any more", do=do)


def mean_probabilities(run: Run, folds: list[str], seen: np.ndarray) -> np.ndarray:
    """(classes,) mean over the models of ``folds``, each with its own scaling.

    seen: what the run's model reads of the clip, its flow (3, H, W) in px or its frames (T, H, W).
    """
    return mean_probabilities_of(run, folds, [seen])[0]


def mean_probabilities_of(run: Run, folds: list[str], clips: Sequence[np.ndarray]) -> np.ndarray:
    """(clips, classes): ``mean_probabilities`` of each of ``clips``, every model loaded once and one at a time.

    What is the same for all folds is computed once for each clip: 0.6 MB of flow, at most as much again prepared.
    """
    import torch

    from mepipe_model.data import without_head_motion
    from mepipe_model.models.base import PreparingModel
    from mepipe_model.weights import load_weights

    inputs = [torch.from_numpy(clip)[None] for clip in clips]
    if run.settings.head_motion == "remove":
        inputs = [without_head_motion(x) for x in inputs]
    prepared: list[torch.Tensor] = []
    total = np.zeros((len(clips), len(run.classes)))
    for fold in folds if clips else ():
        model, scale = load_weights(run.fold(fold))
        with torch.inference_mode():
            if isinstance(model, PreparingModel):
                prepared = prepared or [model.prepare(x) for x in inputs]
                outputs = [model.network(x) for x in prepared]
            else:
                outputs = [model(scale(x)) for x in inputs]
            total += [model.head.probabilities(out)[0].double().numpy() for out in outputs]
    return total / len(folds)
