"""The folder of a prepared clip: its crops, clip.json with how they were made, and the onset frame as it was, small.

Crops    <frame>.png, or .jpg where a quality was asked for and the frame is not needed for flow
RECORD   key, row, transform, landmarks, and what the apex spotter saw; the checksums of the other files
SOURCE   for people alone: what the detector saw and where the crop was taken.  It has no number, so it is no frame
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mepipe.errors import DataError, MepipeError
from mepipe.limits import IMAGE_BYTES, read_file, read_json
from mepipe.workspace import fsync, make_folder, replace_folder, temp_beside, write_failed

RECORD = "clip.json"  # beside the crops; its key says from what they were made
SOURCE = "source.jpg"
SOURCE_SIDE = 320  # px of its longer side: about twice what a page shows
SOURCE_QUALITY = 85  # 10 to 20 KB, a tenth of a crop
PNG_STRATEGY = 3  # cv2.IMWRITE_PNG_STRATEGY_RLE: as small as level 6 on aligned crops in a quarter of its time


def up_to_date(target: Path, key: str) -> dict[str, Any] | None:
    """The record of crops made from the same inputs and settings, when every file is there."""
    try:
        saved = read_json(target / RECORD) or {}
        checksums = saved.get("crc32") or [None] * len(saved["files"])  # younger than some crops
        whole = (_is_whole(target / Path(n).name, c) for n, c in zip(saved["files"], checksums, strict=True))
        if saved["record"]["key"] != key or not all(whole):
            return None
        return {name: value for name, value in saved["record"].items() if name != "reused"}
    except (OSError, DataError, ValueError, KeyError, TypeError, AttributeError):
        return None  # absent or of an older layout: it is made again


def _is_whole(path: Path, checksum: int | None) -> bool:
    """Whether the crop is there, with the bytes it was written with as far as their checksum is known."""
    return path.is_file() and (checksum is None or zlib.crc32(read_file(path, IMAGE_BYTES)) == checksum)


def write_clip(
    target: Path,
    crops: Mapping[int, np.ndarray],
    facts: Mapping[str, Any],
    onset: np.ndarray,
    lossy: Container[int],
    quality: int | None,
) -> None:
    """Put crops, the small ``onset`` frame and ``facts`` where they belong, all at once.

    Frames of ``lossy`` become JPEG of ``quality``, all others PNG.  Raises MepipeError when the disk refuses.
    """
    temp = temp_beside(target)
    try:
        make_folder(temp)
        names = [write_image(temp, n, image, quality if n in lossy else None) for n, image in crops.items()]
        names.append(write_source(temp, onset))
        about = {
            **facts,
            "size": [onset.shape[1], onset.shape[0]],
            "files": names,
            "crc32": [zlib.crc32((temp / name).read_bytes()) for name in names],
        }
        (temp / RECORD).write_text(json.dumps(about), "utf-8")
        replace_folder(temp, target)
        fsync(target.parent)
    except OSError as e:
        raise write_failed(target, e) from e
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def write_image(folder: Path, number: int, image: np.ndarray, quality: int | None) -> str:
    """Write a crop as <number>.png, or .jpg of ``quality`` without chroma subsampling. Returns the file's name.

    Three equal channels, as of a grey camera, are stored as one: a third of the size, and read back the same.
    """
    import cv2

    if quality is None:
        return _encoded(folder / f"{number}.png", _plain(image), [cv2.IMWRITE_PNG_COMPRESSION, 1,
                                                                  cv2.IMWRITE_PNG_STRATEGY, PNG_STRATEGY])  # fmt: skip
    full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encoded(folder / f"{number}.jpg", _plain(image), [cv2.IMWRITE_JPEG_QUALITY, quality, *full_chroma])


def write_source(folder: Path, image: np.ndarray) -> str:
    """Write the onset frame, (H, W[, 3]) uint8 BGR, no side of it above SOURCE_SIDE px. Returns the file's name."""
    import cv2

    factor = SOURCE_SIDE / max(image.shape[:2])
    if factor < 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return _encoded(folder / SOURCE, _plain(image), [cv2.IMWRITE_JPEG_QUALITY, SOURCE_QUALITY])


def _plain(image: np.ndarray) -> np.ndarray:
    """One channel of three equal ones."""
    grey = image.ndim == 3 and (image == image[..., :1]).all()
    return np.ascontiguousarray(image[..., 0]) if grey else image


def _encoded(path: Path, image: np.ndarray, how: list[int]) -> str:
    import cv2

    ok, data = cv2.imencode(path.suffix, image, how)
    if not ok:
        raise MepipeError(f"OpenCV could not encode {path.name}")
    path.write_bytes(data.tobytes())
    return path.name
