"""The tables of ``data_manifests`` as the corpora use them: label sets, known corrections, published counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import data_manifests


@cache
def label_table(corpus: str) -> dict[str, dict[str, str]]:
    """Emotion word -> row of labels.csv (``label3``, ``label5``, ``label7``, ``source``), for one corpus."""
    return {r["emotion"]: r for r in data_manifests.rows("labels") if r["corpus"] == corpus}


@cache
def corrections(corpus: str) -> dict[tuple[str, str], list[dict[str, str]]]:
    """(subject, clip) -> rows of corrections.csv, for one corpus."""
    table: dict[tuple[str, str], list[dict[str, str]]] = {}
    for r in data_manifests.rows("corrections"):
        if r["corpus"] == corpus:
            table.setdefault((r["subject"], r["clip"]), []).append(r)
    return table


@dataclass(frozen=True)
class Count:
    """A published number: of ``clips`` (and ``subjects``, where stated) with ``emotion`` in ``part``.

    part: "" for the whole corpus, a split (``train``), a composite (``3db``), or an edition of the sheet, as
    its file name spells it (``20140508``).  emotion: "" for all.
    """

    part: str
    emotion: str
    clips: int
    subjects: int | None
    source: str


@cache
def published_counts(corpus: str) -> tuple[Count, ...]:
    """The rows of counts.csv for one corpus; empty for a corpus that is not in it."""
    return tuple(
        Count(r["part"], r["emotion"], int(r["clips"]), int(r["subjects"]) if r["subjects"] else None, r["source"])
        for r in data_manifests.rows("counts")
        if r["corpus"] == corpus
    )
