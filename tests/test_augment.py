"""Shifts, noise and erased rectangles of training batches: what they change, and what they must not."""

import pytest
import torch

from mepipe.errors import UsageError
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace
from mepipe_model.augment import augmented, erased, shifted
from mepipe_model.facedata import Looked
from mepipe_model.fold import _Training
from mepipe_model.recipes import resolved
from mepipe_model.train import train_run


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


def test_a_rectangle_of_2_to_10_percent_is_erased_in_every_channel_and_frame():
    faces = torch.rand(300, 2, 3, 50, 40, generator=drawn(3)) + 1
    out = erased(faces, 1.0, drawn())
    gone = out == 0
    assert torch.equal(gone, gone[:, :1, :1].expand_as(gone)), "the same places everywhere"
    shares, tall = [], []
    for before, after, hole in zip(faces, out, gone[:, 0, 0], strict=True):
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None]), "a rectangle"
        assert torch.equal(before[..., ~hole], after[..., ~hole]), "nothing else changes"
        shares.append(float(hole.float().mean()))
        tall.append(float(rows.sum() / columns.sum()))
    assert 0.015 < min(shares) < 0.03
    assert 0.09 < max(shares) < 0.11
    assert min(tall) < 0.45
    assert max(tall) > 2.2
    assert bool(gone[:, 0, 0].any(0)[6:-6, 6:-6].all()), "every place is erased at times, corners seldom"


def test_as_many_faces_are_erased_as_asked_for_and_none_twice_the_same():
    faces = torch.ones(2000, 3, 16, 16)
    out = augmented(faces, 0.0, 0.0, drawn(), 0.25)
    assert (out == 0).flatten(1).any(1).float().mean() == pytest.approx(0.25, abs=0.03)
    assert bool((faces == 1).all()), "the batch that came is left alone"
    assert not torch.equal(out, augmented(faces, 0.0, 0.0, drawn(1), 0.25))


def test_landmarks_stay_with_the_faces_that_are_erased():
    training = object.__new__(_Training)
    training.config = TrainConfig(erase=1.0)
    faces, points = torch.ones(4, 3, 16, 16), torch.rand(4, 68, 2)
    out = training._augmented(Looked(faces, points), drawn())
    assert bool((out.x == 0).flatten(1).any(1).all())
    assert out.points is points


def test_flow_is_not_erased(tmp_path):
    with pytest.raises(UsageError, match="--erase goes with faces, not with flow"):
        train_run(Workspace(tmp_path), TrainConfig(model="merba_tiny", erase=0.5))


def test_fermam_erases_faces_and_never_flow():
    assert resolved(TrainConfig(model="fermam", input="image")).erase == 0.5
    assert resolved(TrainConfig(model="fermam")).erase == 0.0
    assert resolved(TrainConfig(model="fermam", input="image", erase=0.1)).erase == 0.1
    assert resolved(TrainConfig()).erase == 0.0
