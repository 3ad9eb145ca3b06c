"""What the samples of a shard hold: flow (format mepipe.flow), or aligned faces (format mepipe.faces)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from mepipe.errors import DataError

SIDE = 224
POINTS = 68
FLOW_FORMAT, FACES_FORMAT = "mepipe.flow", "mepipe.faces"
MOST_FRAMES = 128  # of a sequence: 19 MB a sample; the papers that read sequences take 16
MOST_CLASSES = 100


@dataclass(frozen=True)
class Content:
    """What the channels of a flow shard's samples hold: three, or four where the strain was asked for beside them.

    normalised: values someone else scaled, not px; span: then the lowest and the highest value there can be.
    """

    format: ClassVar[str] = FLOW_FORMAT
    dataset: ClassVar[str] = "flow"
    # float16 rounds flow of a few px by at most 0.002 px and halves the file
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16")

    channels: tuple[str, ...] = ("u", "v", "magnitude")
    normalised: bool = False
    span: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return len(self.channels), SIDE, SIDE

    @property
    def beside(self) -> dict[str, tuple[int, ...]]:
        """Further float32 datasets, and the shape of a sample in each."""
        return {}

    def first(self, count: int | None) -> Content:
        """What the first ``count`` channels hold; None for all."""
        return replace(self, channels=self.channels[:count])

    @property
    def mirror(self) -> float:
        """A mirrored face has u' = mirror - u: -u in px, the other end of its span where u was min-max scaled."""
        return 0.0 if self.span is None else sum(self.span)

    def attributes(self) -> dict[str, Any]:
        """As the file's attributes say it."""
        said: dict[str, Any] = {"normalised": self.normalised, "channels": json.dumps(self.channels)}
        return said if self.span is None else {**said, "span": json.dumps(self.span)}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Content:
        """From the attributes of a file that nobody vouches for. Raises DataError, ValueError, TypeError.

        Shards written before the attributes existed hold flow in px.
        """
        channels = tuple(json.loads(found["channels"])) if "channels" in found else PX.channels
        span = tuple(json.loads(found["span"])) if "span" in found else None
        content = cls(channels, bool(found.get("normalised", False)), span)  # their types are checked below
        usual = content in CONTENTS_PX or len(channels) == len(PX.channels)
        plain = all(isinstance(c, str) for c in channels) and all(isinstance(v, int | float) for v in span or ())
        if not usual or not plain or (span is not None and len(span) != 2):
            do = f"expected three names, or {', '.join(CONTENTS_PX[-1].channels)}, and two numbers"
            raise DataError(f"its channels are {channels}, its span {span}", do=do)
        return content

    def __str__(self) -> str:
        unit = "normalised" if self.normalised else "px"
        return f"{', '.join(self.channels)} ({unit})"


PX = Content()
PX_STRAIN = Content((*PX.channels, "strain"))
CONTENTS_PX = (PX, PX_STRAIN)


@dataclass(frozen=True)
class Faces:
    """What a shard of faces holds: aligned RGB crops, one image or ``frames`` of them a sample, and 68 landmarks.

    class_sets: the corpus's own lists of classes, the usual one first; () where its clips have label3, label5, label7.
    votes: whether the share of the annotators' votes for each class of the first list is kept.
    """

    format: ClassVar[str] = FACES_FORMAT
    dtypes: ClassVar[tuple[str, ...]] = ("uint8",)

    frames: int | None = None
    class_sets: tuple[tuple[str, ...], ...] = ()
    votes: bool = False

    @property
    def dataset(self) -> str:
        return "image" if self.frames is None else "frames"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (224, 224, 3), or (T, 224, 224, 3)."""
        one = (SIDE, SIDE, 3)
        return one if self.frames is None else (self.frames, *one)

    @property
    def beside(self) -> dict[str, tuple[int, ...]]:
        """Further float32 datasets, and the shape of a sample in each."""
        votes = {"votes": (len(self.class_sets[0]),)} if self.votes else {}
        return {"landmarks": (POINTS, 2), **votes}

    def first(self, count: int | None) -> Faces:
        """What all shards that are read together must share; faces have no channels to choose among."""
        return Faces(self.frames)

    def attributes(self) -> dict[str, Any]:
        """As the file's attributes say it."""
        return {
            "length": 0 if self.frames is None else self.frames,
            "class_sets": json.dumps(self.class_sets),
            "votes": self.votes,
        }

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Faces:
        """From the attributes of a file that nobody vouches for. Raises DataError, ValueError, TypeError, KeyError."""
        length, sets = found["length"], json.loads(found["class_sets"])
        if not isinstance(length, int) or not 0 <= length <= MOST_FRAMES or not _are_class_sets(sets):
            raise DataError(f"its samples have {length} frames, its classes are {str(sets)[:80]}")
        votes = bool(found["votes"])
        if votes and not sets:
            raise DataError("it says that it holds votes, and for no class")
        return cls(length or None, tuple(tuple(s) for s in sets), votes)

    def __str__(self) -> str:
        return "images" if self.frames is None else f"sequences of {self.frames} frames"


def _are_class_sets(sets: Any) -> bool:
    """Whether it is a list of lists of names that can be shown, each of two or more."""
    if not isinstance(sets, list) or not all(isinstance(s, list) and 2 <= len(s) <= MOST_CLASSES for s in sets):
        return False
    names = [name for s in sets for name in s]
    return all(isinstance(n, str) and n and n.isprintable() for n in names) and all(len(set(s)) == len(s) for s in sets)


AnyContent = Content | Faces
CONTENTS: dict[str, type[Content] | type[Faces]] = {FLOW_FORMAT: Content, FACES_FORMAT: Faces}


def flow_content(path: Path, content: AnyContent) -> Content:
    """``content`` of the shard at ``path``, which is to be one of flow. Raises DataError for faces."""
    if isinstance(content, Faces):
        raise DataError(f"{path} holds faces ({content}), not flow", do="keep them in a folder of their own")
    return content


def maker(path: Path) -> str:
    """The command that makes the shards of the folder in which ``path`` lies."""
    return "mepipe prepare" if path.absolute().parent.name == "faces" else "mepipe flow"


def again(path: Path) -> str:
    """What to do about a damaged shard."""
    return f"run {maker(path)} again; it replaces what is damaged"


def content_of(found: Mapping[str, Any]) -> AnyContent:
    """What a file holds whose attributes are ``found``. Raises DataError."""
    return CONTENTS[found["format"]].of(found)
