"""Clips through the very code that made the training data: face, apex, flow, class probabilities.

predict_clip(ws, run, path)               one folder of frames or video
predict_many(ws, run, inputs)             many, pairs of images too; what is damaged is refused by name
Classifier(ws, run)                       its parts, for whoever has frames of another kind (``spotting``)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mepipe.clipwork import LEFT_OUT, Context, Tools, align_clip, grey, needed_frames, settle_frames
from mepipe.datasets.base import Clip
from mepipe.errors import DataError, UsageError
from mepipe.flow import TVL1Params, resolve_engine
from mepipe.flow.images import average_frames
from mepipe.flow.pairs import reach_of
from mepipe.frames import Frames
from mepipe.progress import Progress
from mepipe.settings import PrepareConfig
from mepipe.workspace import Workspace, write_bytes
from mepipe_model.models import model_info
from mepipe_model.predictinputs import Input, opened
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
    reader: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "folds": list(self.folds), "warnings": list(self.warnings)}

    def lines(self) -> list[str]:
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        out = [f"{self.clip}: {self.prediction}"]
        out += [f"  {name:10} {p:6.1%}" for name, p in ranked]
        out.append(f"  onset {self.onset}, apex {self.apex} ({self.apex_source}), crop by {self.align}, "
                   f"largest motion {self.largest_motion:.2f} px at 224x224")  # fmt: skip
        out.append(f"  mean of {len(self.folds)} models of {self.run}; read by {self.reader}")
        out += [f"  warning: {w}" for w in self.warnings]
        return out + ([f"  picture {self.picture}"] if self.picture else [])


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


@dataclass(frozen=True)
class Shown:
    """An answer with its pictures: onset and apex crops (224, 224, 3) uint8, flow (3, 224, 224) in px."""

    answer: Answer
    onset: np.ndarray = field(repr=False)
    apex: np.ndarray = field(repr=False)
    flow: np.ndarray = field(repr=False)


class Classifier:
    """The models of a run, and the way from a clip's frames to what they read.

    Raises UsageError for an unknown run or fold or a missing tool, DataError without weights and for weights for
    normalised arrays.
    """

    def __init__(self, ws: Workspace, run: str, fold: str | None = None, landmarks: str | None = None) -> None:
        self.run = find_run(ws, run)
        if self.run.config["data"].get("flow", {}).get("normalised"):
            raise DataError(f"{self.run.name} was trained on imported, normalised arrays; a clip's flow is in px")
        self.folds, self._fold = usable_folds(self.run, fold), fold
        self._sequence = model_info(self.run.settings.model).takes == "frames"
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
    """Classify a clip with the weights of ``run``.

    Parameters
    ----------
    ws
        The workspace that run names are looked up in.
    run
        A name or a folder.
    path
        A folder of frames or a video.
    onset, apex, offset
        Frame numbers; by default the first frame, spotted, the last frame.
    fold
        Only this fold's model; None is the mean over all.
    landmarks
        A dlib shape predictor file.
    picture
        Where to draw it (PNG).

    Returns
    -------
    Answer
        Class probabilities, and what is doubtful.

    Raises
    ------
    UsageError, DataError
        No such run or weights, weights for normalised arrays, no face, damaged frames.
    """
    one = Input(path, onset=onset, apex=apex, offset=offset)
    result = predict_many(ws, run, [one], fold=fold, landmarks=landmarks, picture=picture)
    return result.answers[0]


# --- many --------------------------------------------------------------------------------------------

TOGETHER = 32  # clips that wait for the models at once: 40 MB of flow and crops, and each model is loaded once for them


@dataclass(frozen=True)
class Refused:
    """An input that gave no answer, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Predictions:
    """What ``predict_many`` found; every input is in one of the two. shown: answers with pictures, where asked for."""

    run: str
    classes: tuple[str, ...]
    answers: tuple[Answer, ...]
    refused: tuple[Refused, ...]
    shown: tuple[Shown, ...] = field(default=(), repr=False)

    def lines(self) -> list[str]:
        """One line for each input; of a single one, everything."""
        if len(self.answers) == 1 and not self.refused:
            return self.answers[0].lines()
        out = [f"{a.clip}: {a.prediction} {a.probabilities[a.prediction]:.1%}, apex {a.apex}" for a in self.answers]
        out += [f"refused  {r.name}  {r.reason}" for r in self.refused]
        out.append(f"{len(self.answers)} classified, {len(self.refused)} refused")
        notes = dict.fromkeys(w for a in self.answers for w in a.warnings)
        return out + [f"  warning: {w}" for w in notes]

    def as_dict(self) -> dict[str, Any]:
        """One clip's answer as it is; of several, a list."""
        if len(self.answers) == 1 and not self.refused:
            return self.answers[0].as_dict()
        return {"run": self.run, "answers": [a.as_dict() for a in self.answers],
                "refused": [vars(r) for r in self.refused]}  # fmt: skip


