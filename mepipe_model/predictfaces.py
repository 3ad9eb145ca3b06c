"""Pictures and clips through the models of a run that reads faces, cropped as the run's own were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mepipe.clipwork import Context, Tools
from mepipe.datasets.facecorpus import FaceClip
from mepipe.errors import DataError, UsageError
from mepipe.facesets.work import Making, make
from mepipe.frames import VideoFile
from mepipe.media import OneImage, open_face
from mepipe.progress import Progress
from mepipe.settings import PrepareConfig
from mepipe.workspace import Workspace
from mepipe_model.answers import FaceAnswer, FacePredictions, Refused
from mepipe_model.foldmodels import usable_folds
from mepipe_model.predictinputs import Input
from mepipe_model.runs import Run, find_run

USUAL_LENGTH = 16  # frames that a model of images looks at in a clip, where its own corpus held images alone
SMALL = 0.5  # of the picture's width: a crop's face box is 0.75 to 0.9 wide


def reads_faces(run: Run) -> bool:
    """Whether the models of ``run`` read images or sequences, not flow."""
    return run.settings.input is not None


def predict_faces(
    ws: Workspace,
    run: str,
    inputs: Sequence[Input],
    *,
    fold: str | None = None,
    landmarks: str | None = None,
    progress: Progress | None = None,
) -> FacePredictions:
    """Classify images, folders of frames or videos with the weights of a run that reads faces.

    They are cropped as the run's own were.  A model of images looks at each of the resampled frames of a clip; its
    answer is their mean.

    Parameters
    ----------
    ws
        The workspace of the run.
    run
        Its name, or its folder.
    inputs
        Images, folders, videos; ``inputs_of`` makes them of what a command line names.
    fold
        Only this fold's model; None is the mean over all.
    landmarks
        A dlib shape predictor file.
    progress
        Called with (done, total) after each input.

    Returns
    -------
    FacePredictions
        The answers, in order, and the inputs that gave none.

    Raises
    ------
    UsageError
        No such run or fold; frame numbers or pairs of images.
    DataError
        No weights; of a single input, why it is refused.
    """
    found = find_run(ws, run)
    folds = usable_folds(found, fold)
    for one in inputs:
        if one.second is not None or (one.onset, one.apex, one.offset) != (None, None, None):
            raise UsageError(f"{found.name} reads faces, without onset and apex", do="name images, folders or videos")
    tools, making = _tools(found, landmarks)
    seen: list[tuple[Input, np.ndarray, np.ndarray, FaceAnswer]] = []
    refused: list[Refused] = []
    for done, one in enumerate(inputs, 1):
        try:
            seen.append((one, *_look(found, one.path, making, tools, folds)))
        except DataError as e:
            if len(inputs) == 1:
                raise
            refused.append(Refused(str(one.path), str(e)))
        if progress:
            progress(done, len(inputs))
    means = face_probabilities(found, folds, [(crops, points) for _, crops, points, _ in seen])
    answers = []
    for (_, _, _, answer), mean in zip(seen, means, strict=True):
        chances = dict(zip(found.classes, mean.tolist(), strict=True))
        answers.append(replace(answer, prediction=max(chances, key=lambda c: chances[c]), probabilities=chances))
    return FacePredictions(found.name, found.classes, tuple(answers), tuple(refused))


def _tools(run: Run, landmarks: str | None) -> tuple[Tools, Making]:
    """The tools to crop as the run's own faces were. Raises DataError for a run that says nothing of it."""
    said = run.config["data"].get("faces", {}).get("parameters", {})
    crop, length = said.get("crop"), said.get("length")
    crop = "aligned" if crop == "prepared" else crop  # the crops of mepipe prepare, which aligned them
    if crop not in ("as-is", "aligned") or not isinstance(length, int) or not 0 <= length <= 128:
        raise DataError(f"{run.folder / 'config.json'} does not say how its faces were made", do="train it again")
    config = PrepareConfig(landmarks=landmarks, detector="none" if said.get("detector") == "none" else "dlib")
    context = Context.of(config)
    return Tools(config, context), Making(crop, length or None, context)


def _look(
    run: Run, path: Path, making: Making, tools: Tools, folds: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, FaceAnswer]:
    """Crops (T, 224, 224, 3) uint8 RGB, landmarks (68, 2), and the answer without its classes. Raises DataError."""
    media = open_face(path)
    still, sequence = isinstance(media, OneImage), run.settings.input == "sequence"
    if still and sequence:
        raise DataError(f"{path} is one image, and {run.name} reads sequences", do="give a folder of frames or a video")
    making = replace(making, length=None if still else making.length or USUAL_LENGTH)
    clip = FaceClip("", "", path.name, None, None, None, 0.0, "", frames=path)
    made = make(clip, "", making, tools)
    assert made.crops is not None
    crops = made.crops[None] if still else made.crops
    notes = [made.record.reason] if made.record.reason else []
    width = made.record.box[2] / media.read(media.numbers[0]).shape[1] if made.record.box else None
    if making.crop == "as-is" and width is not None and width < SMALL:
        notes.append(f"the face fills {width:.0%} of the picture's width: the run was trained on crops of the face")
    reader = "video" if isinstance(media, VideoFile) else "image" if still else "folder of frames"
    answer = FaceAnswer(
        str(path),
        run.name,
        len(crops),
        making.crop,
        made.record.landmarks > 0,
        "",
        {},
        tuple(folds),
        reader,
        tuple(notes),
    )
    return crops, made.landmarks, answer


def face_probabilities(run: Run, folds: Sequence[str], clips: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(clips, classes) mean over the models of ``folds``, each loaded once.

    clips: crops (T, 224, 224, 3) uint8 RGB and landmarks (68, 2) in px of the crop.
    """
    import torch

    from mepipe_model.facedata import SIDE, as_tensor, sized
    from mepipe_model.models import model_info
    from mepipe_model.weights import load_weights

    size = model_info(run.settings.model).shape[-1]
    total = np.zeros((len(clips), len(run.classes)))
    for fold in folds if clips else ():
        model, scale = load_weights(run.fold(fold))
        with torch.inference_mode():
            for i, (crops, points) in enumerate(clips):
                x = scale(as_tensor(sized(crops, size)))
                x = x[None] if run.settings.input == "sequence" else x
                where = torch.from_numpy(points).expand(len(x), -1, -1) * (size / SIDE)
                out = model(x, where) if model.wants_landmarks else model(x)
                total[i] += model.head.probabilities(out).double().mean(0).numpy()
    return total / len(folds)


def answers_table(result: FacePredictions) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the CSV: one row per input, refused ones too."""
    facts = ["frames", "crop", "landmarks", "reader", "warnings", "reason"]
    header = ["input", "status", "prediction", *(f"p_{c}" for c in result.classes), *facts]
    rows = []
    for a in result.answers:
        assert isinstance(a, FaceAnswer)
        values = [f"{a.probabilities[c]:.6f}" for c in result.classes]
        found = str(68 * a.landmarks)
        rows.append(
            [a.clip, "ok", a.prediction, *values, str(a.frames), a.crop, found, a.reader, "; ".join(a.warnings), ""]
        )
    return header, rows + [[r.name, "refused", *[""] * (len(header) - 3), r.reason] for r in result.refused]
