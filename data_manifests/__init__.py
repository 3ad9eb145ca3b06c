"""What the corpora should hold, as tables: expected counts, label maps, known corrections.

Found through ``importlib.resources`` from a checkout and from an installed wheel alike.
"""

from __future__ import annotations

import csv
from importlib import resources


def rows(table: str) -> list[dict[str, str]]:
    """The rows of ``<table>.csv`` as dictionaries; lines that begin with # are comments."""
    text = resources.files(__name__).joinpath(f"{table}.csv").read_text("utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if line and not line.startswith("#")))
