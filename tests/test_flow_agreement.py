"""Every registered engine against cv2's DualTVL1 and against known motion.

An engine is covered by being registered.  The bounds are those of docs/flow.md.  With the pair
padded by 16 px and a fixed number of iterations the algorithm is well conditioned and engines must
agree closely.  Two things may differ more: without padding OpenCV disagrees with itself by about
0.01 px under rounding-sized changes of the input, and with the epsilon stop a warp whose change is
within rounding of epsilon runs one iteration more in one engine than in another (a "late stop"):
``native`` rounds as OpenCV does throughout; the fast form of ``torch`` and a GPU do not.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from flow_pairs import end_point_error, pair

from mepipe.errors import MepipeError
from mepipe.flow import ENGINES, TVL1Params, get_engine

cv2 = pytest.importorskip("cv2")

OPENCV_5 = int(cv2.__version__.split(".")[0]) >= 5  # before, remap rounds positions to 1/32 px
FMA3 = 12  # CPU_FMA3 of OpenCV, which Python has no name for; without it products are rounded otherwise
MIXED = [(0.1, 0.0), (0.5, 1.5), (0.0, 0.0), (1.0, 0.0), (1.0, 1.5), (3.0, 0.0), (3.0, 1.5)]  # peak px, noise
SIDE = 96


def engine_or_skip(name, device):
    try:
        return get_engine(name, device)
    except MepipeError as e:
        pytest.skip(str(e))


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="module", params=list(ENGINES))
def engine(request, device):
    return engine_or_skip(request.param, device)


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread():
    """Images this small gain nothing from more, and threads that wait in a spin slow everything else."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Remembering:
    """An engine that computes each flow once: the reference is the same for all engines."""

    def __init__(self, engine):
        self.engine = engine
        self.known = {}

    def flow(self, *images, params=None, initial=None):
        key = (params, *(a if a is None else (a.shape, a.tobytes()) for a in (*images, initial)))
        if key not in self.known:
            self.known[key] = self.engine.flow(*images, params, initial)
        return self.known[key]


@pytest.fixture(scope="module")
def opencv():
    return Remembering(engine_or_skip("opencv", "cpu"))


@pytest.fixture(scope="module")
def mixed():
    """Onsets, apexes and true flows of pairs that need from 1 to several hundred iterations."""
    made = [pair(peak, noise, SIDE, seed) for seed, (peak, noise) in enumerate(MIXED)]
    return tuple(np.stack(part) for part in zip(*made, strict=True))


@pytest.fixture(scope="module")
def small(mixed):
    """The same pairs, 40 x 56 px of them around the mouth: a clean and two noisy ones."""
    return tuple(part[[3, 4, 6], ..., 50:90, 20:76] for part in mixed)


@pytest.fixture(scope="module")
def reference(opencv, mixed):
    return opencv.flow(*mixed[:2])


@pytest.fixture(scope="module")
def default(engine, mixed):
    """The engine's flow of ``mixed`` at default settings."""
    return engine.flow(*mixed[:2])


def close(flow, expected, *, mean=2e-4, p99=2e-3, worst=0.05):
    """For each pair, whether it is within the bounds (px)."""
    if not OPENCV_5:
        return [difference.mean() <= 0.03 for difference in end_point_error(flow, expected)]
    return [
        difference.mean() <= mean and np.percentile(difference, 99) <= p99 and difference.max() <= worst
        for difference in end_point_error(flow, expected)
    ]


def assert_close(flow, expected, **bounds):
    assert all(close(flow, expected, **bounds)), [
        f"mean {d.mean():.1e} p99 {np.percentile(d, 99):.1e} max {d.max():.1e}" for d in end_point_error(flow, expected)
    ]


def assert_differs(flow, other):
    """What was changed has an effect, so agreeing on it says more than agreeing on the default."""
    assert np.abs(flow - other).max() > 1e-3


def test_engines_of_the_cpu_are_usable_here():
    """Else the suite below would skip them and say nothing."""
    for name in ("opencv", "torch"):
        assert get_engine(name).device == "cpu"


