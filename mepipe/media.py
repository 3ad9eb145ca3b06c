"""The frames of a labelled face, whatever they lie in: an image, a folder of frames, a video, a text of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mepipe.datasets.facecorpus import FaceClip
from mepipe.errors import DataError
from mepipe.frames import Frames, open_frames, read_image
from mepipe.limits import CLIP_FRAMES


class OneImage:
    """An image as a clip of one frame, number 0."""

    numbers: Sequence[int] = (0,)

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, number: int) -> np.ndarray:
        """BGR uint8 (H, W, 3). Raises DataError."""
        return read_image(self.path)

    def signature(self, number: int) -> list[int | str]:
        stat = self.path.stat()
        return [self.path.name, stat.st_size, stat.st_mtime_ns]


class PixelText(OneImage):
    """A grey picture written as numbers from 0 to 255 in a line of text, as in fer2013.csv.

    at: where in the file the numbers begin; side: of the square picture in px.
    """

    def __init__(self, path: Path, at: int, side: int) -> None:
        super().__init__(path)
        self.at, self.side = at, side

    def read(self, number: int) -> np.ndarray:
        """BGR uint8 (side, side, 3). Raises DataError."""
        try:
            with self.path.open("rb") as f:
                f.seek(self.at)
                text = f.read(4 * self.side**2)  # at most three digits and a blank each
        except OSError as e:
            raise DataError(f"cannot read {self.path}: {e.strerror}", do="check that the corpus is complete") from e
        return grey_picture(text, self.side, f"{self.path} at byte {self.at}")

    def signature(self, number: int) -> list[int | str]:
        return [*super().signature(number), self.at]


def grey_picture(text: bytes, side: int, where: str) -> np.ndarray:
    """The picture at the beginning of ``text``, as (side, side, 3) uint8. Raises DataError that names ``where``."""
    words = text.split(b",")[0].strip(b' "\r\n').split()
    numbers = [int(w) for w in words if w.isdigit() and len(w) <= 3]
    if len(numbers) != len(words) or len(numbers) != side * side or max(numbers) > 255:
        raise DataError(f"{where}: no picture of {side}x{side} numbers from 0 to 255", do="copy the file again")
    grey = np.array(numbers, np.uint8).reshape(side, side)
    return np.repeat(grey[..., None], 3, axis=2)


def open_media(clip: FaceClip) -> Frames:
    """The frames of ``clip``. Raises DataError."""
    assert clip.frames is not None, "a clip without a file is refused before"
    if clip.pixels is not None:
        return PixelText(clip.frames, *clip.pixels)
    return open_face(clip.frames)


def open_face(path: Path) -> Frames:
    """The frames of an image, a folder of frames or a video. Raises DataError for anything else."""
    from mepipe.datasets.base import IMAGE_SUFFIXES

    if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
        return OneImage(path)
    frames = open_frames(path)
    if path.is_dir():
        CLIP_FRAMES.check(str(path), len(frames.numbers))
    return frames


def resampled(count: int, length: int) -> list[int]:
    """The places, among ``count`` frames, of the ``length`` frames of a sequence.

    Frame i is the one at i (count - 1) / (length - 1), halves rounded up: first and last are always there, and where
    there are fewer frames than places some stand twice.
    """
    if length == 1:
        return [(count - 1) // 2]
    return [(2 * i * (count - 1) + length - 1) // (2 * (length - 1)) for i in range(length)]