def predict_many(
    ws: Workspace,
    run: str,
    inputs: Sequence[Input],
    *,
    fold: str | None = None,
    landmarks: str | None = None,
    reader: str = "auto",
    picture: Path | None = None,
    pictures: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """Classify many clips; one that cannot be read or shows no face is refused by name, and the others go on.

    Parameters
    ----------
    ws
        The workspace of the run.
    run
        Its name, or its folder.
    inputs
        Folders, videos, pairs of images; ``inputs_of`` makes them of what a command line names.
    fold, landmarks
        As for ``predict_clip``.
    reader
        Who decodes videos: ``auto`` (OpenCV, PyAV where it cannot), ``cv2`` or ``av``.
    picture
        PNG file for the only input.
    pictures
        Keep crops and flow of all inputs, 0.9 MB each, for ``predictions_page``.
    progress
        Called with (done, total) after each input.

    Returns
    -------
    Predictions
        The answers, in order, and the inputs that gave none.

    Raises
    ------
    UsageError
        No such run or fold; a picture of several inputs.
    DataError
        No weights, weights for normalised arrays; of a single input, why it is refused.
    """
    from mepipe.report import prediction_picture

    check_picture(picture)
    if picture and len(inputs) != 1:
        raise UsageError(f"--picture draws one clip, and there are {len(inputs)}", do="--page draws all")
    classifier = Classifier(ws, run, fold, landmarks)
    answers, refused, shown = [], [], []
    for seen, reasons in _looked_at(classifier, inputs, reader, progress or (lambda done, total: None)):
        refused += reasons
        for one, answer in zip(seen, classifier.answers(seen), strict=True):
            if picture:
                title = f"{Path(answer.clip).name}: {answer.prediction}"
                values = list(answer.probabilities.values())
                write_bytes(picture, prediction_picture(*one.crops, one.flow, classifier.run.classes, values, title))
                answer = replace(answer, picture=str(picture))
            answers.append(answer)
            shown += [Shown(answer, *one.crops, one.flow)] if pictures else []
    return Predictions(classifier.run.name, classifier.run.classes, tuple(answers), tuple(refused), tuple(shown))


def _looked_at(
    classifier: Classifier, inputs: Sequence[Input], reader: str, progress: Progress
) -> Iterator[tuple[list[Seen], list[Refused]]]:
    """``inputs``, TOGETHER at a time: those that can be classified, those that cannot."""
    for first in range(0, len(inputs), TOGETHER):
        seen, refused = [], []
        for done, one in enumerate(inputs[first : first + TOGETHER], first + 1):
            try:
                frames, by = opened(one, reader)
                seen.append(classifier.look(frames, one.name, by, one.onset, one.apex, one.offset))
            except DataError as e:
                if len(inputs) == 1:
                    raise
                refused.append(Refused(one.name, str(e)))
            progress(done, len(inputs))
        yield seen, refused


# --- parts -------------------------------------------------------------------------------------------

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
    images = [grey(crops[number])[None] for number in (onset, apex)]
    if average:
        reach = reach_of(onset, apex, average)
        near = [[grey(crops[n]) for n in sorted(crops) if abs(n - number) <= reach] for number in (onset, apex)]
        images = [average_frames(np.stack(frames))[None] for frames in near]
    try:
        params = TVL1Params(**recorded)
    except (TypeError, UsageError) as e:
        raise DataError(f"{run.folder / 'config.json'}: flow cannot be made with {recorded} ({e})") from e
    engine, _ = resolve_engine("auto")
    return engine.flow(*images, params)[0]


def mean_probabilities(run: Run, folds: list[str], seen: np.ndarray) -> np.ndarray:
    """(classes,) mean over the models of ``folds``, each with its own scaling.

    seen: what the run's model reads of the clip, its flow (3, H, W) in px or its frames (T, H, W).
    """
    return mean_probabilities_of(run, folds, [seen])[0]


def mean_probabilities_of(run: Run, folds: list[str], clips: Sequence[np.ndarray]) -> np.ndarray:
    """(clips, classes): ``mean_probabilities`` of each of ``clips``, every model loaded once and one at a time."""
    import torch

    from mepipe_model.data import without_head_motion
    from mepipe_model.models.base import PreparingModel
    from mepipe_model.weights import load_weights

    total = np.zeros((len(clips), len(run.classes)))
    prepared: dict[int, torch.Tensor] = {}  # the same for all folds
    for fold in folds if clips else ():
        model, scale = load_weights(run.fold(fold))
        with torch.inference_mode():
            for i, clip in enumerate(clips):
                x = torch.from_numpy(clip)[None]
                x = without_head_motion(x) if run.settings.head_motion == "remove" else x
                if isinstance(model, PreparingModel):
                    prepared[i] = prepared[i] if i in prepared else model.prepare(x)
                    out = model.network(prepared[i])
                else:
                    out = model(scale(x))
                total[i] += model.head.probabilities(out)[0].double().numpy()
    return total / len(folds)
