"""Where the randomness of a made-up corpus comes from: one independent stream per thing that is drawn."""

from __future__ import annotations

import zlib

import numpy as np


def stream(*keys: int | str) -> np.random.Generator:
    """The random stream of ``keys``: the same keys give the same numbers in any order of the work."""
    return np.random.default_rng([zlib.crc32(k.encode()) if isinstance(k, str) else k for k in keys])
