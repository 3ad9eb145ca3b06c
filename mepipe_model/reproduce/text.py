"""A table of the paper beside the user's runs, as text, Markdown, CSV and JSON.

Published figures stand in columns of that name and carry a mark where their epoch was chosen on the test subjects,
or where nobody says how; figures of ours that saw the test subjects appear under ``oracle (leaky)`` only.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mepipe_model.evaluate import LEAKY, SELECTION
from mepipe_model.reproduce.matching import Cell, Found
from mepipe_model.reproduce.tables import CHOICES, Published, published

if TYPE_CHECKING:
    from mepipe_model.reproduce.run import Reproduction

SOURCE = "MERba, arXiv 2506.14468v1"
PROTOCOL = {  # of the published columns, in the paper's words made short
    "loso": "published: LOSO, choice of epoch as marked",
    "holdout": "published: DFME training set -> test set, choice of epoch as marked",
}


@dataclass(frozen=True)
class Row:
    """One line of the laid-out table: a method on one part."""

    published: Published
    part: str
    ours: dict[str, Cell] | None
    leaky: dict[str, Cell] | None
    found: Found


def rows(r: Reproduction) -> Iterator[Row]:
    for p in published(r.table.name):
        if p.part not in r.table.parts:
            continue
        found = r.found.get(p.method, Found())
        yield Row(p, r.table.parts[p.part], found.cells.get(p.part), found.leaky.get(p.part), found)


def columns(r: Reproduction) -> tuple[str, str, str | None]:
    """What stands above the published figures, above ours, and above ours that saw the test subjects."""
    runs = [run for f in r.found.values() for run in f.runs]
    if not runs:
        return PROTOCOL[r.table.protocol], f"yours: {r.table.protocol}, no run yet", None
    kinds = ", ".join(sorted({SELECTION[run.settings.select].split(" (epoch")[0] for run in runs}))
    epochs = ", ".join(map(str, sorted({run.settings.epochs or 0 for run in runs})))
    seeds = ", ".join(map(str, sorted({run.settings.seed for run in runs})))
    ours = f"yours: {r.table.protocol}, {kinds}, {epochs} epochs, seed {seeds}"
    if r.base != "merba":
        ours += f", {r.base} in MERba's place"
    leaky = f"yours, {LEAKY}: best epoch on the test subject" if any(f.leaky for f in r.found.values()) else None
    return PROTOCOL[r.table.protocol], ours, leaky


def figure(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.mean:.4f}" if cell.sd is None else f"{cell.mean:.4f} ± {cell.sd:.4f}"


def cells(r: Reproduction, row: Row) -> list[str]:
    """Method, part, published figures and their mark, ours, and oracle's where there are any."""
    names = r.table.figures
    mark = CHOICES[row.published.choice][0]
    out = [row.published.method, row.part, *(f"{row.published.figures[f]:.4f}{mark}" for f in names)]
    out += [figure((row.ours or {}).get(f)) for f in names]
    if columns(r)[2]:
        out += [figure((row.leaky or {}).get(f)) for f in names]
    return out


