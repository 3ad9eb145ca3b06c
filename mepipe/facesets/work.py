"""The work on one labelled face, as it runs in a worker process: read, find the face, crop, give landmarks."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from mepipe.clipwork import Context, Tools
from mepipe.datasets.facecorpus import FaceClip
from mepipe.errors import DataError, MepipeError
from mepipe.faces import align
from mepipe.faces.detect import Face, best_face
from mepipe.faces.find import plausible
from mepipe.frames import Frames
from mepipe.media import OneImage, open_media, resampled
from mepipe.settings import PrepareConfig
from mepipe.workspace import MACHINE, digest, machine_error

SMALLEST = 12  # px of a face: the detectors' smallest is 20 and more
ABSENT = np.full((68, 2), np.nan, np.float32)  # landmarks where none were found
OF_THE_CLIP = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT)  # others may still be readable, so it is refused


@dataclass(frozen=True)
class Making:
    """How faces are made. length: frames of a sequence, None for images."""

    crop: str
    length: int | None
    context: Context

    def parameters(self) -> dict[str, Any]:
        """For the shards: how to do the same again."""
        c = self.context
        return {
            "crop": self.crop,
            "length": self.length or 0,
            "resampling": "linear index, halves up",
            "detector": c.detector,
            "landmarks": c.landmarks,
            "align": c.align,
        }


@dataclass(frozen=True)
class FaceRecord:
    """One row of <corpus>.csv. frames: how many the clip has; landmarks: how many were found, 0 or 68.

    box: of the face, (x, y, width, height) in px of the source, () where none was looked for or found.
    """

    corpus: str
    subject: str
    clip: str
    emotion: str
    split: str
    status: str
    reason: str
    frames: int = 0
    crop: str = ""
    landmarks: int = 0
    score: float | None = None
    box: tuple[float, ...] = ()
    key: str = ""
    reused: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, clip: FaceClip, **facts: Any) -> FaceRecord:
        same = {f.name: getattr(clip, f.name) for f in fields(cls) if hasattr(clip, f.name) and f.name not in facts}
        return cls(**{**same, "box": (), "frames": 0, "clip": clip.name, **facts})


@dataclass(frozen=True)
class FaceTask:
    """A face to make, and its key."""

    clip: FaceClip
    key: str


@dataclass(frozen=True)
class Made:
    """A face that is made: RGB crops as the shard stores them, or None where it was refused."""

    record: FaceRecord
    crops: np.ndarray | None = None
    landmarks: np.ndarray = field(default_factory=ABSENT.copy)


def key_of(clip: FaceClip, making: Making) -> str:
    """What changes when the face would come out differently; "" where its files cannot be looked at.

    No file is opened here but folders: pictures and videos of strangers are read in workers, which may die of one.
    """
    assert clip.frames is not None, "a clip without a file is refused before"
    try:
        if clip.pixels is None and clip.frames.is_dir():
            media = open_media(clip)
            marks = [media.signature(n) for n in picked(media, making.length)]
        else:
            marks = [[*OneImage(clip.frames).signature(0), *(clip.pixels or ())]]
    except (OSError, DataError):
        return ""
    facts = [
        clip.subject,
        clip.name,
        clip.emotion,
        clip.split,
        clip.notes,
        clip.box,
        clip.points,
        clip.votes,
        clip.crop,
    ]
    return digest([facts, making.parameters(), making.context.versions, marks])


def picked(media: Frames, length: int | None) -> list[int]:
    """The frame numbers that are read. Raises DataError for a clip where an image is meant."""
    numbers = media.numbers
    if length is None and len(numbers) != 1:
        raise DataError(f"{len(numbers)} frames, and one image is meant", do="read it as clip-folder")
    return [numbers[i] for i in resampled(len(numbers), length or 1)]


_worker: tuple[Making, Tools] | None = None


def start_worker(config: PrepareConfig, making: Making) -> None:
    """Give this process its settings."""
    global _worker  # a worker process serves one run
    _worker = (making, Tools(config, making.context))


def make_face(task: FaceTask) -> Made:
    """Do one face; what is wrong with it is in the record's reason. Raises MepipeError where the machine stops it."""
    assert _worker is not None, "start_worker has not run in this process"
    clip = task.clip
    try:
        if clip.problem:
            raise DataError(clip.problem)
        return make(clip, task.key, *_worker)
    except DataError as e:
        cause = e.__cause__
        if isinstance(cause, OSError) and cause.errno in MACHINE and cause.errno not in OF_THE_CLIP:
            raise machine_error(cause) from e
        return Made(FaceRecord.of(clip, status="refused", reason=str(e), key=task.key))
    except OSError as e:
        if e.errno in OF_THE_CLIP:
            what = f"cannot read {e.filename}: {e.strerror}"
            return Made(FaceRecord.of(clip, status="refused", reason=what, key=task.key))
        raise MepipeError(str(e)) from e


