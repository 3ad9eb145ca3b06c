"""Engine ``native`` gives OpenCV's own numbers, to the last bit, and so does the readable form of ``torch``.

That needs OpenCV 5 (4.x rounds positions) on a CPU on which its vector code fuses products (FMA).  Elsewhere the
looser bounds of test_flow_agreement hold.  Why bits matter: one of them, early, can end as 0.1 px at some pixel.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from flow_epe import NOISES, PEAKS
from flow_pairs import pair

from mepipe.flow import TVL1Params, get_engine

pytest.importorskip("numba")
cv2 = pytest.importorskip("cv2")
FMA3 = 12  # CPU_FMA3 of OpenCV, which Python has no name for
if int(cv2.__version__.split(".")[0]) < 5 or not cv2.checkHardwareSupport(FMA3):
    pytest.skip("bits are OpenCV 5's on a CPU with FMA", allow_module_level=True)

SMALL = 96
STRENGTHS = [(0.1, 0.0), (0.5, 1.5), (1.0, 0.0), (3.0, 1.5), (0.0, 0.0)]  # peak px, noise in grey levels
SETTINGS = {
    "default": {},
    "no padding": dict(pad=0),
    "fixed": dict(fixed=True),
    "gamma": dict(gamma=0.2),
    "median 3": dict(median=3),
    "no median": dict(median=0),
    "step 0.5": dict(scale_step=0.5),
    "step 0.9": dict(scale_step=0.9),
    "strong smoothing": dict(lambda_=0.03, theta=0.2, tau=0.1),
    "early stop": dict(epsilon=0.03, inner=7),
    "late stop": dict(epsilon=0.004, nscales=2),
    "micro": vars(TVL1Params.micro()),
}


def both(onset, apex, params=None, initial=None):
    return (get_engine(name, threads=1).flow(onset, apex, params, initial) for name in ("native", "opencv"))


@pytest.fixture(scope="module")
def small():
    made = [pair(peak, noise, SMALL, seed) for seed, (peak, noise) in enumerate(STRENGTHS)]
    return tuple(np.stack([p[i] for p in made]) for i in (0, 1))


@pytest.mark.parametrize("peak", PEAKS)
@pytest.mark.parametrize("noise", NOISES.values())
def test_full_size_pairs_at_the_defaults(peak, noise):
    onset, apex, _ = pair(peak, noise)
    np.testing.assert_array_equal(*both(onset[None], apex[None]))


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_every_setting(small, options):
    np.testing.assert_array_equal(*both(*small, TVL1Params(**options)))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 61), (96, 17)])
def test_any_size(small, height, width):
    np.testing.assert_array_equal(*both(*(images[:, :height, :width] for images in small)))


def test_an_initial_flow(small):
    start = np.random.default_rng(0).normal(0, 1, (len(STRENGTHS), 2, SMALL, SMALL)).astype(np.float32)
    np.testing.assert_array_equal(*both(*small, TVL1Params(), start))


@pytest.mark.parametrize("pad", [0, 1, 3, 16])
def test_images_that_have_nothing_in_common(pad):
    """Flows of many pixels, warps far outside the image."""
    onset, apex = np.random.default_rng(1).integers(0, 256, (2, 2, 64, 64), np.uint8)
    np.testing.assert_array_equal(*both(onset, apex, TVL1Params(pad=pad)))


@pytest.mark.parametrize("seed", range(12))
def test_steps_and_sizes_that_do_not_fit_and_a_start_far_off(seed):
    """The last column of a smaller level lies outside the larger one; a wrong bit there grows to 20 px here."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 80, 2)
    onset, apex = rng.random((2, 1, height, width), dtype=np.float32)
    start = rng.normal(0, 50, (1, 2, height, width)).astype(np.float32)
    step, warps = (0.7, 0.8, 0.9)[seed % 3], 2 + seed % 4
    params = TVL1Params(pad=seed % 4, nscales=6, warps=warps, scale_step=step, median=(1, 3, 5)[seed % 3], lambda_=0.4)
    np.testing.assert_array_equal(*both(onset, apex, params, start))


