"""AffectNet: 290,000 faces from the internet with eight classes, or seven without contempt; train and validation parts.

Three releases are read, the first whose files are there:
  lists    Manually_Annotated_file_lists/{training,validation}.csv (subDirectory_filePath, face_x, face_y, face_width,
           face_height, facial_landmarks, expression, ...) and Manually_Annotated_Images/<folder>/<file>; aligned by the
           landmarks of the list
  arrays   train_set/images/0.jpg with train_set/annotations/0_exp.npy, and val_set/; taken as they are
  folders  <train|val>/<class>/<image>, the class as a word or a number from 0 to 7; taken as they are
Labels   0 neutral, 1 happy, 2 sad, 3 surprise, 4 fear, 5 disgust, 6 anger, 7 contempt; rows of 8 to 10 (none,
         uncertain, no face) are no expressions and are not read
Parts    the validation part is ``test``: the test labels were never released, and papers report the validation part
Source   Mollahosseini et al., IEEE T-AFFC 10(1), 2019; layouts as public loaders read them (docs/corpora/affectnet.md)
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mepipe.datasets.base import CORPORA, IMAGE_SUFFIXES, Clip, FrameFolders
from mepipe.datasets.facecorpus import FaceClip, FaceCorpus, Media, Points, lists, table_rows, walk
from mepipe.errors import DataError
from mepipe.limits import SHEET_BYTES, read_file

CLASSES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")  # labels 0 to 7
NO_EXPRESSION = ("8", "9", "10")  # none, uncertain, no face
WORDS = {"happy": "happiness", "sad": "sadness", "angry": "anger", "fearful": "fear", "disgusted": "disgust",
         "surprised": "surprise"}  # fmt: skip
PARTS = {"train": "train", "training": "train", "train_set": "train", "val": "test", "valid": "test", "test": "test",
         "validation": "test", "val_set": "test"}  # fmt: skip
BOX = ("face_x", "face_y", "face_width", "face_height")
COLUMNS = ("subDirectory_filePath", *BOX, "facial_landmarks", "expression")


@CORPORA.register("affectnet")
class AffectNet(FaceCorpus):
    name = "affectnet"
    title = "AffectNet"
    licence = "http://mohammadmahoor.com/affectnet (University of Denver)"
    layout = "Manually_Annotated_file_lists/training.csv, or train_set/annotations/0_exp.npy, or train/happy/0.jpg"
    class_sets = (CLASSES, CLASSES[:7])

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        found = [p for p in lists(sheet or raw, "training.csv", "validation.csv")]
        if found:
            root = Media(folders.raw.joinpath("Manually_Annotated_Images"))
            root = root if root.root.is_dir() else Media(common_root(raw, "Manually_Annotated_Images"))
            for _, path in sorted({p.stem.casefold(): p for p in reversed(found)}.items()):
                yield from self._listed(path, root)
            return
        arrays = sorted(f for f in folders.every if f.name.casefold() == "annotations")
        if arrays:
            for folder in arrays:
                yield from self._arrays(folder)
            return
        yield from self._folders(raw)

    def _listed(self, path: Path, images: Media) -> Iterator[Clip]:
        for n, row in table_rows(path, COLUMNS):
            if row["expression"] in NO_EXPRESSION:
                continue
            file, part = row["subDirectory_filePath"], PARTS[path.stem.casefold()]
            name, facts = file.replace("/", "-").rsplit(".", 1)[0], {"crop": "aligned", **geometry(row)}
            yield self._clip(f"{path.name} row {n}", name, row["expression"], part, images.below(file), **facts)

    def _arrays(self, folder: Path) -> Iterator[Clip]:
        """One split of the release with arrays."""
        part = PARTS.get(folder.parent.name.casefold(), "")
        for image in walk(folder.with_name("images")):
            said = annotated(folder / f"{image.stem}_exp.npy")
            if said not in NO_EXPRESSION:
                yield self._clip(f"{folder.parent.name}/{image.name}", f"{part}-{image.stem}", said, part, image)

    def _folders(self, raw: Path) -> Iterator[Clip]:
        for image in walk(raw):
            if image.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            *above, label, name = image.relative_to(raw).parts if image.parent != raw else ("", "", image.name)
            part = next((PARTS[p.casefold()] for p in above if p.casefold() in PARTS), "")
            where = str(image.relative_to(raw))
            yield self._clip(where, f"{part}-{label}-{Path(name).stem}", label, part, image)

    def _clip(self, where: str, name: str, label: str, part: str, image: Path | None, **facts: Any) -> Clip:
        word = CLASSES[int(label)] if len(label) == 1 and label in "01234567" else label.casefold()
        emotion = WORDS.get(word, word)
        known = emotion if emotion in CLASSES else ""
        names = (self.name, "", name)
        clip = FaceClip(*names, None, None, None, 0.0, known, where=where, split=part, frames=image, **facts)
        if not known:
            return clip.refused(f"{where}: unknown expression {label[:80]!r}")
        return clip if part else clip.refused(f"{where}: neither of a training nor of a validation part")


def common_root(raw: Path, name: str) -> Path:
    """The folder ``name`` one or two below ``raw``, where an archive was unpacked into its own folder; else ``raw``."""
    return next((p for pattern in (f"*/{name}", f"*/*/{name}") for p in sorted(raw.glob(pattern)) if p.is_dir()), raw)


def geometry(row: Mapping[str, str]) -> dict[str, Any]:
    """The box and the 68 landmarks of a row, as far as they are numbers."""
    box = numbers([row[name] for name in BOX])
    flat = numbers(row["facial_landmarks"].split(";"))
    points: Points = tuple(zip(flat[::2], flat[1::2], strict=True)) if len(flat) == 136 else ()
    return {"box": box if len(box) == 4 and min(box[2:]) > 0 else (), "points": points}


def numbers(cells: list[str]) -> tuple[float, ...]:
    """``cells`` as numbers of px; () where one is none."""
    try:
        values = tuple(float(c) for c in cells)
    except ValueError:
        return ()
    return values if all(math.isfinite(v) and abs(v) < 1e5 for v in values) else ()


def annotated(path: Path) -> str:
    """The one value of a small .npy file as text; "" where there is none. Raises DataError for what is no such file."""
    try:
        data = read_file(path, SHEET_BYTES)
    except FileNotFoundError:
        return ""
    import numpy as np  # by this release alone: listing corpora must not wait for it

    try:
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, _, dtype = read(stream)
        if dtype.hasobject or math.prod(shape) != 1 or dtype.itemsize > 400:
            raise ValueError(f"it holds {dtype} {shape}")
        value = np.frombuffer(data, dtype, 1, stream.tell())[0]
    except Exception as e:  # numpy's header parser has a dozen kinds
        raise DataError(f"{path} is no annotation ({type(e).__name__}: {e})", do="unpack the release again") from e
    return str(value).strip()
