"""What a page holds of one clip: its crops, its flow, landmarks, face box and apex curve, small enough for thousands.

Everything is read from what ``prepare`` and ``flow`` left in the workspace; what is gone becomes a note.  Crops and
flow colours are WebP (half the size of JPEG at equal quality; every browser since 2020 shows it), arrows are bytes,
and the page draws them when a clip is opened.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mepipe.clipfiles import SOURCE
from mepipe.errors import DataError
from mepipe.progress import Progress
from mepipe.report.clipfacts import curve_view, image_at, place, read_facts
from mepipe.report.colours import flow_limit, flow_picture, magnitude
from mepipe.report.lengths import STEP, arrow_cells, magnification, nice, px
from mepipe.settings import cores
from mepipe.workspace import Workspace, safe_name

if TYPE_CHECKING:
    from mepipe.shards import Shards

BUDGET = 44e6  # bytes of all clips in a page: with rows and figures it stays under 60 MB
SIDES = ((224, 80), (192, 75), (160, 70), (128, 65), (96, 60), (64, 50))  # px of a picture, WebP quality
TRIED = 12  # clips packed to choose among SIDES
FINENESS = 40  # steps of an arrow's length per limit: one byte then reaches three limits
UNKNOWN = -128  # an arrow whose flow is not finite
BORDER = 8  # px along the crop's edge that count as border


@dataclass(frozen=True)
class Source:
    """A clip to pack. curve: the spotter whose curve is drawn; None for none. spotted: whether it chose the apex."""

    corpus: str
    subject: str
    clip: str
    onset: int | None
    apex: int | None
    curve: str | None = None
    spotted: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        return self.corpus, self.subject, self.clip


@dataclass(frozen=True)
class Measures:
    """What the flow and the transform say of a clip, in px of the 224 x 224 crop.

    length: 99.5th percentile of the flow's length.  head: length of the median of (u, v), how far the whole face
    went.  border, inner: 95th percentile of the length along the edge, 99.5th inside.  scale: crop px per source px.
    """

    length: float | None = None
    head: float | None = None
    border: float | None = None
    inner: float | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Packed:
    """A clip as the page's script reads it (JSON values), what was measured on the way, and what is missing."""

    view: dict[str, Any] = field(default_factory=dict)
    measures: Measures = Measures()
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return len(json.dumps(self.view))


class Packer:
    """Packs clips of one workspace, their pictures ``side`` px wide."""

    def __init__(self, root: Path, corpora: Sequence[str], side: int, quality: int) -> None:
        self.ws, self.side, self.quality = Workspace(root), side, quality
        self.shards, self.problem = open_flow(self.ws, corpora)
        samples = self.shards.samples if self.shards else []
        self._places = {(s.corpus, s.subject, s.clip): i for i, s in enumerate(samples)}

    def close(self) -> None:
        if self.shards:
            self.shards.close()

    def pack(self, source: Source) -> Packed:
        """What is there of one clip. Thread-safe."""
        notes: list[str] = []
        view: dict[str, Any] = {"name": f"{source.corpus} {source.subject}/{source.clip}"}
        if source.onset is None or source.apex is None:
            return Packed(view)
        view |= {"frames": [source.onset, source.apex]}
        scale = None
        with _noted(notes, "no crops"):
            folder = self.ws.prepared(source.corpus) / safe_name(source.subject) / safe_name(source.clip)
            for name, number in (("onset", source.onset), ("apex", source.apex)):
                with _noted(notes, f"no {name} crop"):
                    view[name] = self._image(_crop(folder, number))
            facts = read_facts(folder, notes)
            placed, scale = place(facts, notes)
            view |= placed | self._source(folder, facts, notes)
            view |= curve_view(folder, facts, source.onset, source.curve, source.spotted, notes) if source.curve else {}
        flow = self._flow(source, notes)
        if flow is None:
            return Packed(view, Measures(scale=scale), tuple(notes))
        return Packed(view | self._drawn(flow), measured(flow, scale), tuple(notes))

    def _source(self, folder: Path, facts: dict[str, Any], notes: list[str]) -> dict[str, Any]:
        """The onset frame as it was, and its size; {} where prepare has kept none."""
        try:
            if SOURCE not in facts.get("files", ()):
                return {}
            width, height = map(int, facts["size"])
            return {"source": self._image(image_at(folder / SOURCE)), "size": [width, height]}
        except (DataError, KeyError, TypeError, ValueError) as e:
            notes.append(f"no source frame: {e}")
            return {}

    def _image(self, image: np.ndarray) -> str:
        """A picture, (H, W[, 3]) uint8 BGR, as a data URI, its longer side of the packer's size."""
        import cv2

        height, width = image.shape[:2]
        if max(height, width) != self.side:
            size = tuple(max(1, round(n * self.side / max(height, width))) for n in (width, height))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        ok, data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, self.quality])
        assert ok, f"cannot encode an image of shape {image.shape}, {image.dtype}"
        return f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode()}"

    def _flow(self, source: Source, notes: list[str]) -> np.ndarray | None:
        """(2 or 3, 224, 224) float32 px; None with a note where there is none."""
        at = self._places.get(source.key)
        if self.shards is None or at is None:
            notes.append(self.problem or "no flow: the clip is not in the shards")
            return None
        if self.shards.flow_content.normalised:
            notes.append("no flow pictures: the arrays were imported, normalised, and are not px")
            return None
        with _noted(notes, "no flow"):
            return self.shards.flow(at)
        return None

    def _drawn(self, flow: np.ndarray) -> dict[str, Any]:
        """Colours of the wheel and arrows as bytes, with the length in px that they stand for."""
        limit = flow_limit(flow)
        u, v = arrow_cells(flow)
        known = np.isfinite(u) & np.isfinite(v)
        steps = np.clip(np.rint(np.where(known, [u, v], 0) * FINENESS / limit), -127, 127)
        steps = np.where(known, steps, UNKNOWN).astype(np.int8)
        return {
            "flow": self._image(np.ascontiguousarray(flow_picture(flow, limit)[..., ::-1])),
            "limit": px(limit),
            "arrows": base64.b64encode(steps.tobytes()).decode(),
            "step": STEP,
            "unit": limit / FINENESS,
            "times": magnification(limit),
            "key": px(nice(limit)),
        }


