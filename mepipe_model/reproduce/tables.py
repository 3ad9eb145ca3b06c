"""The paper's tables: published figures (data_manifests/published.csv) and the training that fills each row here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import data_manifests
from mepipe.errors import DataError, UsageError
from mepipe.registry import Registry
from mepipe.settings import TrainConfig

FIGURES = ("UF1", "UAR", "ACC")
CHOICES = {  # of published_methods.csv: what stands behind a published figure, and what it says
    "test": ("!", "the epoch was chosen on the test subjects, as the source's public code shows: not a fair score"),
    "unstated": ("?", "how the epoch was chosen is not stated"),
    "last": ("", "last epoch"),
    "none": ("", "no epochs to choose from"),
}


@dataclass(frozen=True)
class Ours:
    """How a row is trained here; what is not said is the model's recipe."""

    model: str = "merba"
    head: str | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A published row of one part. figures: only those the paper reports. choice: a key of CHOICES."""

    part: str
    method: str
    figures: Mapping[str, float]
    scored_by: str
    choice: str
    note: str


@dataclass(frozen=True)
class Table:
    """A table of the paper: its protocol, and method -> training for the rows that can be filled here.

    parts: name in published.csv -> how it is shown.
    """

    name: str
    title: str
    protocol: str
    data: tuple[str, ...]
    classes: int
    parts: Mapping[str, str]
    ours: Mapping[str, Ours] = field(default_factory=dict)

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(f for f in FIGURES if any(f in row.figures for row in published(self.name)))

    def config(self, method: str, base: str, options: Mapping[str, Any]) -> TrainConfig:
        """The settings that fill ``method``. base: the model in MERba's place.  options: of TrainConfig."""
        ours = self.ours[method]
        return TrainConfig(
            protocol=self.protocol,
            data=self.data,
            classes=self.classes,
            model=base if ours.model == "merba" else ours.model,
            head=ours.head,
            options=ours.options,
            **options,
        )

    def only(self, methods: Sequence[str]) -> Table:
        """The table with these rows alone. Raises UsageError for a method it has not."""
        known = list(dict.fromkeys(row.method for row in published(self.name)))
        for method in methods:
            if method not in known:
                raise UsageError(f"--only: {self.name} has no row {method!r}", do=f"valid: {', '.join(known)}")
        if not methods:
            return self
        return replace(self, ours={m: o for m, o in self.ours.items() if m in methods})


TEST_B = {"testB": "Test B"}
TABLES: Registry[Table] = Registry("table")
for _table in (
    Table(
        "table4", "Table IV: DFME-public, seven classes", "holdout", ("dfme",), 7,
        {"testA": "Test A", **TEST_B},
        {"HTNet": Ours("htnet"), "MambaVision-B": Ours("mambavision_b"), "MERba-base": Ours(),
         "MERba-DGCM": Ours(head="dgcm")},
    ),
    Table(
        "table5", "Table V: 3DB-Combined, three classes", "loso", ("3db",), 3,
        {"combined": "Combined", "smic-hs": "SMIC-HS", "casme2": "CASME II", "samm": "SAMM"},
        {"LBP-TOP": Ours("lbp_top"), "Bi-WOOF": Ours("bi_woof"), "STSTNet": Ours("ststnet"), "HTNet": Ours("htnet"),
         "MambaVision-B": Ours("mambavision_b"), "MERba": Ours()},
    ),
    # the last rows of VI and VII are MERba-DGCM of table IV: both ablations have the two heads
    Table(
        "table6", "Table VI: extractor / self-attention, DFME-public", "holdout", ("dfme",), 7, TEST_B,
        {v: Ours(head="dgcm", options=() if v == "local/global" else (f"variant={v}",))
         for v in ("local/local", "global/global", "local/global")},
    ),
    Table(
        "table7", "Table VII: scanning directions, DFME-public", "holdout", ("dfme",), 7, TEST_B,
        {s: Ours(head="dgcm", options=() if s == "a+b+c+d" else (f"scans={s}",))
         for s in ("a", "a+b", "c+d", "a+a_bi+b+b_bi", "a+a_sy+b+b_sy", "a+b+c+d")},
    ),
):  # fmt: skip
    TABLES.register(_table.name)(_table)


@cache
def published(table: str) -> tuple[Published, ...]:
    """The published rows of a table, in the paper's order. Raises DataError for a row without its method's facts."""
    methods = {(m["table"], m["method"]): m for m in data_manifests.rows("published_methods")}
    rows = []
    for row in data_manifests.rows("published"):
        if row["table"] != table:
            continue
        if (about := methods.get((table, row["method"]))) is None or about["choice"] not in CHOICES:
            raise DataError(f"published_methods.csv does not say how {table} {row['method']} was evaluated")
        figures = {f: float(row[f]) for f in FIGURES if row[f]}
        rows.append(
            Published(row["part"], row["method"], figures, about["scored_by"], about["choice"], about["note"] or "")
        )
    return tuple(rows)
