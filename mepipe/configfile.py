"""``mepipe.toml``: the options of prepare, flow, faces and train in a file, a table for each, and one for Slurm.

    [prepare]
    landmarks = "shape_predictor_68_face_landmarks.dat"
    [train]
    model = "merba_tiny"
    data = ["casme2", "samm"]
    set = { window = 7 }
    [slurm]
    partition = "gpu"

What [slurm] holds goes for prepare, flow and train, where their own table does not say otherwise.

A key is an option's name without its dashes (``batch-size``; ``batch_size`` is taken too).  The command line
wins over the file, the file over the defaults.  A file that is wrong anywhere is refused as a whole, by line.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, UsageError
from mepipe.limits import SETTINGS_BYTES, read_file
from mepipe.settings import ClusterConfig, FacesConfig, FlowConfig, PrepareConfig, TrainConfig, check_value, option

NAME = "mepipe.toml"
CONFIGS: dict[str, type] = {"prepare": PrepareConfig, "flow": FlowConfig, "faces": FacesConfig, "train": TrainConfig}
# Commands that do part of another's work and take its settings: verify gives prepare's verdict, apex evaluate aligns
# as prepare does, reproduce finds runs by the settings they were trained with, compare trains several models by them.
ALIKE = {"prepare": ("verify", "apex evaluate"), "flow": (), "faces": (), "train": ("reproduce", "compare")}
SENT = ("prepare", "flow", "train")  # commands that Slurm may do
SLURM = "slurm"  # the table of what they all ask Slurm for
MOST_LINES = 1000  # of a settings file: finding where each key stands parses it once for every line
BARE = re.compile(r"\s*(#.*)?$")  # a line that holds no key


@dataclass(frozen=True)
class _Beside:
    """What ``train`` takes besides TrainConfig."""

    seeds: tuple[int, ...] = option((), "a run for each of these seeds, then mean and spread", low=0, metavar="N N...")


@dataclass(frozen=True)
class Setting:
    """A value of the file, of the type its option has, and the line it stands in."""

    value: Any
    line: int


@dataclass(frozen=True)
class SettingsFile:
    """A settings file that was read and found right. tables: command -> field of its settings class -> Setting."""

    path: Path
    tables: dict[str, dict[str, Setting]] = field(default_factory=dict)

    def values(self, command: str) -> dict[str, Any]:
        """Field -> value of what the file says for ``command``: keyword arguments of its settings class."""
        return {name: setting.value for name, setting in self.tables.get(command, {}).items()}

    def where(self, command: str, name: str) -> str:
        """``FILE:LINE`` of a setting that the file holds."""
        table = command if name in self.tables.get(command, {}) else SLURM
        return f"{self.path}:{self.tables[table][name].line}"

    def default_map(self) -> dict[str, Any]:
        """What click takes for the defaults of its commands: command -> parameter -> value."""
        out: dict[str, Any] = {}
        for command in CONFIGS:
            for name in (command, *ALIKE[command]):
                *groups, last = name.split()
                place = out
                for group in groups:
                    place = place.setdefault(group, {})
                place[last] = {**(self.values(SLURM) if command in SENT else {}), **self.values(command)}
        return out


def uses_settings(command: str | None) -> bool:
    """Whether ``mepipe COMMAND`` reads the settings file."""
    return command is not None and command in {n.split()[0] for c in CONFIGS for n in (c, *ALIKE[c])}


def find_settings(given: Path | None, workspace: Path) -> Path | None:
    """The file in effect: ``given``, else ./mepipe.toml, else WORKSPACE/mepipe.toml; None when there is none."""
    if given is not None:
        return given
    return next((p for p in (Path(NAME), workspace / NAME) if p.is_file()), None)


def read_settings(path: str | Path) -> SettingsFile:
    """Read and check a settings file.

    Parameters
    ----------
    path
        A TOML file with any of the tables ``prepare``, ``flow``, ``faces``, ``train``, ``slurm``.

    Returns
    -------
    SettingsFile
        ``TrainConfig(**read_settings("mepipe.toml").values("train"))`` are its settings for a script
        (``seeds``, where given, are ``train_seeds``'s).

    Raises
    ------
    UsageError
        The file cannot be read, is no TOML, has a key that no option has, or a value its option does not take.
    """
    path = Path(path)
    text = _text(path)
    tables = _parsed(path, text)
    lines = _lines(text)
    out: dict[str, dict[str, Setting]] = {}
    for command, table in tables.items():
        line = lines.get((command,), 1)
        if command not in (*CONFIGS, SLURM):
            close = difflib.get_close_matches(command, (*CONFIGS, SLURM), n=1) or _tables_with(command)
            hint = f"did you mean [{close[0]}]? " if close else ""
            valid = ", ".join(f"[{name}]" for name in (*CONFIGS, SLURM))
            raise UsageError(f"{path}:{line}: no table is called {command!r}", do=f"{hint}valid: {valid}")
        if not isinstance(table, dict):
            raise UsageError(f"{path}:{line}: {command} is no table", do=f"write [{command}] on a line of its own")
        out[command] = _settings(path, command, table, lines)
    return SettingsFile(path, out)


def option_fields(command: str) -> dict[str, dataclasses.Field[Any]]:
    """Key of the file -> field, for every option of ``command``, in the order of its settings class, Slurm's last.

    Of ``slurm`` what all commands of SENT take.
    """
    beside = dataclasses.fields(_Beside) if command == "train" else ()
    own = () if command == SLURM else dataclasses.fields(CONFIGS[command])
    slurm = dataclasses.fields(ClusterConfig) if command in (*SENT, SLURM) else ()
    return {key_of(f.name): f for f in (*own, *beside, *slurm)}


def key_of(name: str) -> str:
    """How the file and the command line call a field: ``lambda_`` is ``lambda``, ``options`` is ``set``."""
    return "set" if name == "options" else name.strip("_").replace("_", "-")


def _text(path: Path) -> str:
    do = "mepipe config init writes one with every option in 200 lines"
    try:
        text = read_file(path, SETTINGS_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise UsageError(f"the settings file {path} cannot be read: there is no such file") from None
    except UnicodeDecodeError as e:
        raise UsageError(f"the settings file {path} is no UTF-8 text") from e
    except DataError as e:
        raise UsageError(f"the settings file {path} cannot be read: {e.what}", do=e.do) from e
    if (count := text.count("\n")) > MOST_LINES:
        raise UsageError(f"the settings file {path} has {count} lines, and at most {MOST_LINES} are read", do=do)
    return text


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    import tomli

    return tomli


def _parsed(path: Path, text: str) -> dict[str, Any]:
    toml = _toml()
    try:
        return toml.loads(text)
    except ValueError as e:  # TOMLDecodeError, or a number of thousands of digits
        raise UsageError(f"the settings file {path} is no TOML: {e}") from e
    except RecursionError as e:
        raise UsageError(f"the settings file {path} is nested too deeply") from e


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """(table,) and (table, key) -> the line it begins in.

    The parser tells no lines, so ever longer beginnings of the text are parsed: a key stands where it first appears.
    """
    toml, rows = _toml(), text.splitlines()
    found: dict[tuple[str, ...], int] = {}
    begun = 0  # rows up to here make a whole text
    for end in range(1, len(rows) + 1):
        if BARE.match(rows[end - 1]):
            continue
        try:
            tables = toml.loads("\n".join(rows[:end]))
        except toml.TOMLDecodeError:
            continue  # in the middle of a value of several lines
        while begun < end - 1 and BARE.match(rows[begun]):
            begun += 1
        for place in _places(tables):
            found.setdefault(place, begun + 1)
        begun = end
    return found


def _places(tables: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, table in tables.items():
        yield (name,)
        yield from ((name, key) for key in table) if isinstance(table, dict) else ()


def _tables_with(key: str) -> list[str]:
    """The tables that have ``key``, which somebody wrote above every table."""
    return [command for command in CONFIGS if key.replace("_", "-") in option_fields(command)]


def _settings(path: Path, command: str, table: dict[str, Any], lines: dict[tuple[str, ...], int]) -> dict[str, Setting]:
    known, out = option_fields(command), {}
    for key, value in table.items():
        line = lines.get((command, key), lines.get((command,), 1))
        f = known.get(key.replace("_", "-"))
        if f is None:
            close = difflib.get_close_matches(key.replace("_", "-"), known, n=1, cutoff=0.5)
            do = f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(known)}"
            raise UsageError(f"{path}:{line}: [{command}] has no option {key!r}", do=do)
        if f.name in out:
            raise UsageError(f"{path}:{line}: {key!r} is given twice, with - and with _", do="keep one of them")
        try:
            out[f.name] = Setting(_typed(f, value), line)
        except UsageError as e:
            raise UsageError(f"{path}:{line}: {e.what}", do=e.do) from None
    return out


def _typed(f: dataclasses.Field[Any], value: Any) -> Any:
    """``value`` as the type of the field, checked like the command line's. Raises UsageError."""
    kind = str(f.type).removesuffix(" | None")
    if f.name == "options":
        return _pairs(value)
    if kind.startswith("tuple"):
        inner = "int" if "int" in kind else "str"
        many = value if isinstance(value, list) else [value]
        values = tuple(_one(f, inner, v) for v in many)
        for v in values:
            check_value(f, v)
        return values
    value = _one(f, kind, value)
    check_value(f, value)
    return value


WANTED: dict[str, tuple[Any, str]] = {  # kind of an option -> types of TOML, what to write
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "str": (str, 'a text in "quotes"'),
}


def _one(f: dataclasses.Field[Any], kind: str, value: Any) -> Any:
    types, wanted = WANTED[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
        raise UsageError(f"{key_of(f.name)} is {value!r}", do=f"write {wanted}")
    return float(value) if kind == "float" else value


def _pairs(value: Any) -> tuple[str, ...]:
    """``set = { window = 7 }`` or ``set = ["window=7"]`` as what --set takes."""
    if isinstance(value, dict) and all(isinstance(v, (str, int, float)) for v in value.values()):
        return tuple(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in value.items())
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise UsageError(f"set is {value!r}", do='write { name = value } or ["name=value"]')
