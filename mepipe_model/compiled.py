"""torch.compile for training, on request: which path runs, and what it needs."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from mepipe.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

COMPILERS = ("g++", "clang++", "c++")  # of C++; inductor takes CXX before them


def need_compiler() -> None:
    """Raises UsageError when there is no C++ compiler: torch.compile builds kernels, or their launchers, with it."""
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([named] if named else COMPILERS)):
        what = f"CXX={named}" if named else f"{', '.join(COMPILERS)}"
        raise UsageError(f"--compile needs a C++ compiler, and there is none ({what})", do="leave --compile out")


def compiled(model: nn.Module, network: Any) -> Any:
    """``network``, all of ``model`` or a method of it, compiled, with the same parameters.

    Local mixers stay as they are: their scan walks step by step in functions of our own, which tracing would unroll.
    """
    import torch

    from mepipe_model.models.mixer import LocalMixer

    for module in model.modules():
        if isinstance(module, LocalMixer):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]  # of this one alone
    return torch.compile(network)
