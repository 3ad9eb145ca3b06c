"""Engine ``torch`` on the CPU against its readable form: the same flow up to rounding, faster."""

import itertools
import pickle
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from flow_pairs import pair

from mepipe.flow import TVL1Params, get_engine
from mepipe.flow import torch_strips as strips
from mepipe.flow.median import merging_network, run_on_bits
from mepipe.flow.torch_median import Median
from mepipe.flow.torch_ops import median, warp_cubic
from mepipe.flow.torch_scratch import Scratch
from mepipe.flow.torch_warp import REACH, Sources, Warp

BASE = TVL1Params(fixed=True, inner=15, nscales=3)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images():
    made = [pair(peak, noise, 72, seed)[:2] for seed, (peak, noise) in enumerate([(0.5, 0.0), (2.0, 1.5)])]
    return tuple(np.stack(part) for part in zip(*made, strict=True))


def difference(images, params, initial=None):
    fast, plain = get_engine("torch"), get_engine("torch", plain=True)
    return np.abs(fast.flow(*images, params, initial) - plain.flow(*images, params, initial))


@pytest.mark.parametrize(
    "options",
    [{}, {"median": 3}, {"median": 0}, {"gamma": 0.1}, {"fixed": False, "epsilon": 0.0, "inner": 3, "outer": 4}],
    ids=str,
)
def test_strips_give_the_flow_of_the_readable_form(images, options):
    found = difference(images, replace(BASE, **options))
    assert found.max() < 2e-2  # the bounds between engines are 0.05 and 2e-4
    assert found.mean() < 1e-4


@pytest.mark.parametrize("options", [{}, {"pad": 0}, {"gamma": 0.1}, {"median": 0}], ids=str)
def test_one_warp_differs_by_rounding_only(images, options):
    assert difference(images, replace(BASE, nscales=1, warps=1, inner=30, **options)).max() < 1e-5


@pytest.mark.parametrize("strip", [200, 3000, 10**6])
def test_the_height_of_a_strip_does_not_matter(images, strip, monkeypatch):
    """Also strips of two rows, and a last row that would be a strip of its own."""
    monkeypatch.setattr(strips, "STRIP", strip)
    images = tuple(i[:, :71, :60] for i in images)
    assert difference(images, replace(BASE, nscales=1, warps=1, pad=8)).max() < 1e-5


def test_a_first_flow_is_used(images):
    first = np.full((2, 2, 72, 72), 0.7, np.float32)
    assert difference(images, BASE, first).max() < 5e-3
    assert np.abs(get_engine("torch").flow(*images, BASE, first) - get_engine("torch").flow(*images, BASE)).max() > 1e-3


def test_the_epsilon_stop_comes_at_the_same_iteration(images):
    """A stop that comes an iteration apart moves the flow by some 1e-3 px over the whole image."""
    assert difference(images, TVL1Params(nscales=2, warps=2)).mean() < 1e-4


def test_arrays_kept_from_an_earlier_pair_leave_no_trace(images):
    engine, params = get_engine("torch"), replace(BASE, gamma=0.1)
    fresh = [get_engine("torch").flow(o[None], a[None], params) for o, a in zip(*images, strict=True)]
    smaller = tuple(i[:, :40, :50] for i in images)
    for other in (params, BASE):  # other images, other sizes, other parameters in between
        engine.flow(*smaller, other)
        for n in (1, 0):
            again = engine.flow(images[0][n : n + 1], images[1][n : n + 1], params)
            np.testing.assert_array_equal(again, fresh[n])


def test_one_engine_serves_several_threads(images):
    engine, results = get_engine("torch"), {}
    expected = [get_engine("torch").flow(o[None], a[None], BASE) for o, a in zip(*images, strict=True)]

    def work(thread: int) -> None:
        for turn in range(3):
            n = (thread + turn) % 2
            results[thread, turn] = n, engine.flow(images[0][n : n + 1], images[1][n : n + 1], BASE)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 9
    for n, flow in results.values():
        np.testing.assert_array_equal(flow, expected[n])


