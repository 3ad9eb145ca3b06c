"""One clip through the very code that made the training data: face, apex, flow, class probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mepipe.clipwork import LEFT_OUT, Context, Tools, align_clip, grey, needed_frames, settle_frames
from mepipe.datasets.base import Clip
from mepipe.errors import DataError, UsageError
from mepipe.flow import TVL1Params, resolve_engine
from mepipe.flow.images import average_frames
from mepipe.flow.pairs import reach_of
from mepipe.frames import VideoFile, open_frames
from mepipe.settings import PrepareConfig
from mepipe.workspace import Workspace, write_bytes
from mepipe_model.models import model_info
from mepipe_model.runs import Run, find_run


@dataclass(frozen=True)
class Answer:
    """What ``predict_clip`` found. probabilities: by class name, they sum to 1."""

    clip: str
    run: str
    onset: int
    apex: int
    apex_source: str
    align: str
    prediction: str
    probabilities: dict[str, float]
    folds: tuple[str, ...]
    largest_motion: float
    picture: str | None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "folds": list(self.folds), "warnings": list(self.warnings)}

    def lines(self) -> list[str]:
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        out = [f"{self.clip}: {self.prediction}"]
        out += [f"  {name:10} {p:6.1%}" for name, p in ranked]
        out.append(f"  onset {self.onset}, apex {self.apex} ({self.apex_source}), crop by {self.align}, "
                   f"largest motion {self.largest_motion:.2f} px at 224x224")  # fmt: skip
        out.append(f"  mean of {len(self.folds)} models of {self.run}")
        out += [f"  warning: {w}" for w in self.warnings]
        return out + ([f"  picture {self.picture}"] if self.picture else [])


def predict_clip(
    ws: Workspace,
    run: str,
    path: Path,
    *,
    onset: int | None = None,
    apex: int | None = None,
    offset: int | None = None,
    fold: str | None = None,
    landmarks: str | None = None,
    picture: Path | None = None,
) -> Answer:
    """Classify the clip at ``path`` (a folder of frames or a video) with the weights of ``run``.

    onset, apex, offset: frame numbers; by default the first frame, spotted, the last frame.  The
    probabilities are the mean over the folds' models, or those of ``fold`` alone.
    Raises UsageError or DataError: no such run or weights, weights for normalised arrays, no face, damaged frames.
    """
    the_run = find_run(ws, run)
    if the_run.config["data"].get("flow", {}).get("normalised"):
        raise DataError(f"{the_run.name} was trained on imported, normalised arrays; a clip's flow is in px")
    folds = usable_folds(the_run, fold)
    sequence = model_info(the_run.settings.model).takes == "frames"
    average = averaged(the_run)
    mode = "all" if sequence or average > 1 else "around" if average else "onset-apex"
    config = PrepareConfig(landmarks=landmarks, frames=mode)
    frames = open_frames(path)
    clip = _clip(path, frames, onset, apex, offset)
    clip = settle_frames(clip, frames.numbers, config.max_gap)
    tools = Tools(config, Context.of(config))
    aligned = align_clip(frames, clip, needed_frames(clip, frames.numbers, config.frames), tools)
    clip = aligned.clip
    assert clip.onset is not None
    assert clip.apex is not None
    first, top = aligned.crops[clip.onset], aligned.crops[clip.apex]
    flow = flow_like(the_run, aligned.crops, clip.onset, clip.apex)
    seen = np.stack([grey(aligned.crops[n]) for n in sorted(aligned.crops)]) if sequence else flow
    mean = mean_probabilities(the_run, folds, seen).tolist()
    probabilities = dict(zip(the_run.classes, mean, strict=True))
    answer = Answer(
        clip=str(path),
        run=the_run.name,
        onset=clip.onset,
        apex=clip.apex,
        apex_source="given" if apex is not None and clip.apex_source == "annotated" else clip.apex_source,
        align="box" if aligned.points is None else f"{len(aligned.points)} landmarks",
        prediction=max(probabilities, key=lambda c: probabilities[c]),
        probabilities=probabilities,
        folds=tuple(folds),
        largest_motion=float(flow[2].max()),
        picture=str(picture) if picture else None,
        warnings=(*(n for n in clip.notes if n.startswith(LEFT_OUT)), *doubts(flow, the_run, folds, fold)),
    )
    if picture:
        from mepipe.report import prediction_picture

        title = f"{path.name}: {answer.prediction}"
        write_bytes(picture, prediction_picture(first, top, flow, the_run.classes, list(probabilities.values()), title))
    return answer


STILL = 0.1  # px: with sensor noise alone, TV-L1 finds about as much
FAR = 20.0  # px at 224x224: no expression moves a face that far between onset and apex


def doubts(flow: np.ndarray, run: Run, folds: list[str], asked: str | None) -> tuple[str, ...]:
    """What a reader of the answer must know."""
    largest, notes = float(flow[2].max()), []
    if largest < STILL:
        notes.append(f"nothing moves between onset and apex ({largest:.2f} px): the classes mean nothing here")
    if largest > FAR:
        notes.append(f"{largest:.0f} px of motion is no micro-expression: a cut, a head turn, or two faces?")
    if len(folds) < len(run.fold_ids) and asked is None:
        notes.append(f"only {len(folds)} of {len(run.fold_ids)} folds have weights")
    if asked is None and len(folds) > 1:
        notes.append(
            "a clip of the training corpus was seen by most of these models; --fold chooses the one that was not"
        )
    return tuple(notes)


def check_picture(path: Path | None) -> None:
    """Raises UsageError, before any work, for a picture that could not be written."""
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise UsageError(f"--picture {path}: pictures are PNG", do="end the name in .png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--picture {path}: there is no folder {path.parent}")


def usable_folds(run: Run, fold: str | None) -> list[str]:
    """The folds whose weights are there. Raises UsageError for an unknown fold, DataError when there are none."""
    if fold is not None and fold not in run.fold_ids:
        raise UsageError(f"{run.name} has no fold {fold!r}", do=f"valid: {', '.join(run.fold_ids)}")
    wanted = [fold] if fold else run.finished()
    there = [f for f in wanted if (run.fold(f) / "weights.safetensors").is_file()]
    if not there:
        raise DataError(f"{run.folder} has no weights", do="train it (with --weights all, the default)")
    return there


def _clip(path: Path, frames: Any, onset: int | None, apex: int | None, offset: int | None) -> Clip:
    onset = frames.numbers[0] if onset is None else onset
    offset = frames.numbers[-1] if offset is None else offset
    if len(frames.numbers) < 2:
        raise DataError(f"{path} has one frame", do="onset and apex are needed")
    if not onset < offset or (apex is not None and not onset < apex <= offset):
        raise UsageError(f"onset {onset}, apex {apex}, offset {offset}: onset < apex <= offset is needed")
    fps = frames.fps if isinstance(frames, VideoFile) else 0.0
    return Clip("", "", path.name, onset, apex, offset, fps, "")


def averaged(run: Run) -> int:
    """How many neighbours on either side the run's own flow averages into onset and apex."""
    return int(run.config["data"].get("flow", {}).get("parameters", {}).get("average", 0))


