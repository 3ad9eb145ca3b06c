"""``mepipe shards``: list, verify, export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.progress import Progress
from mepipe.shards import Faces, list_shards, open_shards, verify_shards
from mepipe.shards.content import AnyContent
from mepipe.workspace import atomic_file


def describe(folder: Path) -> list[dict[str, Any]]:
    """One row per shard: file, samples, engine, size, or why it cannot be read."""
    rows = []
    for path in list_shards(folder):
        row: dict[str, Any] = {"file": path.name, "megabytes": round(path.stat().st_size / 1e6, 1)}
        try:
            shard = open_shards([path])
            row |= {"samples": len(shard), "engine": shard.engine, "parameters": shard.parameters}
            row |= contents(shard.files[0].content)
            shard.close()
        except MepipeError as e:
            row["error"] = str(e)
        rows.append(row)
    return rows


def contents(content: AnyContent) -> dict[str, Any]:
    """What a shard holds: of flow its channels, of faces the length of its sequences (0: images) and its classes."""
    if isinstance(content, Faces):
        return {"length": content.frames or 0, "class_sets": content.class_sets, "votes": content.votes}
    return {"channels": content.channels, "normalised": content.normalised}


def table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no shards"
    lines = []
    for r in rows:
        what = r.get("error") or f"{r['samples']:4} samples, {_faces(r) if 'length' in r else _flow(r)}"
        lines.append(f"{r['file']:24} {r['megabytes']:8.1f} MB  {what}")
    return "\n".join(lines)


def _flow(row: dict[str, Any]) -> str:
    if row["normalised"]:
        return f"{row['engine']}, {', '.join(row['channels'])}, normalised"
    parameters = row["parameters"]
    averaged = [f"{2 * parameters['average'] + 1} frames averaged"] if parameters.get("average") else []
    return ", ".join([row["engine"], f"pad {parameters.get('pad')}", *averaged, *row["channels"][3:]])


def _faces(row: dict[str, Any]) -> str:
    kind = f"sequences of {row['length']} frames" if row["length"] else "images"
    sets = [f"{' or '.join(str(len(s)) for s in row['class_sets'])} classes"] if row["class_sets"] else []
    return ", ".join([kind, f"crop {row['parameters'].get('crop')}", *sets, *(["votes"] if row["votes"] else [])])


def verify_folders(folders: Sequence[Path], progress: Progress | None = None) -> list[str]:
    """Findings of a full check of every shard, as text. Raises DataError when there is none.

    progress(done, total) counts shards.
    """
    paths = [path for folder in folders for path in list_shards(folder)]
    if not paths:
        raise DataError(f"no shards in {' and '.join(map(str, folders))}", do="run mepipe flow or mepipe faces first")
    findings = []
    for done, path in enumerate(paths, start=1):
        findings += [str(f) for f in verify_shards([path])]
        if progress:
            progress(done, len(paths))
    return findings


def export_npz(folder: Path, file: Path, corpora: Sequence[str]) -> int:
    """Write flow and metadata arrays of all samples into one .npz. Returns their number."""
    import numpy as np

    shards = open_shards(folder, list(corpora) or None)
    channels = np.array(shards.flow_content.channels)
    names = ("corpus", "subject", "clip", "emotion", "label3", "label7", "split", "onset", "apex", "offset")
    columns: dict[str, Any] = {n: np.array([getattr(s, n) for s in shards.samples]) for n in names}
    with atomic_file(file) as temp, temp.open("wb") as f:
        np.savez(f, flow=shards.read_all(), channels=channels, **columns)
    return len(shards)


def export(folder: Path, target: Path, corpora: Sequence[str] = (), format: str = "npz") -> int:
    """Write all samples, or those of ``corpora``: one .npz, or a folder of .flo files or colour pictures.

    Returns their number.  Raises UsageError when ``target`` is a folder where a file is meant, or the reverse.
    """
    from mepipe.shards.exporting import export_flo, export_pictures

    one_file = format == "npz"
    if target.exists() and target.is_dir() == one_file:
        kind, wanted = ("a folder", "a file") if one_file else ("a file", "a folder")
        raise UsageError(f"{target} is {kind}, and --format {format} writes {wanted}", do="choose another name")
    exports: dict[str, Callable[[Path, Path, Sequence[str]], int]]
    exports = {"npz": export_npz, "flo": export_flo, "png": export_pictures}
    return exports[format](folder, target, corpora)
