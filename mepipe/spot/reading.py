"""Opening what people call a video: a file that OpenCV or PyAV can decode, or a folder of numbered images.

    source = open_source(path)            which reader took it, fps, how many frames it says it has
    for frame in source: ...              once through, one frame in memory
    source.read(number)                   one frame by number; rising order is quick

Frames are BGR uint8 (H, W, 3).  A video's are numbered from 0, a folder's by its file names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, Protocol

import numpy as np

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.frames import VIDEO_KINDS, FrameFolder, VideoFile, is_video
from mepipe.limits import IMAGE_PIXELS, VIDEO_FRAMES

READERS = ("auto", "cv2", "av")
FPS_RANGE = (1.0, 2000.0)  # outside it a container's frame rate is a time base or nothing, not a camera's
AHEAD = 16  # frames decoded in advance: decoding and computing then take a core each
# the kinds of file that ``mepipe.frames`` lets OpenCV's FFmpeg open, and nothing they might point to
FFMPEG = {"protocol_whitelist": "file", "format_whitelist": "avi,mov,matroska,mpeg,mpegts,mpegvideo,asf"}
GIVE_FPS = "say how many frames a second were filmed: --fps N"


class Source(Protocol):
    """A video. fps: 0.0 when nothing says it. reader: who decodes. numbers: as far as the container says."""

    path: Path
    fps: float
    reader: str

    @property
    def numbers(self) -> Sequence[int]: ...

    def read(self, number: int) -> np.ndarray: ...

    def signature(self, number: int) -> list[int | str]: ...

    def stream(self) -> Iterator[tuple[int, np.ndarray, float | None]]:
        """All frames once, in order: (number, image, seconds from the container or None)."""


def open_source(path: Path, reader: str = "auto") -> Source:
    """Open a video file or a folder of numbered images.

    Parameters
    ----------
    path
        Either of them.
    reader
        ``auto`` asks OpenCV first, and PyAV (``pip install 'mepipe[video]'``) for what OpenCV cannot read; ``cv2`` and
        ``av`` ask that one alone.

    Returns
    -------
    Source
        Its frames, rate and reader.

    Raises
    ------
    UsageError
        An unknown reader, or one that is not installed.
    DataError
        What is no video.
    """
    if reader not in READERS:
        raise UsageError(f"--reader is {reader!r}", do=f"valid: {', '.join(READERS)}")
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise DataError(f"{path} does not exist", do="give a folder of frames or a video file")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty", do="copy the video again")
    if not is_video(path):
        raise DataError(f"{path} is neither a folder of frames nor a video ({VIDEO_KINDS})", do="check the file")
    if reader == "av":
        return AvSource(path)
    try:
        return Cv2Source(path)
    except DataError:
        if reader == "cv2":
            raise
        return _second_reader(path)


def _second_reader(path: Path) -> Source:
    """``path`` by PyAV after OpenCV has failed. Raises DataError."""
    from importlib.util import find_spec

    if find_spec("av") is None:
        do = "if it is sound, pip install 'mepipe[video]' reads more"
        raise DataError(f"{path} is no video that OpenCV can read", do=do)
    return AvSource(path)


class FolderSource(FrameFolder):
    """A folder of numbered images; it has no frame rate."""

    reader = "folder of images"
    fps = 0.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder

    def stream(self) -> Iterator[tuple[int, np.ndarray, float | None]]:
        for number in self.numbers:
            yield number, self.read(number), None


class Cv2Source(VideoFile):
    """A video file through OpenCV. Raises DataError when OpenCV cannot open it or gives no first frame."""

    reader = "cv2"

    def __init__(self, path: Path) -> None:
        with _quiet_opencv():
            super().__init__(path)
            self.read(0)
        self.fps = _camera_rate(self.fps)

    def stream(self) -> Iterator[tuple[int, np.ndarray, float | None]]:
        with _quiet_opencv():
            other = VideoFile(self.path)
            for number in range(VIDEO_FRAMES()):
                try:
                    image = other.read(number)
                except DataError:
                    return  # the end, or damage: the caller compares the counts
                yield number, image, other.seconds()


class AvSource:
    """A video file through PyAV. Raises UsageError where it is not installed, DataError where it cannot read either."""

    reader = "av"

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as container:
            track = container.streams.video[0]
            IMAGE_PIXELS.check(f"{path}, {track.width} x {track.height}", track.width * track.height)
            self.fps = _camera_rate(float(track.average_rate or 0))
            count = track.frames or sum(bool(packet.size) for packet in container.demux(track))
        if count < 1:
            raise DataError(f"{path} holds no picture", do="check the file")
        VIDEO_FRAMES.check(str(path), count)
        self.numbers: Sequence[int] = range(count)
        self._frames: Iterator[tuple[int, np.ndarray, float | None]] | None = None
        self._last: tuple[int, np.ndarray] | None = None
        self.read(0)

    def _open(self) -> Any:
        try:
            import av
        except ImportError as e:
            raise UsageError("--reader av needs PyAV, which is not installed", do="pip install 'mepipe[video]'") from e
        try:
            container = av.open(str(self.path), options=FFMPEG)
        except (av.error.FFmpegError, OSError, ValueError) as e:
            raise DataError(f"{self.path} is no video that OpenCV or PyAV can read", do="check the file") from e
        if not container.streams.video:
            container.close()
            raise DataError(f"{self.path} holds no video track", do="check the file")
        return container

    def stream(self) -> Iterator[tuple[int, np.ndarray, float | None]]:
        import av

        with self._open() as container:
            container.streams.video[0].thread_type = "AUTO"
            try:
                for number, frame in enumerate(container.decode(video=0)):
                    yield number, frame.to_ndarray(format="bgr24"), frame.time
            except av.error.FFmpegError:
                return  # damage: the caller compares the counts

    def read(self, number: int) -> np.ndarray:
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        if self._frames is None or (self._last is not None and number < self._last[0]):
            self._frames, self._last = self.stream(), None
        for found, image, _ in self._frames:
            self._last = found, image
            if found == number:
                return image
        raise DataError(f"{self.path}: frame {number} cannot be decoded", do="the file may be cut short")

    def signature(self, number: int) -> list[int | str]:
        stat = self.path.stat()
        return [self.path.name, stat.st_size, stat.st_mtime_ns, number]


class _quiet_opencv:
    """What OpenCV's decoders print on the console about a damaged file is said by our own error instead."""

    def __enter__(self) -> None:
        import cv2

        self._before = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

    def __exit__(self, *_: object) -> None:
        import cv2

        cv2.utils.logging.setLogLevel(self._before)