def make(clip: FaceClip, key: str, making: Making, tools: Tools) -> Made:
    """The crops and landmarks of ``clip``. Raises DataError where its files are damaged or no face is found.

    crop "as-is", and "prepared" for crops of ours: every picture is resized whole; where the detector finds no face in
    it, it has no landmarks.
    crop "aligned": one similarity transform for all frames, from the landmarks of the first that shows a face; where
    none does the clip is refused.
    """
    crop = clip.crop or making.crop
    media = open_media(clip)
    images, notes = read_images(media, making.length)
    found, where = None, 0
    for where in candidates(len(images)):
        if (found := find(images[where], clip, tools, crop != "aligned")) is not None:
            break
    if crop != "aligned":
        crops = [resized(image) for image in images]
        matrix = _resizing(images[where])
    else:
        if found is None:
            raise DataError("no face found", do="check the picture; prepare takes boxes by --detector given")
        if len(sizes := {image.shape[:2] for image in images}) > 1:
            raise DataError(f"its frames have {len(sizes)} sizes: one transform cannot serve all")
        matrix = aligning(found)
        crops = [align.crop(image, matrix) for image in images]
    points = ABSENT if found is None or found.points is None or len(found.points) != 68 else moved(found.points, matrix)
    record = FaceRecord.of(
        clip,
        status="repaired" if notes or clip.notes else "ok",
        reason="; ".join((*clip.notes, *notes)),
        frames=len(media.numbers),
        crop=crop,
        landmarks=int(points is not ABSENT) * 68,
        score=None if found is None else round(found.face.score, 4),
        box=() if found is None else tuple(round(float(v), 2) for v in found.face.box),
        key=key,
    )
    stacked = np.stack([crop[..., ::-1] for crop in crops])  # RGB
    return Made(record, np.ascontiguousarray(stacked if making.length else stacked[0]), points.astype(np.float32))


def read_images(media: Frames, length: int | None) -> tuple[list[np.ndarray], list[str]]:
    """The frames of the clip, resampled, and notes: a damaged one is replaced by its neighbour.

    Raises DataError when half of them or more are damaged.
    """
    wanted, images, damaged = picked(media, length), {}, {}
    for number in dict.fromkeys(wanted):
        try:
            images[number] = media.read(number)
        except DataError as e:
            damaged[number] = str(e)
    if 2 * len(damaged) >= len(set(wanted)) or not images:
        first = next(iter(damaged.values()))
        raise DataError(f"{len(damaged)} of {len(set(wanted))} frames cannot be read, the first: {first}")
    there = sorted(images)
    out = [images[min(there, key=lambda n: (abs(n - number), n))] for number in wanted]
    what = f"damaged frames replaced by a neighbour: {len(damaged)}, the first: {next(iter(damaged.values()), '')}"
    return out, [what] if damaged else []


