"""Finding the apex of a clip whose annotation has none, on its aligned frames.

    apex.spot(crops)                          index of the apex, 1 <= index <= N-1
    apex.spot(crops, "upc")                   by another of apex.SPOTTERS
    apex.curve(crops)                         what the spotter saw, one value per frame
    apex.look(crops)                          both at once
    apex.evaluate.evaluate_corpus(...)        how far each spotter is from annotated apexes

crops: grey (N, 224, 224) uint8 of one clip, crop 0 the onset, crop N-1 the offset.  Methods, sources and
measured errors: docs/apex.md.  A new method is a function in a module of its own, see base.py.
"""

from __future__ import annotations

from mepipe.apex import divide, flows, frequency, residual, simple, upc
from mepipe.apex.base import DEFAULT, METHOD_VERSION, SPOTTERS, Curve, Spotter, curve, look, spot, spotter

__all__ = [
    "DEFAULT", "METHOD_VERSION", "SPOTTERS", "Curve", "Spotter", "curve", "divide", "flows", "frequency", "look",
    "residual", "simple", "spot", "spotter", "upc",
]  # fmt: skip