def _camera_rate(fps: float) -> float:
    return fps if np.isfinite(fps) and FPS_RANGE[0] <= fps <= FPS_RANGE[1] else 0.0


def frame_rate(source: Source, given: float | None) -> float:
    """Frames per second: ``given``, else the container's. Raises UsageError when there is neither."""
    if given is not None:
        if not FPS_RANGE[0] <= given <= FPS_RANGE[1]:
            raise UsageError(f"--fps is {given:g}", do=f"it must be {FPS_RANGE[0]:g} to {FPS_RANGE[1]:g}")
        return given
    if not source.fps:
        raise UsageError(f"{source.path} ({source.reader}) does not say its frame rate", do=GIVE_FPS)
    return source.fps


class SteadyClock:
    """Watches a container's time stamps: durations mean nothing when the frame rate varies.

    Stamps are rounded to ms or coarser in many containers, and a camera drops a frame now and then; a video is
    refused when more than one interval in twenty is off by more than half a frame.
    """

    SHARE, OFF, AFTER = 0.05, 0.5, 40  # of intervals; of a frame; intervals seen before it is judged

    def __init__(self, source: Source, fps: float) -> None:
        self._what, self._interval = f"{source.path} ({source.reader})", 1 / fps
        self._last: float | None = None
        self.seen, self.odd = 0, 0

    def tick(self, seconds: float | None) -> None:
        """Take the stamp of the next frame. Raises DataError when the rate is not steady."""
        if seconds is None:
            return
        if self._last is not None:
            self.seen += 1
            self.odd += abs(seconds - self._last - self._interval) > self.OFF * self._interval
            if self.seen >= self.AFTER and self.odd > self.SHARE * self.seen:
                raise DataError(
                    f"{self._what} has a variable frame rate: {self.odd} of the first {self.seen} intervals are not "
                    f"{1000 * self._interval:.1f} ms",
                    do="convert it to a constant one, or pass --fps N to take its frames as evenly spaced",
                )
        self._last = seconds


def ahead(frames: Iterator[Any], depth: int = AHEAD) -> Iterator[Any]:
    """``frames``, produced by a thread ``depth`` items ahead; its errors are raised here."""
    queue: Queue[tuple[Any, BaseException | None]] = Queue(depth)
    stop, end = Event(), object()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not stop.is_set():
            try:
                queue.put((item, error), timeout=0.1)
            except Full:
                continue
            return

    def produce() -> None:
        try:
            for item in frames:
                put(item)
                if stop.is_set():
                    return
            put(end)
        except BaseException as e:  # handed over to the reader of the queue
            put(end, e)

    thread = Thread(target=produce, name="mepipe-decode", daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error if isinstance(error, (MepipeError, KeyboardInterrupt)) else DataError(str(error))
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
