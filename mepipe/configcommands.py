"""``mepipe config`` and ``mepipe completion``: commands about the command line itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mepipe.clioptions import JSON, Command, Group, reply
from mepipe.configfile import CONFIGS, NAME, SettingsFile, find_settings, option_fields, read_settings
from mepipe.errors import UsageError


@click.group(cls=Group)
def config() -> None:
    """Show, or begin, the settings file mepipe.toml."""


@config.command("show", context_settings={"ignore_unknown_options": True})
@click.argument("command", required=False, metavar="[prepare|flow|faces|train]")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS]...")
@click.option("--all", "every", is_flag=True, help="Also what is at its default.")
@JSON
@click.pass_context
def config_show(
    ctx: click.Context, command: str | None, args: tuple[str, ...], every: bool, as_json: bool
) -> None:  # fmt: skip
    """Print what would run, and where each value came from: default, recipe, file and line, or command line.

    OPTIONS are those of the command: mepipe config show train --model merba_tiny --epochs 3
    """
    from mepipe.configshow import DEFAULT, effective, show_dict, show_lines

    file = current_settings(ctx)
    shown = {}
    for name in [command] if command else CONFIGS:
        shown[name] = effective(name, *_given(ctx, name, list(args), file))
    if not every and not as_json and command is None:
        shown = {c: {k: s for k, s in settings.items() if s.source != DEFAULT} for c, settings in shown.items()}
    reply(as_json, show_dict(shown, file), show_lines(shown, file))


def current_settings(ctx: click.Context) -> SettingsFile | None:
    """The settings file in effect, read and checked; None where there is none."""
    root = ctx.find_root()
    path = find_settings(root.params.get("config_file"), root.obj.root)
    return read_settings(path) if path else None


def _given(
    ctx: click.Context, name: str, args: list[str], file: SettingsFile | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Field -> value and field -> source, of the real command with ``args`` but without its arguments (RAW, ...)."""
    real = ctx.find_root().command
    assert isinstance(real, click.Group)
    if name not in CONFIGS:
        raise UsageError(f"{name} takes no settings from a file", do=f"valid: {', '.join(CONFIGS)}")
    twin = copy.copy(real.commands[name])
    twin.params = [p for p in twin.params if isinstance(p, click.Option)]
    ctx.find_root().default_map = file.default_map() if file else None
    sub = twin.make_context(name, args, parent=ctx.find_root(), allow_extra_args=True)
    fields = {f.name for f in option_fields(name).values()}
    values = {field: sub.params[field] for field in fields}
    return values, {field: _source(sub, name, field, file) for field in fields}


def _source(ctx: click.Context, command: str, field: str, file: SettingsFile | None) -> str:
    source = ctx.get_parameter_source(field)
    if source is ParameterSource.COMMANDLINE:
        return "command line"
    if source is ParameterSource.DEFAULT_MAP and file:
        return file.where(command, field)
    return "default"


@config.command("init")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default=Path(NAME))
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def config_init(file: Path, force: bool) -> None:
    """Write FILE (mepipe.toml) with every option of prepare, flow, faces and train as a comment, with its default."""
    from mepipe.configshow import template
    from mepipe.workspace import write_text

    if file.exists() and not force:
        raise UsageError(f"{file} is there already", do="edit it, or --force to replace it")
    write_text(file, template())
    click.echo(f"{file}")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    r"""Print the script that lets SHELL complete commands, options, corpora, models and runs.

    \b
    bash: eval "$(mepipe completion bash)"             in ~/.bashrc
    zsh:  eval "$(mepipe completion zsh)"              in ~/.zshrc, after compinit
    fish: mepipe completion fish | source              in ~/.config/fish/config.fish
    """
    from mepipe.completion import script

    click.echo(script(shell))
