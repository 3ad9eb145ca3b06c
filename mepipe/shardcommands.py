"""``mepipe shards``: list and verify shards, export or import flow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mepipe import progress
from mepipe.clioptions import JSON, Group, reply
from mepipe.errors import MepipeError
from mepipe.workspace import Workspace


@click.group(cls=Group)
def shards() -> None:
    """List and verify shards, export or import flow."""


@shards.command("ls")
@JSON
@click.pass_obj
def shards_ls(ws: Workspace, as_json: bool) -> None:
    """List the shards of the workspace."""
    from mepipe.shardtools import describe, table

    rows = describe(ws.flow) + describe(ws.faces)
    reply(as_json, rows, [table(rows)])


@shards.command("verify")
@JSON
@click.pass_obj
def shards_verify(ws: Workspace, as_json: bool) -> None:
    """Check every sample's checksum, shape and values; exit 1 when one fails."""
    from mepipe.shardtools import verify_folders

    with progress.bar("verify", "shard") as tick:
        findings = verify_folders([ws.flow, ws.faces], tick)
    reply(as_json, {"findings": findings}, findings or ["all samples are as they were written"])
    if findings:
        raise MepipeError(f"{len(findings)} findings", do="run mepipe flow, prepare or faces again with --force")


@shards.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("corpora", nargs=-1)
@click.option(
    "--format", type=click.Choice(["npz", "flo", "png"]), default="npz", show_default=True,
    help="One .npz; or a folder of Middlebury .flo files (u, v in px), or of colour pictures (8 bits, to look at).",
)  # fmt: skip
@JSON
@click.pass_obj
def shards_export(ws: Workspace, file: Path, corpora: tuple[str, ...], format: str, as_json: bool) -> None:
    """Write all samples, or those of CORPORA, into FILE, a folder with --format flo and png."""
    from mepipe.shardtools import export

    count = export(ws.flow, file, corpora, format)
    reply(as_json, {"samples": count, "file": file}, [f"{count} samples -> {file}"])


@shards.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--channels", default="u,v,strain", show_default=True, help="What FILE's three channels are, in order.")
@click.option("--force", is_flag=True, help="Replace shards of the same corpora.")
@JSON
@click.pass_obj
def shards_import(ws: Workspace, file: Path, channels: str, force: bool, as_json: bool) -> None:
    """Take over normalised flow that others published: FILE.npz with corpus, subject, clip, label3 and one array."""
    from mepipe.shards.importing import import_npz

    imported = import_npz(ws.flow, file, tuple(c.strip() for c in channels.split(",")), force)
    reply(as_json, asdict(imported), imported.lines())
