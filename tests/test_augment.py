"""Shifts and noise of training batches: what they change, and what they must not."""

import pytest
import torch

from mepipe.errors import UsageError
from mepipe.settings import TrainConfig
from mepipe_model.augment import augmented, shifted
from mepipe_model.recipes import resolved


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def flow():
    return torch.randn(6, 3, 20, 30, generator=drawn(7))


def test_nothing_is_drawn_and_nothing_changed_when_both_are_off(flow):
    generator, before = drawn(), torch.get_rng_state()
    assert augmented(flow, 0.0, 0.0, generator) is flow
    assert torch.equal(generator.get_state(), drawn().get_state())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shift_moves_the_whole_clip_and_changes_no_value(flow):
    """Away from what comes in at the border each moved clip is a window of the one it was."""
    out = shifted(flow, 0.1, drawn())
    assert out.shape == flow.shape
    found = set()
    for before, after in zip(flow, out, strict=True):
        inner = after[:, 2:-2, 3:-3]  # 0.1 of 20 rows and 30 columns
        places = [
            (dy, dx) for dy in range(5) for dx in range(7) if torch.equal(inner, before[:, dy : dy + 16, dx : dx + 24])
        ]
        assert len(places) == 1
        found |= set(places)
    assert len(found) > 1


def test_what_a_shift_brings_in_repeats_the_border():
    column = torch.arange(10.0).expand(64, 1, 10, 10).contiguous()
    for row in shifted(column, 0.3, drawn())[:, 0, 0]:
        assert row.diff().min() >= 0  # a ramp stays one: nothing wraps around, no zeros come in
        assert set(row.tolist()) <= set(range(10))


def test_every_shift_up_to_the_most_is_drawn():
    x = torch.arange(10.0).expand(400, 1, 10, 10).contiguous()
    assert set(shifted(x, 0.2, drawn())[:, 0, 5, 5].tolist()) == {3.0, 4.0, 5.0, 6.0, 7.0}


def test_a_share_of_less_than_half_a_pixel_moves_nothing(flow):
    assert shifted(flow, 0.01, drawn()) is flow


def test_noise_has_the_deviation_asked_for(flow):
    torch.manual_seed(0)
    added = augmented(flow, 0.0, 0.3, drawn()) - flow
    assert added.std() == pytest.approx(0.3, rel=0.05)
    assert added.mean().abs() < 0.02


@pytest.mark.parametrize("name", ["shift", "noise"])
def test_models_that_prepare_their_own_input_refuse_both(name):
    with pytest.raises(UsageError, match=f"--{name}: ststnet prepares its own input"):
        resolved(TrainConfig(model="ststnet", **{name: 0.1}))
    assert getattr(resolved(TrainConfig(model="merba")), name) == 0.0
