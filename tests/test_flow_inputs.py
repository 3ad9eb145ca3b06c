"""What ``tvl1`` accepts, what it returns, how it refuses the rest, and which engine it takes."""

import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import mepipe
from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.flow import ENGINES, TVL1Params, get_engine, resolve_engine, tvl1
from mepipe.flow.images import level_sizes, pad_replicate
from mepipe.flow.median import median_program, run_on_bits, sorting_network, zero_one_columns

QUICK = TVL1Params(nscales=1, warps=1, inner=2, fixed=True)


def grey(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- shapes and types ---


def test_a_pair_gives_u_v_and_magnitude():
    flow = mepipe.tvl1(grey(20, 30), grey(20, 30, seed=1), params=QUICK)
    assert flow.shape == (3, 20, 30)
    assert flow.dtype == np.float32
    assert flow.flags.c_contiguous
    np.testing.assert_allclose(flow[2], np.hypot(flow[0], flow[1]), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_gives_a_batch(count):
    onset, apex = grey(count, 20, 30), grey(count, 20, 30, seed=1)
    flow = tvl1(onset, apex, params=QUICK)
    assert flow.shape == (count, 3, 20, 30)
    np.testing.assert_array_equal(flow[-1], tvl1(onset[-1], apex[-1], params=QUICK))


def test_inputs_are_left_as_they_were_and_need_not_be_contiguous():
    onset, apex = grey(30, 40)[::-1, ::2], grey(30, 40, seed=1)[::-1, ::2]
    before = onset.copy(), apex.copy()
    flow = tvl1(onset, apex, params=QUICK)
    np.testing.assert_array_equal(flow, tvl1(*before, params=QUICK))
    np.testing.assert_array_equal(onset, before[0])
    np.testing.assert_array_equal(apex, before[1])


IMAGE = grey(20, 30)
FLOAT = (IMAGE / 255).astype(np.float32)


@pytest.mark.parametrize(
    ("onset", "apex", "error", "says"),
    [
        (IMAGE, IMAGE[:18], UsageError, "onset is uint8 (20, 30) and apex is uint8 (18, 30)"),
        (IMAGE, FLOAT, UsageError, "apex is float32"),
        (FLOAT * 255, FLOAT * 255, UsageError, "divide by 255"),
        (FLOAT - 0.5, FLOAT, UsageError, "divide by 255"),
        (FLOAT.astype(np.float64), FLOAT, UsageError, "onset is float64"),
        (IMAGE.astype(np.uint16), IMAGE, UsageError, "onset is uint16"),
        (IMAGE > 9, IMAGE, UsageError, "onset is bool"),
        (IMAGE[0], IMAGE[0], UsageError, "onset has shape (30,)"),
        (grey(20, 30, 3), grey(20, 30, 3), UsageError, "convert it to grey"),
        (grey(2, 20, 30, 3), grey(2, 20, 30, 3), UsageError, "convert it to grey"),
        (IMAGE[:15], IMAGE[:15], UsageError, "under 16 px"),
        (grey(0, 20, 30), grey(0, 20, 30), UsageError, "shape (0, 20, 30)"),
        (np.where(FLOAT > 0.99, np.nan, FLOAT).astype(np.float32), FLOAT, DataError, "onset holds NaN"),
        (FLOAT, np.where(FLOAT > 0.99, np.inf, FLOAT).astype(np.float32), DataError, "apex holds NaN or infinity"),
    ],
)
def test_wrong_images_are_refused_in_one_line(onset, apex, error, says):
    with pytest.raises(error) as e:
        tvl1(onset, apex)
    assert says in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("shape", [(1, 20, 30), (2, 30, 20), (1, 2, 20, 30), (4, 20, 30)])
def test_an_initial_flow_of_another_shape_is_refused(shape):
    with pytest.raises(UsageError, match="initial flow"):
        tvl1(IMAGE, IMAGE, initial=np.zeros(shape, np.float32))


def test_an_initial_flow_with_nan_is_refused():
    with pytest.raises(DataError, match="initial flow"):
        tvl1(IMAGE, IMAGE, initial=np.full((2, 20, 30), np.nan, np.float32))


def test_the_result_of_one_call_can_start_the_next():
    onset, apex = grey(20, 30), grey(20, 30, seed=1)
    first = tvl1(onset, apex, params=QUICK)
    again = tvl1(onset, apex, params=QUICK, initial=first)
    np.testing.assert_array_equal(again, tvl1(onset, apex, params=QUICK, initial=first[:2]))
    assert not np.array_equal(again, first)


# --- parameters ---


def test_the_defaults_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    solver = cv2.optflow.DualTVL1OpticalFlow_create()
    p = TVL1Params()
    assert (p.tau, p.lambda_, p.theta) == (solver.getTau(), solver.getLambda(), solver.getTheta())
    assert (p.nscales, p.warps, p.epsilon) == (
        solver.getScalesNumber(),
        solver.getWarpingsNumber(),
        solver.getEpsilon(),
    )
    assert (p.inner, p.outer) == (solver.getInnerIterations(), solver.getOuterIterations())
    assert (p.scale_step, p.gamma, p.median) == (
        solver.getScaleStep(),
        solver.getGamma(),
        solver.getMedianFiltering(),
    )


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("tau", 0.0, "(0, 0.25]"),
        ("tau", 0.3, "(0, 0.25]"),
        ("lambda_", float("nan"), "(0, 1000]"),
        ("lambda_", "0.15", "(0, 1000]"),
        ("theta", float("inf"), "(0, 100]"),
        ("epsilon", -0.01, "[0, 1]"),
        ("scale_step", 1.0, "[0.1, 0.95]"),
        ("gamma", True, "[0, 100]"),
        ("nscales", 0, "[1, 64]"),
        ("warps", 2.5, "[1, 1000]"),
        ("inner", -1, "[1, 100000]"),
        ("outer", True, "[1, 100000]"),
        ("pad", -1, "[0, 512]"),
        ("median", 4, "3, 5, or 0"),
        ("fixed", 1, "True or False"),
    ],
)
def test_a_parameter_out_of_range_is_named_with_its_value_and_range(name, value, valid):
    with pytest.raises(UsageError) as e:
        TVL1Params(**{name: value})
    assert f"{name} is {value!r}" in str(e.value)
    assert valid in str(e.value)


