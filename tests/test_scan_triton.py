"""The Triton scan: its arithmetic in Triton's interpreter on the CPU, its machine code compiled ahead of
time, and both together where there is a GPU.

Triton must be imported with TRITON_INTERPRET=1 to be interpreted, which would change it for the rest
of a test run: this file, run as a program, is the other process.
"""

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch

from mepipe.errors import UsageError
from mepipe_model.models import create_model
from mepipe_model.models.mixer import LocalMixer
from mepipe_model.ops import SCAN_BACKENDS, scan, scan_backend, selective_scan

NAMES = ("u", "dt", "A", "B", "C", "D", "dt_bias")
# Largest difference from the reference in float64, as a share of the largest magnitude.  Half
# precision rounds what is read and written: 2^-8 or 2^-11 of it, twice with a margin.  The mixer in
# bfloat16 has three products of bfloat16 around the scan.
TOLERANCE = {
    ("scan", torch.float64): 1e-12,
    ("scan", torch.float32): 2e-6,
    ("scan", torch.float16): 2e-3,
    ("scan", torch.bfloat16): 1.6e-2,
    ("mixer", torch.float64): 1e-12,
    ("mixer", torch.float32): 5e-6,
    ("mixer", torch.bfloat16): 5e-2,
}

SCANS = {  # (sequences, length, channels, states), dtype, options
    "double": ((3, 6, 5, 3), torch.float64, {}),
    "one program for all sequences": ((3, 6, 5, 3), torch.float64, {"programs": 1}),
    "no bias": ((1, 5, 3, 2), torch.float64, {"bias": False}),
    "slices": ((2, 4, 6, 4), torch.float64, {"slices": True}),
    "one step": ((1, 1, 1, 1), torch.float64, {}),
    "two blocks of channels": ((1, 8, 40, 8), torch.float32, {}),
    "sixteen states": ((1, 7, 3, 16), torch.float32, {}),
    "large steps": ((1, 6, 3, 4), torch.float32, {"shift": 50, "rates": 100}),
    "tiny steps": ((1, 6, 3, 4), torch.float32, {"shift": -9}),
    "float16": ((1, 9, 4, 8), torch.float16, {}),
    "bfloat16": ((1, 9, 4, 8), torch.bfloat16, {}),
}
MIXERS = {  # dim, scans, sharing, window, windows, dtype
    "double": (8, "b+d", "shared", (3, 3), 2, torch.float64),
    "other directions": (8, "a_bi+b_sy", "shared", (2, 3), 1, torch.float64),
    "weights per direction": (8, "a+d", "full", (2, 3), 1, torch.float64),
    "a window of 7 x 7": (16, "a+b+c+d", "shared", (7, 7), 1, torch.float32),
    "autocast": (16, "a+b+c+d", "shared", (3, 3), 1, torch.bfloat16),
}


def scan_inputs(shape, dtype, bias=True, slices=False, shift=0, rates=1, **_):
    """Arguments of the scan; decays from almost 1 to almost 0.  A, D and the bias stay float32 or wider."""
    sequences, length, channels, states = shape
    g = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=g, dtype=torch.float64)
    rows, maps = (sequences, length, channels), (sequences, length, states)
    u, dt, a = normal(rows), normal(rows) + shift, -rates * torch.exp(normal(channels, states))
    b, c, d, offset = normal(maps), normal(maps), normal(channels), normal(channels) - 1
    if slices:  # as a mixer's split hands them over
        u, dt = torch.cat((u, dt), -1).split(channels, -1)
        b, c = torch.cat((b, c), -1).split(states, -1)
    wide = torch.promote_types(dtype, torch.float32)
    return [u.to(dtype), dt.to(dtype), a.to(wide), b.to(dtype), c.to(dtype), d.to(wide), offset.to(wide)][: 6 + bias]


def run_scan(inputs, backend):
    """y and the gradients of all inputs, of a scan whose y is multiplied by fixed numbers and summed."""
    leaves = [v.detach().requires_grad_() for v in inputs]
    y = selective_scan(*leaves, backend=backend)
    g = torch.Generator().manual_seed(1)
    y.backward(torch.randn(y.shape, generator=g, dtype=torch.float64).to(y))
    return {"y": y.detach(), **{name: v.grad for name, v in zip(NAMES, leaves, strict=False)}}


def run_mixer(case, backend, device="cpu", exact=False):
    """Output and all gradients of a LocalMixer; bfloat16 means under autocast, ``exact`` in float64."""
    dim, scans, sharing, size, windows, dtype = case
    torch.manual_seed(0)
    mixer = LocalMixer(dim, scans, sharing, d_state=8, backend=backend)
    for core in mixer.cores:
        core.init_mamba()
    x, direction = torch.randn(2, windows, size[0] * size[1], dim).unbind()
    kind = torch.float64 if exact or dtype == torch.float64 else torch.float32
    mixer, x, direction = mixer.to(device, kind), x.to(device, kind).requires_grad_(), direction.to(device, kind)
    half = dtype == torch.bfloat16 and not exact
    with torch.autocast(device, dtype=torch.bfloat16) if half else nullcontext():
        y = mixer(x, size)
    y.backward(direction.to(y.dtype))
    return {"y": y.detach(), "x": x.grad, **{name: p.grad for name, p in mixer.named_parameters()}}


