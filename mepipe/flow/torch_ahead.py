"""Compile the loops of torch_loops ahead of time, once on a machine, for engine ``torch`` with ``compile=True``.

Why not torch.compile: a call of what it makes costs 0.1 to 0.4 ms before the first pixel (guards, wrappers in Python),
and a pair has hundreds of calls; a call of a package compiled ahead costs 4 us, as any operation of torch does.
Packages lie in torch's own folder for compiled code (TORCHINDUCTOR_CACHE_DIR, else the system's temporary folder).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from mepipe.errors import MepipeError
from mepipe.flow import median, torch_loops, torch_ops
from mepipe.flow.torch_loops import KEYS, KINDS, Loop

Call = Callable[[list[Tensor]], list[Tensor]]


def check_compiler() -> None:
    """Raise MepipeError when torch cannot compile ahead of time here."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # torch's own defaults
    name = os.environ.get("CXX", usual)
    if not shutil.which(name):
        raise MepipeError(f"compile=True needs a C++ compiler, and there is no {name}", do="leave compile out")
    if not hasattr(torch._inductor, "aoti_compile_and_package"):
        raise MepipeError(f"compile=True needs torch 2.6 or later, here is {torch.__version__}", do="leave compile out")


_one_at_a_time = threading.Lock()  # torch.export of two threads at once fails


def load(loop: Loop) -> Call:
    """``loop`` compiled, from the package made for this machine, which is made if it is missing or unreadable.

    The function returned takes its tensors as a list and is for one thread at a time.
    Raises MepipeError when the compiler fails, or where nothing can be written beside the packages: torch tries out
    the processor there, in every process.
    """
    with _one_at_a_time:
        try:
            package = folder() / f"{loop.name}.pt2"
            return _opened(package) or _make(loop, package)
        except OSError as e:
            do = "set TORCHINDUCTOR_CACHE_DIR to a folder that can be written to, or leave compile out"
            raise MepipeError(f"compiled code cannot be kept: {e}", do=do) from e


def _opened(package: Path) -> Call | None:
    """The package, unless it is missing, cut short or of another build."""
    if package.exists():
        with suppress(RuntimeError):
            return _open(package)
    return None


def folder() -> Path:
    """Where packages for this processor, compiler, Python, torch and these sources lie."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    of = [torch.__version__, sys.version, _cpu(), os.environ.get("CXX", "")]
    of += [Path(str(module.__file__)).read_text() for module in (torch_loops, torch_ops, median)]
    return Path(cache_dir()) / f"mepipe-{hashlib.sha256(chr(0).join(of).encode()).hexdigest()[:16]}"


def _cpu() -> str:
    """What compiled code may depend on: it is made for the instructions of this processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.machine()} {platform.processor()}"


def _open(package: Path) -> Call:
    # the public call sorts its arguments into a tree first, 26 us of 30
    return torch._inductor.aoti_load_package(str(package)).loader.run


def _make(loop: Loop, package: Path) -> Call:
    package.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.parent, prefix="making-") as aside:
        made = Path(aside) / package.name
        try:
            _compile(loop, made)
        except Exception as e:  # torch and the compiler raise what they like; all a user can do is to do without
            raise MepipeError(f"torch could not compile {loop.name}: {_first_line(e)}", do="leave compile out") from e
        made.replace(package)  # another process may have made the same one meanwhile
    return _open(package)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _compile(loop: Loop, package: Path) -> None:
    rows, pitch = torch.export.Dim("rows", min=2), torch.export.Dim("pitch", min=10)
    dynamic = [_dynamic(KINDS[kind](rows, pitch)) for kind in loop.kinds]
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about itself
        example = tuple(_example(kind) for kind in loop.kinds)  # here, not as tensors of the inference mode
        exported = torch.export.export(_Module(loop), example, dynamic_shapes=(tuple(dynamic),))
        # one thread: a result must not depend on how many there are, and pairs are what is shared among cores
        options = {"cpp.threads": 1, "cpp.enable_floating_point_contract_flag": "fast" if loop.fused else "off"}
        torch._inductor.aoti_compile_and_package(exported, package_path=str(package), inductor_configs=options)


def _example(kind: str) -> Tensor:
    return torch.zeros(KINDS[kind](40, 56), dtype=torch.int32 if kind in KEYS else torch.float32)


def _dynamic(shape: tuple) -> dict[int, object]:
    return {axis: size for axis, size in enumerate(shape) if not isinstance(size, int)}


class _Module(nn.Module):
    """``loop`` as what torch.export takes."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...] | None:
        return self.loop.function(*tensors)