def lines(r: Reproduction) -> list[str]:
    """The table and everything a reader must know, for a terminal."""
    names, groups = r.table.figures, [c for c in columns(r) if c]
    heads = [f"published, {r.table.protocol}", f"yours, {r.table.protocol}", LEAKY][: len(groups)]
    header = ["method", "part", *(names * len(groups))]
    table = [header, *(cells(r, row) for row in rows(r))]
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    for n, head in enumerate(heads):  # a group is as wide as what stands above it
        last = 1 + (n + 1) * len(names)
        widths[last] += max(0, len(head) - _width(widths, n, len(names)))
    above = [" " * (widths[0] + 2 + widths[1]), *(h.ljust(_width(widths, n, len(names))) for n, h in enumerate(heads))]
    out = [f"{r.table.title} ({SOURCE})", *(f"  {group}" for group in groups), "  " + "  ".join(above).rstrip()]
    for line, before in zip(table, [header, *table], strict=False):
        if line[1] != before[1]:
            out.append("")
        out.append("  " + "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip())
    return [*out, "", *legend(r), *remarks(r), *_files(r)]


def _width(widths: list[int], group: int, count: int) -> int:
    """Characters of a group of ``count`` columns, with the gaps between them."""
    first = 2 + group * count
    return sum(widths[first : first + count]) + 2 * (count - 1)


def legend(r: Reproduction) -> list[str]:
    used = {row.published.choice for row in rows(r)}
    return [f"  {mark} {words}" for choice, (mark, words) in CHOICES.items() if mark and choice in used]


def remarks(r: Reproduction) -> list[str]:
    """Notes on methods and runs, and the commands that fill what is empty."""
    out = [f"  {method}: {note}" for method, note in _method_notes(r).items()]
    for method, found in r.found.items():
        out += [f"  warning: {method}: {note}" for note in found.notes]
    out += [f"  failed: {method}: {reason}" for method, reason in r.failed.items()]
    out += [f"  not shown: {method}: {other}" for method, f in r.found.items() for other in f.others]
    out += [f"  note: {note}" for note in r.notes]
    if r.commands:
        out += ["", "Not filled, or not whole; these commands do it, or --train does all of them:"]
        out += [f"  {method:14} {command}" for method, command in r.commands.items()]
    return out


def _method_notes(r: Reproduction) -> dict[str, str]:
    return {row.published.method: row.published.note for row in rows(r) if row.published.note}


def _files(r: Reproduction) -> list[str]:
    return [f"  written     {path}" for path in r.files]


def markdown(r: Reproduction) -> str:
    """The table as a Markdown document."""
    names, groups = r.table.figures, [c for c in columns(r) if c]
    heads = [f"published, {r.table.protocol}:", f"yours, {r.table.protocol}:", f"{LEAKY}:"][: len(groups)]
    header = ["method", "part", *(f"{h} {n}" for h in heads for n in names)]
    out = [f"# {r.table.title}", "", f"Source of the published figures: {SOURCE}.", ""]
    out += [f"- {group}" for group in groups] + [""]
    out += [_bar(header), _bar(["---"] * len(header)), *(_bar(cells(r, row)) for row in rows(r)), ""]
    out += [f"- {line.strip()}" for line in [*legend(r), *remarks(r)] if line.strip()]
    return "\n".join(out) + "\n"


def _bar(values: list[str]) -> str:
    return "| " + " | ".join(values) + " |"


def table_csv(r: Reproduction) -> str:
    """One line per table, part, method and figure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "part", "method", "figure", "published", "published_choice", "yours", "yours_sd",
                     "yours_oracle_leaky", "published_protocol", "yours_protocol", "runs"])  # fmt: skip
    for row in rows(r):
        p, runs = row.published, " ".join(run.name for run in row.found.runs)
        for name in r.table.figures:
            ours = _numbers((row.ours or {}).get(name))
            leaky = _numbers((row.leaky or {}).get(name))
            start = [r.table.name, p.part, p.method, name, f"{p.figures[name]:.4f}", p.choice]
            writer.writerow([*start, *ours, leaky[0], *columns(r)[:2], runs])
    return out.getvalue()


def _numbers(cell: Cell | None) -> tuple[str, str]:
    """Mean and sd; "" for what there is none of."""
    if cell is None:
        return "", ""
    return f"{cell.mean:.6f}", "" if cell.sd is None else f"{cell.sd:.6f}"


def as_dict(r: Reproduction) -> dict[str, Any]:
    """Everything as JSON values."""
    heads = columns(r)
    return {
        "table": r.table.name,
        "title": r.table.title,
        "source": SOURCE,
        "base": r.base,
        "columns": {"published": heads[0], "yours": heads[1], **({LEAKY: heads[2]} if heads[2] else {})},
        "rows": [_row_dict(row) for row in rows(r)],
        "commands": dict(r.commands),
        "failed": dict(r.failed),
        "notes": list(r.notes),
        "files": [str(p) for p in r.files],
    }


def _row_dict(row: Row) -> dict[str, Any]:
    p = row.published
    about = {"figures": dict(p.figures), "choice": p.choice, "scored_by": p.scored_by, "note": p.note}
    out: dict[str, Any] = {"method": p.method, "part": p.part, "published": about}
    out["yours"] = None
    if row.ours:
        settings = [run.settings for run in row.found.runs]
        out["yours"] = {
            "figures": {name: asdict(cell) for name, cell in row.ours.items()},
            "runs": [run.name for run in row.found.runs],
            "selection": SELECTION[settings[0].select],
            "seeds": [s.seed for s in settings],
            "warnings": row.found.notes,
        }
    if row.leaky:
        out[LEAKY] = {"figures": {name: asdict(cell) for name, cell in row.leaky.items()}}
    return out
