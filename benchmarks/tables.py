"""Write benchmarks/README.md: for each benchmark its command, what it shows, and its last results.

    python benchmarks/tables.py [--check]

The text of a section is the docstring of the script, its tables are benchmarks/results/<script>.json: nothing is typed
in twice.  --check writes nothing and exits 1 when README.md is not what the results say.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE / "README.md"
COMMAND = "    python benchmarks/"  # how a docstring gives a command
DIGITS = 3  # significant ones in a table; the JSON files have all

HEAD = """# Benchmarks

Every figure that mepipe claims is made by one of these scripts. Each prints its table and writes
`results/<script>.json` with the machine and versions; this page is made from those files by
`python benchmarks/tables.py`. Times are comparable within a table only: machines differ, and other work on one slows
some methods more than others. Run them on a quiet machine, from the root of the repository, with
`pip install -e .[test]`.
"""


@dataclass(frozen=True)
class Benchmark:
    """A script, or a result without one.  about: its docstring's paragraphs; result: what its JSON holds, if any."""

    name: str
    commands: list[str]
    about: list[str]
    needs_gpu: bool
    result: dict[str, Any] | None

    @property
    def title(self) -> str:
        return self.about[0] if self.about else "Figures of a longer run; the page in docs/ that quotes them says how."


def benchmarks(folder: Path = HERE) -> list[Benchmark]:
    """All scripts of ``folder`` whose docstring gives a command, but this one, and results without a script."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))}
    found = []
    for path in sorted(folder.glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        if COMMAND in text and path.stem != Path(__file__).stem:
            found.append(_of_script(path, text, results.pop(path.stem, None)))
    return found + [Benchmark(name, [], [], False, result) for name, result in results.items()]


def _of_script(path: Path, text: str, result: dict[str, Any] | None) -> Benchmark:
    lines = text.splitlines()
    commands = [line.strip() for line in lines if line.startswith(COMMAND)]
    rest = "\n".join(line for line in lines if not line.startswith(COMMAND))
    about = [part.strip("\n") for part in rest.split("\n\n") if part.strip()]
    return Benchmark(path.stem, commands, about, "cuda" in path.read_text().lower(), result)


# --- a result as tables ---


@dataclass(frozen=True)
class Row:
    """path: the names that lead to it; cells: column -> value."""

    path: tuple[str, ...]
    cells: dict[str, Any]


def is_cell(value: Any) -> bool:
    """Whether ``value`` fits one cell: a plain value or a short list of them, such as an interval."""
    if isinstance(value, list):
        return len(value) <= 4 and not any(isinstance(v, (dict, list)) for v in value)
    return not isinstance(value, dict)


def rows(value: Any, path: tuple[str, ...] = ()) -> Iterator[Row]:
    """The rows in a nest of dicts: one for each dict that holds plain values."""
    items = value.items() if isinstance(value, dict) else enumerate(value, 1)
    cells = {str(k): v for k, v in items if is_cell(v)}
    if cells:
        yield Row(path, cells)
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value, 1):
        if not is_cell(inner):
            yield from rows(inner, (*path, str(key)))


def tables(name: str, value: Any) -> Iterator[str]:
    """Markdown tables of ``value``; rows with the same columns share one."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows(value):
        groups.setdefault(tuple(row.cells), []).append(row)
    for group in groups.values():
        yield table(name, group)


def table(name: str, group: list[Row]) -> str:
    """One table; a lone row is turned, so that it reads downwards."""
    if len(group) == 1:
        label = " / ".join((name, *group[0].path))
        return markdown([label, ""], [[key, show(value)] for key, value in group[0].cells.items()])
    depth = max(len(row.path) for row in group)
    heads = [name, *[""] * (depth - 1), *group[0].cells]
    lines, before = [], ()
    for row in group:
        path = row.path + ("",) * (depth - len(row.path))
        labels = ["" if path[: i + 1] == before[: i + 1] else part for i, part in enumerate(path)]
        if depth == 1 or path == before:
            labels = list(path)
        lines.append([*labels, *map(show, row.cells.values())])
        before = path
    return markdown(heads, lines)


def markdown(heads: list[str], lines: list[list[str]]) -> str:
    cells = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)


def show(value: Any) -> str:
    """A value for a reader: three significant digits, thousands apart, no exponent for sizes that people say."""
    if isinstance(value, list):
        return " to ".join(map(show, value)) if len(value) == 2 else ", ".join(map(show, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, int) or abs(value) >= 10**DIGITS:
        return f"{round(value):,}" if abs(value) >= 10_000 else str(round(value))
    if 0 < abs(value) < 1e-3:
        return f"{value:.{DIGITS - 1}e}"
    return f"{value:.{DIGITS}g}"


# --- the page ---


def taken_on(result: dict[str, Any]) -> str:
    """Date, machine and versions of a result, in a line."""
    machine = result.get("machine", {})
    facts = dict(machine) if isinstance(machine, dict) else {"machine": machine}
    facts |= result.get("versions", {})
    date = facts.pop("date", result.get("date", "date not recorded"))
    return ", ".join([str(date), *(f"{k} {v}" for k, v in facts.items() if v is not None)])


def section(benchmark: Benchmark) -> str:
    parts = [f"## {benchmark.name}", benchmark.title]
    if benchmark.commands:
        parts.append("```\n" + "\n".join(benchmark.commands) + "\n```")
    for paragraph in benchmark.about[1:]:
        aligned = any("  " in line.strip() or line.startswith(" ") for line in paragraph.splitlines())
        # text set in columns keeps them; sentences end in one space in Markdown
        parts.append(f"```\n{textwrap.dedent(paragraph)}\n```" if aligned and ".  " not in paragraph else paragraph)
    if benchmark.result is None:
        why = "no GPU at hand" if benchmark.needs_gpu else "no result is kept yet"
        return "\n\n".join([*parts, f"*Not run: {why}.*"])
    parts.append(f"*{taken_on(benchmark.result)}*")
    known = {"machine", "versions", "date"}
    body = {key: value for key, value in benchmark.result.items() if key not in known}
    plain = {key: value for key, value in body.items() if is_cell(value)}
    if plain:
        parts.append("; ".join(f"{key}: {show(value)}" for key, value in plain.items()))
    for key, value in body.items():
        if key not in plain:
            parts += tables(key, value)
    return "\n\n".join(parts)


def page(folder: Path = HERE) -> str:
    """The whole README.md."""
    found = benchmarks(folder)
    index = [[f"[{b.name}](#{b.name})", " ".join(b.title.split())] for b in found]
    return "\n\n".join([HEAD.rstrip(), markdown(["benchmark", "shows"], index), *map(section, found)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether README.md is up to date")
    if parser.parse_args().check:
        if README.read_text() != page():
            sys.exit("benchmarks/README.md is not up to date: run python benchmarks/tables.py")
        return
    README.write_text(page())


if __name__ == "__main__":
    main()
