import math
import sys

import pytest
import torch

from mepipe.errors import UsageError
from mepipe_model.models import options
from mepipe_model.ops import scan, scan_backend, selective_scan
from mepipe_model.ops import scan_recompute as recompute

INPUTS = ("u", "dt", "A", "B", "C", "D", "dt_bias")


def runnable(*names):
    """The backends that can run here on CPU."""
    found = []
    for name in names:
        try:
            scan_backend("cpu", name)
        except UsageError:
            continue
        found.append(name)
    return found


FAST = runnable("recompute", "numba", "doubling")


def case(sequences=6, length=49, channels=5, states=8, dtype=torch.float64, seed=0):
    """Inputs of a scan in the order of its arguments; decays from almost 1 to almost 0."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    a = -torch.exp(normal(channels, states))
    shape = (sequences, length, channels)
    maps = (sequences, length, states)
    bias = normal(channels) - 1
    values = (normal(*shape), normal(*shape), a, normal(*maps), normal(*maps), normal(channels), bias)
    return [v.to(dtype) for v in values]


def gradients(inputs, backend):
    """y and the gradient of every input under a fixed random direction."""
    leaves = [v.clone().requires_grad_() for v in inputs]
    y = selective_scan(*leaves, backend=backend)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    y.backward(direction.to(y.dtype))
    grads = (torch.zeros_like(v) if v.grad is None else v.grad for v in leaves)  # of one step A has no part
    return y.detach(), dict(zip(INPUTS, grads, strict=True))


def by_hand(u, dt, a, b, c, d, bias):
    """The recurrence of Mamba's algorithm 2 on Python floats."""
    s_count, length, channels = u.shape
    y = torch.zeros_like(u)
    for s in range(s_count):
        for e in range(channels):
            h = [0.0] * a.shape[1]
            for t in range(length):
                delta = math.log1p(math.exp(float(dt[s, t, e] + bias[e])))
                drive = delta * float(u[s, t, e])
                h = [math.exp(delta * float(a[e, n])) * x + drive * float(b[s, t, n]) for n, x in enumerate(h)]
                y[s, t, e] = sum(float(c[s, t, n]) * x for n, x in enumerate(h)) + float(d[e] * u[s, t, e])
    return y


def test_the_reference_is_the_recurrence_worked_by_hand():
    inputs = case(sequences=2, length=6, channels=3, states=4)
    torch.testing.assert_close(selective_scan(*inputs, backend="loop"), by_hand(*inputs))


@pytest.mark.parametrize("backend", FAST)
def test_a_backend_equals_the_reference_in_double_with_all_gradients(backend):
    inputs = case()
    y, grads = gradients(inputs, backend)
    expected, expected_grads = gradients(inputs, "loop")
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)
    for name in INPUTS:
        torch.testing.assert_close(grads[name], expected_grads[name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 7, 1), (5, 49, 16, 8), (2, 50, 33, 16), (70, 9, 4, 3)])
@pytest.mark.parametrize("backend", FAST)
def test_a_backend_agrees_with_the_reference_in_float32(backend, shape):
    inputs = case(*shape, dtype=torch.float32)
    y, grads = gradients(inputs, backend)
    expected, expected_grads = gradients([v.double() for v in inputs], "loop")
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    for name in INPUTS:
        scale = expected_grads[name].abs().max().clamp(min=1)
        assert (grads[name] - expected_grads[name]).abs().max() < 1e-4 * scale, name


