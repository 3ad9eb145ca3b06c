"""The engine ``triton``: its kernels interpreted, compiled for A100 and H100, and, where there is a GPU, run.

Where there is a GPU, the agreement suite (test_flow_agreement.py) runs over this engine too.  The interpreter takes
milliseconds for what a GPU does in nanoseconds: images here are tiny.
"""

import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from flow_pairs import end_point_error, pair

from mepipe.errors import MepipeError
from mepipe.flow import TVL1Params, get_engine, registry

pytest.importorskip("triton")

import triton
import triton.language as tl

from mepipe.flow import triton_images

ONE_WARP = TVL1Params(nscales=1, warps=1, pad=0)
FEW = TVL1Params(nscales=2, warps=2, inner=3, pad=2, fixed=True)
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


# --- in the interpreter's process --------------------------------------------------------------------


def prepare_interpreter():
    """Runs first in the process: the language is prepared once a kernel, not at each call inside it: twice as fast."""
    from triton.runtime import interpreter

    def call(self, *args, **kwargs):
        if not self.fn.__module__.startswith("mepipe"):
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call


def flow(batches, params, initial=None, stages=None):
    """The flows of several batches, one after another, by one engine; stages: iterations a sweep, None as usual."""
    from mepipe.flow import triton_engine

    engine = get_engine("triton")
    with pytest.MonkeyPatch.context() as patch:
        if stages:
            launch = triton_engine.Launch.of(32)._replace(stages=stages)
            patch.setattr(triton_engine.Launch, "of", lambda pitch: launch)
        return [engine.flow(onset, apex, params, initial) for onset, apex in batches]


def medians(image, k):
    source, target = torch.from_numpy(image), torch.zeros(image.shape)
    height, width = image.shape
    median_of_plane[(1,)](source, target, height, width, K=k, BLOCK=triton.next_power_of_2(width))
    return target.numpy()


def linearised(image, shift):
    """Ix, Iy, rho_c of ``image``, without a reference, at a constant shift; the memory outside the planes is NaN."""
    height, width = image.shape
    planes = torch.full((10, height, width), float("nan"))
    planes[0], planes[1], planes[4:6] = 0, torch.from_numpy(image), shift
    linearise_planes[(1,)](planes, height, width, BLOCK=triton.next_power_of_2(width))
    return planes[6:9].numpy()


def versions():
    return get_engine("triton").versions(), get_engine("triton").identity()


@pytest.fixture(scope="module")
def interpreted():
    """Run a function of this module where TRITON_INTERPRET was set before triton was imported."""
    with ProcessPoolExecutor(1, get_context("spawn"), prepare_interpreter) as process:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            process.submit(os.getpid).result()  # started, with the variable
        yield lambda function, *args, **kwargs: process.submit(function, *args, **kwargs).result()


def reference(name):
    """opencv, or torch in its readable form."""
    return get_engine(name, **({"plain": True} if name == "torch" else {"threads": 1}))


def crop(peak, noise, seed=0):
    """A pair of 16 x 24 px around a brow."""
    onset, apex, _ = pair(peak, noise, 96, seed)
    return onset[None, 32:48, 24:48], apex[None, 32:48, 24:48]


def batch(*pairs):
    return tuple(np.concatenate(images) for images in zip(*pairs, strict=True))


def assert_close(flow, expected, worst=1e-4):
    difference = end_point_error(flow, expected)
    assert difference.max() <= worst, f"mean {difference.mean():.1e} max {difference.max():.1e}"


def test_thirty_iterations_agree_to_rounding_with_torch_and_opencv(interpreted):
    """Among them seven sweeps of four, the first of two, and one median."""
    images = crop(1.0, 1.5)
    params = replace(ONE_WARP, fixed=True)
    [found] = interpreted(flow, [images], params)
    assert np.abs(found).max() > 0.1
    for name in ("torch", "opencv"):
        assert_close(found, reference(name).flow(*images, params))


@pytest.mark.slow
def test_each_pair_stops_by_its_own_change_whatever_else_is_in_the_batch(interpreted):
    """Stops within and at the end of sweeps, in a batch and alone: the bits are the same, and so are torch's stops."""
    still, quiet, lively = crop(0.0, 0.0), crop(0.3, 0.0), crop(3.0, 3.0)
    params = replace(ONE_WARP, inner=5, epsilon=0.06, outer=2)
    mixed = batch(lively, still, quiet)
    found, alone = interpreted(flow, [mixed, quiet], params)
    np.testing.assert_array_equal(found[2:], alone)
    assert not found[1].any()
    expected = reference("torch").flow(*mixed, params)
    assert_close(found, expected)
    fixed = reference("torch").flow(*mixed, replace(params, epsilon=0.0))
    assert [end_point_error(a, b).max() > 1e-3 for a, b in zip(expected, fixed, strict=True)] == [False, False, True]


