"""Weights of the user's own that a model starts from: read as tensors alone, matched by name, told what was taken.

None is shipped or downloaded.  The options that name such files are options.STARTS; config.json of a run keeps their
hashes, and a run does not go on with other files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mepipe.errors import DataError
from mepipe.workspace import hash_file
from mepipe_model.models.options import STARTS
from mepipe_model.tensorfiles import read_safetensors, read_torch

if TYPE_CHECKING:
    from mepipe_model.models.base import FlowModel


@dataclass(frozen=True)
class Loaded:
    """What was taken of a file, by names of ours (matched, skipped: name -> reason) and theirs (unused).

    option: that named the file.
    """

    option: str
    path: Path
    sha256: str
    matched: tuple[str, ...]
    skipped: dict[str, str]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        """What matched and what did not, by module, with the number of tensors."""
        total = len(self.matched) + len(self.skipped)
        head = f"weights from {self.path} (sha256 {self.sha256[:12]}): {len(self.matched)} of {total} tensors match"
        out = [head, f"  loaded: {_by_module(self.matched)}"]
        for reason in dict.fromkeys(self.skipped.values()):
            out.append(f"  as drawn, {reason}: {_by_module(k for k, v in self.skipped.items() if v == reason)}")
        return out + ([f"  not used of the file: {_by_module(self.unused)}"] if self.unused else [])


def load_part(part: nn.Module, option: str, path: Path, what: str) -> Loaded:
    """Copy into ``part`` the tensors of ``path`` whose names and shapes are its own.

    Their names may have one prefix in common, such as ``module.`` or ``backbone.``: it is found by part's first tensor.
    what: the architecture, for the messages.  Raises DataError for a file that cannot be read as tensors, or of which
    nothing fits.
    """
    tensors, ours = read_tensors(option, path), part.state_dict()
    mark = next(iter(ours))
    prefixes = sorted((k.removesuffix(mark) for k in tensors if k == mark or k.endswith("." + mark)), key=len)
    if not prefixes:
        raise DataError(f"{option}={path} is no {what}: it has no {mark}")
    theirs = {k.removeprefix(prefixes[0]): v for k, v in tensors.items() if k.startswith(prefixes[0])}
    unused = tuple(k for k in tensors if k.removeprefix(prefixes[0]) not in ours)
    return taken(part, {k: v for k, v in theirs.items() if k in ours}, unused, option, path, what)


def taken(
    part: nn.Module, found: Mapping[str, Tensor], unused: tuple[str, ...], option: str, path: Path, what: str
) -> Loaded:
    """Copy ``found``, by names of ours, where the shapes fit. Raises DataError when none does."""
    ours, new, skipped = part.state_dict(), {}, {}
    for name, tensor in ours.items():
        value = found.get(name)
        if value is None:
            skipped[name] = "no counterpart in the file"
        elif value.shape != tensor.shape:
            skipped[name] = f"of another shape there ({_size(value)}, not {_size(tensor)})"
        else:
            new[name] = value.to(tensor.dtype)
    if not any(value.ndim for value in new.values()):  # batch counters alone are nothing
        raise DataError(f"{path}: no tensor fits this model", do=f"give a checkpoint of the same widths ({what})")
    part.load_state_dict({**ours, **new})
    return Loaded(option, path, hash_file(path), tuple(new), skipped, unused)


def read_tensors(option: str, path: Path) -> dict[str, Tensor]:
    """The tensors of .safetensors, or of torch's own format, wrapped in ``state_dict`` or not. Raises DataError."""
    existing(option, path)
    try:
        state = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    except ValueError as e:
        do = "give a .safetensors file, or a .pth of which torch.load(..., weights_only=True) reads all"
        why = type(e.__cause__ or e).__name__
        raise DataError(f"{path} cannot be read as tensors alone ({why})", do=do) from e
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        return {}
    return {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}


def start_facts(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's config.json keeps of the files it starts from; {} where it draws all. Raises DataError."""
    given = {name: Path(str(options[name])) for name in STARTS if options.get(name) is not None}
    return {name: {"path": str(path), "sha256": hash_file(existing(name, path))} for name, path in given.items()}


def check_start(model: FlowModel, run_model: Mapping[str, Any]) -> None:
    """Raises DataError when ``model`` started from another file than the run's config.json names."""
    for loaded in model.loaded:
        known = run_model.get(loaded.option)
        if known is not None and loaded.sha256 != known["sha256"]:
            what = f"{loaded.path} is not the file that this run began with (sha256 {known['sha256'][:12]})"
            raise DataError(what, do="put that file back, or start another run with --run NAME")


def existing(option: str, path: Path) -> Path:
    """``path``. Raises DataError, naming the option, where there is no such file."""
    if not path.is_file():
        raise DataError(f"{option}={path}: there is no such file")
    return path


def _by_module(names: Iterable[str]) -> str:
    """Modules and their numbers of tensors: "stem (12), stages.0.0 (14), ..."."""
    counts = Counter(_module(n.split(".")) for n in names)
    return ", ".join(f"{module} ({n})" for module, n in counts.items())


def _module(parts: list[str]) -> str:
    """A block, or our local or global half of a stage: those many levels of a tensor's name."""
    if parts[0] == "levels":
        return ".".join(parts[:4])
    if parts[0] == "stages":
        return ".".join(parts[: 4 if parts[3] in ("local", "global_") else 3])
    return parts[0]


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
