"""The selective scan of Mamba (Gu and Dao 2023, algorithm 2) and the choice of its backend.

For every sequence and channel e, with N states h, h_0 = 0 and delta = softplus(dt + dt_bias):

    h_t[n] = exp(delta_t A[e,n]) h_{t-1}[n] + delta_t u_t B_t[n]
    y_t    = sum_n C_t[n] h_t[n] + D[e] u_t

Backends (all agree to 1e-4 in float32; docs/models.md has timings):
    loop       plain torch and autograd; the reference, slow and hungry
    recompute  own backward that rebuilds the states: the default wherever torch runs
    numba      fused CPU kernels, opt-in; needs the package numba
    triton     our fused CUDA kernels, which need the package triton: the default on CUDA
    mamba_ssm  the CUDA kernel of the package mamba-ssm; taken on CUDA where triton cannot run
    doubling   log2(L) rounds of plain torch, without a loop over steps: for graphs that are exported
    fused      no backend of its own: numba on the CPU, what auto means elsewhere

The recurrence is walked step by step in all of them but doubling.  Forms that divide by a cumulative decay
(``exp(-cumsum)``) are faster to write and overflow already at 49 steps; none is used here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor

from mepipe.errors import UsageError
from mepipe_model.ops.scan_doubling import scan_doubling
from mepipe_model.ops.scan_loop import scan_loop
from mepipe_model.ops.scan_recompute import scan_recompute

SCAN_BACKENDS = ("auto", "fused", "loop", "recompute", "doubling", "numba", "triton", "mamba_ssm")

# What Triton itself supports (its README), and the oldest release these kernels were compiled with.
TRITON_CAPABILITY = (8, 0)
TRITON_VERSION = (3, 3)


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Scan S independent sequences of L steps and E channels with N states each.

    Computed in float32 (float64 when u is float64), under autocast too: reduced precision rounds what is read and
    what is returned, nothing between.

    Parameters
    ----------
    u
        (S, L, E), the input.
    dt
        (S, L, E), the step size before bias and softplus.
    A
        (E, N), negative.
    B, C
        (S, L, N).
    D
        (E,), the skip.
    dt_bias
        (E,) or None.
    backend
        "auto" or a name in SCAN_BACKENDS.

    Returns
    -------
    Tensor
        y (S, L, E) in u's dtype.

    Raises
    ------
    UsageError
        ``backend`` is unknown or cannot run on u's device.
    """
    if u.device.type == "meta":  # shapes alone: nothing is computed there
        return torch.empty_like(u)
    name, _ = scan_backend(u.device, backend)
    if name == "triton":  # converts in registers: no copies of another dtype
        return _kernel(name)(u, dt, A, B, C, D, dt_bias)
    work = torch.float64 if u.dtype == torch.float64 else torch.float32
    bias = None if dt_bias is None else dt_bias.to(work)
    with torch.autocast(u.device.type, enabled=False):
        y = _kernel(name)(*(t.to(work) for t in (u, dt, A, B, C, D)), bias)
    return y.to(u.dtype)


def scan_backend(device: torch.device | str, backend: str = "auto") -> tuple[str, str]:
    """The backend that ``backend`` means on ``device``, and why.

    Parameters
    ----------
    device
        Where the tensors are.
    backend
        "auto" or a name in SCAN_BACKENDS.

    Returns
    -------
    tuple[str, str]
        Its name, and the reason in a few words.

    Raises
    ------
    UsageError
        A backend is named that is unknown or cannot run there.
    """
    kind = torch.device(device).type
    if backend == "auto":
        return _automatic(kind)
    if backend == "fused":
        return _fused(kind)
    if backend not in SCAN_BACKENDS:
        raise UsageError(f"no scan backend is called {backend!r}", do=f"valid: {', '.join(SCAN_BACKENDS)}")
    obstacle = _obstacle(backend, kind)
    if obstacle:
        raise UsageError(f"scan backend {backend!r}: {obstacle}", do="choose auto or recompute")
    return backend, "asked for"


