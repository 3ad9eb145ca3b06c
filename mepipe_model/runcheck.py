"""A run's config.json may come from a stranger: what of it is used must be of the kind it is used as.

Names become folders, numbers become loops: both are checked here once, so that nothing below has to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, UsageError
from mepipe.settings import TrainConfig
from mepipe.workspace import safe_name
from mepipe_model.models.options import STARTS

Check = Callable[[Any], bool]
MAX_AVERAGE = 10  # neighbours of flow --average
MAX_FLOW_PARAMETER = 10_000  # of TV-L1's own numbers none is near; what is large makes endless loops


def _text(value: Any) -> bool:
    """Whether it can be shown: control characters of a stranger could rewrite the lines on a terminal."""
    return isinstance(value, str) and value.isprintable()


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _folders(value: Any) -> bool:
    """Whether all names can be folders of ours."""
    try:
        return _texts(value) and all(map(safe_name, value))
    except DataError:
        return False


def _words(value: Any) -> bool:
    """Whether it is an object of texts, some of which may be null."""
    return isinstance(value, dict) and all(v is None or _text(v) for v in value.values())


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _flow(value: Any) -> bool:
    """Whether it says how flow was made, in numbers that flow can be made with."""
    parameters = value.get("parameters", {}) if isinstance(value, dict) else None
    if not isinstance(parameters, dict):
        return False
    average = parameters.get("average", 0)
    numbers = [v for v in parameters.values() if isinstance(v, int | float)]
    return _whole(average) and average <= MAX_AVERAGE and all(abs(v) <= MAX_FLOW_PARAMETER for v in numbers)


NEEDED: dict[str, Check] = {"settings": _object, "data": _object, "fingerprint": _text, "model": _object}
MAY: dict[str, Check] = {"device": _words, "versions": _words, "started": _text}
OF_DATA: dict[str, Check] = {"corpora": _folders, "classes": _texts, "folds": _folders}
OF_DATA_MAY: dict[str, Check] = {
    "clips": _whole, "left_out_without_label": _whole, "missing": lambda v: v is None or _texts(v), "flow": _flow,
    "faces": _flow, "parts": lambda v: v is None or _words(v),
    "composite": lambda v: v is None or _text(v), "shards": _words,
}  # fmt: skip
OF_MODEL_MAY: dict[str, Check] = {"name": _text, "source": _text, "fidelity": _text, **dict.fromkeys(STARTS, _words)}


def check_config(path: Path, config: dict[str, Any]) -> None:
    """Raises DataError, naming the file and the entry, where ``config`` is none that mepipe wrote."""
    _check(path, "", config, NEEDED, MAY)
    _check(path, "data.", config["data"], OF_DATA, OF_DATA_MAY)
    _check(path, "model.", config["model"], {}, OF_MODEL_MAY)
    _check_settings(path, config["settings"])
    if len(set(config["data"]["classes"])) < 2:
        raise DataError(f"{path}: data.classes has fewer than two classes", do=DO)


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raises DataError for values of another type than the setting has, or out of its range."""
    lists = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
    known = {f.name: str(f.type) for f in fields(TrainConfig)}
    ours = {name: value for name, value in (settings | lists).items() if name in known}
    for name, value in ours.items():
        if not any(_of_kind(value, kind) for kind in known[name].split(" | ")):
            raise DataError(f"{path}: settings.{name} is {str(value)[:80]!r}", do=DO)
    try:
        TrainConfig(**ours)
    except UsageError as e:
        raise DataError(f"{path}: settings that no run has ({e})", do=DO) from e


def _of_kind(value: Any, kind: str) -> bool:
    """Whether ``value`` has the type that ``kind``, the text of an annotation, says."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if kind.startswith("tuple"):
        return isinstance(value, tuple) and all(map(_text, value))
    types = {"str": str, "int": int, "float": int | float, "bool": bool, "None": type(None)}
    return isinstance(value, types[kind]) and (kind == "bool" or not isinstance(value, bool))


DO = "take the file from where the run was trained again"


def _check(path: Path, where: str, found: dict[str, Any], needed: dict[str, Check], may: dict[str, Check]) -> None:
    for name, check in {**needed, **may}.items():
        if name not in found:
            if name in needed:
                raise DataError(f"{path} has no {where}{name}", do=DO)
        elif not check(found[name]):
            raise DataError(f"{path}: {where}{name} is {str(found[name])[:80]!r}", do=DO)
