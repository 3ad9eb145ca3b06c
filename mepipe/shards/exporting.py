"""Flow for other programs: Middlebury's .flo files, and 8-bit colour pictures to look at.

Layout   FOLDER/<corpus>/<subject>/<clip>.flo or .png, and FOLDER/index.csv with one row per file, written last
.flo     Baker et al. 2011, vision.middlebury.edu/flow: float32 202021.25, int32 width, int32 height, then u and v
         of each pixel, row by row, float32; all little-endian
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mepipe.errors import DataError
from mepipe.shards.content import flow_content
from mepipe.shards.read import Shards, open_shards
from mepipe.shards.sample import NUMBERS, TEXTS, PathLike
from mepipe.workspace import make_folder, safe_name, write_bytes, write_text

FLO_MAGIC = np.float32(202021.25)  # "PIEH" as bytes; also tells little-endian files from others
LIMIT_RANK = 95  # percentile of the clips' own limits: one clip that went wrong must not bleach all others
COLUMNS = tuple(name for name in (*TEXTS, *NUMBERS) if name != "key")


def flo_bytes(flow: np.ndarray) -> bytes:
    """``flow`` (2 or 3, H, W), u and v in px, as a .flo file; further channels are left out."""
    height, width = flow.shape[1:]
    pixels = np.stack([flow[0], flow[1]], axis=-1).astype("<f4")
    return FLO_MAGIC.astype("<f4").tobytes() + np.array([width, height], "<i4").tobytes() + pixels.tobytes()


def read_flo(path: PathLike) -> np.ndarray:
    """The flow of a .flo file, (2, H, W) float32: u, v in px. Raises DataError for another or a damaged file."""
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise DataError(f"cannot read {path} ({e.strerror})") from e
    if len(data) < 12 or np.frombuffer(data, "<f4", 1)[0] != FLO_MAGIC:
        raise DataError(f"{path} is no Middlebury .flo file", do="it must begin with the bytes PIEH")
    width, height = (int(n) for n in np.frombuffer(data, "<i4", 2, offset=4))
    if min(width, height) < 1 or len(data) != 12 + 8 * width * height:
        raise DataError(f"{path}: {len(data)} bytes are no flow of {width} x {height} px", do="copy it again")
    pixels = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)
    return pixels.transpose(2, 0, 1).astype(np.float32)


def export_flo(source: PathLike, folder: Path, corpora: Sequence[str] = ()) -> int:
    """Write u and v of all samples of ``source`` (or of ``corpora``) as .flo files. Returns their number.

    Raises DataError for normalised flow, which is not in px.
    """
    return _export(_in_px(source, corpora), folder, ".flo", flo_bytes)


def export_pictures(source: PathLike, folder: Path, corpora: Sequence[str] = ()) -> int:
    """Write the colour wheel picture of all samples of ``source`` (or of ``corpora``). Returns their number.

    One length in px is full colour in all of them, so that strong and weak expressions look different; it stands
    in index.csv and in legend.png.  8 bits are for the eye: train on the shards.
    """
    from mepipe.report import flow_legend

    shards = _in_px(source, corpora)
    limit = common_limit(shards)
    make_folder(folder)
    write_bytes(folder / "legend.png", flow_legend(limit))
    return _export(shards, folder, ".png", lambda flow: _picture(flow, limit), {"limit_px": f"{limit:.3f}"})


def common_limit(shards: Shards) -> float:
    """Length in px of full colour for all samples: the 95th percentile of what each alone would have."""
    from mepipe.report.colours import flow_limit

    return float(np.percentile([flow_limit(shards.flow(i)) for i in range(len(shards))], LIMIT_RANK))


def _picture(flow: np.ndarray, limit: float) -> bytes:
    import cv2

    from mepipe.report.colours import flow_picture

    ok, data = cv2.imencode(".png", flow_picture(flow, limit)[..., ::-1])
    assert ok, f"cannot encode a picture of shape {flow.shape}"
    return data.tobytes()


def _in_px(source: PathLike, corpora: Sequence[str]) -> Shards:
    shards = open_shards(source, list(corpora) or None, channels=3)  # neither format has a place for the strain
    for file in shards.files:
        content = flow_content(file.path, file.content)
        if content.normalised:
            what = f"{file.path} holds normalised values ({content}), not px"
            raise DataError(what, do="name other corpora, or use --format npz")
    return shards


def _export(
    shards: Shards,
    folder: Path,
    suffix: str,
    encode: Callable[[np.ndarray], bytes],
    facts: dict[str, str] | None = None,
) -> int:
    """One file per sample and the index. facts: further columns that are the same in every row."""
    facts = facts or {}
    rows: list[list[object]] = [["file", *COLUMNS, *facts]]
    for i, sample in enumerate(shards.samples):
        name = Path(safe_name(sample.corpus), safe_name(sample.subject), safe_name(sample.clip) + suffix)
        make_folder((folder / name).parent)
        write_bytes(folder / name, encode(shards.flow(i)))
        rows.append([name.as_posix(), *(getattr(sample, c) for c in COLUMNS), *facts.values()])
    shards.close()
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(folder / "index.csv", text.getvalue())
    return len(shards)