def assert_close(got, expected, tolerance):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        difference = (got[name].detach().cpu().double() - value.double()).abs().max()
        assert difference <= tolerance * value.abs().max().clamp(min=1e-3), (name, float(difference))


def reference_scan(inputs):
    return run_scan([v.double() for v in inputs], "loop")


def interpret(out):
    """All cases by Triton's interpreter; saved, since the process that compares has another Triton."""
    from mepipe_model.ops import scan_triton

    programs, results = scan_triton.PROGRAMS, {"told": scan_backend("cpu", "triton")}
    for name, (shape, dtype, options) in SCANS.items():
        scan_triton.PROGRAMS = options.get("programs", programs)
        results["scan", name] = run_scan(scan_inputs(shape, dtype, **options), "triton")
    scan_triton.PROGRAMS = programs
    for name, case in MIXERS.items():
        results["mixer", name] = run_mixer(case, "triton")
    torch.save(results, out)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What the kernels gave in the interpreter, by case."""
    pytest.importorskip("triton", reason="triton is not installed")
    out = tmp_path_factory.mktemp("interpreted") / "results.pt"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, str(out)], env=environment, capture_output=True, text=True)
    if "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip("the interpreter of this triton cannot loop with this numpy")
    assert done.returncode == 0, done.stderr
    return torch.load(out)


@pytest.mark.parametrize("name", SCANS)
def test_a_scan_and_its_gradients_equal_the_reference(interpreted, name):
    shape, dtype, options = SCANS[name]
    inputs, got = scan_inputs(shape, dtype, **options), interpreted["scan", name]
    assert got["y"].dtype == dtype
    assert [got[n].dtype for n, _ in zip(NAMES, inputs, strict=False)] == [v.dtype for v in inputs]
    assert_close(got, reference_scan(inputs), TOLERANCE["scan", dtype])


@pytest.mark.parametrize("name", MIXERS)
def test_directions_inside_the_kernels_equal_permuted_copies(interpreted, name):
    case = MIXERS[name]
    assert_close(interpreted["mixer", name], run_mixer(case, "loop", exact=True), TOLERANCE["mixer", case[-1]])


def test_under_autocast_the_fused_mixer_is_no_worse_than_the_one_that_copies(interpreted):
    exact = run_mixer(MIXERS["autocast"], "loop", exact=True)
    copying = run_mixer(MIXERS["autocast"], "recompute")

    def error(results, name):
        return float((results[name].double() - exact[name]).norm() / exact[name].norm())

    fused = interpreted["mixer", "autocast"]
    assert all(error(fused, name) <= 1.1 * error(copying, name) + 1e-3 for name in exact)


def test_a_sum_does_not_depend_on_how_many_sequences_a_program_works(interpreted):
    assert_close(interpreted["scan", "one program for all sequences"], interpreted["scan", "double"], 1e-14)


def test_the_interpreter_counts_as_asked_for(interpreted):
    assert interpreted["told"] == ("triton", "asked for")


def test_every_backend_can_be_asked_of_a_model():
    for name in SCAN_BACKENDS:
        assert create_model("merba_tiny", scan_backend=name).config["scan_backend"] == name
    with pytest.raises(UsageError):
        create_model("merba_tiny", scan_backend="cuda")


def test_on_the_cpu_triton_is_refused_and_not_replaced():
    with pytest.raises(UsageError, match="'triton': it runs on cuda only, not on cpu"):
        selective_scan(*scan_inputs((1, 2, 3, 4), torch.float32), backend="triton")


def test_without_triton_the_default_on_cuda_falls_back_and_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # what an environment without it looks like
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    caches = (scan._import_error, scan._triton_obstacle)
    for cache in caches:
        cache.cache_clear()
    try:
        name, why = scan_backend("cuda")
    finally:
        for cache in caches:
            cache.cache_clear()
    assert name in {"recompute", "mamba_ssm"}
    assert "the package triton cannot be imported" in why


def test_shapes_that_do_not_fit_are_refused_before_a_kernel_reads_beyond_them():
    pytest.importorskip("triton", reason="triton is not installed")
    from mepipe_model.ops.scan_triton import conv_along, scan_along, scan_triton

    u, dt, a, b, c, d, bias = scan_inputs((2, 6, 4, 3), torch.float32)
    with pytest.raises(ValueError, match=r"B is \(2, 5, 3\), not \(2, 6, 3\)"):
        scan_triton(u, dt, a, b[:, :5], c, d, bias)
    with pytest.raises(ValueError, match=r"dt_bias is \(3,\), not \(4,\)"):
        scan_triton(u, dt, a, b, c, d, bias[:3])
    order = torch.arange(5).repeat(2, 1)
    with pytest.raises(ValueError, match=r"order \(2, 5\) does not fit"):
        scan_along(u[None], dt[None], a, b[None], c[None], d, bias, order)
    with pytest.raises(ValueError, match=r"weight \(3, 3\) does not fit"):
        conv_along(u, torch.zeros(3, 3), order, order)


POINTERS = {"order": "*i64", "inverse": "*i64"}
SHARES = ("A", "D", "bias", "total", "starts", "gB", "gC", "gA", "gD", "gbias", "weight", "gweight")
TENSORS = ("u", "dt", "B", "C", "y", "gy", "gu", "gdt", "xz", "z", "gz", "gxz")
UNEVEN = ("K", "L", "S", "M", "GROUP", "CHUNKS")  # every other integer is a multiple of 16


def compile_for(kernel, capability, half, constants, warps):
    """Machine code of a kernel at MERba's sizes, as a launch with bfloat16 or float32 would ask for it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mepipe_model.ops import scan_triton

    kinds = (
        dict.fromkeys(TENSORS, half) | dict.fromkeys(SHARES, "*fp32") | POINTERS | dict.fromkeys(constants, "constexpr")
    )
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    even = [i for i, name in enumerate(kernel.arg_names) if name not in (*UNEVEN, *constants)]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in even})
    options = {"num_warps": warps, **scan_triton.OPTIONS}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(cubin, path):
    """Stack and local memory of a cubin, in bytes, as the cuobjdump in Triton's wheel tells."""
    import triton

    path.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"(STACK|LOCAL):(\d+)", told)}


