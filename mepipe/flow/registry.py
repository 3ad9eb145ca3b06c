"""The engines by name, and which one is used when none is named.

Nothing heavy is imported before an engine is asked for: the table holds how to make each one.
A new engine needs one entry here; the agreement tests then cover it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mepipe.errors import MepipeError, UsageError
from mepipe.flow.engine import Engine
from mepipe.registry import Registry

EngineMaker = Callable[..., Engine]  # called with device= and the engine's own options
ENGINES: Registry[EngineMaker] = Registry("flow engine")


def _lazily(module: str, name: str) -> EngineMaker:
    """A maker that imports ``module`` at the first call."""

    def make(**options: Any) -> Engine:
        return getattr(import_module(module), name)(**options)

    return make


ENGINES.register("opencv")(_lazily("mepipe.flow.opencv", "OpenCVEngine"))
ENGINES.register("native")(_lazily("mepipe.flow.native", "NativeEngine"))
ENGINES.register("torch")(_lazily("mepipe.flow.torch_engine", "TorchEngine"))
ENGINES.register("triton")(_lazily("mepipe.flow.triton_engine", "TritonEngine"))


def get_engine(name: str, device: str | None = None, **options: Any) -> Engine:
    """The engine called ``name`` on ``device``.

    Parameters
    ----------
    name
        A name in ENGINES.
    device
        "cpu", "cuda", "cuda:1"; None is "cpu".
    **options
        The engine's own, e.g. ``threads=`` of opencv and native.

    Returns
    -------
    Engine
        ``.flow(onsets, apexes, params)`` computes.

    Raises
    ------
    UsageError
        An unknown name or a device the engine cannot use.
    MepipeError
        What it needs (a package, a GPU) is absent.
    """
    return ENGINES.get(name)(device=check_device(device), **options)


def resolve_engine(name: str = "auto", device: str | None = None, **options: Any) -> tuple[Engine, str]:
    """The engine to use and one line that says why.

    "auto" takes triton on CUDA when it is installed, else torch; on the CPU native when numba is, else opencv.

    Parameters
    ----------
    name
        "auto", or an engine, which is taken as it is.
    device
        None is the CPU: a GPU is used only when asked for.
    **options
        The engine's own.

    Returns
    -------
    tuple[Engine, str]
        The engine, and why it.

    Raises
    ------
    UsageError, MepipeError
        As ``get_engine``.
    """
    device = check_device(device)
    if name != "auto":
        return get_engine(name, device, **options), f"{name} on {device}: asked for"
    chosen, why = _choose(device)
    return get_engine(chosen, device, **options), f"{chosen} on {device}: {why}"


def _choose(device: str) -> tuple[str, str]:
    if device != "cpu":
        if "triton" in ENGINES and find_spec("triton") is not None:
            return "triton", "the fastest engine on a GPU (the first use of a size compiles for some seconds)"
        return "torch", "triton is not installed (pip install triton makes the GPU many times faster)"
    if "native" in ENGINES and find_spec("numba") is not None:
        return "native", "the fastest engine on the CPU (its first use on a machine compiles for 10 to 20 s)"
    return "opencv", "numba is not installed (pip install numba makes the CPU many times faster)"


def check_device(device: str | None) -> str:
    """``device`` if this machine has it; None is "cpu".  Imports torch only for something else than the CPU."""
    if device is None or device == "cpu":
        return "cpu"
    kind, _, index = str(device).partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise UsageError(f"no device is called {device!r}", do="valid: cpu, cuda, cuda:0, cuda:1, ...")
    import torch

    if not torch.cuda.is_available():
        build = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
        raise MepipeError(f"{device} was asked for, but no CUDA GPU is usable{build}", do="use the CPU, or run doctor")
    if index and int(index) >= torch.cuda.device_count():
        raise MepipeError(f"{device} was asked for, but there are {torch.cuda.device_count()} GPUs")
    return str(device)


def cpu_only(name: str, device: str | None) -> None:
    """Raise UsageError when ``device`` is not the CPU; for engines that run nowhere else."""
    if device not in (None, "cpu"):
        raise UsageError(f"engine {name} runs on the CPU, not on {device}", do="use engine torch for a GPU")
