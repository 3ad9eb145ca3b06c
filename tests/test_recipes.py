from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mepipe.errors import UsageError
from mepipe.settings import TrainConfig
from mepipe.shards import Content
from mepipe_model.announce import CURVE, UNUSED, curve_lines, unused_lines
from mepipe_model.plan import settled_head_motion
from mepipe_model.recipes import learning_rate, model_options, resolved
from mepipe_model.runs import decisive, train_config
from mepipe_model.sharpness import uphill


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
def test_settings_out_of_name_the_option(options, message):
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


def test_the_exponential_schedule_falls_by_its_factor_each_epoch():
    assert rates([0, 1, 259], model="fermam", protocol="holdout") == pytest.approx([4e-5, 3.92e-5, 4e-5 * 0.98**259])
    config = resolved(TrainConfig(schedule="exponential", decay=0.5, warmup=2, cooldown=0, epochs=20))
    got = [learning_rate(config, step, 10) for step in (19, 20, 29, 30, 40)]
    assert got[0] < 5e-4
    assert got[1:] == pytest.approx([5e-4, 5e-4, 2.5e-4, 1.25e-4])


def test_fermam_trains_as_its_source_does():
    config = resolved(TrainConfig(model="fermam", protocol="holdout"))
    assert (config.epochs, config.batch_size, config.optimizer, config.lr) == (260, 300, "adam", 4e-5)
    assert (config.schedule, config.sam, config.weight_decay, config.flip) == ("exponential", 0.05, 0.0, 0.5)
    assert resolved(TrainConfig()).sam == 0.0


def test_a_run_of_before_keeps_its_name_and_what_it_did():
    before = resolved(TrainConfig()).as_dict()
    del before["sam"], before["decay"]
    assert train_config(before) == resolved(TrainConfig())
    assert not {"sam", "decay"} & decisive(resolved(TrainConfig())).keys()
    assert decisive(resolved(TrainConfig(sam=0.1)))["sam"] == 0.1


def test_sam_takes_the_gradient_uphill_and_puts_the_weights_back_to_the_bit():
    """On w^T diag(1, 9) w / 2 at (3, 1): g = (3, 9), so that rho = 0.1 leads to w + 0.1 (3, 9) / |(3, 9)|."""
    curve = torch.tensor([1.0, 9.0])
    model = torch.nn.Linear(2, 1, bias=False)
    w = model.weight
    with torch.no_grad():
        w.copy_(torch.tensor([[3.0, 1.0]]))
    before = w.detach().clone()
    (w.square() * curve).sum().div(2).backward()
    with uphill(model, 0.1):
        moved = w.detach() - before
        w.grad = None
        (w.square() * curve).sum().div(2).backward()
    direction = torch.tensor([[3.0, 9.0]]) / 90**0.5
    torch.testing.assert_close(moved, 0.1 * direction)
    torch.testing.assert_close(w.grad, (before + 0.1 * direction) * curve)
    assert torch.equal(w, before)


def test_running_statistics_do_not_hear_of_the_weights_uphill():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    model(x).square().sum().backward()
    statistics = model[1].running_mean.clone()
    with uphill(model, 1.0):
        model(x)
    assert torch.equal(model[1].running_mean, statistics)
    assert model[1].momentum == 0.1


@pytest.mark.parametrize(
    ("option", "value", "used_with"),
    [
        ("patience", 5, {"select": "inner"}),
        ("k", 3, {"protocol": "kfold"}),
        ("k", 3, {"protocol": "random-leaky"}),
        ("decay", 0.9, {"schedule": "exponential"}),
        ("cooldown", 3, {"schedule": "cosine"}),
        ("min_lr", 1e-4, {"schedule": "cosine"}),
    ],
)
def test_an_option_that_nothing_reads_is_told(option, value, used_with):
    def told(**settings):
        given = TrainConfig(**{"protocol": "loso", **settings, option: value})
        return unused_lines(given, resolved(given))

    decided_by, values = UNUSED[option]
    assert told(**used_with) == []
    for other in values:
        (line,) = told(**{decided_by: other})
        assert line.startswith("warning: --")
        assert line.endswith(f"{value} changes nothing with --{decided_by} {other}")


def test_what_a_recipe_fills_in_is_not_told():
    for model in ("merba", "ststnet", "fermam", "msstnet"):
        assert unused_lines(TrainConfig(model=model), resolved(TrainConfig(model=model, protocol="loso"))) == []
