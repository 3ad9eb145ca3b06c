"""Spotting: where in a long video a face shows micro-expressions, when nothing is labelled.

    spot(Path("long.avi"))                       intervals, suppressed candidates, blinks, curves
    SpotConfig(max_duration=0.5)                 its settings
    score(found, true)                           F1 by the MEGC rule, IoU >= 0.5, one to one
    open_source(path)                            a video or folder of frames, whoever can decode it

How it works and what it is worth: docs/spot.md.  With a run's classifier: ``mepipe_model.spotting``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Score": "scoring", "SpotConfig": "config", "Spotted": "run", "Spotting": "run", "Truth": "scoring",
    "open_source": "reading", "read_truth": "scoring", "score": "scoring", "spot": "run",
}  # fmt: skip
__all__ = ["Score", "SpotConfig", "Spotted", "Spotting", "Truth", "open_source", "read_truth", "score", "spot"]

if TYPE_CHECKING:
    from mepipe.spot.config import SpotConfig
    from mepipe.spot.reading import open_source
    from mepipe.spot.run import Spotted, Spotting, spot
    from mepipe.spot.scoring import Score, Truth, read_truth, score


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"mepipe.spot.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'mepipe.spot' has no attribute {name!r}")
