"""Model options as dataclass fields that carry their own check, so that errors name the option."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar

from mepipe.errors import UsageError

# ops.scan's: that module imports torch, which listing models must not
SCAN_BACKENDS = ("auto", "fused", "loop", "recompute", "doubling", "numba", "triton", "mamba_ssm")
STARTS = ("init_checkpoint", "landmark_checkpoint")  # options that name a file to start from
Check = Callable[[Any], Any]  # returns the cleaned value or raises ValueError("must be ...")


def option(default: Any, check: Check) -> Any:
    """A dataclass field with a default and a check."""
    return field(default=default, metadata={"check": check})


class Options(Protocol):
    """A model's options: a dataclass of ``option`` fields."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def check(self) -> None:
        """What concerns several options at once; raises ValueError."""


T = TypeVar("T", bound=Options)


def resolve(config: type[T], model: str, preset: dict[str, Any], options: dict[str, Any]) -> T:
    """``config`` from its defaults, overridden by the preset, overridden by the user's options.

    Calls ``config.check()`` for what concerns several options at once.
    Raises UsageError naming the model, the option and the valid choices.
    """
    checks = {f.name: f.metadata["check"] for f in fields(config)}
    values: dict[str, Any] = {}
    for key, value in {**preset, **options}.items():
        if key not in checks:
            raise _unknown_option(model, key, list(checks))
        try:
            values[key] = checks[key](value)
        except ValueError as error:
            raise UsageError(f"model {model}: option {key}={value!r} {error}") from None
    made = config(**values)
    try:
        made.check()
    except ValueError as error:
        raise UsageError(f"model {model}: {error}") from None
    return made


def _unknown_option(model: str, key: str, valid: list[str]) -> UsageError:
    close = difflib.get_close_matches(key, valid, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(f"model {model} has no option {key!r}", do=f"{hint}valid: {', '.join(valid)}")


def whole(value: Any) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("must be a whole number of at least 1")
    return value


def wholes(value: Any) -> tuple[int, ...]:
    """A list of whole numbers of at least 0."""
    items = tuple(value) if isinstance(value, (list, tuple)) else None
    if items is None or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in items):
        raise ValueError("must be a list of whole numbers, like [2, 6, 4]")
    return items


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def fraction(value: Any) -> float:
    """A number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError("must be a number in [0, 1)")
    return float(value)


def positive(value: Any) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError("must be a number above 0")
    return float(value)


def positive_or_none(value: Any) -> float | None:
    return None if value is None else positive(value)


def whole_or_none(value: Any) -> int | None:
    return None if value is None else whole(value)


def file_or_none(value: Any) -> str | None:
    """A file's name, or None; whether it is there is seen when it is read."""
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError("must be the name of a file")
    return value


def one_of(*choices: str) -> Check:
    """One of the given words."""

    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    return check


@dataclass(frozen=True)
class HeadOptions:
    """Options of the head that every model trained by epochs has. A family's own follow in a subclass."""

    num_classes: int = option(3, whole)
    head: str = option("linear", one_of("linear", "dgcm"))
    label_smoothing: float = option(0.0, fraction)
    fine_mean: str = option("negatives", one_of("negatives", "batch"))
    decision: str = option("hard", one_of("hard", "product"))

    def check(self) -> None:
        """What concerns several options at once; raises ValueError."""
        if self.head == "dgcm" and self.num_classes != 7:
            raise ValueError(
                f"head=dgcm is defined for the 7 DFME classes, not for {self.num_classes}; use head=linear"
            )
        if self.head == "dgcm" and self.label_smoothing:
            raise ValueError("label_smoothing is defined for head=linear only")

    def as_dict(self) -> dict[str, Any]:
        """All options that a trained model is rebuilt from, as JSON values: not the files it started from."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in values.items() if k not in STARTS}