@pytest.fixture
def toolchain(tmp_path, monkeypatch):
    triton = pytest.importorskip("triton", reason="triton is not installed")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("TRITON_INTERPRET=1: Triton compiles nothing")
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    if not (tools / "ptxas").exists() or not (tools / "cuobjdump").exists():
        pytest.skip("this build of triton has no ptxas and cuobjdump of its own")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(("capability", "half"), [(80, "*fp32"), (90, "*bf16")])
def test_every_kernel_compiles_ahead_of_time_without_atomics_or_spills(toolchain, tmp_path, capability, half):
    import triton.language as tl

    from mepipe_model.ops import scan_triton, scan_triton_kernels

    common = {"N": 8, "HAS_BIAS": True, "HAS_ORDER": True, "STATE": tl.float32, "BLOCK_N": 8}
    conv = {"STATE": tl.float32, "BLOCK_T": scan_triton.TOKENS, "BLOCK_E": 32}
    forward, backward = scan_triton.FORWARD_WARPS, scan_triton.BACKWARD_WARPS
    kernels = {
        "scan_forward": (common | {"BLOCK_E": 32 * forward}, forward),
        "scan_backward": (common | {"BLOCK_E": 32 * backward, "CHUNK": scan_triton.REBUILT // 8}, backward),
        "conv_forward": (conv, 1),
        "conv_backward": (conv, 1),
    }
    for name, (constants, warps) in kernels.items():
        code = compile_for(getattr(scan_triton_kernels, name), capability, half, constants, warps)
        assert f".target sm_{capability}" in code.asm["ptx"], name
        assert not re.search(r"\b(atom|red)\.", code.asm["ptx"]), name
        assert resources(code.asm["cubin"], tmp_path / name) == {"STACK": 0, "LOCAL": 0}, name
        if name == "scan_forward":  # one channel per thread: the sum over the states crosses no threads
            assert "shfl" not in code.asm["ptx"]


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    name, why = scan_backend("cuda", "auto")
    if name != "triton":
        pytest.skip(f"triton cannot run: {why}")


@pytest.mark.cuda
@pytest.mark.parametrize("name", SCANS)
def test_on_a_gpu_a_scan_and_its_gradients_equal_the_reference(cuda, name):
    shape, dtype, options = SCANS[name]
    inputs = scan_inputs(shape, dtype, **options)
    got = run_scan([v.cuda() for v in inputs], "triton")
    # the hardware's exp2 is off by two units in the last place, and 1 / x by one
    assert_close(got, reference_scan(inputs), max(TOLERANCE["scan", dtype], 2e-5 if dtype == torch.float32 else 0))


@pytest.mark.cuda
@pytest.mark.parametrize("name", MIXERS)
def test_on_a_gpu_directions_inside_the_kernels_equal_permuted_copies(cuda, name):
    case = MIXERS[name]
    tolerance = max(TOLERANCE["mixer", case[-1]], 1e-4 if case[-1] == torch.float32 else 0)
    assert_close(run_mixer(case, "triton", "cuda"), run_mixer(case, "loop", exact=True), tolerance)


@pytest.mark.cuda
def test_on_a_gpu_the_size_of_a_stage_gives_the_same_bits_twice(cuda):
    inputs = [v.cuda() for v in scan_inputs((512, 49, 128, 8), torch.bfloat16)]
    first, second = run_scan(inputs, "triton"), run_scan(inputs, "triton")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_close(first, {n: v.cpu() for n, v in run_scan([v.double() for v in inputs], "loop").items()}, 1.6e-2)


if __name__ == "__main__":
    interpret(sys.argv[1])
