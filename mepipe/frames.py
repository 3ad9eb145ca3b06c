"""A clip's frames: a folder of images or a video file, always by frame number.

Numbers    the last run of digits in the file name, whatever its padding: img46.jpg, 006_05562.jpg
Order      by that integer, never by text
Images     BGR uint8 (H, W, 3); a damaged file is an error, never a grey half
"""

from __future__ import annotations

import bisect
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from mepipe.datasets.base import IMAGE_SUFFIXES
from mepipe.errors import DataError
from mepipe.imageheads import bomb, broken_chunk, damage
from mepipe.limits import IMAGE_BYTES, IMAGE_PIXELS, VIDEO_FRAMES, read_file

# Read by OpenCV when it decodes the first image, and again by us, image for image (imageheads.bomb).
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(IMAGE_PIXELS()))
# Read by OpenCV whenever it opens a video.  What a file calls itself decides nothing: a play list named clip.mp4 would
# have FFmpeg open whatever files and addresses it lists.
os.environ.setdefault(
    "OPENCV_FFMPEG_CAPTURE_OPTIONS",
    "protocol_whitelist;file|format_whitelist;avi,mov,matroska,mpeg,mpegts,mpegvideo,asf",
)

MAX_DIGITS = 9  # of a frame number, its padding aside: a longer one is a time stamp or a telephone number
# How file managers name a second copy of img46: img46 (1), img46 - Copy (2), img46 - Kopie, img46 copy 2, img46 2
_COPY = re.compile(r"(.*?[0-9])(?: - \w+| copy)?(?: ?\([0-9]{1,2}\)| [0-9]{1,2})?", re.IGNORECASE)

