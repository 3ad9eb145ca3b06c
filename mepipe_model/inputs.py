"""What a run reads: flow, images or sequences of faces, of which corpora, with which classes, under which protocol.

Settles what the command line leaves open, so that a run's name and config.json say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mepipe.errors import DataError, UsageError
from mepipe.settings import TrainConfig
from mepipe.shards import Faces, ShardFile, list_shards
from mepipe.workspace import Workspace
from mepipe_model.protocols import FOLD_SPLIT

if TYPE_CHECKING:
    from mepipe_model.data import FlowDataset
    from mepipe_model.facedata import FaceDataset

KINDS = {"scaled": "flow", "px": "flow", "frames": "flow", "image": "image", "sequence": "sequence"}


def readable(model: str) -> list[str]:
    """The kinds of input ``model`` can read, what it was made for first: flow, image, sequence."""
    from mepipe_model.models import model_info

    return list(dict.fromkeys(KINDS[kind] for kind in model_info(model).takes))


def folder_of(ws: Workspace, kind: str) -> Path:
    """Where the shards of a kind of input lie."""
    return ws.flow if kind == "flow" else ws.faces


def corpora_in(folder: Path) -> list[str]:
    """The corpora with shards in ``folder``."""
    return sorted({p.name.rsplit("-", 1)[0] for p in list_shards(folder)})


def settled(ws: Workspace, config: TrainConfig) -> TrainConfig:
    """``config`` with its input, classes and protocol, where they were left open. Raises UsageError, DataError."""
    kind = chosen_kind(ws, config)
    config = replace(config, input=None if kind == "flow" else kind)
    if kind == "flow":
        return replace(config, classes=config.classes or 3, protocol=config.protocol or "loso")
    if config.classes and config.protocol:
        return config
    corpora, composite = wanted_corpora(ws, config.data, kind)
    data = open_data(ws, kind, corpora, config.classes, composite)
    protocol = config.protocol or usual_protocol([s.split for s in data.samples], [s.subject for s in data.samples])
    return replace(config, classes=config.classes or len(data.classes), protocol=protocol)


def chosen_kind(ws: Workspace, config: TrainConfig) -> str:
    """Flow, image or sequence: ``--input``, else the first that the model reads and the data have.

    Raises UsageError for what the model cannot read, DataError for what the data have not.
    """
    kinds = readable(config.model)
    if config.input is not None and config.input not in kinds:
        what = f"--input {config.input}: {config.model} reads {' or '.join(kinds)}"
        raise UsageError(what, do="choose another model: mepipe models")
    wanted = [config.input] if config.input else kinds
    faces, flow = corpora_in(ws.faces), corpora_in(ws.flow)
    names = expanded(config.data)
    for kind in wanted:
        if kind == "flow":
            if not names or not set(names) - set(flow) or not set(names) & set(faces):
                return kind  # what is absent is told by name where the shards are opened
            continue
        if faces and not set(names) - set(faces) and (kind == "image" or are_sequences(ws.faces, names or faces)):
            return kind
    there = f"faces of {', '.join(faces) or 'nothing'}, flow of {', '.join(flow) or 'nothing'}"
    whose = " ".join(config.data) or "the workspace"
    what = f"{config.model} reads {' or '.join(wanted)}, and {whose} has none ({there})"
    raise DataError(what, do="prepare it (mepipe prepare, mepipe faces, mepipe flow), or choose another model")


def expanded(data: Sequence[str]) -> list[str]:
    """The corpora that ``--data`` means."""
    from mepipe.datasets.composite import COMPOSITES

    return [c for name in data for c in (COMPOSITES.get(name).corpora if name in COMPOSITES else [name])]


def are_sequences(folder: Path, corpora: Sequence[str]) -> bool:
    """Whether the shards of ``corpora`` hold sequences: one of each is looked at."""
    for corpus in corpora:
        file = ShardFile(list_shards(folder, [corpus])[0])
        file.close()
        if not isinstance(file.content, Faces) or file.content.frames is None:
            return False
    return True


def usual_protocol(splits: Sequence[str], subjects: Sequence[str]) -> str:
    """The protocol of a corpus of faces: its own folds, its own train and test parts, else whole subjects, else
    groups of clips.
    """
    there = set(splits)
    if all(FOLD_SPLIT.fullmatch(s) for s in there):
        return "folds"
    if "train" in there and there - {"train", "val", ""}:
        return "holdout"
    return "loso" if all(subjects) and len(set(subjects)) > 1 else "kfold"


def open_data(
    ws: Workspace, kind: str, corpora: Sequence[str], classes: int | None, composite: str | None
) -> FlowDataset | FaceDataset:
    """The data of a run."""
    if kind == "flow":
        from mepipe_model.data import FlowDataset

        return FlowDataset(ws.flow, corpora, classes or 3, composite=composite)
    from mepipe_model.facedata import FaceDataset

    return FaceDataset(ws.faces, corpora, kind, classes, composite)


def wanted_corpora(ws: Workspace, data: Sequence[str], kind: str = "flow") -> tuple[tuple[str, ...], str | None]:
    """The corpora to train on, and the composite when one is meant.

    Without ``--data``: a composite whose corpora are exactly those that have shards, else all of them.
    Raises UsageError for a composite beside other names, DataError for what has no shards.
    """
    from mepipe.datasets.composite import COMPOSITES, check_manifest

    folder = folder_of(ws, kind)
    there, what = corpora_in(folder), "flow" if kind == "flow" else "faces"
    if not there:
        lacking = f"no flow shards in {folder}" if kind == "flow" else f"no shards of faces in {folder}"
        raise DataError(lacking, do=f"run mepipe {what} first")
    names = tuple(dict.fromkeys(data)) or tuple(there)
    composite = next((n for n in names if n in COMPOSITES), None)
    if composite and len(names) > 1:
        raise UsageError(f"--data {composite} stands alone, got {' '.join(names)}")
    if not data:
        composite = next((n for n in COMPOSITES if set(COMPOSITES.get(n).corpora) == set(there)), None)
    if composite:
        check_manifest(composite)
        names = tuple(COMPOSITES.get(composite).corpora)
    for name in names:
        if name not in there:
            needed = f", which {composite} needs," if composite else ""
            do = f"run mepipe prepare {name} RAW, then mepipe {what} {name}"
            raise DataError(f"no {what} of {name}{needed} in {folder} (there: {', '.join(there)})", do=do)
    return names, composite
