"""What is peculiar to the engine ``native``: its cache, its memory, its vectors.  Agreement: test_flow_agreement."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mepipe.errors import MepipeError
from mepipe.flow import TVL1Params, get_engine

pytest.importorskip("numba")

from mepipe.flow import native
from mepipe.flow import native_kernels as kernels

FOLDER = Path(kernels.__file__).parent


def test_a_change_of_the_primitives_reaches_numbas_cache():
    """numba's cache is keyed by the file of a kernel; what that file imports must leave a mark in it."""
    sources = b"".join((FOLDER / name).read_bytes() for name in ("simd.py", "median.py"))
    now = hashlib.sha256(sources).hexdigest()[:16]
    assert now == kernels.PRIMITIVES, f'write PRIMITIVES = "{now}" in native_kernels.py'


def test_a_second_process_takes_the_kernels_from_the_cache():
    native.warm_up()
    code = (
        "from mepipe.flow.native import kernels, warm_up; warm_up();"
        "print(sum(k.stats.cache_misses.total() for k in (kernels.solve_level, kernels.fill, kernels.resize)))"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
    assert time.monotonic() - started < 10  # compiling takes longer on any machine, loading half a second


def test_it_works_where_no_cache_can_be_written(tmp_path):
    """A read-only installation and home: numba finds no folder, and the kernels are compiled in memory."""
    code = (
        "from numba.core import caching; caching.CacheImpl._locator_classes = [];"
        "import mepipe.flow.native_kernels as k, numpy as np;"
        "plane, shape = np.ones(4 * 48, np.float32), (2, 16, 48);"
        "k.fill(plane, np.full((2, 16), 3, np.float32), shape);"
        "print(plane.sum(), k.fill.stats.cache_path)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["96.0", "None"]


def test_absent_numba_is_explained():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from mepipe.errors import MepipeError\n"
        "from mepipe.flow import get_engine\n"
        "try: get_engine('native')\n"
        "except MepipeError as e: print(e.exit_code, e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 engine native needs numba")
    assert "pip install numba" in done.stdout


def test_it_runs_on_the_cpu_only():
    with pytest.raises(MepipeError):
        get_engine("native", "cuda")


def test_the_number_of_threads_does_not_change_the_flow():
    rng = np.random.default_rng(0)
    onset, apex = rng.integers(0, 256, (2, 6, 33, 47), dtype=np.uint8)
    params = TVL1Params(nscales=2, warps=2, inner=8)
    one, four = (get_engine("native", threads=n).flow(onset, apex, params) for n in (1, 4))
    np.testing.assert_array_equal(one, four)


def one_level(image: np.ndarray, apex: np.ndarray, flow: np.ndarray) -> native.Level:
    """The finest level of a pair and of a flow (2 or 3, H, W), ready to be solved."""
    (level,) = native._levels((image.shape,), len(flow))
    level.fill(level.images, (image, apex))
    level.fill(level.u, flow)
    return level


@pytest.mark.parametrize("width", [16, 17, 31, 32, 33])
@pytest.mark.parametrize("k", [3, 5])
def test_the_median_is_the_median(width, k):
    rng = np.random.default_rng(width)
    image = rng.normal(size=(19, width)).astype(np.float32)
    level = one_level(image, image, np.stack([image, image]))
    (kernels.median3 if k == 3 else kernels.median5)(level.u[0], level.scratch[0], level.scratch[-1], level.shape)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, k // 2, mode="edge"), (k, k))
    np.testing.assert_array_equal(level.pixels(level.u[0]), np.median(windows, axis=(2, 3)).astype(np.float32))


@pytest.mark.parametrize("far", [0.0, 0.4, 5.0, 1e9, -1e9])
def test_sampling_far_outside_reads_zeros_and_nothing_else(far):
    """Positions are clamped to the zero margin, so no flow can make the kernel read outside its memory."""
    rng = np.random.default_rng(0)
    image = rng.random((18, 21), dtype=np.float32) * 255
    level = one_level(np.zeros_like(image), image, np.full((2, *image.shape), far, np.float32))
    kernels.pack(level.images[1], level.packed, level.sampled, level.shape)
    flat, *scratch = level.samples
    kernels.linearise(level.packed, level.images[0], *level.u, level.warped, flat, level.places, *scratch, level.shape)
    Ix, Iy, rho_c = (level.pixels(plane) for plane in level.warped)
    assert np.isfinite([Ix, Iy, rho_c]).all()
    if far == 0:
        np.testing.assert_allclose(rho_c, image, rtol=1e-6)
    if abs(far) > 1e6:
        assert not Ix.any()
        assert not rho_c.any()


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_vectors_never_touch_memory_outside_their_planes(monkeypatch, gamma):
    """Every plane lies in one block; what surrounds the block, and the guards between planes, keep their values."""
    height, width = 21, 37
    channels = 3 if gamma else 2
    memory = native.Memory([(height, width)], channels)
    around = np.full(len(memory.block) + 4096, 7.0, np.float32)
    memory.block = around[2048:-2048]
    monkeypatch.setattr(native, "Memory", lambda *_: memory)
    monkeypatch.setattr(native, "_kept", threading.local())
    rng = np.random.default_rng(0)
    image = rng.random((height, width), dtype=np.float32) * 255
    level = one_level(image, image[::-1].copy(), np.zeros((channels, height, width), np.float32))
    level.solve(TVL1Params(gamma=gamma, warps=2, inner=3, fixed=True).resolved())
    assert (around[:2048] == 7).all()
    assert (around[-2048:] == 7).all()
    for plane in (*level.p[: 2 * channels], *level.images):
        guards = plane.reshape(height + 2, -1)
        assert not guards[0].any()
        assert not guards[-1].any()
        assert not guards[:, : kernels.LEFT].any()


def test_what_a_thread_keeps_of_one_pair_does_not_reach_the_next():
    """Memory is kept and not cleared: pairs of other sizes and with NaN left in every plane change nothing."""
    rng = np.random.default_rng(0)
    engine, params = get_engine("native", threads=1), TVL1Params(nscales=3, warps=2, inner=5)
    onset, apex = rng.integers(0, 256, (2, 1, 45, 61), dtype=np.uint8)
    expected = engine.flow(onset, apex, params)
    other = rng.integers(0, 256, (2, 1, 70, 33), dtype=np.uint8)
    engine.flow(*other, TVL1Params(gamma=0.1, nscales=2, warps=1, inner=2))
    np.testing.assert_array_equal(engine.flow(onset, apex, params), expected)
    for level in native._kept.levels:
        for plane in (*level.images, *level.u, *level.p, *level.warped, *level.rows, *level.scratch, *level.samples):
            plane.fill(np.nan)
    np.testing.assert_array_equal(engine.flow(onset, apex, params), expected)


def test_two_callers_may_use_one_engine_at_the_same_time():
    """Two threads of the caller may use one engine at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(0)
    onset, apex = rng.integers(0, 256, (2, 4, 32, 32), dtype=np.uint8)
    params = TVL1Params(nscales=1, warps=2, inner=5)
    engine = get_engine("native", threads=2)
    expected = engine.flow(onset, apex, params)
    with ThreadPoolExecutor(3) as pool:
        for flow in pool.map(lambda _: engine.flow(onset, apex, params), range(6)):
            np.testing.assert_array_equal(flow, expected)


def test_a_forked_process_can_use_the_engine():
    engine = get_engine("native", threads=1)
    image = np.arange(32 * 32, dtype=np.uint8).reshape(1, 32, 32)
    params = TVL1Params(nscales=1, warps=1, inner=2)
    engine.flow(image, image, params)
    child = os.fork()
    if child == 0:
        os._exit(0 if not engine.flow(image, image, params).any() else 1)
    assert os.waitpid(child, 0)[1] == 0
