"""Optical strain on fields whose strain is known by hand."""

import subprocess
import sys

import numpy as np
import pytest

import mepipe
from mepipe.errors import UsageError

Y, X = np.mgrid[:40, :50].astype(np.float32)
BOTH = pytest.mark.parametrize("differences", ["forward", "central"])


def field(u, v):
    return np.stack([u + 0 * X, v + 0 * X]).astype(np.float32)


@BOTH
@pytest.mark.parametrize(
    ("flow", "strain"),
    [
        (field(0.7, -1.3), 0.0),  # a shift
        (field(0.02 * X, 0.0), 0.02),  # stretch to the side
        (field(0.0, -0.03 * Y), 0.03),  # squeeze from above
        (field(0.03 * X, 0.04 * Y), 0.05),  # both
        (field(0.02 * Y, 0.02 * X), 0.04 / np.sqrt(2)),  # pure shear
        (field(-0.01 * Y, 0.01 * X), 0.0),  # a small rotation
    ],
)
def test_a_linear_field_has_the_strain_of_the_formula_up_to_the_border(flow, strain, differences):
    assert mepipe.strain(flow, differences) == pytest.approx(strain, abs=1e-6)


def bump_error(width, differences):
    """Largest error on a Gaussian bump, in parts of the largest strain."""
    y, x = np.mgrid[-60:61, -60:61].astype(np.float32)
    bump = np.exp(-(x**2 + y**2) / (2 * width**2))
    u_x, v_y = -x / width**2 * bump, -0.5 * y / width**2 * bump
    shear = -y / width**2 * bump - 0.5 * x / width**2 * bump
    want = np.sqrt(u_x**2 + v_y**2 + shear**2 / 2)
    return np.abs(mepipe.strain(np.stack([bump, 0.5 * bump]), differences) - want).max() / want.max()


@pytest.mark.parametrize(("differences", "error", "order"), [("forward", 0.15, 1), ("central", 0.009, 2)])
def test_a_gaussian_bump_has_its_analytic_strain_up_to_the_order_of_the_differences(differences, error, order):
    """A bump twice as wide is twice (forward) or four times (central) as well sampled."""
    narrow, wide = bump_error(8, differences), bump_error(16, differences)
    assert narrow < error
    assert wide < 1.1 * narrow / 2**order


@BOTH
def test_batches_and_the_magnitude_channel_change_nothing(differences):
    flow = np.random.default_rng(0).standard_normal((2, 3, 3, 12, 17)).astype(np.float32)
    got = mepipe.strain(flow, differences)
    assert got.shape == (2, 3, 12, 17)
    assert got.dtype == np.float32
    assert np.array_equal(got[1, 2], mepipe.strain(flow[1, 2, :2], differences))


def test_a_left_right_mirror_image_has_the_mirrored_strain():
    """Of central differences; forward ones look to one side."""
    flow = np.random.default_rng(1).standard_normal((2, 12, 17)).astype(np.float32)
    mirrored = flow[..., ::-1] * np.float32([-1, 1])[:, None, None]
    assert mepipe.strain(mirrored, "central")[:, ::-1] == pytest.approx(mepipe.strain(flow, "central"), abs=1e-6)


def test_half_precision_flow_is_not_rounded_twice():
    flow = np.random.default_rng(2).standard_normal((2, 9, 9)).astype(np.float16)
    assert np.array_equal(mepipe.strain(flow), mepipe.strain(flow.astype(np.float32)))


@pytest.mark.parametrize("shape", [(40, 50), (4, 40, 50), (2, 1, 50)])
def test_another_shape_is_told(shape):
    with pytest.raises(UsageError, match="the flow is"):
        mepipe.strain(np.zeros(shape, np.float32))


def test_whole_numbers_and_unknown_differences_are_told():
    with pytest.raises(UsageError, match="uint8"):
        mepipe.strain(np.zeros((2, 9, 9), np.uint8))
    with pytest.raises(UsageError, match="valid: forward, central"):
        mepipe.strain(np.zeros((2, 9, 9), np.float32), "backward")


def test_strain_needs_numpy_only():
    code = "import sys, mepipe; mepipe.strain; print({'torch', 'cv2', 'pandas', 'numba'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