def candidates(count: int) -> Iterator[int]:
    """Which frames of a sequence are looked at for the face: the first, the middle, the last, until one shows it."""
    yield from dict.fromkeys((0, count // 2, count - 1))


def aligning(found: Found) -> np.ndarray:
    """The transform of the source into the crop. Raises DataError for landmarks that say nothing of a face."""
    if found.points is None:
        return align.matrix_from_box(found.face.box)
    try:
        return align.matrix_from_landmarks(found.points)
    except ValueError as e:
        raise DataError(f"no face to align by: {e}", do="correct the box or the landmarks of the row") from e


@dataclass(frozen=True)
class Found:
    """A face and its landmarks in px of the source, None without a landmark file."""

    face: Face
    points: np.ndarray | None


def find(image: np.ndarray, clip: FaceClip, tools: Tools, as_is: bool) -> Found | None:
    """The face of ``image``: what the corpus says of it, or what the detector finds. None where there is none.

    as_is: the picture is a crop; it is looked at as it will be stored, and the points are taken back to the picture.
    """
    if clip.points:
        stated = np.array(clip.points)
        low, high = stated.min(0), stated.max(0)
        area = Face((*low, *(high - low)), 1.0, "of the corpus")
        return Found(on_picture(area, image, clip, "landmark area"), stated)
    if clip.box:
        box = Face((clip.box[0], clip.box[1], clip.box[2], clip.box[3]), 1.0, "of the corpus")
        on_picture(box, image, clip, "box")
        return Found(box, tools.predictor.points(image, box.box) if tools.predictor else None)
    looked = resized(image) if as_is else image
    faces = tools.detector.detect(looked, subject=clip.subject, clip=clip.name)
    while face := best_face(faces, looked):
        points = tools.predictor.points(looked, face.box) if tools.predictor else None
        if points is None or plausible(points, face):
            return back(Found(face, points), _resizing(image)) if as_is else Found(face, points)
        faces = [f for f in faces if f is not face]
    return None


def on_picture(face: Face, image: np.ndarray, clip: FaceClip, what: str) -> Face:
    """``face``, which the corpus states. Raises DataError for one that is tiny or mostly off the picture."""
    x, y, width, height = face.box
    seen_x = min(x + width, image.shape[1]) - max(x, 0)
    seen_y = min(y + height, image.shape[0]) - max(y, 0)
    if min(width, height) < SMALLEST or seen_x < width / 2 or seen_y < height / 2:
        at = f"{width:.0f}x{height:.0f} px at {x:.0f}, {y:.0f} in a picture of {image.shape[1]}x{image.shape[0]}"
        raise DataError(f"{clip.where}: its {what} is on no face ({at})", do="correct the row, or leave them out of it")
    return face


def back(found: Found, matrix: np.ndarray) -> Found:
    """A face found in the resized picture, in px of the picture itself."""
    sx, sy = matrix[0, 0], matrix[1, 1]
    shift = matrix[:, 2]
    x, y, w, h = found.face.box
    box = ((x - shift[0]) / sx, (y - shift[1]) / sy, w / sx, h / sy)
    points = None if found.points is None else (found.points - shift) / (sx, sy)
    return Found(Face(box, found.face.score, found.face.how), points)


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``points`` (N, 2) through the 2x3 ``matrix``."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def resized(image: np.ndarray) -> np.ndarray:
    """The whole picture as (224, 224, 3): area means where it shrinks, bicubic where it grows."""
    import cv2

    shrinks = min(image.shape[:2]) > align.SIZE
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (align.SIZE, align.SIZE), interpolation=how)


def _resizing(image: np.ndarray) -> np.ndarray:
    """What ``resized`` does to positions, centres of pixels being integers: (2, 3)."""
    sx, sy = align.SIZE / image.shape[1], align.SIZE / image.shape[0]
    return np.array([[sx, 0.0, (sx - 1) / 2], [0.0, sy, (sy - 1) / 2]])


def record_row(record: FaceRecord) -> dict[str, Any]:
    """The record as a row of <corpus>.csv; None and () become empty cells."""
    row = {name: value for name, value in asdict(record).items() if name != "reused"}
    row["box"] = " ".join(f"{v:g}" for v in record.box)
    return {name: "" if value is None else value for name, value in row.items()}
