"""Composite databases: clips of several corpora by a published list, exact to the clip.

Membership and labels come from the list alone (``data_manifests/megc2019_3db.csv``), never from the user's
annotation: editions differ in three labels, and public copies of the list in up to seven clips.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import data_manifests
from mepipe.datasets.folders import loose
from mepipe.errors import DataError
from mepipe.registry import Registry


class Identified(Protocol):
    """What has a corpus, a subject and a clip: a Member, a Sample of a shard, a row of clips.csv."""

    @property
    def corpus(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def clip(self) -> str: ...


@dataclass(frozen=True)
class Member:
    """One clip of a composite, in its corpus's own spelling. label3: negative, positive or surprise."""

    corpus: str
    subject: str
    clip: str
    label3: str

    def __str__(self) -> str:
        return f"{self.corpus} {self.subject}/{self.clip}"


@dataclass(frozen=True)
class Composite:
    """A published composite and what its publication says about it.

    labels: label3 -> clips.  corpora: corpus -> (clips, subjects).
    """

    name: str
    title: str
    table: str  # in data_manifests
    labels: Mapping[str, int]
    corpora: Mapping[str, tuple[int, int]]
    source: str

    @property
    def clips(self) -> int:
        return sum(self.labels.values())

    @property
    def subjects(self) -> int:
        return sum(subjects for _, subjects in self.corpora.values())


COMPOSITES: Registry[Composite] = Registry("composite")
COMPOSITES.register("3db")(
    Composite(
        name="3db",
        title="3DB-Combined of MEGC2019",
        table="megc2019_3db",
        labels={"negative": 250, "positive": 109, "surprise": 83},
        corpora={"casme2": (145, 24), "samm": (133, 28), "smic-hs": (164, 16)},
        source="MEGC2019 recognition challenge, table 1; MERba, table III",
    )
)


@cache
def members(name: str = "3db") -> tuple[Member, ...]:
    """The clips of a composite in the order of its list. Raises UsageError for an unknown composite."""
    rows = data_manifests.rows(COMPOSITES.get(name).table)
    return tuple(Member(r["corpus"], r["subject"], r["clip"], r["label3"]) for r in rows)


def check_manifest(name: str = "3db") -> None:
    """Compare our list with the published counts: of clips, labels, corpora and subjects, and no double.

    Raises DataError that names every number that differs: the installed list was changed.
    """
    composite, listed = COMPOSITES.get(name), members(name)
    subjects = {c: len({m.subject for m in listed if m.corpus == c}) for c in composite.corpora}
    numbers = {
        "clips": (len(listed), composite.clips),
        "different clips": (len({key(m) for m in listed}), composite.clips),
        "corpora": (dict(Counter(m.corpus for m in listed)), {c: n for c, (n, _) in composite.corpora.items()}),
        "labels": (dict(Counter(m.label3 for m in listed)), dict(composite.labels)),
        "subjects": (subjects, {c: n for c, (_, n) in composite.corpora.items()}),
    }
    wrong = [f"{what} {ours}, published {theirs}" for what, (ours, theirs) in numbers.items() if ours != theirs]
    if wrong:
        raise DataError(f"the list of {name} ({composite.table}.csv) is not the published one: {'; '.join(wrong)}",
                        do="install mepipe again")  # fmt: skip


def key(sample: Identified) -> tuple[str, str, str]:
    """What identifies a clip whatever the spelling: ``sub01``, ``01`` and ``1``, ``s01_ne_01`` and ``s1_ne_1``."""
    subject = re.sub(r"^[a-z]+(?=\d)", "", loose(sample.subject))
    return sample.corpus, loose(subject), loose(sample.clip)


@dataclass(frozen=True)
class Selection:
    """The samples that are members of a composite.

    indices: into the samples given, in the order of the list; labels: label3 of each, by the list;
    missing: the members that no sample is.
    """

    composite: Composite
    indices: tuple[int, ...]
    labels: tuple[str, ...]
    missing: tuple[Member, ...]

    def lines(self, most: int = 20) -> list[str]:
        """``3db: 441 of 442 clips``, then the missing ones by name (``most`` of them)."""
        have, total = len(self.indices), self.composite.clips
        lines = [f"{self.composite.name}: {have} of {total} clips" if self.missing else
                 f"{self.composite.name}: all {total} clips"]  # fmt: skip
        lines += [f"  missing {m} ({m.label3})" for m in self.missing[:most]]
        if len(self.missing) > most:
            lines.append(f"  missing ... and {len(self.missing) - most} more")
        return lines


def select(name: str, samples: Sequence[Identified]) -> Selection:
    """Which of ``samples`` are members of the composite ``name``, with the list's labels.

    Parameters
    ----------
    name
        "3db".
    samples
        Anything with ``corpus``, ``subject`` and ``clip``, in any padding.

    Returns
    -------
    Selection
        Indices into ``samples``, their labels, and the members that no sample is.

    Raises
    ------
    UsageError
        No composite has that name.
    DataError
        Two samples are the same member.
    """
    places: dict[tuple[str, str, str], int] = {}
    wanted = {key(m) for m in members(name)}
    for i, sample in enumerate(samples):
        k = key(sample)
        if k in wanted and k in places:
            raise DataError(f"{sample.corpus} {sample.subject}/{sample.clip} is there twice", do=_again(sample.corpus))
        places[k] = i
    found = [(places[key(m)], m) for m in members(name) if key(m) in places]
    missing = tuple(m for m in members(name) if key(m) not in places)
    return Selection(COMPOSITES.get(name), tuple(i for i, _ in found), tuple(m.label3 for _, m in found), missing)


def _again(corpus: str) -> str:
    return f"remove the shards of {corpus} and run mepipe flow {corpus} again"


def of_corpus(corpus: str) -> dict[str, list[Member]]:
    """Composite -> its members of ``corpus``, for the composites that take clips from it."""
    parts: Iterable[tuple[str, list[Member]]] = (
        (name, [m for m in members(name) if m.corpus == corpus]) for name in COMPOSITES
    )
    return {name: part for name, part in parts if part}
