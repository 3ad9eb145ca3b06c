"""A corpus's published counts beside those of its clips.csv."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mepipe.clipwork import Record
from mepipe.datasets.composite import Member, key, of_corpus
from mepipe.datasets.manifests import Count, published_counts


@dataclass(frozen=True)
class CountRow:
    """One published number and ours. part, where: what it is a count of, as counts.csv and as a reader has it.

    usable: of ours, those with crops; None where it has no meaning.
    """

    part: str
    where: str
    what: str
    published: int
    here: int
    usable: int | None
    source: str

    @property
    def same(self) -> bool:
        return self.published == self.here


def count_rows(corpus: str, records: Sequence[Record]) -> list[CountRow]:
    """Every published count that can be compared: whole corpus, splits, composites, the nearest edition of the sheet.

    A sheet's edition is not recorded in clips.csv; of several published ones the one with the fewest differences is
    shown, under its own name.
    """
    parts: dict[str, list[Count]] = {}
    for count in published_counts(corpus):
        parts.setdefault(count.part, []).append(count)
    composites = of_corpus(corpus)
    editions = [p for p in parts if p.isdigit()]
    nearest = min(editions, key=lambda p: sum(not r.same for r in _part(p, parts[p], records)), default=None)
    rows = []
    for part, counts in parts.items():
        if part in editions and part != nearest:
            continue
        if part in composites:
            rows += _composite(part, counts, composites[part], records)
        else:
            own = [r for r in records if r.split == part] if part and part not in editions else records
            rows += _part(part, counts, own)
    return rows


def _part(part: str, counts: Sequence[Count], records: Sequence[Record]) -> list[CountRow]:
    where = f"sheet of {part[:4]}" if part.isdigit() else part or "whole corpus"
    rows = []
    for c in counts:
        own = [r for r in records if not c.emotion or r.emotion == c.emotion]
        usable = sum(r.status != "refused" for r in own)
        rows.append(CountRow(part, where, c.emotion or "clips", c.clips, len(own), usable, c.source))
        if c.subjects is not None:
            rows.append(CountRow(part, where, "subjects", c.subjects, len({r.subject for r in own}), None, c.source))
    return rows


def _composite(
    name: str, counts: Sequence[Count], listed: Sequence[Member], records: Sequence[Record]
) -> list[CountRow]:
    """The clips that a composite's list names; its own labels count, not those of the sheet."""
    there = {key(r): r for r in records}
    members = [(m, there[key(m)]) for m in listed if key(m) in there]
    by_label = Counter(m.label3 for m, _ in members)
    where, rows = f"its part of {name}", []
    for c in counts:
        own = [r for m, r in members if not c.emotion or m.label3 == c.emotion]
        usable = sum(r.status != "refused" for r in own)
        here = by_label[c.emotion] if c.emotion else len(members)
        rows.append(CountRow(name, where, c.emotion or "clips", c.clips, here, usable, c.source))
        if c.subjects is not None:
            rows.append(
                CountRow(
                    name, f"its part of {name}", "subjects", c.subjects, len({r.subject for r in own}), None, c.source
                )
            )
    return rows
