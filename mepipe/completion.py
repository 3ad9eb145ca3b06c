"""What the shell completes after Tab: corpora, models, engines, spotters, runs and tables, found without torch.

The scripts are click's; ``mepipe completion bash`` prints one.  A name that cannot be listed (a workspace that is
not there) completes to nothing: a shell is no place for errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete
from click.shell_completion import add_completion_class as speak

from mepipe.errors import MepipeError, UsageError

VARIABLE = "_MEPIPE_COMPLETE"  # click makes it from the name of the program
Names = Callable[[click.Context], Iterable[str]]


def script(shell: str) -> str:
    """The completion script of ``shell``, to be sourced at its start. Raises UsageError for another shell."""
    from mepipe.cli import cli

    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell!r}", do=f"valid: {', '.join(SHELLS)}")
    return SHELLS[shell](cli, {}, "mepipe", VARIABLE).source()


# --- --option=value: click completes the value, but the shells take words apart at other places ----------


class Bash(BashComplete):
    """Bash gives ``--model=merba`` as three words, and takes back the last of them."""

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete = super().get_completion_args()
        joins = (n for n, word in enumerate(words) if word == "=" and n and words[n - 1].startswith("--"))
        for n in sorted(joins, reverse=True):
            del words[n]
        return words, incomplete


class _Joined(ShellComplete):
    """Shells that give ``--model=merba`` as one word, and take back the whole of it."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        items = super().get_completions(args, incomplete)
        option, sign, _ = incomplete.partition("=")
        if sign and option.startswith("--"):
            for item in items:
                if item.type == "plain":
                    item.value = f"{option}={item.value}"
        return items


class Zsh(_Joined, ZshComplete):
    """Paths are completed by zsh itself, which must be told that they begin after the ``=``."""

    source_template = ZshComplete.source_template.replace("_path_files", "compset -P '--*='; _path_files")


class Fish(_Joined, FishComplete):
    """A path after ``=`` is not completed."""


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}


# --- names -----------------------------------------------------------------------------------------


def workspace_of(ctx: click.Context) -> Path:
    """The workspace that the half-written command line means."""
    given = ctx.find_root().params.get("workspace")
    return Path(given or os.environ.get("MEPIPE_WORKSPACE") or "mepipe-work")


def corpora(ctx: click.Context) -> Iterable[str]:
    from mepipe.datasets import list_corpora

    return list_corpora()


def prepared(ctx: click.Context) -> Iterable[str]:
    return sorted(p.parent.name for p in workspace_of(ctx).glob("prepared/*/clips.csv"))


def with_flow(ctx: click.Context) -> Iterable[str]:
    """Corpora that have shards, and the composites of which all parts have."""
    from mepipe.datasets.composite import COMPOSITES

    there = {p.name.rsplit("-", 1)[0] for p in workspace_of(ctx).glob("flow/*-[0-9]*.h5")}
    return [*sorted(there), *(c for c in COMPOSITES if there >= set(COMPOSITES.get(c).corpora))]


def models(ctx: click.Context) -> Iterable[str]:
    from mepipe_model.models import list_models

    return list_models()


def engines(ctx: click.Context) -> Iterable[str]:
    from mepipe.flow.registry import ENGINES

    return ["auto", *ENGINES.names()]


def spotters(ctx: click.Context) -> Iterable[str]:
    from mepipe.apex import SPOTTERS

    return SPOTTERS.names()


def runs(ctx: click.Context) -> Iterable[str]:
    """Runs of the workspace, the newest first."""
    files = sorted(workspace_of(ctx).glob("runs/*/config.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    return [p.parent.name for p in files]


def with_pages(ctx: click.Context) -> Iterable[str]:
    return [*runs(ctx), *prepared(ctx), *tables(ctx)]


def folds(ctx: click.Context) -> Iterable[str]:
    """Fold folders of the run that the command line names."""
    return sorted(p.name for p in (workspace_of(ctx) / "runs" / str(ctx.params.get("run"))).glob("folds/*"))


def loggers(ctx: click.Context) -> Iterable[str]:
    from mepipe_model.loggers import list_loggers

    return list_loggers()


def tables(ctx: click.Context) -> Iterable[str]:
    return [f"table{n}" for n in (4, 5, 6, 7)]


def with_settings(ctx: click.Context) -> Iterable[str]:
    from mepipe.configfile import CONFIGS

    return CONFIGS


# (command or "", parameter) -> what completes it. "" is every command that has such a parameter.
WHAT: dict[tuple[str, str], Names] = {
    ("", "corpus"): corpora,
    ("", "corpora"): prepared,
    ("", "data"): with_flow,
    ("", "test_corpus"): with_flow,
    ("", "model"): models,
    ("", "base"): models,
    ("compare", "models"): models,
    ("", "engine"): engines,
    ("prepare", "apex"): spotters,
    ("evaluate", "methods"): spotters,
    ("", "logger"): loggers,
    ("", "run"): runs,
    ("", "runs"): runs,
    ("", "resume"): runs,
    ("", "against"): runs,
    ("report", "names"): with_pages,
    ("predict", "fold"): folds,
    ("export", "fold"): folds,
    ("reproduce", "table"): tables,
    ("show", "command"): with_settings,
}


# Parameters that take a path too: what begins like no name is completed as a file
OR_FILES = ("run", "runs", "names", "against")


def attach(command: click.Command) -> None:
    """Give the parameters of ``command``, and of all commands below it, what completes them; and click our shells."""
    for kind in SHELLS.values():
        speak(kind)
    _attach(command)


def _attach(command: click.Command) -> None:
    if isinstance(command, click.Group):
        for below in command.commands.values():
            _attach(below)
    for parameter in command.params:
        name = parameter.name or ""
        names = WHAT.get((command.name or "", name)) or WHAT.get(("", name))
        if parameter.type is not click.STRING:
            continue
        if names:
            parameter.shell_complete = _completer(names, name in OR_FILES)  # type: ignore[assignment,method-assign]
        elif parameter.metavar == "PATH":  # settings keep it as text
            parameter.shell_complete = _file  # type: ignore[method-assign]


def _file(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _completer(names: Names, or_files: bool) -> Callable[[click.Context, str], list[CompletionItem]]:
    def complete(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        try:
            fitting = [CompletionItem(name) for name in names(ctx) if name.startswith(incomplete)]
        except (MepipeError, OSError):
            fitting = []
        return fitting or ([CompletionItem(incomplete, type="file")] if or_files else [])

    return complete
