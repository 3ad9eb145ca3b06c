"""``--executor slurm`` of prepare, flow and train, and ``mepipe status``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from mepipe import progress
from mepipe.clioptions import JSON, Command, flags, on_command_line, reply, take
from mepipe.errors import MepipeError, UsageError
from mepipe.settings import ClusterConfig
from mepipe.workspace import Workspace


def take_cluster(options: dict[str, Any]) -> ClusterConfig:
    """Take what Slurm is asked for out of a command's ``options``; raises UsageError for some without Slurm.

    Those of a settings file wait there for the command that needs them.
    """
    given = on_command_line(ClusterConfig)
    if given and options["executor"] != "slurm":
        raise UsageError(f"{flags(given)}: only for --executor slurm", do="add it, or leave them out")
    return take(options, ClusterConfig)


def send_away(
    ws: Workspace, command: str, words: Sequence[str], config: Any, cluster: ClusterConfig, as_json: bool,
    seeds: Sequence[int] = (),
) -> None:  # fmt: skip
    """Send a command to Slurm, or what is missing of it, and say so; of several seeds each as a command of its own."""
    from mepipe.jobs import send

    configs = [replace(config, seed=s, run=config.run and f"{config.run}-seed{s}") for s in seeds] or [config]
    sent = [send(ws, command, words, c, cluster, progress.say) for c in configs]
    reply(as_json, [s.as_dict() for s in sent] if seeds else sent[0].as_dict(), [line for s in sent for line in s.text])
    if failed := [t for s in sent for t in s.failed]:
        first = f"task {failed[0].number}: {failed[0].reason} ({failed[0].log})"
        raise MepipeError(f"{len(failed)} tasks failed, {first}", do="the same command tries them again")


@click.command(cls=Command)
@JSON
@click.pass_obj
def status(ws: Workspace, as_json: bool) -> None:
    """Tell how the tasks sent to Slurm fare, why those that failed did, and who is at work in the workspace."""
    from mepipe.jobs import status as look

    found = look(ws)
    reply(as_json, found.as_dict(), found.lines())