# How files begin that hold frames, by the place of the mark: whatever else FFmpeg can read, play lists among it, is
# never given to it.  RIFF AVI; MP4 and MOV boxes; Matroska and WebM; MPEG program stream, elementary stream; ASF (WMV)
VIDEO_KINDS = "no AVI, MP4, MOV, MKV, WebM, MPEG or WMV header"
_VIDEO_MARKS = (
    (0, b"RIFF"), (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free"), (4, b"skip"),
    (0, b"\x1a\x45\xdf\xa3"), (0, b"\0\0\1\xba"), (0, b"\0\0\1\xb3"), (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
)  # fmt: skip

VIDEO_SUFFIXES = frozenset({".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})


class Frames(Protocol):
    """What a clip's frames can do, whether they lie in a folder or in a video."""

    @property
    def numbers(self) -> Sequence[int]:
        """The frames that exist, rising."""

    def read(self, number: int) -> np.ndarray:
        """The frame as BGR uint8 (H, W, 3). Raises DataError."""

    def signature(self, number: int) -> list[int | str]:
        """What changes when the frame's content may have changed (name, size, time of change)."""


class FrameFolder:
    """The images of one folder by their frame number. Raises DataError when there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names, self._doubles = _numbered(folder)
        self.numbers: list[int] = sorted(self._names)
        if not self.numbers:
            raise DataError(f"{folder} holds no numbered image", do="check that the clip was unpacked completely")

    def doubled(self) -> str:
        """What to say when several files have the same frame number ("" when none have): the first by name counts."""
        if not self._doubles:
            return ""
        number, name = next(iter(self._doubles.items()))
        used = self._names[number]
        return f"frame numbers with several files: {len(self._doubles)}, such as {used} (used) and {name}"

    def read(self, number: int) -> np.ndarray:
        return read_image(self.folder / self._names[number])

    def signature(self, number: int) -> list[int | str]:
        name = self._names[number]
        stat = (self.folder / name).stat()
        return [name, stat.st_size, stat.st_mtime_ns]


def _numbered(folder: Path) -> tuple[dict[int, str], dict[int, str]]:
    """(frame number -> file name, number -> another name of the same number, where there are several).

    A copy that a file manager made, ``img46 (1).jpg`` beside ``img46.jpg``, is another name of 46, and not frame 1.
    """
    names: dict[int, str] = {}
    doubles: dict[int, str] = {}
    try:
        with os.scandir(folder) as entries:
            found = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_file())
    except OSError as e:
        raise DataError(f"cannot read {folder}: {e.strerror}", do="check the path and its permissions") from e
    there = set(found)
    for name in found:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - Path objects for 70 frames a clip cost more than the scan
        copied = _COPY.fullmatch(stem) if " " in stem or stem.endswith(")") else None
        copied = copied if copied and copied[1] != stem and copied[1] + suffix in there else None
        digits = re.findall(r"[0-9]+", copied[1] if copied else stem)
        if suffix.lower() not in IMAGE_SUFFIXES or not digits or len(digits[-1].lstrip("0")) > MAX_DIGITS:
            continue
        number = int(digits[-1])
        if copied or number in names:
            doubles.setdefault(number, name)
        if not copied:
            names.setdefault(number, name)
    return names, doubles


def nearest(numbers: Sequence[int], wanted: int) -> int:
    """The number closest to ``wanted`` in the sorted, non-empty ``numbers``; the earlier of two."""
    i = bisect.bisect_left(numbers, wanted)
    around = numbers[max(i - 1, 0) : i + 1]
    return min(around, key=lambda n: (abs(n - wanted), n))


def read_image(path: Path) -> np.ndarray:
    """The image at ``path`` as BGR uint8 (H, W, 3). Raises DataError when the file is absent, truncated or no image."""
    return decode_image(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """The bytes of a frame. Raises DataError when it is absent, no regular file, or too large to be one."""
    do = "check that the corpus is complete"
    try:
        return read_file(path, IMAGE_BYTES, do)
    except FileNotFoundError as e:
        raise DataError(f"cannot read {path}: {e.strerror}", do=do) from e


def decode_image(data: bytes, path: Path, always_colour: bool = True) -> np.ndarray:
    """The image in ``data``, read from ``path``, as BGR uint8 (H, W, 3). Raises DataError.

    always_colour: False leaves what is stored as grey (H, W), which spares an eighth of the time.
    OpenCV itself pads a truncated JPEG with grey and says so only on the console, hence the check for the end marker.
    """
    import cv2

    broken = damage(data) or broken_chunk(data)
    if broken:
        raise DataError(f"{path} {broken}", do="unpack or copy the clip again")
    if claimed := bomb(data):
        raise DataError(f"{path} {claimed}")
    try:
        how = cv2.IMREAD_COLOR if always_colour else cv2.IMREAD_ANYCOLOR
        image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error as e:
        raise DataError(f"{path} cannot be decoded ({_reason(e)})", do="unpack or copy the clip again") from e
    if image is None:
        raise DataError(f"{path} cannot be decoded", do="unpack or copy the clip again")
    return image


def _reason(e: Exception) -> str:
    return "too many pixels" if "CV_IO_MAX_IMAGE" in str(e) or "pixels" in str(e) else "damaged"


class VideoFile:
    """The frames of a video, numbered from 0. Decoded on demand; frames must be asked for in rising order
    to be quick. Raises DataError for a file that OpenCV cannot open.
    """

    def __init__(self, path: Path) -> None:
        import cv2

        self.path = path
        if not is_video(path):
            raise DataError(
                f"{path} cannot be opened as a video ({VIDEO_KINDS})", do="convert it to MP4 or AVI, or give frames"
            )
        self._capture = cv2.VideoCapture(str(path))
        opened = self._capture.isOpened()
        count, self.fps, width, height = (
            _finite(self._capture.get(which)) if opened else 0.0
            for which in (
                cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT,
            )
        )  # fmt: skip
        if count < 1:
            raise DataError(f"{path} cannot be opened as a video", do="convert it to MP4 or AVI, or give frames")
        VIDEO_FRAMES.check(str(path), int(count))
        IMAGE_PIXELS.check(f"{path}, {width:.0f} x {height:.0f}", int(width * height))
        self.numbers: Sequence[int] = range(int(count))
        self._next = 0
        self._last: np.ndarray | None = None

    def read(self, number: int) -> np.ndarray:
        if number == self._next - 1 and self._last is not None:
            return self._last
        if number < self._next:
            self._rewind()
        while self._next <= number:
            self._last = self._decoded()
            self._next += 1
        assert self._last is not None
        return self._last

    def seconds(self) -> float:
        """When the frame that was read last is shown, as the container says."""
        import cv2

        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000

    def _decoded(self) -> np.ndarray:
        """The next frame. Raises DataError."""
        import cv2

        try:
            ok, image = self._capture.read()
        except cv2.error:
            ok, image = False, None
        if not ok or image is None or image.ndim != 3 or image.dtype != np.uint8:
            raise DataError(f"{self.path}: frame {self._next} cannot be decoded", do="the file may be cut short")
        return image

    def _rewind(self) -> None:
        import cv2

        # seeking by frame is inexact in many containers; opening again is exact
        self._capture.release()
        self._capture = cv2.VideoCapture(str(self.path))
        self._next, self._last = 0, None

    def signature(self, number: int) -> list[int | str]:
        stat = self.path.stat()
        return [self.path.name, stat.st_size, stat.st_mtime_ns, number]


def is_video(path: Path) -> bool:
    """Whether the file begins as one of the kinds of video that are opened."""
    try:
        with path.open("rb") as f:
            data = f.read(189)
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}", do="check the path and its permissions") from e
    stream = data[:1] == data[188:189] == b"G"  # packets of an MPEG transport stream have 188 bytes each
    return stream or any(data[place : place + len(mark)] == mark for place, mark in _VIDEO_MARKS)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def open_frames(path: Path) -> FrameFolder | VideoFile:
    """Frames of ``path``: a folder of images or a video file. Raises DataError for anything else."""
    if path.is_dir():
        return FrameFolder(path)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        return VideoFile(path)
    if not path.exists():
        raise DataError(f"{path} does not exist", do="give a folder of frames or a video file")
    raise DataError(f"{path} is neither a folder of frames nor a video ({', '.join(sorted(VIDEO_SUFFIXES))})")
