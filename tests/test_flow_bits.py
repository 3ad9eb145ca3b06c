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


def test_images_that_have_nothing_in_common():
    """Flows of many pixels, warps far outside the image: the square roots may here and there round otherwise."""
    onset, apex = np.random.default_rng(1).integers(0, 256, (2, 2, 64, 64), np.uint8)
    native, opencv = both(onset, apex)
    np.testing.assert_allclose(native, opencv, atol=1e-4)


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