def measured(flow: np.ndarray, scale: float | None = None) -> Measures:
    """The measures of ``flow`` (2 or 3, H, W) px; values that are not finite count as no motion."""
    flow = np.nan_to_num(flow[:2], nan=0.0, posinf=0.0, neginf=0.0)
    length = magnitude(flow)
    inner = length[BORDER:-BORDER, BORDER:-BORDER]
    edge = np.ones(length.shape, bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    return Measures(
        length=float(np.percentile(length, 99.5)),
        head=float(np.hypot(*np.median(flow.reshape(2, -1), axis=1))),
        border=float(np.percentile(length[edge], 95)),
        inner=float(np.percentile(inner, 99.5)),
        scale=scale,
    )


def open_flow(ws: Workspace, corpora: Sequence[str]) -> tuple[Shards | None, str]:
    """The shards of ``corpora``, or why there are none to read."""
    from mepipe.shards import list_shards, open_shards

    if not list_shards(ws.flow, corpora):
        return None, f"the flow shards of {', '.join(corpora)} are not in the workspace"
    try:
        return open_shards(ws.flow, corpora, channels=3), ""
    except DataError as e:
        return None, f"no flow: {e}"


@contextlib.contextmanager
def _noted(notes: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except DataError as e:
        notes.append(f"{what}: {e}")


def _crop(folder: Path, number: int) -> np.ndarray:
    """A stored crop as it lies there, (H, W[, 3]) uint8. Raises DataError."""
    path = folder / f"{number}.png"
    if not path.is_file():
        raise DataError(f"{folder.parent.name}/{folder.name}/{path.name} is not there any more")
    return image_at(path)


# --- many clips ------------------------------------------------------------------------------------


def pack_clips(
    ws: Workspace, sources: Sequence[Source], progress: Progress | None = None, budget: float = BUDGET
) -> list[Packed]:
    """All ``sources`` packed, in order, at the largest of SIDES that keeps them within ``budget`` bytes together.

    One thread per core: OpenCV and numpy work outside Python's lock.  progress(done, total) is called after each clip.
    """
    if not sources:
        return []
    corpora = sorted({s.corpus for s in sources})
    side, quality = chosen_side(ws, sources, corpora, budget)
    packer, out = Packer(ws.root, corpora, side, quality), []
    with contextlib.closing(packer), ThreadPoolExecutor(cores(), "pack") as pool:
        for packed in pool.map(packer.pack, sources):
            out.append(packed)
            if progress:
                progress(len(out), len(sources))
    return out


def chosen_side(ws: Workspace, sources: Sequence[Source], corpora: Sequence[str], budget: float) -> tuple[int, int]:
    """The largest of SIDES at which ``sources`` fit into ``budget``, by the mean of a dozen of them, evenly spaced."""
    there = [s for s in sources if s.apex is not None]
    few = [there[i * len(there) // TRIED] for i in range(TRIED)] if len(there) > TRIED else there
    few = [replace(s, curve=None) for s in few]  # a kilobyte at most, and the slowest part
    for side, quality in SIDES:
        packer = Packer(ws.root, corpora, side, quality)
        with contextlib.closing(packer):
            mean = sum(packer.pack(s).bytes for s in few) / max(len(few), 1)
        if mean * len(sources) <= budget:
            break
    return side, quality
