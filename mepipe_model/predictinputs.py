"""What ``mepipe predict`` is asked about: folders of frames, videos, pairs of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mepipe.errors import UsageError
from mepipe.frames import Frames, read_image
from mepipe.spot.reading import open_source


@dataclass(frozen=True)
class Input:
    """What to classify: a folder of frames or a video, with frame numbers where known; or a pair of images.

    second: the apex image of a pair, of which ``path`` is the onset image.
    """

    path: Path
    second: Path | None = None
    onset: int | None = None
    apex: int | None = None
    offset: int | None = None

    @property
    def name(self) -> str:
        return f"{self.path} > {self.second}" if self.second else str(self.path)


def opened(one: Input, reader: str) -> tuple[Frames, str]:
    """The frames of ``one`` and who reads them. Raises UsageError, DataError."""
    if one.second is not None:
        return ImagePair(one.path, one.second), "pair of images"
    source = open_source(one.path, reader)
    return source, source.reader


class ImagePair:
    """Two images as a clip: frame 0 is the onset, frame 1 the apex."""

    numbers: Sequence[int] = (0, 1)

    def __init__(self, onset: Path, apex: Path) -> None:
        self._paths = (onset, apex)

    def read(self, number: int) -> np.ndarray:
        """Raises DataError."""
        return read_image(self._paths[number])

    def signature(self, number: int) -> list[int | str]:
        stat = self._paths[number].stat()
        return [str(self._paths[number]), stat.st_size, stat.st_mtime_ns]


def _number(text: str) -> int:
    """A frame number. Raises UsageError for one that no video has."""
    if len(text) > 9:
        raise UsageError(f"frame {text[:9]}... is beyond any video", do="give a frame of the clip")
    return int(text)


def inputs_of(
    paths: Sequence[Path], onsets: Sequence[str] = (), apexes: Sequence[str] = (), offset: int | None = None
) -> list[Input]:
    """What a command line names: ``paths``, and pairs of images, or frame numbers of the only path.

    onsets, apexes: all frame numbers (at most one each), or as many images each.  Raises UsageError for a mixture.
    """
    numbers = [text for text in (*onsets, *apexes) if text.isdecimal()]
    if numbers and len(numbers) != len(onsets) + len(apexes):
        raise UsageError(
            "--onset and --apex mix frame numbers and images", do="give two images, or numbers of one clip"
        )
    if numbers or offset is not None:
        if len(paths) != 1 or len(onsets) > 1 or len(apexes) > 1:
            raise UsageError("frame numbers belong to one clip", do="give one INPUT and each number once")
        onset, apex = (_number(given[0]) if given else None for given in (onsets, apexes))
        return [Input(paths[0], onset=onset, apex=apex, offset=offset)]
    if len(onsets) != len(apexes):
        raise UsageError(
            f"{len(onsets)} onset and {len(apexes)} apex images", do="give --onset A --apex B for each pair"
        )
    pairs = [Input(Path(a), Path(b), 0, 1, 1) for a, b in zip(onsets, apexes, strict=True)]
    if not paths and not pairs:
        raise UsageError("there is nothing to classify", do="name folders of frames or videos, or --onset A --apex B")
    return [*(Input(path) for path in paths), *pairs]