def test_defaults_agree_with_opencv_on_a_mixed_batch(engine, default, reference):
    """Engines that round as OpenCV does: every pair to the strict bound.  Others: all but late stops, and those to what
    epsilon allows."""
    if engine.name in ("opencv", "native") and cv2.checkHardwareSupport(FMA3):
        assert_close(default, reference)
    agree = close(default, reference)
    assert sum(agree) >= len(agree) - 2
    assert end_point_error(default, reference).mean(axis=(1, 2)).max() <= 0.02


def test_a_full_size_noisy_pair_agrees(engine, opencv):
    onset, apex, _ = pair(0.5, 1.5)
    assert_close(engine.flow(onset[None], apex[None]), opencv.flow(onset[None], apex[None]))


def test_one_warp_of_thirty_iterations_agrees_to_rounding(engine, opencv, mixed):
    params = TVL1Params(nscales=1, warps=1, inner=30, fixed=True)
    expected = opencv.flow(*mixed[:2], params=params)
    assert_close(engine.flow(*mixed[:2], params), expected, mean=1e-5, p99=1e-4, worst=1e-4)


@pytest.mark.parametrize("epsilon", [0.1, 0.03, 0.012])
def test_each_image_stops_where_opencv_stops(engine, opencv, mixed, epsilon):
    """One iteration more or less would show as more than 1e-4 px."""
    params = TVL1Params(nscales=1, warps=1, inner=7, epsilon=epsilon)
    expected = opencv.flow(*mixed[:2], params=params)
    assert_close(engine.flow(*mixed[:2], params), expected, mean=1e-5, p99=1e-4, worst=1e-4)
    longer = opencv.flow(*mixed[:2], params=replace(params, epsilon=0.9 * epsilon))
    assert sum(close(expected, longer, mean=1e-5, p99=1e-4, worst=1e-4)) < len(MIXED)


def test_without_padding_engines_agree_as_well_as_opencv_with_itself(engine, opencv, mixed):
    params = TVL1Params(pad=0, nscales=2, warps=2)
    flow, expected = engine.flow(*mixed[:2], params), opencv.flow(*mixed[:2], params=params)
    for i, truth in enumerate(mixed[2]):
        assert end_point_error(flow[i], expected[i]).mean() <= 0.02
        errors = [end_point_error(f[i], truth).mean() for f in (flow, expected)]
        assert abs(errors[0] - errors[1]) <= 0.004


BASE = TVL1Params(fixed=True, inner=10, warps=3)
OPTIONS = {
    "median 3": dict(median=3),
    "no median": dict(median=0),
    "gamma": dict(gamma=0.2),
    "strong smoothing": dict(lambda_=0.03),
    "theta and tau": dict(theta=0.2, tau=0.1),
    "step 0.5": dict(scale_step=0.5, nscales=3),
    "step 0.9": dict(scale_step=0.9, nscales=3),
    "one scale": dict(nscales=1),
    "pad 3": dict(pad=3, nscales=1),
    "inner and outer": dict(fixed=False, epsilon=0.0, inner=3, outer=4),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_each_parameter_means_what_it_means_in_opencv(engine, opencv, small, options):
    params = replace(BASE, **options)
    expected = opencv.flow(*small[:2], params=params)
    assert_close(engine.flow(*small[:2], params), expected)
    assert_differs(expected, opencv.flow(*small[:2], params=BASE))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 61), (45, 17), (33, 224)])
def test_small_and_oblong_images_agree(engine, opencv, height, width):
    onset, apex, _ = pair(0.6, 1.0)
    top, left = (224 - height) // 3, (224 - width) // 3
    crop = (None, slice(top, top + height), slice(left, left + width))
    params = TVL1Params(fixed=True, inner=15)
    expected = opencv.flow(onset[crop], apex[crop], params=params)
    assert_close(engine.flow(onset[crop], apex[crop], params), expected, p99=5e-3)


