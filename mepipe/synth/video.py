"""A made-up long video: one face that sways, blinks, and now and then shows a micro-expression. All of it is known.

    make_video(Path("long.avi"), seconds=60, fps=100, seed=0)      the video and long.truth.csv beside it

The face is the one photograph behind all of ``mepipe.synth``.  Micro-expressions are those of the made-up corpora (same
units, same 0.3 to 2 px), 0.2 to 0.5 s long, rising from nothing and gone at the offset.  Blinks draw the lid over the
eye and pull at the skin around it.  Head sways shift, roll and turn the head; a turn moves the nose more than the ears.
Between them the head is never quite still.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from mepipe.errors import MepipeError, UsageError
from mepipe.progress import Progress
from mepipe.settings import cores
from mepipe.synth.fields import LATTICE, Bumps, lattice, sampled, weighted_sum
from mepipe.synth.identity import SUPERSAMPLE, Camera, canvas_of, identity
from mepipe.synth.motion import EXPRESSIONS, TimeCourse, draw_expression
from mepipe.synth.photo import photograph
from mepipe.synth.render import FLICKER, canvas_grid, cut, drift_fields, noise_bank
from mepipe.synth.seeds import stream
from mepipe.workspace import atomic_file, write_text

COLUMNS = ("video", "kind", "onset", "apex", "offset", "fps", "emotion", "action_units", "amplitude_px_224")
LENGTH = (0.2, 0.5)  # s from onset to offset: a micro-expression by the usual definition
RISE = (0.3, 0.6)  # share of it that the rise takes
APART = 0.6  # s between two micro-expressions, and to either end of the video
BLINKS, SWAYS = 12, 6  # a minute; people at rest blink 10 to 20 times
CLOSING, SHUT, OPENING = (0.06, 0.10), (0.02, 0.06), (0.12, 0.20)  # s of a blink's parts
FOLD = 0.14  # eye distances above the lid's edge from where its skin comes down
TUG = (0.6, 1.2)  # px of the frame by which a blink moves the skin around the eye
SHIFT, ROLL, TURN = (2.0, 8.0), np.radians(1.5), 2.0  # of a sway: px of the frame, radians, px at the nose
MOVING, HOLDING = (0.25, 0.8), (0.0, 1.0)  # s: how long a sway takes there and back, and stays
RESTLESS = 1.2  # px of the frame: how far the head wanders while it is still


@dataclass(frozen=True)
class Event:
    """Something that happens in frames onset..offset, most at the apex. kind: micro, blink or sway."""

    kind: str
    onset: int
    apex: int
    offset: int
    emotion: str = ""
    units: str = ""
    amplitude_224: float = 0.0


class LongVideo:
    """A made-up video, drawn frame by frame: ``frame(n)`` is (H, W, 3) uint8 BGR, ``events`` is all that happens.

    seconds, fps: its length is their product in frames.  expressions: micro-expressions; None: 12 a minute.
    width: of a frame in px, 4:3; the face box is about 0.38 of it.  The same arguments give the same pixels.
    Raises UsageError for a length below 2 s, more expressions than fit, and where scikit-image is missing.
    """

    def __init__(
        self, seconds: float = 60, fps: int = 100, seed: int = 0, expressions: int | None = None, width: int = 640
    ) -> None:
        if not (seconds >= 2 and fps >= 20 and width >= 160):
            raise UsageError(f"{seconds:g} s at {fps} fps, {width} px wide", do="2 s, 20 fps and 160 px are the least")
        photograph()  # scikit-image absent: say so now
        self.seed, self.fps, self.count = seed, fps, round(seconds * fps)
        scale = width / 640
        self.camera = Camera(size=(width, width * 3 // 4), scale=(2.6 * scale, 3.0 * scale))
        self._who = identity(self.camera, seed, "video", 0)
        rng = stream(seed, "video", "events")
        wanted = max(round(seconds / 5), 1) if expressions is None else expressions
        self._micros = [self._micro(rng, *span) for span in self._spans(rng, wanted)]
        self._blinks = [self._blink(rng) for _ in range(round(BLINKS * seconds / 60))]
        self._sways = [self._sway(rng) for _ in range(round(SWAYS * seconds / 60))]
        self._wander = rng.uniform(0, 2 * np.pi, (3, 2)), rng.uniform(1 / 12, 1 / 4, (3, 2))  # phases, Hz
        self._noise = rng.uniform(*self.camera.noise)

    @property
    def events(self) -> list[Event]:
        """All events, by their onset."""
        everything = [*(m[0] for m in self._micros), *(b[0] for b in self._blinks), *(s[0] for s in self._sways)]
        return sorted(everything, key=lambda e: e.onset)

    # --- what happens when ---

    def _spans(self, rng: np.random.Generator, wanted: int) -> list[tuple[int, int]]:
        """Onset and length in frames of each micro-expression, spread at random with APART between them."""
        lengths = np.round(rng.uniform(*LENGTH, wanted) * self.fps).astype(int)
        gap = round(APART * self.fps)
        free = self.count - 1 - int(lengths.sum()) - gap * (wanted + 1)
        if free < 0:
            raise UsageError(f"{wanted} micro-expressions do not fit into {self.count / self.fps:g} s", do="ask fewer")
        before = np.sort(rng.integers(0, free + 1, wanted))
        onsets = before + gap * np.arange(1, wanted + 1) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return [(int(o), int(n)) for o, n in zip(onsets, lengths, strict=True)]

    def _micro(self, rng: np.random.Generator, onset: int, length: int) -> tuple[Event, Bumps, TimeCourse]:
        name = list(EXPRESSIONS)[rng.integers(len(EXPRESSIONS))]
        expression = draw_expression(rng, name, self._who)
        apex = onset + max(round(length * rng.uniform(*RISE)), 1)
        course = TimeCourse(onset, apex, onset + length, rng.uniform(0.8, 1.3), 0.0)
        event = Event("micro", onset, apex, onset + length, name, expression.units,
                      expression.amplitude * 224 / self._who.side)  # fmt: skip
        return event, expression.bumps, course

    def _blink(self, rng: np.random.Generator) -> tuple[Event, np.ndarray, float, float]:
        """The event, its four times in frames, how far the lids close, and the pull on the skin around in px."""
        parts = [rng.uniform(*part) * self.fps for part in (CLOSING, SHUT, OPENING)]
        start = rng.uniform(0.2 * self.fps, self.count - sum(parts) - 0.2 * self.fps)
        times = start + np.concatenate([[0], np.cumsum(parts)])
        event = Event("blink", round(times[0]), round(times[1]), round(times[3]))
        return event, times, rng.uniform(0.8, 1.0), rng.uniform(*TUG) * self.camera.size[0] / 640

    def _sway(self, rng: np.random.Generator) -> tuple[Event, np.ndarray, np.ndarray]:
        """The event, its four times in frames, and where the head goes: x, y, roll, turn x, turn y."""
        parts = [rng.uniform(*part) * self.fps for part in (MOVING, HOLDING, MOVING)]
        start = rng.uniform(0, max(self.count - sum(parts), 1))
        times = start + np.concatenate([[0], np.cumsum(parts)])
        heading, far = rng.uniform(0, 2 * np.pi), rng.uniform(*SHIFT)
        turn = rng.uniform(-TURN, TURN, 2)
        px = self.camera.size[0] / 640
        goal = [px * far * np.cos(heading), px * far * np.sin(heading), rng.uniform(-ROLL, ROLL), *(px * turn)]
        event = Event("sway", round(times[0]), round(times[1:3].mean()), min(round(times[3]), self.count - 1))
        return event, times, np.array(goal)

    # --- drawing ---

    def frame(self, number: int) -> np.ndarray:
        """Frame ``number`` as the camera sees it, (H, W, 3) uint8 BGR, before compression."""
        here = cv2.resize(self._backward(number), self.camera.size, interpolation=cv2.INTER_LINEAR)
        positions = cv2.scaleAdd(here, SUPERSAMPLE, canvas_grid(self.camera.size))
        self._close_eyes(positions, number)
        clean = sampled(canvas_of(self._who), positions)
        rng = stream(self.seed, "video", "frame", number)
        light, sigma = 1 + FLICKER * rng.standard_normal(), self._noise / 20.0
        noise = cut(noise_bank(clean.shape), clean.shape, rng)
        return cv2.addWeighted(clean, light, noise, sigma, -128 * sigma)

    def head(self, number: int) -> np.ndarray:
        """Where the head is: (x px, y px, roll rad, turn x px, turn y px), relative to its rest."""
        phases, hertz = self._wander
        waves = np.sin(2 * np.pi * hertz * number / self.fps + phases).mean(1)
        px = RESTLESS * self.camera.size[0] / 640
        out = np.array([px * waves[0], px * waves[1], np.radians(0.2) * waves[2], 0.0, 0.0])
        for _, (t0, t1, t2, t3), goal in self._sways:
            out += goal * (_step((number - t0) / (t1 - t0)) - _step((number - t2) / (t3 - t2)))
        return out

    def closed(self, number: int) -> float:
        """How far the lids are closed, 0 to 1."""
        return max((far * _bump(times, number) for _, times, far, _ in self._blinks), default=0.0)

    def _backward(self, number: int) -> np.ndarray:
        """Where each point of the lattice looks, as an offset from itself, (h, w, 2) float32 px.

        The head's motion comes first; what the face does moves with the head.
        """
        head = weighted_sum(zip(self.head(number), self._head_fields, strict=True))
        face = [(course(number), self._field(i)) for i, (e, _, course) in enumerate(self._micros)
                if e.onset < number < e.offset]  # fmt: skip
        face += [(pull * _bump(times, number), self._tug) for _, times, _, pull in self._blinks
                 if times[0] < number < times[3]]  # fmt: skip
        if not face:
            return head
        return head + sampled(weighted_sum(face), self._lattice_grid + head / LATTICE)

    @cached_property
    def _lattice_grid(self) -> np.ndarray:
        h, w = self._head_fields[0].shape[:2]
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        return np.stack([x, y], -1)

    @cached_property
    def _head_fields(self) -> tuple[np.ndarray, ...]:
        """Backward fields on the lattice: 1 px right, 1 px down, 1 rad of roll, a turn by 1 px right, 1 px down."""
        right, down, roll = drift_fields(self._who)
        x, y = lattice(self.camera.size)
        nose = self._who.landmarks[30]
        near = Bumps(nose[None], np.array([[1.0, 0.0]]), np.array([0.3 * self._who.side])).on_grid(x, y)[..., 0]
        still = np.zeros_like(near)
        return right, down, roll, np.stack([-near, still], -1), np.stack([still, -near], -1)

    def _field(self, index: int) -> np.ndarray:
        if index not in self._fields:
            if len(self._fields) > 2:
                self._fields.clear()
            self._fields[index] = -self._micros[index][1].on_grid(*lattice(self.camera.size))
        return self._fields[index]

    @cached_property
    def _fields(self) -> dict[int, np.ndarray]:
        return {}

    @cached_property
    def _tug(self) -> np.ndarray:
        """Backward field of the skin around both eyes going down by 1 px."""
        eyes = np.stack([self._who.landmarks[a : a + 6].mean(0) for a in (36, 42)])
        radius = np.full(2, 0.2 * self._who.eye_distance)
        return -Bumps(eyes, np.array([[0.0, 1.0]] * 2), radius).on_grid(*lattice(self.camera.size))

    def _close_eyes(self, positions: np.ndarray, number: int) -> None:
        """Let canvas ``positions`` (H, W, 2) of frame ``number`` look at skin where a lid covers the eye, in place."""
        closed = self.closed(number)
        if closed <= 0:
            return
        origin = canvas_grid(self.camera.size)[0, 0]
        points = self._who.landmarks
        fold = FOLD * self._who.eye_distance
        x, y = points[36:48].T
        reach = 2 * fold + 16  # the head may have moved it
        rows = slice(max(int(y.min() - reach), 0), int(y.max() + reach))
        columns = slice(max(int(x.min() - reach), 0), int(x.max() + reach))
        seen = (positions[rows, columns] - origin) / SUPERSAMPLE  # where in the still frame each pixel looks
        for eye in (points[36:42], points[42:48]):
            _lower_lid(seen, eye, fold, closed)
        positions[rows, columns] = seen * SUPERSAMPLE + origin


def _lower_lid(seen: np.ndarray, eye: np.ndarray, fold: float, closed: float) -> None:
    """Draw the lid of ``eye`` (6, 2) down by the share ``closed`` of its opening; seen (h, w, 2) in place."""
    x, y = seen[..., 0], seen[..., 1]
    upper, lower = eye[[0, 1, 2, 3]], eye[[0, 5, 4, 3]]
    top = np.interp(x, *upper[np.argsort(upper[:, 0])].T)
    bottom = np.interp(x, *lower[np.argsort(lower[:, 0])].T)
    inside = (x > eye[:, 0].min()) & (x < eye[:, 0].max())
    edge = top + closed * np.maximum(bottom - top, 0)
    crease = top - fold
    lid = inside & (y > crease) & (y < edge)
    seen[..., 1] = np.where(lid, crease + (y - crease) * (fold / np.maximum(edge - crease, 1e-3)), y)


def _step(t: float) -> float:
    """0 before 0, 1 after 1, smooth between."""
    return 0.5 - 0.5 * np.cos(np.pi * min(max(t, 0.0), 1.0))


def _bump(times: np.ndarray, number: int) -> float:
    """Rises from 0 to 1 between the first two of four ``times``, falls between the last two."""
    return _step((number - times[0]) / (times[1] - times[0])) - _step((number - times[2]) / (times[3] - times[2]))


# --- writing -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoSummary:
    """What ``make_video`` made."""

    path: Path
    truth: Path
    frames: int
    fps: int
    events: tuple[Event, ...]
    seconds: float

    def as_dict(self) -> dict[str, object]:
        return {**vars(self), "events": [vars(e) for e in self.events]}

    def __str__(self) -> str:
        kinds = {kind: sum(e.kind == kind for e in self.events) for kind in ("micro", "blink", "sway")}
        return (
            f"{self.path}: {self.frames} frames at {self.fps} fps with {kinds['micro']} micro-expressions, "
            f"{kinds['blink']} blinks, {kinds['sway']} head sways, drawn in {self.seconds:.0f} s; the truth is in "
            f"{self.truth}"
        )


def make_video(
    path: str | Path,
    *,
    seconds: float = 60,
    fps: int = 100,
    seed: int = 0,
    expressions: int | None = None,
    width: int = 640,
    progress: Progress | None = None,
    jobs: int | None = None,
) -> VideoSummary:
    """Draw a made-up video, and write what happens in it into <name>.truth.csv beside it.

    Parameters
    ----------
    path
        The file to write, .avi (Motion JPEG); about 7.5 MB a second at the default size.
    seconds, fps
        Length and frame rate.
    seed
        Of everything random.
    expressions
        How many micro-expressions; None is one in 5 s.
    width
        Of a frame in px, 4:3.
    progress
        Called with (done, total) after every frame.
    jobs
        Threads; None takes one per core. The pixels do not depend on it.

    Returns
    -------
    VideoSummary
        What was made.

    Raises
    ------
    UsageError
        Another suffix, a file that exists, or what ``LongVideo`` refuses.
    """
    began, path = time.monotonic(), Path(path)
    truth = path.with_suffix(".truth.csv")
    if path.suffix.lower() != ".avi":
        raise UsageError(f"{path}: made-up videos are AVI files", do="end the name in .avi")
    if path.exists() or truth.exists():
        raise UsageError(f"{path if path.exists() else truth} exists", do="give a new name")
    video = LongVideo(seconds, fps, seed, expressions, width)
    with atomic_file(path) as temp:
        _write(video, temp, progress or (lambda done, total: None), jobs or cores())
    write_text(truth, truth_text(path.name, video))
    return VideoSummary(path, truth, video.count, fps, tuple(video.events), time.monotonic() - began)


def _write(video: LongVideo, path: Path, progress: Progress, jobs: int) -> None:
    code = cv2.VideoWriter.fourcc(*"MJPG")
    # OpenCV's own writer: its quality can be set, every frame is whole, and the same bytes come on every machine
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, code, video.fps, video.camera.size)
    if not writer.isOpened():
        raise MepipeError(f"OpenCV cannot write {path}", do="check the folder and its permissions")
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 90)
    try:
        for done, image in enumerate(_drawn(video, jobs), 1):
            writer.write(image)
            progress(done, video.count)
    finally:
        writer.release()


def _drawn(video: LongVideo, jobs: int) -> Iterator[np.ndarray]:
    """The frames in order; drawn by ``jobs`` threads, a few ahead."""
    numbers = iter(range(video.count))
    with ThreadPoolExecutor(jobs, "synth") as pool:
        waiting = [pool.submit(video.frame, n) for n in islice(numbers, 2 * jobs)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(video.frame, n) for n in islice(numbers, 1)]


def truth_text(name: str, video: LongVideo) -> str:
    """The text of truth.csv: one row per event, by onset."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(COLUMNS)
    for e in video.events:
        amplitude = f"{e.amplitude_224:.4f}" if e.kind == "micro" else ""
        table.writerow((name, e.kind, e.onset, e.apex, e.offset, video.fps, e.emotion, e.units, amplitude))
    return out.getvalue()
