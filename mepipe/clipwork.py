"""The work on one clip, as it runs in a worker process of ``prepare``.

Nothing here imports pandas or torch: a worker stays under 300 MB, most of it dlib's landmark file.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mepipe import apex
from mepipe.clipfiles import up_to_date, write_clip
from mepipe.datasets.base import Clip
from mepipe.errors import DataError, MepipeError
from mepipe.faces import align
from mepipe.faces.detect import Detector, Face, get_detector
from mepipe.faces.find import eye_distance, find_face
from mepipe.faces.landmarks import ShapePredictor, find_predictor
from mepipe.frames import FrameFolder, Frames, nearest
from mepipe.limits import CLIP_FRAMES
from mepipe.settings import PrepareConfig
from mepipe.workspace import (
    MACHINE,
    digest,
    hash_file,
    machine_error,
    versions,
)

# columns in which a few words stand again and again: each is kept once
REPEATED = ("corpus", "subject", "emotion", "label3", "label7", "split", "apex_source", "status", "detector", "align")
LEFT_OUT = "damaged frames left out"  # how the note on them begins
AROUND = 1  # frames kept on either side of onset and apex by --frames around: three average well (docs/flow.md)
OF_THE_CLIP = (errno.EACCES, errno.EPERM, errno.EIO)  # a file that cannot be read: others may be, so it is refused


@dataclass(frozen=True, slots=True)  # there may be a million of them in memory
class Record:
    """One row of clips.csv. box: (x, y, width, height) in source pixels, () when there is none."""

    corpus: str
    subject: str
    clip: str
    onset: int | None
    apex: int | None
    offset: int | None
    fps: float
    emotion: str
    label3: str
    label7: str
    split: str
    apex_source: str
    status: str
    reason: str
    aus: str = ""
    detector: str = ""
    align: str = ""
    score: float | None = None
    box: tuple[float, ...] = ()
    eye_distance: float | None = None
    key: str = ""
    reused: bool = False

    @classmethod
    def of(cls, clip: Clip, *, status: str, reason: str, **facts: Any) -> Record:
        same = {f.name: getattr(clip, f.name) for f in fields(cls) if hasattr(clip, f.name) and f.name not in facts}
        return cls(**same, clip=clip.name, status=status, reason=reason, **facts)

    def row(self) -> dict[str, Any]:
        """The record as a row of clips.csv; None becomes an empty cell."""
        row = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("box", "reused")}
        names = ("box_x", "box_y", "box_width", "box_height")
        row |= dict(zip(names, self.box or ("",) * 4, strict=True))
        return {k: "" if v is None else v for k, v in row.items()}

    @classmethod
    def from_row(cls, row: dict[str, str]) -> Record:
        box = tuple(float(row[n]) for n in ("box_x", "box_y", "box_width", "box_height") if row[n])
        values: dict[str, Any] = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        values |= {name: sys.intern(row[name]) for name in REPEATED}
        for name in ("onset", "apex", "offset"):
            values[name] = int(values[name]) if values[name] else None
        for name in ("score", "eye_distance"):
            values[name] = float(values[name]) if values[name] else None
        return cls(**values | {"fps": float(row["fps"]), "box": box})


@dataclass(frozen=True)
class ClipTask:
    """A clip to prepare into ``folder``. expected_width: of its face, when a second look knows it."""

    clip: Clip
    folder: Path
    force: bool = False
    expected_width: float | None = None


@dataclass(frozen=True)
class Context:
    """What, besides a clip's own files and row, decides its crops; part of every key, computed once per run."""

    detector: str
    landmarks: str | None
    align: int
    spotters: int
    versions: dict[str, str | None]

    @classmethod
    def of(cls, config: PrepareConfig) -> Context:
        """Raises UsageError when the detector's library or a named file is missing."""
        path = find_predictor(config.landmarks)
        apex.SPOTTERS.get(config.apex)
        return cls(
            detector=get_detector(config.detector, config.detector_file).version(),
            landmarks=hash_file(path)[:16] if path else None,
            align=align.METHOD_VERSION,
            spotters=apex.METHOD_VERSION,
            versions=versions("opencv-contrib-python", "numpy"),
        )


class Tools:
    """What a worker needs: settings, and the detector and landmark predictor once a clip asks for them
    (a resumed run in which nothing changed loads neither).
    """

    def __init__(self, config: PrepareConfig, context: Context) -> None:
        self.config = config
        self.settings = [config.frames, config.quality, config.apex, config.max_gap, asdict(context)]

    @cached_property
    def detector(self) -> Detector:
        import cv2

        cv2.setNumThreads(1)  # one thread per worker: the pool is the parallelism
        return get_detector(self.config.detector, self.config.detector_file)

    @cached_property
    def predictor(self) -> ShapePredictor | None:
        path = find_predictor(self.config.landmarks)
        return ShapePredictor(path) if path else None


_tools: Tools | None = None