def test_the_length_of_a_sweep_does_not_change_a_bit(interpreted):
    """Neither does it change where a pair stops: here after 8 iterations, within a sweep."""
    images = crop(0.5, 0.0)
    params = replace(ONE_WARP, inner=9, epsilon=0.048, median=0, outer=1)
    [usual], [one], [three] = (interpreted(flow, [images], params, stages=n) for n in (None, 1, 3))
    np.testing.assert_array_equal(one, usual)
    np.testing.assert_array_equal(three, usual)
    fixed = {n: reference("torch").flow(*images, replace(params, epsilon=0.0, inner=n)) for n in (7, 8, 9)}
    assert_close(usual, fixed[8])
    assert min(end_point_error(fixed[8], fixed[n]).max() for n in (7, 9)) > 1e-3


OPTIONS = {
    "gamma, median 3, floats, an initial flow": dict(gamma=0.2, median=3),
    "inner and outer, theta, tau, lambda": dict(
        nscales=1, fixed=False, epsilon=0.0, outer=2, theta=0.2, tau=0.1, lambda_=0.4, median=0
    ),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_parameters_mean_what_they_mean_in_torch(interpreted, options):
    images, start = crop(1.0, 1.5), None
    params = replace(FEW, **options)
    if params.gamma:
        images = tuple(image / np.float32(255) for image in images)
        start = np.full((1, 2, 16, 24), 0.3, np.float32)
    [found] = interpreted(flow, [images], params, start)
    assert_close(found, reference("torch").flow(*images, params, start))


@pytest.mark.slow
def test_the_whole_schedule_agrees(interpreted):
    """Pyramid, warps, medians, iterations and stops, but fewer warps and a larger epsilon than the defaults."""
    images = crop(0.5, 0.0)
    params = TVL1Params(pad=2, warps=2, epsilon=0.1)
    [found] = interpreted(flow, [images], params)
    assert_close(found, reference("torch").flow(*images, params))
    assert_close(found, reference("opencv").flow(*images, params))


@pytest.mark.slow  # a minute or two
def test_the_defaults_agree(interpreted):
    images = batch(crop(0.5, 0.0), crop(0.0, 0.0))
    params = TVL1Params(pad=2)
    [found] = interpreted(flow, [images], params)
    difference = end_point_error(found, reference("opencv").flow(*images, params))
    assert difference.mean() <= 2e-4
    assert difference.max() <= 0.05


@triton.jit
def median_of_plane(source, target, H, W, K: tl.constexpr, BLOCK: tl.constexpr):
    triton_images.median_filter(source, target, H, W, W, tl.arange(0, BLOCK), K)


@triton.jit
def linearise_planes(planes, H, W, BLOCK: tl.constexpr):
    plane, x = H * W, tl.arange(0, BLOCK)
    slopes = planes + 2 * plane
    triton_images.gradient(planes + plane, slopes, plane, H, W, W, x)
    triton_images.linearise(planes, planes + plane, slopes, planes + 4 * plane, planes + 6 * plane, plane, H, W, W, x)


@pytest.mark.parametrize(("k", "width"), [(3, 17), (5, 16), (5, 33)])
def test_the_median_is_the_median(interpreted, k, width):
    image = np.random.default_rng(width).normal(size=(7, width)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, k // 2, mode="edge"), (k, k))
    np.testing.assert_array_equal(interpreted(medians, image, k), np.median(windows, axis=(2, 3)).astype(np.float32))


@pytest.mark.parametrize("far", [0.0, 0.4, 1e9, -1e9])
def test_sampling_outside_reads_zeros_and_nothing_else(interpreted, far):
    """Around the image lies NaN, so that a tap too many would show."""
    image = np.random.default_rng(0).random((9, 21), dtype=np.float32) * 255
    found = interpreted(linearised, image, far)
    assert np.isfinite(found).all()
    if far == 0:
        np.testing.assert_array_equal(found[2], image)
    if abs(far) > 1e6:
        assert not found.any()


def test_versions_name_triton(interpreted):
    found, identity = interpreted(versions)
    assert found["triton"] == identity["triton"] == triton.__version__
    assert {"mepipe", "numpy", "opencv", "torch"} <= set(found)


# --- compiled for GPUs that need not be here ---------------------------------------------------------


def compile_for(kernel, capability, numbers, floats, **options):
    """The kernel as cubin. constexpr values by name; numbers: its int arguments; floats: its float ones."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {name: options.pop(name) for name in kernel.arg_names if name in options}
    integers = ("count", "rows", "columns")
    types = dict.fromkeys(constants, "constexpr") | dict.fromkeys(numbers, "i32") | dict.fromkeys(floats, "fp32")
    signature = {n: types.get(n, "*i32" if n in integers else "*fp32") for n in kernel.arg_names}
    aligned = [i for i, n in enumerate(kernel.arg_names) if signature[n].startswith("*") or n == "pitch"]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.fixture
def compiler():
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("TRITON_INTERPRET is set: triton interprets and does not compile")
    if "nvidia" not in triton.backends.backends:
        pytest.skip("this triton is built without the NVIDIA backend")
    try:
        triton.knobs.nvidia.ptxas.path  # noqa: B018  looks for it
    except RuntimeError as e:
        pytest.skip(f"no ptxas: {e}")


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_of_a_level_compiles_ahead_of_time(compiler, capability):
    """For A100 and H100, as it is launched for 224 px with pad 16; no sum depends on the order of arrival."""
    from mepipe.flow import triton_engine, triton_kernels

    launch = triton_engine.Launch.of(256)
    assert launch == (256, 8, 4)
    made = compile_for(
        triton_kernels.solve_level, capability,
        ("H", "W", "pitch", "warps", "inner", "outer"), ("enough", "theta", "l_t", "taut", "gamma"),
        CHANNELS=2, MEDIAN=5, STAGES=launch.stages, BLOCK=launch.block,
        num_warps=launch.warps, num_stages=1, maxnreg=triton_engine.REGISTERS, enable_fp_fusion=True,
    )  # fmt: skip
    assert f".target sm_{capability}" in made.asm["ptx"]
    assert "atom." not in made.asm["ptx"]
    assert "red." not in made.asm["ptx"].replace("shared.", "")
    assert made.asm["cubin"][:4] == b"\x7fELF"
    assert made.metadata.shared <= 8 * launch.block


@pytest.mark.parametrize("capability", [80, 90])
def test_the_other_kernels_compile_ahead_of_time(compiler, capability):
    from mepipe.flow import triton_images as images

    sizes = ("H", "W", "pitch", "target_pitch", "margin", "source_H", "source_W", "source_pitch")
    floats = ("grey", "factor")
    for kernel, constants in (
        (images.pad, dict(CHANNELS=1, TARGET_CHANNELS=2, SLOT=1, BLOCK=1024)),
        (images.resize, dict(CHANNELS=3, BLOCK=1024)),
        (images.finish, dict(CHANNELS=2, BLOCK=1024)),
    ):
        assert compile_for(kernel, capability, sizes, floats, **constants).asm["cubin"][:4] == b"\x7fELF"


@pytest.mark.slow  # a quarter of a minute each
@pytest.mark.parametrize("width", [24, 800, 2048])
def test_every_width_and_gamma_compile_ahead_of_time(compiler, width):
    from mepipe.flow import triton_engine, triton_kernels

    launch = triton_engine.Launch.of(triton_engine.pitch_of(width))
    made = compile_for(
        triton_kernels.solve_level, 90,
        ("H", "W", "pitch", "warps", "inner", "outer"), ("enough", "theta", "l_t", "taut", "gamma"),
        CHANNELS=3, MEDIAN=3, STAGES=launch.stages, BLOCK=launch.block,
        num_warps=launch.warps, num_stages=1, maxnreg=triton_engine.REGISTERS, enable_fp_fusion=True,
    )  # fmt: skip
    assert made.asm["cubin"][:4] == b"\x7fELF"


# --- choosing it -------------------------------------------------------------------------------------


def test_auto_takes_triton_on_cuda_and_says_why(monkeypatch):
    name, why = registry._choose("cuda")
    assert (name, "fastest engine on a GPU" in why) == ("triton", True)
    monkeypatch.setitem(sys.modules, "triton", None)
    name, why = registry._choose("cuda:1")
    assert (name, "pip install triton" in why) == ("torch", True)


def test_without_a_gpu_it_says_so():
    with pytest.raises(MepipeError, match="runs on a CUDA GPU, not on the CPU; use --gpu") as e:
        get_engine("triton")
    assert e.value.exit_code == 1
    if not torch.cuda.is_available():
        with pytest.raises(MepipeError, match="no CUDA GPU is usable"):
            get_engine("triton", "cuda")


def test_absent_triton_is_explained():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from mepipe.errors import MepipeError\n"
        "from mepipe.flow import get_engine\n"
        "try: get_engine('triton')\n"
        "except MepipeError as e: print(e.exit_code, e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 engine triton needs triton")
    assert "pip install" in done.stdout


def test_a_schedule_never_asks_for_more_memory_than_it_has_told():
    """What the buffers of a schedule take is what the choice of the batch counted on."""
    from mepipe.flow import triton_engine

    for setting in (
        triton_engine.Setting(60, 70, torch.uint8, False, TVL1Params(), 16),
        triton_engine.Setting(40, 33, torch.float32, True, TVL1Params(gamma=0.1, nscales=2), 0),
    ):
        schedule = triton_engine.Schedule(setting, 3, 3, "cpu")
        buffers = [schedule.onset, schedule.apex, schedule.work, schedule.out, *schedule.images, *schedule.flows]
        buffers += [] if schedule.initial is None else [schedule.initial]
        assert sum(b.numel() * b.element_size() for b in buffers) == 3 * setting.bytes()


# --- on a GPU ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eight():
    """224 x 224: still, clean and noisy pairs of 0.1 to 3 px."""
    cases = [(0.0, 0), (0.1, 0), (0.25, 1.5), (0.5, 0), (0.5, 1.5), (1, 0), (1, 1.5), (3, 1.5)]
    return tuple(np.stack(part) for part in zip(*(pair(*c, seed=i)[:2] for i, c in enumerate(cases)), strict=True))


@pytest.fixture(scope="module")
def gpu():
    return get_engine("triton", "cuda")


@pytest.mark.cuda
@on_cuda
@pytest.mark.parametrize("name", ["native", "opencv"])
def test_on_a_gpu_a_batch_agrees_with_the_engines_of_the_cpu(gpu, eight, name):
    difference = end_point_error(gpu.flow(*eight), get_engine(name).flow(*eight))
    good = [d.mean() <= 2e-4 and np.percentile(d, 99) <= 2e-3 and d.max() <= 0.05 for d in difference]
    assert sum(good) >= 6  # late stops, see docs/flow.md
    assert difference.mean(axis=(1, 2)).max() <= 0.02
    fixed = replace(ONE_WARP, fixed=True, pad=16)
    assert_close(gpu.flow(*eight, fixed), get_engine(name).flow(*eight, fixed))


@pytest.mark.cuda
@on_cuda
def test_on_a_gpu_a_pair_does_not_depend_on_its_batch_and_a_replay_gives_the_same_bits(gpu, eight):
    found = gpu.flow(*eight)
    np.testing.assert_array_equal(gpu.flow(*eight), found)
    turned = gpu.flow(*(images[::-1] for images in eight))
    np.testing.assert_array_equal(turned[::-1], found)
    for i in (0, 4):
        np.testing.assert_array_equal(gpu.flow(*(images[i : i + 1] for images in eight)), found[i : i + 1])


@pytest.mark.cuda
@on_cuda
def test_on_a_gpu_offsets_beyond_32_bits_are_right(gpu):
    """Forty pairs of 2048 x 2048 take more floats than 32 bits can count; the last must be as if alone."""
    image = np.random.default_rng(0).integers(0, 256, (1, 2048, 2048), dtype=np.uint8)
    moved = np.roll(image, 1, axis=2)
    params = TVL1Params(nscales=1, warps=1, inner=2, fixed=True, pad=0)
    if gpu._most(setting_of(image, params)) < 40:
        pytest.skip("not enough free memory on the GPU")
    many = gpu.flow(np.repeat(image, 40, axis=0), np.repeat(moved, 40, axis=0), params)
    np.testing.assert_array_equal(many[39:], gpu.flow(image, moved, params))


def setting_of(image, params):
    from mepipe.flow.triton_engine import Setting

    return Setting(*image.shape[1:], torch.uint8, False, params.resolved(), params.pad)


@pytest.mark.cuda
@on_cuda
def test_on_a_gpu_it_is_far_faster_than_a_core(gpu):
    """A sanity check, not the benchmark (benchmarks/flow_gpu.py)."""
    onset, apex, _ = pair(0.5, 1.5)
    pairs = [torch.from_numpy(image).cuda()[None].expand(256, -1, -1).contiguous() for image in (onset, apex)]
    gpu.flow_of_tensors(*pairs)
    torch.cuda.synchronize()
    started = time.perf_counter()
    gpu.flow_of_tensors(*pairs)
    torch.cuda.synchronize()
    assert 256 / (time.perf_counter() - started) > 500  # a core does 20


@pytest.mark.cuda
@on_cuda
def test_an_engine_of_a_gpu_can_be_sent_to_another_process(gpu):
    assert pickle.loads(pickle.dumps(gpu)).device == gpu.device