@pytest.mark.parametrize("length", [64, 65, 128, 200])
@pytest.mark.parametrize("backend", FAST)
def test_a_long_sequence_is_walked_in_chunks_and_gives_the_same(backend, length):
    inputs = case(3, length, 4, 3)
    y, grads = gradients(inputs, backend)
    expected, expected_grads = gradients(inputs, "loop")
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)
    for name in INPUTS:
        torch.testing.assert_close(grads[name], expected_grads[name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_pass_the_numerical_check(backend):
    inputs = [v.requires_grad_() for v in case(sequences=2, length=5, channels=3, states=2)]
    assert torch.autograd.gradcheck(lambda *v: selective_scan(*v, backend=backend), inputs)


@pytest.mark.parametrize("backend", FAST)
def test_strided_inputs_and_a_missing_bias_are_taken_as_they_are(backend):
    u, dt, a, b, c, d, _ = case(channels=6)
    wide = torch.cat((u, dt), -1)
    maps = torch.cat((b, c), -1)
    views = (*wide.split(6, -1), a, *maps.split(8, -1), d)
    plain = (u, dt, a, b, c, d)
    expected = selective_scan(*plain, backend="loop")
    torch.testing.assert_close(selective_scan(*views, backend=backend), expected)


def test_blocks_of_sequences_do_not_change_the_result(monkeypatch):
    inputs = case(sequences=7, channels=4)
    whole, whole_grads = gradients(inputs, "recompute")
    for limits in (recompute.FORWARD_BLOCK, recompute.BACKWARD_BLOCK):
        monkeypatch.setitem(limits, "cpu", 3 * 4 * 8)  # three sequences at a time
    parts, part_grads = gradients(inputs, "recompute")
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(part_grads, whole_grads)


@pytest.mark.parametrize("backend", ["loop", *FAST])
def test_without_input_map_the_scan_is_the_skip_connection(backend):
    u, dt, a, b, c, d, bias = case()
    y = selective_scan(u, dt, a, torch.zeros_like(b), c, torch.ones_like(d), bias, backend=backend)
    torch.testing.assert_close(y, u)


@pytest.mark.parametrize("backend", FAST)
def test_fast_decays_and_large_steps_stay_finite(backend):
    u, dt, a, b, c, d, bias = case(dtype=torch.float32)
    inputs = (u, dt + 50, a * 100, b, c, d, bias)  # exp(-cumsum) forms overflow here
    y, grads = gradients(inputs, backend)
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in grads.values())


def test_reduced_precision_inputs_are_scanned_in_float32():
    inputs = case(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = selective_scan(*inputs)
    assert y.dtype == torch.bfloat16
    expected = selective_scan(*(v.float() for v in inputs))
    torch.testing.assert_close(y.float(), expected, rtol=1e-2, atol=1e-2)


def test_the_chosen_backend_is_told_with_its_reason():
    assert scan_backend("cpu") == ("recompute", "default on cpu")
    assert scan_backend(torch.device("cpu"), "loop") == ("loop", "asked for")
    name, reason = scan_backend("cuda")
    assert name in {"recompute", "mamba_ssm", "triton"}
    assert "imported" in reason


def test_a_backend_that_cannot_run_is_refused_and_not_replaced():
    u, dt, a, b, c, d, _ = case(sequences=1, length=2)
    with pytest.raises(UsageError, match="runs on cuda only, not on cpu"):
        selective_scan(u, dt, a, b, c, d, backend="mamba_ssm")
    with pytest.raises(UsageError, match="valid: auto, fused, loop, recompute, doubling"):
        selective_scan(u, dt, a, b, c, d, backend="fast")


def test_models_name_the_backends_that_there_are():
    assert options.SCAN_BACKENDS == scan.SCAN_BACKENDS


def test_a_missing_numba_is_named_and_nothing_slower_is_run_instead(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # what an environment without it looks like
    scan._import_error.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"the package numba cannot be imported.*choose auto or recompute"):
            scan_backend("cpu", "numba")
        name, why = scan_backend("cpu", "fused")
        assert (name, "not numba: the package numba cannot be imported" in why) == ("recompute", True), why
    finally:
        scan._import_error.cache_clear()


@pytest.mark.skipif("numba" not in FAST, reason="numba is not installed")
def test_fused_means_numba_on_the_cpu_only():
    assert scan_backend("cpu", "fused") == ("numba", "the fused kernels of the CPU")
    assert scan_backend("cuda", "fused") == scan_backend("cuda", "auto")


@pytest.mark.skipif("numba" not in FAST, reason="numba is not installed")
def test_the_numba_kernels_give_the_same_bits_on_one_thread_and_on_two():
    inputs, threads = case(sequences=37, dtype=torch.float32), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(gradients(inputs, "numba"))
    finally:
        torch.set_num_threads(threads)
    (y1, grads1), (y2, grads2) = results
    assert torch.equal(y1, y2)
    assert all(torch.equal(grads1[name], grads2[name]) for name in INPUTS)


@pytest.mark.skipif("numba" not in FAST, reason="numba is not installed")
def test_not_a_number_is_not_hidden_by_the_numba_kernels():
    u, dt, a, b, c, d, bias = case(dtype=torch.float32)
    a[2, 3] = float("nan")
    y = selective_scan(u, dt, a, b, c, d, bias, backend="numba")
    assert y[:, 1:, 2].isnan().all()
    assert y[:, :, [0, 1, 3, 4]].isfinite().all()


@pytest.mark.cuda
def test_the_default_on_cuda_agrees_with_the_reference():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    inputs = case(dtype=torch.float32)
    y, grads = gradients([v.cuda() for v in inputs], "auto")
    expected, expected_grads = gradients(inputs, "loop")
    torch.testing.assert_close(y.cpu(), expected, rtol=1e-4, atol=1e-4)
    for name in INPUTS:
        torch.testing.assert_close(grads[name].cpu(), expected_grads[name], rtol=1e-3, atol=1e-3)
