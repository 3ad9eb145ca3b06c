from __future__ import annotations

from dataclasses import replace

import pytest

from mepipe.errors import UsageError
from mepipe.settings import TrainConfig
from mepipe.shards import Content
from mepipe_model.announce import CURVE, curve_lines
from mepipe_model.plan import settled_head_motion
from mepipe_model.recipes import learning_rate, model_options, resolved


def rates(epochs_at, **kw):
    config = resolved(TrainConfig(**kw))
    return [learning_rate(config, e * 15, 15) for e in epochs_at]


def test_the_papers_schedule_over_200_epochs():
    """Epoch-start values of the paper's recipe: 5 epochs of warm-up, cosine to 190, ten at the floor."""
    got = rates([0, 1, 4, 5, 50, 100, 189, 190, 199], protocol="holdout")
    want = [1e-6, 1.008e-4, 4.002e-4, 4.992e-4, 4.201e-4, 2.321e-4, 5.03e-6, 5e-6, 5e-6]
    assert got == pytest.approx(want, rel=1e-3)


def test_the_papers_schedule_over_70_epochs():
    assert rates([5, 30, 45, 60, 69]) == pytest.approx([4.916e-4, 2.525e-4, 7.75e-5, 5e-6, 5e-6], rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"protocol": "holdout"}, {"model": "ststnet"}, {"epochs": 1}, {"epochs": 7}])
def test_the_curve_fits_a_screen_and_shows_rates_that_training_uses(options):
    config = resolved(TrainConfig(**options))
    head, *points = curve_lines(config, 4)
    assert head.startswith("learning rate: epoch 1: ")
    assert 1 <= len(points) <= CURVE + 8
    shown = {int(line.split()[1]): (float(line.split()[2]), len(line.split()[3])) for line in points}
    assert {1, config.epochs} <= shown.keys()
    for epoch, (rate, bar) in shown.items():
        want = learning_rate(config, (epoch - 1) * 4, 4)
        assert rate == pytest.approx(want, rel=1e-3)
        assert bar == pytest.approx(want / max(r for r, _ in shown.values()) * 40, abs=1)
    assert {e for e in range(1, (config.warmup or 0) + 2) if e <= config.epochs} <= shown.keys(), "all of the warm-up"


def test_a_short_run_shortens_warm_up_and_cooldown():
    config = resolved(TrainConfig(epochs=3))
    assert (config.warmup, config.cooldown) == (0, 1)
    config = resolved(TrainConfig(epochs=15))
    assert (config.warmup, config.cooldown) == (2, 5)
    assert resolved(TrainConfig(epochs=70)).warmup == 5


def test_the_papers_recipe_is_the_default():
    config = resolved(TrainConfig())
    assert (config.epochs, config.batch_size, config.lr, config.weight_decay) == (70, 128, 5e-4, 0.05)
    assert resolved(TrainConfig(protocol="holdout")).epochs == 200
    assert resolved(TrainConfig(model="merba_tiny", batch_size=32)).batch_size == 32


def test_model_options_are_read_as_json_where_they_are():
    config = TrainConfig(options=("mixer_sharing=full", "drop_path=0.2", "scans=a+b"), head="linear")
    assert model_options(config) == {"head": "linear", "mixer_sharing": "full", "drop_path": 0.2, "scans": "a+b"}
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        model_options(TrainConfig(options=("drop_path",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epochs": 0}, "--epochs is 0"), ({"protocol": "lozo"}, "valid: loso"), ({"flip": 1.5}, "at most 1")],
)
def test_settings_out_of_range_name_the_option(options, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


def test_head_motion_is_settled_by_what_the_shards_hold():
    px = Content(("u", "v", "magnitude"))
    maps = Content(("u", "v", "strain"), normalised=True)
    merba, tiny = (resolved(TrainConfig(model=m)) for m in ("merba", "merba_tiny"))
    assert (settled_head_motion(merba, px), settled_head_motion(tiny, px)) == ("keep", "remove")
    assert settled_head_motion(tiny, maps) == "keep"
    assert settled_head_motion(replace(tiny, head_motion="keep"), px) == "keep"
    assert settled_head_motion(replace(merba, head_motion="auto"), px) == "remove"
    with pytest.raises(UsageError, match=r"--head-motion remove needs flow in px, not normalised arrays"):
        settled_head_motion(replace(merba, head_motion="remove"), maps)
    with pytest.raises(UsageError, match=r"not the frames that lbp_top reads"):
        settled_head_motion(TrainConfig(model="lbp_top", head_motion="remove"), px)
