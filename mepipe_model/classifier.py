"""A clip's frames on the way of the training data: face, crop, apex, flow; then the answer of a run's models.

Classifier(ws, run)                       the models of a run, and the way to what they read
flow_like(run, crops, onset, apex)        flow by the settings that the run's own shards record
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mepipe.clipwork import LEFT_OUT, Context, Tools, align_clip, grey, needed_frames, settle_frames
from mepipe.datasets.base import Clip
from mepipe.errors import DataError, UsageError
from mepipe.flow import TVL1Params, resolve_engine
from mepipe.flow.images import average_frames
from mepipe.flow.pairs import reach_of
from mepipe.frames import Frames
from mepipe.settings import PrepareConfig
from mepipe.workspace import Workspace
from mepipe_model.answers import Answer
from mepipe_model.foldmodels import mean_probabilities_of, usable_folds
from mepipe_model.models import model_info
from mepipe_model.runs import Run, find_run

STILL = 0.1  # px: with sensor noise alone, TV-L1 finds about as much
FAR = 20.0  # px at 224x224: no expression moves a face that far between onset and apex


@dataclass(frozen=True)
class Seen:
    """A clip on its way: what the models read of it, and what a reader of the answer may want to look at.

    read: flow (3, 224, 224) in px or frames (T, H, W).  crops: onset and apex, (224, 224, 3) uint8.
    """

    name: str
    reader: str
    clip: Clip
    align: str
    read: np.ndarray
    flow: np.ndarray
    crops: tuple[np.ndarray, np.ndarray]
    apex_given: bool


class Classifier:
    """The models of a run, and the way from a clip's frames to what they read.

    Raises UsageError for an unknown run or fold or a missing tool, DataError without weights and for weights for
    normalised arrays.
    """

    def __init__(self, ws: Workspace, run: str, fold: str | None = None, landmarks: str | None = None) -> None:
        self.run = find_run(ws, run)
        if self.run.settings.input is not None:
            raise UsageError(f"{self.run.name} reads faces, not flow", do="choose a run that reads flow")
        if self.run.config["data"].get("flow", {}).get("normalised"):
            raise DataError(f"{self.run.name} was trained on imported, normalised arrays; a clip's flow is in px")
        self.folds, self._fold = usable_folds(self.run, fold), fold
        self._sequence = model_info(self.run.settings.model).native == "frames"
        average = averaged(self.run)
        mode = "all" if self._sequence or average > 1 else "around" if average else "onset-apex"
        self._config = PrepareConfig(landmarks=landmarks, frames=mode)
        self._tools = Tools(self._config, Context.of(self._config))

    def look(
        self, frames: Frames, name: str, reader: str, onset: int | None, apex: int | None, offset: int | None
    ) -> Seen:
        """Find and align the face, spot the apex unless it is given, compute the flow. Raises UsageError, DataError."""
        clip = settle_frames(_clip(name, frames, onset, apex, offset), frames.numbers, self._config.max_gap)
        numbers = needed_frames(clip, frames.numbers, self._config.frames)
        aligned = align_clip(frames, clip, numbers, self._tools)
        clip, crops = aligned.clip, aligned.crops
        assert clip.onset is not None
        assert clip.apex is not None
        flow = flow_like(self.run, crops, clip.onset, clip.apex)
        read = np.stack([grey(crops[n]) for n in sorted(crops)]) if self._sequence else flow
        by = "box" if aligned.points is None else f"{len(aligned.points)} landmarks"
        return Seen(name, reader, clip, by, read, flow, (crops[clip.onset], crops[clip.apex]), apex is not None)

    def answers(self, seen: Sequence[Seen]) -> list[Answer]:
        """The models' answers, each model loaded once for all of ``seen``."""
        means = mean_probabilities_of(self.run, self.folds, [s.read for s in seen])
        return [self._answer(s, mean.tolist()) for s, mean in zip(seen, means, strict=True)]

    def _answer(self, seen: Seen, mean: list[float]) -> Answer:
        probabilities, clip = dict(zip(self.run.classes, mean, strict=True)), seen.clip
        assert clip.onset is not None
        assert clip.apex is not None
        damaged = (n for n in clip.notes if n.startswith(LEFT_OUT))
        return Answer(
            clip=seen.name,
            run=self.run.name,
            onset=clip.onset,
            apex=clip.apex,
            apex_source="given" if seen.apex_given and clip.apex_source == "annotated" else clip.apex_source,
            align=seen.align,
            prediction=max(probabilities, key=lambda c: probabilities[c]),
            probabilities=probabilities,
            folds=tuple(self.folds),
            largest_motion=float(seen.flow[2].max()),
            picture=None,
            warnings=(*damaged, *doubts(seen.flow, self.run, self.folds, self._fold)),
            reader=seen.reader,
        )


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


def _clip(name: str, frames: Frames, onset: int | None, apex: int | None, offset: int | None) -> Clip:
    onset = frames.numbers[0] if onset is None else onset
    offset = frames.numbers[-1] if offset is None else offset
    if len(frames.numbers) < 2:
        raise DataError(f"{name} has one frame", do="onset and apex are needed")
    if not onset < offset or (apex is not None and not onset < apex <= offset):
        raise UsageError(f"onset {onset}, apex {apex}, offset {offset}: onset < apex <= offset is needed")
    return Clip("", "", Path(name).name, onset, apex, offset, float(getattr(frames, "fps", 0.0)), "")


def averaged(run: Run) -> int:
    """How many neighbours on either side the run's own flow averages into onset and apex."""
    return int(run.config["data"].get("flow", {}).get("parameters", {}).get("average", 0))


def flow_like(run: Run, crops: Mapping[int, np.ndarray], onset: int, apex: int) -> np.ndarray:
    """Flow (3, 224, 224) in px from frame ``onset`` to ``apex`` of ``crops``, made as that of the run's own shards."""
    recorded = dict(run.config["data"].get("flow", {}).get("parameters", {}))
    average = recorded.pop("average", 0)
    first, second = (grey(crops[number])[None] for number in (onset, apex))
    if average:
        reach = reach_of(onset, apex, average)
        near = ([grey(crops[n]) for n in sorted(crops) if abs(n - number) <= reach] for number in (onset, apex))
        first, second = (average_frames(np.stack(frames))[None] for frames in near)
    try:
        params = TVL1Params(**recorded)
    except (TypeError, UsageError) as e:
        raise DataError(f"{run.folder / 'config.json'}: flow cannot be made with {recorded} ({e})") from e
    engine, _ = resolve_engine("auto")
    return engine.flow(first, second, params)[0]
