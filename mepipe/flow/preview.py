"""Pictures of some clips' flow, so that a person sees whether motion sits on brows and mouth or on the border."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mepipe.frames import read_image
from mepipe.report.compositions import FlowClip, overview_picture
from mepipe.shards import Shards, open_shards
from mepipe.workspace import Workspace, make_folder, safe_name, write_bytes

FOLDER = "preview"


def write_previews(ws: Workspace, corpus: str, count: int) -> list[Path]:
    """Draw ``count`` clips of ``corpus`` (all, if there are fewer) into WORKSPACE/flow/preview/ and return the files.

    One PNG per clip: onset, apex, flow in the colours of the wheel, as arrows, and its magnitude, each with its
    legend in px.  The clips are evenly spaced in the order of clips.csv: always the same, and nobody's choice.
    Raises DataError when the corpus has no flow or a crop is gone.
    """
    folder = make_folder(ws.flow / FOLDER)
    with contextlib.closing(open_shards(ws.flow, [corpus], channels=3)) as shards:
        return [_draw(ws, folder, shards, i) for i in spread(len(shards), count)]


def spread(total: int, count: int) -> list[int]:
    """``count`` different positions in range(``total``), evenly spaced, each in the middle of its share."""
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def _draw(ws: Workspace, folder: Path, shards: Shards, index: int) -> Path:
    flow, sample = shards[index]
    crops = ws.prepared(sample.corpus) / safe_name(sample.subject) / safe_name(sample.clip)
    onset, apex = (read_image(crops / f"{number}.png") for number in (sample.onset, sample.apex))
    clip = FlowClip(onset, apex, flow, f"{sample.subject}/{sample.clip}")
    path = folder / ("-".join(map(safe_name, (sample.corpus, sample.subject, sample.clip))) + ".png")
    write_bytes(path, overview_picture([clip], arrows=True))
    return path
