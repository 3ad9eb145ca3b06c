"""A MambaVision checkpoint, as its authors publish them, into the matching parts of MERba or MambaVision.

Their names                                           ours
patch_embed.conv_down.N                               stem.N
levels.K.blocks.I (conv1, norm1, conv2, norm2)        stages.K.I, where both stages are convolutional
levels.K.blocks.I with a mixer, an attention          stages.K.0.local.blocks.J, .global_.blocks.J: the J-th of its kind
  mixer.conv1d_x, conv1d_z (E, 1, 3) each               mixer.cores.G.conv (2 E, 3), in every direction G
  mixer.dt_proj.bias                                    the same doubled: their code adds it twice
  mlp.fc1, fc2; gamma_1, gamma_2                        mlp.0, mlp.3; scale1.gain, scale2.gain
levels.K.downsample.reduction.0                       stages.K's last convolution
norm, head                                            norm, head.linear

What is of another shape (a head of 1000 classes) or has no counterpart (MERba's second stage has blocks where theirs
has convolutions) is left as it was drawn, and named.  Weights of one scan direction serve all of ours.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mepipe.errors import DataError
from mepipe_model.models.starting import Loaded, read_tensors, taken

if TYPE_CHECKING:
    from mepipe_model.models.merba_net import Merba

PREFIXES = ("module.", "model.", "module.model.")  # of DistributedDataParallel and of the version on Hugging Face
MARK = "patch_embed.conv_down.0.weight"  # every MambaVision has it
INNER = {  # of a token block: our name -> theirs
    "norm1": "norm1", "norm2": "norm2", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2", "scale1.gain": "gamma_1",
    "scale2.gain": "gamma_2", "mixer.qkv": "mixer.qkv", "mixer.proj": "mixer.proj", "mixer.out_proj": "mixer.out_proj",
}  # fmt: skip

Source = Callable[[Mapping[str, Tensor]], Tensor]  # their weights -> one of ours; KeyError when they have none


def load_checkpoint(model: Merba, path: Path) -> Loaded:
    """Copy what matches of the MambaVision checkpoint ``path`` into ``model``.

    path: .safetensors, or .pth, .pth.tar, .pt, of which only tensors are read (weights_only).
    Raises DataError for a file that cannot be read so, is no MambaVision, or of which nothing matches.
    """
    theirs = read_checkpoint(path)
    used: set[str] = set()
    ours, found = model.state_dict(), {}
    seen = _Recording(theirs, used)
    places = _places(theirs)
    for name in ours:
        with contextlib.suppress(KeyError):
            found[name] = _source(name, model, places)(seen)
    unused = tuple(k for k in theirs if k not in used)
    return taken(model, found, unused, "init_checkpoint", path, "MambaVision-B")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors by MambaVision's names. Raises DataError."""
    tensors = read_tensors("init_checkpoint", path)
    for prefix in ("", *PREFIXES):
        if prefix + MARK in tensors:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    raise DataError(f"{path} is no MambaVision checkpoint: it has no {MARK}")


class _Recording(dict[str, Tensor]):
    """Their tensors, noting which are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], used: set[str]) -> None:
        super().__init__(tensors)
        self._used = used

    def __getitem__(self, name: str) -> Tensor:
        value = super().__getitem__(name)
        self._used.add(name)
        return value


def _places(theirs: Mapping[str, Tensor]) -> dict[tuple[int, str, int], str]:
    """(stage, kind, number of its kind) -> their block; kind is conv, local (mixer) or global_ (attention)."""
    kinds = {"conv1.weight": "conv", "mixer.in_proj.weight": "local", "mixer.qkv.weight": "global_"}
    found: dict[tuple[int, int], str] = {}
    for name in theirs:
        match = re.fullmatch(r"levels\.(\d+)\.blocks\.(\d+)\.(.+)", name)
        if match and match[3] in kinds:
            found[int(match[1]), int(match[2])] = kinds[match[3]]
    count: Counter[tuple[int, str]] = Counter()
    places = {}
    for (stage, block), kind in sorted(found.items()):
        places[stage, kind, count[stage, kind]] = f"levels.{stage}.blocks.{block}"
        count[stage, kind] += 1
    return places


def _source(name: str, model: Merba, places: dict[tuple[int, str, int], str]) -> Source:
    """Where the value of our tensor ``name`` comes from. Raises KeyError when there is no such place."""
    if name.startswith("stem."):
        return _named(name.replace("stem.", "patch_embed.conv_down.", 1))
    if name.startswith("head."):
        return _named(name.replace("head.linear.", "head.", 1))
    if not name.startswith("stages."):
        return _named(name)
    _, k, i, rest = name.split(".", 3)
    stage = int(k)
    if rest == "weight" and isinstance(model.get_submodule(f"stages.{k}.{i}"), nn.Conv2d):
        return _named(f"levels.{k}.downsample.reduction.0.weight")
    kind, _, number, inner = rest.split(".", 3) if rest.startswith(("local.", "global_.")) else ("conv", "", i, rest)
    block = places[stage, kind, int(number)]
    return _named(f"{block}.{inner}") if kind == "conv" else _inner(block, inner)


def _inner(block: str, name: str) -> Source:
    """Of a token block. Directions share one weight there: every in_proj and every core takes the same."""
    if match := re.fullmatch(r"mixer\.in_proj\.\d+\.weight", name):
        return _named(f"{block}.mixer.in_proj.weight")
    if match := re.fullmatch(r"mixer\.cores\.\d+\.(.+)", name):
        core = f"{block}.mixer.{match[1]}"
        if match[1] == "conv":
            x, z = (f"{block}.mixer.conv1d_{half}.weight" for half in "xz")
            return lambda theirs: torch.cat((theirs[x], theirs[z])).squeeze(1)
        if match[1] == "dt_proj.bias":
            return lambda theirs: 2 * theirs[core]
        return _named(core)
    for ours, here in INNER.items():
        if name == ours or name.startswith(ours + "."):
            return _named(f"{block}.{here}{name[len(ours) :]}")
    raise KeyError(name)


def _named(name: str) -> Source:
    return lambda theirs: theirs[name]
