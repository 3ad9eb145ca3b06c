"""How the command line takes settings: one option per field of a settings class, several words after one option."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click


def options_of(config: type, *leave_out: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: one click option for every field of the dataclass ``config``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for f in reversed(dataclasses.fields(config)):
            if f.name not in leave_out:
                command = _option(f)(command)
        return command

    return decorate


def _option(f: dataclasses.Field[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = "--" + f.name.strip("_").replace("_", "-")
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


class SpreadWords(click.Command):
    """A command whose --data and --seeds take several words: ``--data a b`` is ``--data a --data b``."""

    spread = ("--data", "--seeds")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        values = ""  # the option that the words at hand belong to
        for word, after in zip(args, [*args[1:], "-"], strict=False):
            values = "" if word.startswith("-") else values
            if word in self.spread:
                if after.startswith("-"):
                    what = "name of a corpus" if word == "--data" else "seeds of the runs"
                    raise click.BadOptionUsage(word[2:], f"{word} needs the {what}", ctx)
                values = word
            elif values:
                spread += [part for name in word.split(",") for part in (values, name)]
            else:
                spread.append(word)
        return super().parse_args(ctx, spread)