def start_worker(config: PrepareConfig, context: Context) -> None:
    """Give this process its settings."""
    global _tools
    _tools = Tools(config, context)


def prepare_clip(task: ClipTask) -> Record:
    """Do one clip; whatever is wrong with it is in the record's reason. Raises MepipeError when writing
    fails and UsageError when a tool cannot be loaded.
    """
    assert _tools is not None, "start_worker has not run in this process"
    try:
        return _prepare(task, _tools)
    except DataError as e:
        _blame_the_machine(e, task.clip)
        return Record.of(task.clip, status="refused", reason=str(e))
    except FileNotFoundError as e:
        raise _vanished(e.filename) from e


def _blame_the_machine(error: DataError, clip: Clip) -> None:
    """Raise MepipeError where the clip is not to blame: refusing it, and all that follow, would drop their crops."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in MACHINE and cause.errno not in OF_THE_CLIP:
        raise machine_error(cause) from error
    if clip.frames is not None and not clip.problem and not clip.frames.exists():
        raise _vanished(clip.frames) from error


def _vanished(path: str | Path) -> MepipeError:
    do = "what is finished is kept; bring the input back and run the same command again"
    return MepipeError(f"{path} was there when the corpus was read and is gone", do=do)


def target_of(task: ClipTask) -> Path:
    return task.folder / task.clip.subject / task.clip.name


def _prepare(task: ClipTask, tools: Tools) -> Record:
    clip, target = task.clip, target_of(task)
    if clip.problem or clip.frames is None:
        raise DataError(clip.problem or "no frames")
    frames = FrameFolder(clip.frames)
    clip = settle_frames(clip, frames.numbers, tools.config.max_gap)
    numbers = needed_frames(clip, frames.numbers, tools.config.frames)
    key = digest([_facts(clip), tools.settings, [frames.signature(n) for n in numbers]])
    if not task.force and (old := _finished(target, key)):
        return old

    aligned = align_clip(frames, clip, numbers, tools, task.expected_width)
    clip, face, points = aligned.clip, aligned.face, aligned.points
    crops = {n: aligned.crops[n] for n in kept_frames(clip, list(aligned.crops), tools.config.frames)}
    notes = (
        *clip.notes,
        *((doubled,) if (doubled := frames.doubled()) else ()),
        *((f"second look at the face: box {face.box[2]:.0f} px wide",) if task.expected_width else ()),
    )
    record = Record.of(
        clip,
        status="repaired" if notes else "ok",
        reason="; ".join(notes),
        detector=f"{tools.detector.name}{' (' + face.how + ')' if face.how else ''}",
        align="box" if points is None else f"landmarks{len(points)}",
        score=round(face.score, 4),
        box=tuple(map(float, face.box)),
        eye_distance=None if points is None else round(eye_distance(points), 2),
        key=key,
    )
    lossless = crops if tools.config.quality is None else (record.onset, record.apex)  # flow is made of these
    facts = {
        "record": {f.name: getattr(record, f.name) for f in fields(record) if f.name != "reused"},
        "matrix": aligned.matrix.tolist(),
        "landmarks": None if points is None else points.tolist(),
        "curve": aligned.curve,
    }
    write_clip(target, crops, facts, aligned.onset, [n for n in crops if n not in lossless], tools.config.quality)
    return record


def _finished(target: Path, key: str) -> Record | None:
    saved = up_to_date(target, key)
    try:
        return Record(**saved | {"box": tuple(saved["box"]), "reused": True}) if saved else None
    except (KeyError, TypeError):
        return None  # of an older layout: it is made again


@dataclass(frozen=True)
class Aligned:
    """A clip through its one transform. crops: frame number -> (224, 224, 3) uint8; clip has its apex.

    onset: that frame as it was, (H, W, 3) uint8.  curve: what the spotter saw, where one had a choice (``spotted``).
    """

    clip: Clip
    crops: dict[int, np.ndarray]
    face: Face
    points: np.ndarray | None
    matrix: np.ndarray
    onset: np.ndarray
    curve: dict[str, Any] | None = None


def align_clip(
    frames: Frames, clip: Clip, numbers: list[int], tools: Tools, expected_width: float | None = None
) -> Aligned:
    """Find the face on the onset frame, crop ``numbers`` by its transform, spot the apex when it is missing.

    A frame of ``numbers`` that is damaged and neither onset nor apex is left out, with a note.
    Raises DataError when there is no face, or when onset or apex is damaged.
    """
    onset = frames.read(_number(clip.onset))

    def cropped(number: int) -> np.ndarray:
        image = onset if number == clip.onset else frames.read(number)
        if image.shape[:2] != onset.shape[:2]:
            size, usual = (f"{i.shape[1]}x{i.shape[0]}" for i in (image, onset))
            raise DataError(f"frame {number} has {size} px, the onset frame {usual}: one transform cannot serve both")
        return align.crop(image, matrix)

    face, points = find_face(
        onset, clip, tools.detector, tools.predictor, expected_width, witness=lambda: _last_readable(frames, numbers)
    )
    matrix = align.matrix_from_box(face.box) if points is None else align.matrix_from_landmarks(points)
    crops, left_out = {}, []
    for n in numbers:
        try:
            crops[n] = cropped(n)
        except DataError as e:
            if n in (clip.onset, clip.apex):
                raise
            left_out.append(str(e))
    if left_out:
        clip = clip.noted(f"{LEFT_OUT}: {len(left_out)}, the first: {left_out[0]}")
    curve = None
    if clip.apex is None:
        clip, curve = spotted(clip, crops, tools.config.apex)
    return Aligned(clip, crops, face, points, matrix, onset, curve)


def _last_readable(frames: Frames, numbers: Sequence[int]) -> np.ndarray:
    """The last of ``numbers`` that is no damaged image. Raises DataError when all are."""
    for n in reversed(numbers[1:]):
        with suppress(DataError):
            return frames.read(n)
    return frames.read(numbers[0])


def _number(n: int | None) -> int:
    assert n is not None
    return n


def _facts(clip: Clip) -> list[Any]:
    return [clip.subject, clip.name, clip.onset, clip.apex, clip.offset, clip.emotion, clip.label3, clip.label7,
            clip.split, clip.aus, clip.fps, clip.apex_source, clip.notes]  # fmt: skip


# --- frames ----------------------------------------------------------------------------------------


def settle_frames(clip: Clip, numbers: Sequence[int], max_gap: int) -> Clip:
    """Onset, apex and offset on frames that exist: the nearest within ``max_gap``, noted.

    An apex that then is not after the onset is dropped, to be spotted later.  Raises DataError when the nearest
    file is farther away, or when nothing is left between onset and offset.
    """
    for name in ("onset", "apex", "offset"):
        wanted = getattr(clip, name)
        if wanted is None:
            continue
        near = nearest(numbers, wanted)
        if abs(near - wanted) > max_gap:
            raise DataError(f"{name} frame {wanted} is absent and the nearest is {near} (frames {numbers[0]} to "
                            f"{numbers[-1]}, --max-gap {max_gap})")  # fmt: skip
        if near != wanted:
            clip = clip.noted(f"{name} {wanted} has no file, nearest is {near}", **{name: near})
    onset, offset = _number(clip.onset), _number(clip.offset)
    if offset <= onset:
        raise DataError(f"no frame on disk after onset {onset} up to offset {offset}")
    if clip.apex is not None and not onset < clip.apex <= offset:
        clip = clip.noted(f"apex {clip.apex} has no file between onset and offset", apex=None)
    return clip


def needed_frames(clip: Clip, numbers: Sequence[int], mode: str) -> list[int]:
    """The frames to read: those to keep, and all of onset..offset when the apex is sought among them."""
    onset, offset = _number(clip.onset), _number(clip.offset)
    if mode != "all" and clip.apex is not None:
        return kept_frames(clip, numbers, mode)
    reach = AROUND if mode == "around" else 0
    inside = [n for n in numbers if onset - reach <= n <= offset + reach]
    if sum(onset <= n <= offset for n in inside) < 2:
        raise DataError(f"no frame on disk after onset {clip.onset} up to offset {clip.offset}")
    CLIP_FRAMES.check(f"{clip.id}, onset {onset} to offset {offset}", len(inside))
    return inside


def kept_frames(clip: Clip, numbers: Sequence[int], mode: str) -> list[int]:
    """Of the frames ``numbers`` those to keep: onset and apex, their neighbours too, or all of onset..offset."""
    onset, apex = _number(clip.onset), _number(clip.apex)
    if mode == "all":
        return [n for n in numbers if onset <= n <= _number(clip.offset)]
    reach = AROUND if mode == "around" else 0
    return [n for n in numbers if min(abs(n - onset), abs(n - apex)) <= reach]


def spotted(clip: Clip, crops: dict[int, np.ndarray], method: str) -> tuple[Clip, dict[str, Any] | None]:
    """``clip`` with the apex that ``method`` finds among its aligned frames of onset..offset. Raises DataError.

    Also what it saw: ``method``, ``frames`` and a ``values`` for each; None where it looked at no picture or had no
    choice.
    """
    numbers = [n for n in sorted(crops) if _number(clip.onset) <= n <= _number(clip.offset)]
    if len(numbers) < 2:
        raise DataError(f"no undamaged frame after onset {clip.onset} up to offset {clip.offset}")
    index, values = apex.look(np.stack([grey(crops[n]) for n in numbers]), method)
    note = f"apex spotted at {numbers[index]} among {len(numbers) - 1} frames by {method}"
    clip = clip.noted(note, apex=numbers[index], apex_source=f"spotted:{method}")
    if values is None:
        return clip, None
    return clip, {"method": method, "frames": numbers, "values": [float(f"{v:.5g}") for v in values]}


def grey(image: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image