def _automatic(kind: str) -> tuple[str, str]:
    """On CUDA the first of triton, mamba_ssm and recompute that can run."""
    if kind != "cuda":
        return "recompute", f"default on {kind}"
    fused = _obstacle("triton", kind)
    if fused is None:
        return "triton", "default on cuda, triton can be imported"
    other = _obstacle("mamba_ssm", kind)
    if other is None:
        return "mamba_ssm", f"selective_scan_cuda can be imported; not triton: {fused}"
    return "recompute", f"{fused}; {other}"


def _fused(kind: str) -> tuple[str, str]:
    """Numba on the CPU; the first use on a machine compiles for some seconds."""
    if kind != "cpu":
        return _automatic(kind)
    obstacle = _obstacle("numba", kind)
    return ("numba", "the fused kernels of the CPU") if obstacle is None else ("recompute", f"not numba: {obstacle}")


def _obstacle(backend: str, kind: str) -> str | None:
    """Why ``backend`` cannot run on a device of this kind, or None."""
    if backend == "triton":
        return _triton_obstacle(kind)
    if backend == "mamba_ssm":
        if kind != "cuda":
            return f"it runs on cuda only, not on {kind}"
        return _import_error("selective_scan_cuda", "mamba-ssm's CUDA kernel")
    if backend == "numba":
        if kind != "cpu":
            return f"it runs on cpu only, not on {kind}"
        return _import_error("numba", "the package numba")
    return None


@lru_cache(maxsize=8)
def _triton_obstacle(kind: str) -> str | None:
    """Why our Triton kernels cannot run; TRITON_INTERPRET=1 runs them, slowly, on the CPU too."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if kind != "cuda" and not interpreted:
        return f"it runs on cuda only, not on {kind}"
    missing = _import_error("triton", "the package triton")
    if missing:
        return missing
    found = import_module("triton").__version__
    if tuple(int(part) for part in found.split(".")[:2]) < TRITON_VERSION:
        return f"triton {found} is older than {'.'.join(map(str, TRITON_VERSION))}"
    return None if interpreted else _triton_driver_error()


def _triton_driver_error() -> str | None:
    """Triton compiles a small launcher of its own: without a C compiler it is there and cannot run."""
    if not torch.cuda.is_available():
        return "no CUDA device is there for triton"
    capability = torch.cuda.get_device_capability()
    if capability < TRITON_CAPABILITY:
        return f"triton needs a GPU of compute capability 8.0, this one has {capability[0]}.{capability[1]}"
    from triton.runtime import driver

    try:
        driver.active.get_current_target()
    except Exception as error:  # whatever the compiler, the loader or the driver raise
        return f"triton cannot start ({(str(error).splitlines() or [repr(error)])[0]})"
    return None


@lru_cache(maxsize=8)
def _import_error(module: str, what: str) -> str | None:
    """One line when ``module`` cannot be imported.

    mamba-ssm is probed by its compiled module: newer releases install without it, and a wheel
    built for another torch fails only here (undefined symbol).
    """
    try:
        import_module(module)
    except (ImportError, OSError) as error:
        return f"{what} cannot be imported ({str(error).splitlines()[0]})"
    return None


def _kernel(name: str) -> Callable[..., Tensor]:
    plain = {"loop": scan_loop, "recompute": scan_recompute, "doubling": scan_doubling}
    if name in plain:
        return plain[name]
    if name == "numba":
        from mepipe_model.ops.scan_numba import scan_numba

        return scan_numba
    if name == "triton":
        from mepipe_model.ops.scan_triton import scan_triton

        return scan_triton
    return _mamba_ssm


def _mamba_ssm(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor | None) -> Tensor:
    """mamba-ssm's kernel: channel-first (S, E, L) with B, C (S, N, L), softplus inside."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    first = (t.transpose(1, 2).contiguous() for t in (u, dt))
    maps = (t.transpose(1, 2).contiguous() for t in (B, C))
    y = selective_scan_fn(*first, A, *maps, D, delta_bias=dt_bias, delta_softplus=True)
    return y.transpose(1, 2)
