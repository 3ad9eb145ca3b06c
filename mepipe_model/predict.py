"""Clips through the very code that made the training data: face, apex, flow, class probabilities.

predict_clip(ws, run, path)               one folder of frames or video
predict_many(ws, run, inputs)             many, pairs of images too; what is damaged is refused by name

The way from frames to an answer is ``classifier``, what an answer holds ``answers``, the folds' models ``foldmodels``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mepipe.errors import DataError, UsageError
from mepipe.progress import Progress
from mepipe.workspace import Workspace, write_bytes
from mepipe_model.answers import Answer, FaceAnswer, Predictions, Refused, Shown
from mepipe_model.classifier import Classifier, Seen, averaged, flow_like  # noqa: F401 - importable from here
from mepipe_model.foldmodels import (  # noqa: F401 - likewise
    mean_probabilities,
    mean_probabilities_of,
    usable_folds,
)
from mepipe_model.predictinputs import Input, opened
from mepipe_model.runs import find_run

__all__ = ["predict_clip", "predict_many"]

TOGETHER = 32  # clips that wait for the models at once: 40 MB of flow and crops, and each model is loaded once for them


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
) -> Answer | FaceAnswer:
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
        The answers, in order, and the inputs that gave none; of a run that reads faces, FacePredictions.

    Raises
    ------
    UsageError
        No such run or fold; a picture of several inputs.
    DataError
        No weights, weights for normalised arrays; of a single input, why it is refused.
    """
    from mepipe.report import prediction_picture
    from mepipe_model.predictfaces import predict_faces, reads_faces

    check_picture(picture)
    if reads_faces(find_run(ws, run)):
        if picture or pictures:
            raise UsageError("--picture and --page show flow, and this run reads faces", do="use --csv or --json")
        return predict_faces(ws, run, inputs, fold=fold, landmarks=landmarks, progress=progress)
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


def check_picture(path: Path | None) -> None:
    """Raises UsageError, before any work, for a picture that could not be written."""
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise UsageError(f"--picture {path}: pictures are PNG", do="end the name in .png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--picture {path}: there is no folder {path.parent}")
