"""Corpora of labelled faces in their real layouts with pictures of a few bytes, and shards of made-up colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tiny
from torch import nn

from mepipe.datasets.affectnet import COLUMNS
from mepipe.datasets.ferplus import CLASSES as FERPLUS
from mepipe.datasets.ferplus import OTHERS, SIDE
from mepipe.shards import Faces, Sample, ShardWriter
from mepipe.workspace import Workspace
from mepipe_model.models import list_models, register_model
from mepipe_model.models.base import FlowModel
from mepipe_model.models.heads import LinearHead

SETS = (("anger", "happiness", "sadness"),)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiny.image(path.suffix))
    return path


def rafdb(raw: Path, rows: Iterable[tuple[str, object]]) -> Path:
    """rows: (train_00001, label)."""
    lines = [f"{name}.jpg {label}\n" for name, label in rows]
    for line in lines:
        picture(raw / "basic" / "Image" / "aligned" / f"{line.split('.')[0]}_aligned.jpg")
    write(raw / "basic" / "EmoLabel" / "list_patition_label.txt", "".join(lines))
    return raw


def ferplus(raw: Path, rows: Sequence[tuple[str, Sequence[int]]]) -> Path:
    """rows: (usage, ten counts)."""
    pixels = " ".join(str(n % 256) for n in range(SIDE * SIDE))
    write(raw / "fer2013.csv", "emotion,pixels,Usage\n" + "".join(f"0,{pixels},{usage}\n" for usage, _ in rows))
    table = [",".join(("Usage", "Image name", *FERPLUS, *OTHERS))]
    table += [f"{usage},fer{n:07d}.png,{','.join(map(str, votes))}" for n, (usage, votes) in enumerate(rows)]
    write(raw / "fer2013new.csv", "\n".join(table) + "\n")
    return raw


def affectnet(raw: Path, rows: Sequence[tuple[str, str, object]]) -> Path:
    """The release with lists. rows: (training | validation, path, expression)."""
    points = ";".join("5" for _ in range(136))
    for part in ("training", "validation"):
        table = [",".join((*COLUMNS, "valence", "arousal"))]
        for _, path, label in (row for row in rows if row[0] == part):
            table.append(f"{path},1,1,9,9,{points},{label},0,0")
            if ".." not in path:
                picture(raw / "Manually_Annotated_Images" / path)
        write(raw / "Manually_Annotated_file_lists" / f"{part}.csv", "\n".join(table) + "\n")
    return raw


def dfew(raw: Path, rows: Sequence[tuple[int, str, object]], *, videos: bool = False) -> Path:
    """rows: (fold, clip, label)."""
    for fold in range(1, 6):
        mine = [f"{clip},{label}" for f, clip, label in rows if f == fold]
        folder = raw / "EmoLabel_DataSplit" / "test(single-labeled)"
        write(folder / f"set_{fold}.csv", "\n".join(("video_name,label", *mine)) + "\n")
    for _, clip, _ in rows:
        if videos:
            write(raw / "Clip" / "original" / f"{clip}.mp4", "no video")
        else:
            name = f"{int(clip):05d}"
            tiny.frames(raw / "Clip" / "clip_224x224_16f" / name, (1, 2, 3), f"{name}_{{:05d}}.jpg")
    return raw


def deap(raw: Path, rows: Sequence[tuple[object, object, object, object]]) -> Path:
    """rows: (participant, trial, valence, arousal)."""
    table = ["Participant_id,Trial,Experiment_id,Start_time,Valence,Arousal,Dominance,Liking,Familiarity"]
    table += [f"{who},{trial},1,0,{v},{a},5,5,3" for who, trial, v, a in rows]
    write(raw / "metadata_csv" / "participant_ratings.csv", "\n".join(table) + "\n")
    for who, trial, *_ in rows:
        if str(who).isdigit() and int(str(who)) <= 22:
            write(
                raw / "face_video" / f"s{int(str(who)):02d}" / f"s{int(str(who)):02d}_trial{int(str(trial)):02d}.avi",
                "",
            )
    return raw


# --- shards, and a model that sees colours ---------------------------------------------------------


def put_faces(
    ws: Workspace, samples: Sequence[Sample], crops: np.ndarray, landmarks: np.ndarray | None = None, **content: object
) -> Path:
    """One shard of ``crops`` (N, 224, 224, 3) or (N, T, 224, 224, 3) uint8."""
    frames = crops.shape[1] if crops.ndim == 5 else None
    ws.faces.mkdir(parents=True, exist_ok=True)
    path = ws.faces / f"{samples[0].corpus}-00000.h5"
    path.unlink(missing_ok=True)
    holds = Faces(frames, **({"class_sets": SETS} | content))  # type: ignore[arg-type]  # what the test says
    points = np.zeros((len(samples), 68, 2), np.float32) if landmarks is None else landmarks
    about = {"parameters": {"crop": "as-is", "length": frames or 0, "detector": "none"}, "versions": {}}
    with ShardWriter(path, engine="faces", content=holds, **about) as shard:  # type: ignore[arg-type]  # as above
        for sample, crop, where in zip(samples, crops, points, strict=True):
            shard.append(sample, crop, landmarks=where)
    return path


def coloured(levels: Sequence[int], frames: int | None = None) -> np.ndarray:
    """One crop of a single grey level for each of ``levels``."""
    one = np.array(levels, np.uint8).reshape(-1, *[1] * (3 if frames is None else 4))
    shape = (224, 224, 3) if frames is None else (frames, 224, 224, 3)
    return np.broadcast_to(one, (len(levels), *shape)).copy()


class Colours(FlowModel):
    """The mean colour of a crop, and of its landmarks the mean place, through one hidden layer."""

    wants_landmarks = True

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__({"name": name, "num_classes": num_classes})
        self.hidden = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.head = LinearHead(32, num_classes)

    def forward(self, x, landmarks=None):
        assert landmarks is None or landmarks.shape == (len(x), 68, 2)
        colour = x.mean((-1, -2)) if x.ndim == 4 else x.mean((1, -1, -2))
        return self.head(self.hidden(colour))


def colours() -> str:
    """The name of the model, registered once in a session."""
    if "test_colours" not in list_models():
        register_model(
            "test_colours", summary="", input="image", source="", fidelity="reconstruction", published="", params=1,
            takes=("image", "sequence"), shape=(3, 32, 32), landmarks="taken",
        )(lambda name, options: Colours(name, options["num_classes"]))  # fmt: skip
    return "test_colours"