def test_a_pair_does_not_depend_on_the_rest_of_the_batch(engine, small):
    onset, apex, _ = small
    together = engine.flow(onset, apex)
    backwards = engine.flow(onset[::-1], apex[::-1])[::-1]
    alone = np.concatenate([engine.flow(o[None], a[None]) for o, a in zip(onset, apex, strict=True)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, backwards)


def test_the_same_call_gives_the_same_bits(engine, mixed, default):
    np.testing.assert_array_equal(engine.flow(mixed[0][1:2], mixed[1][1:2]), default[1:2])


def test_float_grey_is_the_same_as_uint8(engine, small):
    onset, apex, _ = small
    floats = engine.flow(onset.astype(np.float32) / 255, apex.astype(np.float32) / 255, BASE)
    assert_close(floats, engine.flow(onset, apex, BASE))


def test_identical_frames_give_exactly_zero(engine, small):
    onset = small[0]
    for params in (TVL1Params(), TVL1Params(fixed=True, inner=5), TVL1Params(gamma=0.2, nscales=2)):
        assert not engine.flow(onset, onset, params).any()
    flat = np.full((1, 40, 40), 99, np.uint8)
    assert not engine.flow(flat, flat).any()


def test_a_change_of_brightness_without_texture_is_no_motion(engine):
    dark, bright = np.full((1, 40, 40), 90, np.uint8), np.full((1, 40, 40), 110, np.uint8)
    assert np.abs(engine.flow(dark, bright)).max() < 1e-6


def test_an_initial_flow_is_used_and_agrees(engine, opencv, mixed):
    onset, apex, truth = (part[3:5] for part in mixed)
    params = replace(BASE, nscales=2)
    start = truth.astype(np.float32)
    flow = engine.flow(onset, apex, params, start)
    assert_close(flow, opencv.flow(onset, apex, params=params, initial=start))
    assert_differs(flow, engine.flow(onset, apex, params))


def test_known_motion_is_found(default, mixed):
    """End-point error, mean over the face, within 1.3 times what OpenCV reaches on these pairs."""
    for (peak, noise), found, truth in zip(MIXED, default, mixed[2], strict=True):
        error = end_point_error(found, truth).mean()
        assert error <= 0.012 + 0.045 * peak + 0.02 * noise
        if peak >= 0.5:
            assert error < 0.7 * end_point_error(np.zeros_like(truth), truth).mean()


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_u_is_positive_to_the_right_and_v_downwards(engine, dx, dy):
    onset, _, _ = pair(0.0, 0.0, 64)
    apex = np.roll(onset, (dy, dx), axis=(0, 1))
    u, v, magnitude = engine.flow(onset[None], apex[None], BASE)[0, :, 12:-12, 12:-12]
    assert np.median(u) == pytest.approx(dx, abs=0.1)
    assert np.median(v) == pytest.approx(dy, abs=0.1)
    np.testing.assert_allclose(magnitude, np.hypot(u, v), rtol=1e-6)


def test_turning_the_images_turns_the_flow(engine):
    """Rows and columns are treated alike: transposing the pair transposes the flow and swaps u and v."""
    onset, apex, _ = (part[None] for part in pair(1.0, 0.0, 64))
    flow = engine.flow(onset, apex, BASE)
    turned = engine.flow(onset.transpose(0, 2, 1), apex.transpose(0, 2, 1), BASE)
    assert_close(turned[:, [1, 0, 2]].transpose(0, 1, 3, 2), flow)


def test_extreme_contrast_stays_finite(engine):
    rng = np.random.default_rng(0)
    onset, apex = (rng.choice(np.array([0, 255], np.uint8), (1, 48, 48)) for _ in range(2))
    for params in (BASE, replace(BASE, lambda_=100.0), replace(BASE, theta=10.0)):
        assert np.isfinite(engine.flow(onset, apex, params)).all()


def test_versions_name_what_the_result_depends_on(engine):
    versions = engine.versions()
    assert {"mepipe", "numpy", "opencv", "torch"} <= set(versions)
    identity = engine.identity()
    assert identity.pop("engine") == engine.name
    assert identity.pop("revision") >= 1
    assert identity
    assert identity == {name: versions[name] for name in identity}
    assert all(identity.values())
