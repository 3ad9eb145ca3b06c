"""Spotting in a video from end to end, in memory that does not grow with its length.

Frames are decoded a few ahead in a thread; one face is followed (``tracking``); its crops are collected in blocks of
some seconds that overlap, and each block gives its candidates (``motion``, ``detect``).  Of every block only the curves
and the candidates stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mepipe.clipwork import Context, Tools
from mepipe.datasets.base import Clip
from mepipe.errors import DataError
from mepipe.faces import align
from mepipe.faces.find import find_face
from mepipe.progress import Progress
from mepipe.settings import PrepareConfig
from mepipe.spot.config import SpotConfig
from mepipe.spot.detect import SHUT, Candidate, candidates, clean, lag_of, spans
from mepipe.spot.motion import block_motion
from mepipe.spot.reading import AHEAD, Source, SteadyClock, ahead, frame_rate, open_source
from mepipe.spot.scoring import MICRO, Score, Truth, score
from mepipe.spot.tracking import FaceTracker, Finder, Tracked

CORE, MARGIN = 10, 3  # lags of a block that count, and of either side that only serves as surroundings
PER_DURATION = 60  # frames in the longest duration that are enough: of a 200 fps video every second one is used
FEWEST = 8  # frames in the longest duration below which nothing can be told from noise
SMALL_FACE = 120  # px of the source across the crop: below, half a px of the 224 crop is a quarter of one
AHEAD_BYTES = 64 << 20  # of frames decoded in advance, however large they are
EVERY = 25  # frames between two reports of progress


@dataclass(frozen=True)
class Spotted:
    """An interval, frames numbered as the video's. verdict: micro, or why it was suppressed.

    score: energy over noise.  part: of the face.  thumbnails: onset and apex, (112, 112) uint8, of micro only.
    """

    onset: int
    apex: int
    offset: int
    score: float
    verdict: str
    part: str
    thumbnails: tuple[np.ndarray, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Curves:
    """What was seen, per frame looked at: numbers, score (energy over noise), shut (eyes), head (px of a 224 crop)."""

    numbers: np.ndarray
    score: np.ndarray
    shut: np.ndarray
    head: np.ndarray


@dataclass(frozen=True)
class Spotting:
    """What ``spot`` found in one video. intervals: micro-expressions; suppressed: candidates that are none.

    blinks: first and last frame of each.  took: seconds of work.  truth, scored: where known intervals were given.
    """

    video: str
    reader: str
    fps: float
    frames: int
    stride: int
    took: float
    config: SpotConfig
    intervals: tuple[Spotted, ...]
    suppressed: tuple[Spotted, ...]
    blinks: tuple[tuple[int, int], ...]
    curves: Curves = field(repr=False)
    warnings: tuple[str, ...] = ()
    truth: tuple[Truth, ...] = ()
    scored: Score | None = None

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    def against(self, truth: list[Truth]) -> Spotting:
        """The same, scored against the micro-expressions of ``truth``."""
        true = [(t.onset, t.offset) for t in truth if t.kind == MICRO]
        found = [(i.onset, i.offset) for i in self.intervals]
        return replace(self, truth=tuple(truth), scored=score(found, true))


def spot(
    path: Path, config: SpotConfig | None = None, *, find: Finder | None = None, progress: Progress | None = None
) -> Spotting:
    """Find micro-expressions in a long video.

    Parameters
    ----------
    path
        A video file, or a folder of numbered images.
    config
        The settings; None takes the defaults.
    find
        Gives the 2x3 matrix from an image to its 224 x 224 crop; None finds faces as ``prepare`` does.
    progress
        Called with (frames done, frames).

    Returns
    -------
    Spotting
        Intervals, candidates held back, blinks, curves.

    Raises
    ------
    UsageError
        A wrong setting; a frame rate that nothing says.
    DataError
        What is no video, a varying frame rate, a video that is too short or shows no face.
    """
    began, config = time.monotonic(), config or SpotConfig()
    source = open_source(path, config.reader)
    fps = frame_rate(source, config.fps)
    stride = max(round(fps * config.max_duration / PER_DURATION), 1)
    _enough(source, len(source.numbers), fps, config)
    tracker = FaceTracker(find or finder(config), fps / stride)
    collector = _Collector(tracker, fps / stride, config)
    count = 0
    clock = SteadyClock(source, fps)
    for number, image in _frames(source, clock if config.fps is None else None):
        if count % stride == 0:
            collector.add(tracker.see(number, image))
        count += 1
        if progress and count % EVERY == 0:
            progress(count, max(len(source.numbers), count))
    collector.close()
    _enough(source, count, fps, config)
    if not collector.seen:
        raise DataError(f"{path}: no face in {tracker.looks} looks at {count} frames", do="check the picture")
    if progress:
        progress(count, count)
    return collector.spotting(str(path), source, fps, count, stride, time.monotonic() - began)


def finder(config: SpotConfig) -> Finder:
    """Where the face is in an image, found and aligned as ``prepare`` does. Raises UsageError for a missing tool."""
    settings = PrepareConfig(detector=config.detector, detector_file=config.detector_file, landmarks=config.landmarks)
    tools = Tools(settings, Context.of(settings))
    nobody = Clip("", "", "", 0, None, None, 0.0, "")

    def find(image: np.ndarray) -> np.ndarray:
        face, points = find_face(image, nobody, tools.detector, tools.predictor)
        return align.matrix_from_box(face.box) if points is None else align.matrix_from_landmarks(points)

    return find


def _frames(source: Source, clock: SteadyClock | None) -> Iterator[tuple[int, np.ndarray]]:
    first = source.read(source.numbers[0])
    depth = int(np.clip(AHEAD_BYTES // first.nbytes, 1, AHEAD))
    for number, image, seconds in ahead(source.stream(), depth):
        if clock:
            clock.tick(seconds)
        yield number, image


def _enough(source: Source, count: int, fps: float, config: SpotConfig) -> None:
    """Raises DataError for a video in which nothing could be told."""
    if fps * config.max_duration < FEWEST:
        raise DataError(
            f"{source.path}: at {fps:g} fps {config.max_duration:g} s are {fps * config.max_duration:.0f} frames, too "
            "few for a micro-expression", do=f"film at {FEWEST / config.max_duration:.0f} fps or more",
        )  # fmt: skip
    least = 2 * lag_of(fps, config)
    if count < least:
        raise DataError(
            f"{source.path} has {count} frames, {count / fps:.2f} s at {fps:g} fps",
            do=f"spotting needs {least} frames; mepipe predict classifies a short clip",
        )


class _Collector:
    """Takes followed crops in order, works on them block by block, keeps candidates and curves."""

    def __init__(self, tracker: FaceTracker, fps: float, config: SpotConfig) -> None:
        self._tracker, self._fps, self._config = tracker, fps, config
        lag = lag_of(fps, config)
        self._core, self._margin, self._least = CORE * lag, MARGIN * lag, 2 * lag
        self._held: list[Tracked] = []
        self._begin = 0  # of what is held, where the part that has not been judged begins
        self._found: list[Spotted] = []
        self._curves: list[tuple[np.ndarray, ...]] = []
        self.seen = 0

    def add(self, tracked: Tracked | None) -> None:
        """The next frame; None where there is no face."""
        if self._held and (tracked is None or tracked.stretch != self._held[-1].stretch):
            self.close()
        if tracked is None:
            return
        self.seen += 1
        self._held.append(tracked)
        if len(self._held) == self._begin + self._core + self._margin:
            self._work(self._begin + self._core)
            crops = np.stack([t.crop for t in self._held[self._begin :]])
            self._tracker.renew(crops.mean(0, dtype=np.float32))
            drop = len(self._held) - 2 * self._margin
            del self._held[:drop]
            self._begin = self._margin

    def close(self) -> None:
        """The stretch ends: judge what is left of it."""
        if len(self._held) >= self._least:
            self._work(len(self._held))
        self._held, self._begin = [], 0

    def _work(self, end: int) -> None:
        """Judge frames begin..end of what is held."""
        held, first = self._held, self._begin
        motion = block_motion(np.stack([t.crop for t in held]), np.stack([t.pose for t in held]))
        signals = clean(motion, self._fps, self._config)
        for c in candidates(signals, self._fps, self._config):
            if first <= c.apex < end:
                self._found.append(self._spotted(c))
        part = slice(first, end)
        numbers = np.array([t.number for t in held[part]])
        # poses are in px of the small crop, half of the 224 one
        head = 2 * np.hypot(*np.gradient(motion.poses[:, :2], axis=0).T) * self._fps * self._config.max_duration
        keep = (signals.score, signals.shut, head)
        self._curves.append((numbers, *(k[part].astype(np.float32) for k in keep)))

    def _spotted(self, c: Candidate) -> Spotted:
        onset, apex, offset = (self._held[i].number for i in (c.onset, c.apex, c.offset))
        shown = (c.onset, c.apex) if c.verdict == MICRO else ()
        pictures = tuple(np.clip(self._held[i].crop, 0, 255).astype(np.uint8) for i in shown)
        return Spotted(onset, apex, offset, round(c.score, 1), c.verdict, c.part, pictures)

    def spotting(self, video: str, source: Source, fps: float, count: int, stride: int, took: float) -> Spotting:
        found = sorted(self._found, key=lambda s: s.apex)
        curves = Curves(*(np.concatenate(c) for c in zip(*self._curves, strict=True))) if self._curves else _nothing()
        return Spotting(
            video, source.reader, fps, count, stride, took, self._config,
            tuple(s for s in found if s.verdict == MICRO), tuple(s for s in found if s.verdict != MICRO),
            _blinks(curves, self._fps), curves, tuple(self._warnings(source, count, stride)),
        )  # fmt: skip

    def _warnings(self, source: Source, count: int, stride: int) -> Iterator[str]:
        claimed = len(source.numbers)
        if count < claimed - max(2, claimed // 100):
            yield f"the video says {claimed} frames, {count} could be decoded: it may be cut short"
        if self._tracker.lost:
            yield f"no face in {self._tracker.lost * stride} of {count} frames"
        if 0 < self._tracker.face_width < SMALL_FACE:
            yield f"the face is small, {self._tracker.face_width:.0f} px across the crop: small motion is lost"


def _nothing() -> Curves:
    return Curves(np.zeros(0, int), *(np.zeros(0, np.float32) for _ in range(3)))


def _blinks(curves: Curves, fps: float) -> tuple[tuple[int, int], ...]:
    """First and last frame of each time that the eyes were shut; over a second it is sleep, or a glance down."""
    runs = spans(curves.shut > SHUT)
    return tuple((int(curves.numbers[a]), int(curves.numbers[b])) for a, b in runs if 0.04 < (b - a + 1) / fps < 1.0)
