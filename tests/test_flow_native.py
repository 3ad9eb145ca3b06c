"""What is peculiar to the engine ``native``: its cache, its memory, its vectors.  Agreement: test_flow_agreement."""

import hashlib
import os
import subprocess
import sys
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
        "print(sum(k.stats.cache_misses.total() for k in (kernels.solve_warp, kernels.linearise, kernels.resize)))"
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
        "out = np.empty((2, 2), np.float32); i = np.zeros(2, np.intp); w = np.zeros(2, np.float32);"
        "k.resize(np.ones((2, 2), np.float32), out, i, w, i, w, np.float32(3));"
        "print(out.sum(), k.resize.stats.cache_path)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["12.0", "None"]


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


@pytest.mark.parametrize("width", [16, 17, 31, 32, 33])
@pytest.mark.parametrize("k", [3, 5])
def test_the_median_is_the_median(width, k):
    rng = np.random.default_rng(width)
    image = rng.normal(size=(19, width)).astype(np.float32)
    level = native.Level(image, image, np.stack([image, image]), native.Memory(*image.shape))
    (kernels.median3 if k == 3 else kernels.median5)(level.u[0], level.scratch[0], level.scratch[-1], level.shape)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, k // 2, mode="edge"), (k, k))
    np.testing.assert_array_equal(level._pixels(level.u[0]), np.median(windows, axis=(2, 3)).astype(np.float32))


@pytest.mark.parametrize("far", [0.0, 0.4, 5.0, 1e9, -1e9])
def test_sampling_far_outside_reads_zeros_and_nothing_else(far):
    """Positions are clamped to the zero margin, so no flow can make the kernel read outside its memory."""
    rng = np.random.default_rng(0)
    image = rng.random((18, 21), dtype=np.float32) * 255
    shift = np.full((2, *image.shape), far, np.float32)
    level = native.Level(np.zeros_like(image), image, shift, native.Memory(*image.shape))
    kernels.linearise(level.packed, level.reference, *level.u[:2], level.warped, *level.samples, level.shape)
    Ix, Iy, rho_c = (level._pixels(plane) for plane in level.warped)
    assert np.isfinite([Ix, Iy, rho_c]).all()
    if far == 0:
        np.testing.assert_allclose(rho_c, image, rtol=1e-6)
    if abs(far) > 1e6:
        assert not Ix.any()
        assert not rho_c.any()


def test_vectors_never_touch_memory_outside_their_planes():
    """Every plane lies in one block; what surrounds the block, and the guards between planes, keep their values."""
    height, width = 21, 37
    memory = native.Memory(height, width)
    size = len(memory._block)
    memory._block = np.full(size + 4096, 7.0, np.float32)[2048:-2048]
    around = memory._block.base
    rng = np.random.default_rng(0)
    image = rng.random((height, width), dtype=np.float32) * 255
    level = native.Level(image, image[::-1].copy(), np.zeros((3, height, width), np.float32), memory)
    level.solve(TVL1Params(gamma=0.1, warps=2, inner=3, fixed=True).resolved())
    assert (around[:2048] == 7).all()
    assert (around[-2048:] == 7).all()
    for plane in level.p:
        guards = plane.reshape(height + 2, -1)
        assert not guards[0].any()
        assert not guards[-1].any()
        assert not guards[:, : kernels.LEFT].any()


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