def test_parameters_survive_json():
    params = TVL1Params(lambda_=0.05, median=3, fixed=True)
    assert TVL1Params(**json.loads(json.dumps(params.as_dict()))) == params


def test_fixed_mode_is_no_epsilon_and_one_outer_round():
    resolved = TVL1Params(fixed=True, epsilon=0.01, outer=10).resolved()
    assert (resolved.epsilon, resolved.outer) == (0.0, 1)
    assert TVL1Params().resolved() == TVL1Params()


def test_the_pyramid_has_the_sizes_of_opencv():
    assert level_sizes(224, 224, 5, 0.8) == [(224, 224), (179, 179), (143, 143), (114, 114), (91, 91)]
    assert level_sizes(20, 300, 5, 0.8) == [(20, 300), (16, 240)]
    assert level_sizes(16, 16, 5, 0.8) == [(16, 16)]


# --- engines ---


def test_importing_flow_loads_no_heavy_library():
    code = (
        "import sys, mepipe.flow, mepipe.shards; mepipe.flow.ENGINES.names();"
        "print([m for m in ('torch', 'cv2', 'numba', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_cpu_engine_does_not_load_torch():
    code = "import sys; from mepipe.flow import get_engine; get_engine('opencv'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_engine_is_answered_with_the_list():
    with pytest.raises(UsageError, match=r"no flow engine is called 'opencl'.*did you mean 'opencv'.*torch"):
        tvl1(IMAGE, IMAGE, engine="opencl")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "cuda0"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(UsageError, match="valid: cpu, cuda"):
        resolve_engine("auto", device)


def test_a_gpu_that_is_absent_is_said_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is present")
    for name in ("auto", "torch"):
        with pytest.raises(MepipeError, match="no CUDA GPU is usable") as e:
            resolve_engine(name, "cuda")
        assert e.value.exit_code == 1


def test_auto_says_what_it_took_and_why():
    engine, why = resolve_engine("auto")
    assert engine.name in ("native", "opencv")
    assert why.startswith(f"{engine.name} on cpu: ")
    engine, why = resolve_engine("torch", "cpu")
    assert (engine.name, why) == ("torch", "torch on cpu: asked for")


def test_auto_without_numba_takes_opencv_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    engine, why = resolve_engine("auto")
    assert engine.name == "opencv"
    assert "pip install numba" in why


@pytest.mark.parametrize("owner", ["no optflow", "no cv2"])
def test_a_clobbered_opencv_is_explained(monkeypatch, owner):
    cv2 = pytest.importorskip("cv2")
    if owner == "no cv2":
        monkeypatch.setitem(sys.modules, "cv2", None)
    else:
        monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(MepipeError, match="pip install opencv-contrib-python"):
        get_engine("opencv")


def test_engines_can_be_sent_to_other_processes():
    for name in ENGINES:
        try:
            engine = get_engine(name)
        except MepipeError:
            continue
        again = pickle.loads(pickle.dumps(engine))
        np.testing.assert_array_equal(
            again.flow(IMAGE[None], IMAGE[None, ::-1], QUICK), engine.flow(IMAGE[None], IMAGE[None, ::-1], QUICK)
        )


def test_the_number_of_threads_does_not_change_the_flow():
    onset, apex = grey(5, 24, 24), grey(5, 24, 24, seed=1)
    one, three = (get_engine("opencv", threads=n).flow(onset, apex, QUICK) for n in (1, 3))
    np.testing.assert_array_equal(one, three)


# --- the median's networks ---


@pytest.mark.parametrize("k", [3, 5])
def test_the_median_network_is_right_for_every_input(k):
    """By the 0-1 principle: right on all columns of zeros and ones, it is right on all numbers."""
    columns, rest, wire = median_program(k)
    for bits in itertools.product((False, True), repeat=k):
        assert [bool(b) for b in run_on_bits(columns, [np.array(b) for b in bits])] == sorted(bits)
    inputs = zero_one_columns(k)
    ones = np.sum(inputs, axis=0)
    np.testing.assert_array_equal(run_on_bits(rest, inputs)[wire], ones > k * k // 2)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_sorting_networks_sort(n):
    for bits in itertools.product((False, True), repeat=n):
        assert [bool(b) for b in run_on_bits(sorting_network(n), [np.array(b) for b in bits])] == sorted(bits)


@pytest.mark.parametrize("pad", [0, 1, 16, 40])
@pytest.mark.parametrize("shape", [(16, 19), (3, 17, 16), (2, 2, 20, 30)])
def test_padding_repeats_the_edges(pad, shape):
    images = np.random.default_rng(0).random(shape, dtype=np.float32)
    widths = [(0, 0)] * (len(shape) - 2) + [(pad, pad)] * 2
    np.testing.assert_array_equal(pad_replicate(images, pad), np.pad(images, widths, mode="edge"))
