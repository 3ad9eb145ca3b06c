"""How the command line takes settings: one option per field of a settings class, several words after one option,
answers for people or as JSON, and a log of what every value was and where it came from.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from mepipe.workspace import Workspace

_log = logging.getLogger("mepipe.cli")
JSON = click.option("--json", "as_json", is_flag=True, help="For scripts.")


def reply(as_json: bool, value: Any, lines: Sequence[str]) -> None:
    """Print the result of a command: ``value`` as JSON, or ``lines``. Values JSON has no name for become text."""
    click.echo(json.dumps(value, indent=2, default=str) if as_json else "\n".join(lines))


def options_of(config: type, *leave_out: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: one click option for every field of the dataclass ``config``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for f in reversed(dataclasses.fields(config)):
            if f.name not in leave_out:
                command = _option(f)(command)
        return command

    return decorate


def take(options: dict[str, Any], config: type) -> Any:
    """Take the values of the dataclass ``config`` out of a command's ``options``. Returns its instance."""
    return config(**{f.name: options.pop(f.name) for f in dataclasses.fields(config)})


def on_command_line(config: type) -> list[str]:
    """Which fields of the dataclass ``config`` the user has written, and not a settings file."""
    source = click.get_current_context().get_parameter_source
    return [f.name for f in dataclasses.fields(config) if source(f.name) is ParameterSource.COMMANDLINE]


def flags(names: Sequence[str]) -> str:
    """Options as they are written: --cpus-per-task, --time."""
    return ", ".join("--set" if name == "options" else _flag(name) for name in names)


def _flag(name: str) -> str:
    return "--" + name.strip("_").replace("_", "-")


def _option(f: dataclasses.Field[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = _flag(f.name)
    meta, kind = f.metadata, str(f.type).removesuffix(" | None")
    settings: dict[str, Any] = {"help": meta["help"], "default": f.default, "show_default": f.default not in (None, ())}
    if kind == "bool":
        flag += f"/--no-{flag[2:]}" if f.default is not False else ""
        return click.option(flag, f.name, is_flag=True, **settings)
    if kind.startswith("tuple"):
        return click.option(flag, f.name, multiple=True, metavar=meta["metavar"], **settings)
    if meta["choices"]:
        return click.option(flag, f.name, type=click.Choice(meta["choices"]), **settings)
    types = {"int": click.INT, "float": click.FLOAT, "str": click.STRING}
    return click.option(flag, f.name, type=types[kind], metavar=meta["metavar"], **settings)


class Command(click.Command):
    """A command that logs its settings, and says where an option that stands before the command belongs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as e:
            root = ctx.find_root()
            if any(e.option_name in p.opts for p in root.command.params):
                what = f"{e.option_name} stands before the command: mepipe {e.option_name} ... {ctx.info_name}"
                raise click.UsageError(what, ctx) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        for parameter in self.params:
            source = ctx.get_parameter_source(parameter.name or "")
            level = logging.DEBUG if source is ParameterSource.DEFAULT else logging.INFO
            _log.log(level, "%s = %s (%s)", parameter.name, ctx.params.get(parameter.name or ""), source_name(source))
        if isinstance(ctx.obj, Workspace):
            ctx.obj.check_links()  # here for all commands: pages and tables are written without a lock
        return super().invoke(ctx)


def source_name(source: ParameterSource | None) -> str:
    """Where a value came from, in the reader's words."""
    named = {ParameterSource.COMMANDLINE: "command line", ParameterSource.DEFAULT_MAP: "settings file"}
    return named.get(source, "default") if source else "default"


class Group(click.Group):
    """A group whose commands are ``Command``s."""

    command_class = Command
    group_class = type


class SpreadWords(Command):
    """A command whose --data and --seeds take several words: ``--data a b`` is ``--data a --data b``."""

    spread = ("--data", "--seeds")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        values = ""  # the option that the words at hand belong to
        for word, after in zip(args, [*args[1:], "-"], strict=False):
            values = "" if word.startswith("-") else values
            if word in self.spread:
                if after.startswith("-") and not ctx.resilient_parsing:
                    what = "name of a corpus" if word == "--data" else "seeds of the runs"
                    raise click.BadOptionUsage(word[2:], f"{word} needs the {what}", ctx)
                values = word
            elif values:
                spread += [part for name in word.split(",") for part in (values, name)]
            else:
                spread.append(word)
        ctx.meta["mepipe.spread"] = values
        return super().parse_args(ctx, spread)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The second word after --data is completed like the first."""
        option = next((p for p in self.params if ctx.meta.get("mepipe.spread") in p.opts), None)
        if option is not None and not incomplete.startswith("-"):
            return option.shell_complete(ctx, incomplete)
        return super().shell_complete(ctx, incomplete)