@pytest.mark.parametrize("step", [0.5, 0.7, 0.8, 0.9])
def test_images_are_resized_as_opencv_does(step):
    torch = pytest.importorskip("torch")
    from mepipe.flow.torch_ops import resize

    rng = np.random.default_rng(0)
    for _ in range(40):
        size = tuple(int(n) for n in rng.integers(16, 80, 2))
        image = rng.normal(size=size).astype(np.float32)
        smaller = cv2.resize(image, None, fx=step, fy=step)
        larger = cv2.multiply(cv2.resize(smaller, size[::-1]), 1 / step)
        np.testing.assert_array_equal(resized(image, smaller.shape, 1 / step), smaller)
        np.testing.assert_array_equal(resized(smaller, size, None, 1 / step), larger)
        down = resize(torch.from_numpy(image)[None], smaller.shape, 1 / step)
        up = resize(torch.from_numpy(smaller)[None], size, None, 1 / step)
        np.testing.assert_allclose(down[0], smaller, atol=1e-6)
        np.testing.assert_allclose(up[0], larger, atol=1e-6)


def resized(image, size, scale, factor=1.0):
    """``image`` (H, W) by the kernels of ``native``."""
    from mepipe.flow import native

    first, second = (native._levels((shape,), 2)[0] for shape in (image.shape, size))
    first.fill(first.images, [image])
    native.resize(first, first.images[:1], second, second.images, scale, (factor,))
    return second.pixels(second.images[0])


# the root of a^2 + b^2 lies so close to half way between two float32 that float32 arithmetic takes the wrong one
HALF_WAY = [
    (-0.0009639528580009937, 0.008165247738361359),
    (-4.921596050262451, 8.500904083251953),
    (0.0001224888546857983, 3.250665758969262e-05),
    (1.941847801208496, 1.9256657361984253),
    (1.7314420938491821, 1.0341906547546387),
    (-9.813841461436823e-05, -0.0004857851890847087),
]


def test_roots_are_the_c_librarys():
    from numba import njit

    from mepipe.flow.native_kernels import _hypot
    from mepipe.flow.simd import LANES, load, store

    @njit(error_model="numpy")
    def roots(a, b, out):
        for i in range(0, len(a), LANES):
            store(out, i, _hypot(load(a, i), load(b, i)))

    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(2, 1 << 20)) * 10.0 ** rng.uniform(-4, 1, 1 << 20)).astype(np.float32)
    a[: len(HALF_WAY)], b[: len(HALF_WAY)] = np.transpose(HALF_WAY)
    a[100:200], b[150:250] = 0.0, 0.0
    out = np.empty_like(a)
    roots(a, b, out)
    np.testing.assert_array_equal(
        out, np.sqrt(a.astype(np.float64) ** 2 + b.astype(np.float64) ** 2).astype(np.float32)
    )


@pytest.fixture
def readable():
    """The readable form of engine ``torch``, on one thread."""
    torch = pytest.importorskip("torch")
    a, b, c = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    if not torch.equal(torch.addcmul(c, a, b), (a.double() * b.double() + c.double()).float()):
        pytest.skip("this build of torch does not fuse the product of addcmul")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield get_engine("torch", plain=True)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["default", "no padding", "gamma", "median 3", "step 0.9", "late stop"])
def test_the_readable_form_of_torch(small, readable, name):
    params = TVL1Params(**SETTINGS[name])
    np.testing.assert_array_equal(readable.flow(*small, params), get_engine("native", threads=1).flow(*small, params))


def test_torch_on_the_cpu_stops_where_opencv_does(readable):
    """Its fast form rounds iterations otherwise, and follows in the sum that ends a warp: no pixel is 0.05 px off."""
    onset, apex, _ = pair(0.5, 0.0)
    native, fast = (get_engine(name).flow(onset[None], apex[None]) for name in ("native", "torch"))
    assert np.abs(native - fast).max() <= 0.05
    assert np.abs(native - fast).mean() <= 1e-4