def test_an_engine_that_was_used_is_sent_without_its_arrays(images):
    engine = get_engine("torch")
    engine.flow(*images, BASE)
    assert len(pickle.dumps(engine)) < 10_000


def test_the_engine_says_which_form_it_takes():
    assert get_engine("torch").path.startswith("strips, not compiled: ")
    assert get_engine("torch", plain=True).path.startswith("plain operations on batches: asked for")


# --- the operations ---


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (64, 51), (150, 201)])
def test_the_median_of_two_columns_at_once_is_the_median(k, height, width):
    images = torch.randn(2, height, width, generator=torch.Generator().manual_seed(k))
    expected = median(images, k)
    fast = images.clone()
    Median(fast, k, Scratch())()
    torch.testing.assert_close(fast, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 3), (5, 5), (10, 10), (4, 7)])
def test_the_merging_network_merges(m, n):
    """By the 0-1 principle: right on all sorted lists of zeros and ones, it is right on all numbers."""
    network, order = merging_network(list(range(m)), list(range(m, m + n)))
    for ones, others in itertools.product(range(m + 1), range(n + 1)):
        bits = [i >= m - ones for i in range(m)] + [i >= n - others for i in range(n)]
        merged = run_on_bits(network, [np.array(b) for b in bits])
        assert [bool(merged[wire]) for wire in order] == sorted(bits)


@pytest.mark.parametrize("shift", [0.0, 0.3, -1.4, 4.0, 3.0 * REACH])
def test_the_warp_by_shifts_is_the_warp_by_index(shift):
    g = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(3, 40, 37, generator=g)
    flow = shift + 0.4 * torch.randn(2, 40, 37, generator=g)
    flow[:, 20, 20] = 0.0  # whole positions among others
    sources = Sources(3, 40, 37)
    sources.set(images)
    expected = warp_cubic(images[None], flow[:1], flow[1:])[0]
    for top, rows in ((0, 40), (0, 11), (29, 11)):
        found = warped(sources, top, flow[:, top : top + rows])
        assert torch.equal(found, expected[:, top : top + rows])


@pytest.mark.parametrize("peak", [0.0, 3.0 * REACH], ids=["by shifts", "by index"])
def test_what_was_in_memory_before_does_not_matter(images, peak, memory_of_nan):
    """A NaN right of the image, left there by a warp by index, once reached the next row through the dual step."""
    start = np.full((2, 2, 72, 72), peak, np.float32)
    expected = get_engine("torch").flow(*images, BASE, start)
    with memory_of_nan:
        found = get_engine("torch").flow(*images, BASE, start)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, expected)


@pytest.fixture
def memory_of_nan():
    """Within it torch.empty is full of NaN."""

    @contextmanager
    def filled():
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)

    assert torch.utils.deterministic.fill_uninitialized_memory  # torch's default
    return filled()


def warped(sources, top, flow):
    """The images of ``sources`` warped by ``flow`` (2, rows, W), rows from ``top`` on."""
    rows, right = flow.shape[1], sources.pitch - sources.width
    flat = torch.nn.functional.pad(flow, (0, right)).flatten(1)
    found = Warp(sources, rows, Scratch())(top, flat)
    return found.unflatten(1, (rows, sources.pitch))[..., : sources.width]


def test_no_shift_leaves_the_image_as_it_is():
    images = 255 * torch.rand(3, 20, 30)
    sources = Sources(3, 20, 30)
    sources.set(images)
    assert torch.equal(warped(sources, 0, torch.zeros(2, 20, 30)), images)


def test_scratch_is_shared_from_its_beginning_and_grows():
    scratch = Scratch()
    small, more = scratch.take((3, 5), (7,))
    assert small.shape == (3, 5)
    assert more.shape == (7,)
    assert more.data_ptr() - small.data_ptr() == 64  # 15 float32, and the next begins on a cache line
    first = scratch.take((20,))[0]
    assert first.data_ptr() == small.data_ptr()
    assert scratch.take((1000,))[0].numel() == 1000
