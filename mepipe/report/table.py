"""WORKSPACE/tables/<table>.html: a table of the paper beside what the runs of this workspace gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mepipe.report.html import write_page
from mepipe.workspace import Workspace

if TYPE_CHECKING:
    from mepipe_model.reproduce import Reproduction


@dataclass(frozen=True)
class Line:
    """A method on one part. published, ours, leaky: figure -> text; difference: ours minus published, as text."""

    method: str
    part: str
    mark: str
    note: str
    published: Mapping[str, str]
    ours: Mapping[str, str]
    difference: Mapping[str, str]
    leaky: Mapping[str, str]
    runs: Sequence[str]


def report_table(ws: Workspace, table: str, **options: Any) -> Path:
    """Write the page of a table of the paper.

    Without a run the page shows the published figures and the commands that fill the table.

    Parameters
    ----------
    ws
        The workspace.
    table
        "table4" to "table7".
    **options
        Of ``mepipe_model.reproduce.reproduce``.

    Returns
    -------
    Path
        WORKSPACE/tables/<table>.html.

    Raises
    ------
    UsageError
        As ``reproduce``.
    """
    from mepipe_model.reproduce import reproduce

    return table_page(ws, reproduce(ws, table, **options))


def table_page(ws: Workspace, result: Reproduction) -> Path:
    """The page of a table that is laid out already."""
    from mepipe_model.reproduce import text

    published, ours, leaky = text.columns(result)
    return write_page(
        ws.root / "tables" / f"{result.table.name}.html",
        "table.html",
        title=result.table.title,
        source=text.SOURCE,
        figures=result.table.figures,
        columns=(published, ours, leaky),
        lines=lines(result),
        legend=[line.strip() for line in text.legend(result)],
        remarks=[line.strip() for line in text.remarks(result) if line.startswith("  ") and line.strip()
                 and not _is_command(line, result)],
        commands=dict(result.commands),
    )  # fmt: skip


def _is_command(line: str, result: Reproduction) -> bool:
    return any(line.endswith(command) for command in result.commands.values())


def lines(result: Reproduction) -> list[Line]:
    """The rows of the table, in the paper's order."""
    from mepipe_model.reproduce import text
    from mepipe_model.reproduce.tables import CHOICES

    out = []
    for row in text.rows(result):
        names, ours, leaky = result.table.figures, row.ours or {}, row.leaky or {}
        there = [n for n in names if n in row.published.figures]
        out.append(
            Line(
                method=row.published.method,
                part=row.part,
                mark=CHOICES[row.published.choice][0],
                note=row.published.note,
                published={n: f"{row.published.figures[n]:.4f}" for n in there},
                ours={n: text.figure(ours.get(n)) for n in names},
                difference={n: f"{ours[n].mean - row.published.figures[n]:+.4f}" for n in there if n in ours},
                leaky={n: text.figure(leaky.get(n)) for n in names},
                runs=[run.name for run in row.found.runs],
            )
        )
    return out
