"""Files of tensors from strangers: nothing in them is run, and they take no more memory than they have bytes.

safetensors files hold numbers alone.  torch's own format is a pickle, of which ``weights_only=True`` lets tensors,
numbers, texts and their containers through and refuses every call; its zip is looked at before it is unpacked.
"""

from __future__ import annotations

import json
import math
import pickle  # for the name of the error that torch.load raises; nothing is unpickled here
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mepipe.errors import DataError
from mepipe.limits import WEIGHTS_BYTES
from mepipe_model.models.options import STARTS

MAX_OPTION = 1 << 16  # of a model's whole numbers: widths, depths, window sides; MERba's largest is 1024
MAX_OPTIONS = 64  # entries of a list of them; there is one for each stage, and there are four stages
CALLS = 1000  # of torch per tensor while a model is built: MERba needs about 10
SPARE = 1 << 22  # elements beyond those of the file: tables that are computed and not stored


def read_torch(path: Path, device: torch.device | str = "cpu") -> Any:
    """What torch.save wrote to ``path``, as far as it is tensors and plain values. Raises ValueError that says why not.

    Raises DataError for a file beyond the limit.
    """
    try:
        WEIGHTS_BYTES.check(str(path), _file_size(path))
        if zipfile.is_zipfile(path):
            _check_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickles of other protocols: what cannot be read is told by the error
            return torch.load(path, map_location=device, weights_only=True)
    except DataError:
        raise
    except pickle.UnpicklingError as e:
        raise ValueError("it is a pickle that holds more than tensors, which could run code: it was not run") from e
    except Exception as e:  # of damaged files torch, zipfile, tarfile and the unpickler each raise kinds of their own
        raise ValueError(f"{type(e).__name__}: {e}".splitlines()[0]) from e


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises ValueError for a damaged file, DataError for a huge one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        WEIGHTS_BYTES.check(str(path), _file_size(path))
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as e:
        raise ValueError(f"{type(e).__name__}: {e}".splitlines()[0]) from e


def _file_size(path: Path) -> int:
    if not path.is_file():
        raise ValueError("it is no file" if path.exists() else "there is no such file")
    return path.stat().st_size


def _check_zip(path: Path) -> None:
    """Raises ValueError where the zip is packed, as torch's never are: a small file could fill the memory."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    if any(p.compress_type != zipfile.ZIP_STORED or p.file_size != p.compress_size for p in parts):
        raise ValueError("its zip is packed, and torch's are not")
    if sum(p.file_size for p in parts) > _file_size(path):
        raise ValueError("its zip has parts that overlap")


def check_options(options: Any) -> dict[str, Any]:
    """A model's options as weights.json has them. Raises ValueError for what no model of ours writes there."""
    if not isinstance(options, dict) or not isinstance(options.get("name"), str):
        raise ValueError("its model has no name")
    if any(options.get(name) is not None for name in STARTS):
        raise ValueError("its model starts from another file, which trained weights never do")
    if len(json.dumps(options)) > 100_000:
        raise ValueError("its model has more options than a model can")
    numbers = [v for v in options.values() if isinstance(v, int | float)]
    for value in options.values():
        if isinstance(value, list):
            if len(value) > MAX_OPTIONS:
                raise ValueError(f"an option of its model has {len(value)} entries")
            numbers += [v for v in value if isinstance(v, int | float)]
    if any(not abs(v) <= MAX_OPTION for v in numbers):
        raise ValueError(f"an option of its model is beyond {MAX_OPTION}")
    return options


@contextmanager
def within(tensors: dict[str, Tensor]) -> Iterator[None]:
    """While a model is built to hold ``tensors``: no larger tensor than all of them, nor many times their number.

    Raises ValueError out of the building of a model that asks for more.
    """
    with _Budget(sum(t.numel() for t in tensors.values()) + SPARE, CALLS * (len(tensors) + 10)):
        yield


_SHAPED = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full)


class _Budget(TorchFunctionMode):
    """Counts calls of torch, and looks at the size of what is to be made before it is."""

    def __init__(self, elements: int, calls: int) -> None:
        super().__init__()
        self._elements, self._calls = elements, calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._calls -= 1
        if self._calls < 0:
            raise ValueError("its description asks for many more layers than it has")
        kwargs = kwargs or {}
        if func in _SHAPED and math.prod(_sizes(kwargs.get("size", args))) > self._elements:
            raise ValueError("its description asks for a larger model than it has weights of")
        return func(*args, **kwargs)


def _sizes(values: Any) -> Iterator[int]:
    """The whole numbers of ``torch.empty(3, 4)`` and ``torch.empty((3, 4))`` alike."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _sizes(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield max(value, 0)