def flow_like(run: Run, crops: Mapping[int, np.ndarray], onset: int, apex: int) -> np.ndarray:
    """Flow (3, 224, 224) in px from frame ``onset`` to ``apex`` of ``crops``, made as that of the run's own shards."""
    recorded = dict(run.config["data"].get("flow", {}).get("parameters", {}))
    average = recorded.pop("average", 0)
    images = [grey(crops[number])[None] for number in (onset, apex)]
    if average:
        reach = reach_of(onset, apex, average)
        near = [[grey(crops[n]) for n in sorted(crops) if abs(n - number) <= reach] for number in (onset, apex)]
        images = [average_frames(np.stack(frames))[None] for frames in near]
    engine, _ = resolve_engine("auto")
    return engine.flow(*images, TVL1Params(**recorded))[0]


def mean_probabilities(run: Run, folds: list[str], seen: np.ndarray) -> np.ndarray:
    """(classes,) mean over the models of ``folds``, each with its own scaling.

    seen: what the run's model reads of the clip, its flow (3, H, W) in px or its frames (T, H, W).
    """
    import torch

    from mepipe_model.data import without_head_motion
    from mepipe_model.models.base import PreparingModel
    from mepipe_model.weights import load_weights

    total = np.zeros(len(run.classes))
    prepared: torch.Tensor | None = None  # the same for all folds
    for fold in folds:
        model, scale = load_weights(run.fold(fold))
        with torch.inference_mode():
            x = torch.from_numpy(seen)[None]
            x = without_head_motion(x) if run.settings.head_motion == "remove" else x
            if isinstance(model, PreparingModel):
                prepared = model.prepare(x) if prepared is None else prepared
                out = model.network(prepared)
            else:
                out = model(scale(x))
            total += model.head.probabilities(out)[0].double().numpy()
    return total / len(folds)
