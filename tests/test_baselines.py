"""The baselines of the comparison tables: layers, input preparation and recipe as published."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mepipe.errors import UsageError
from mepipe.settings import TrainConfig
from mepipe_model.fold import make_optimizer
from mepipe_model.models import create_model, list_models, model_info
from mepipe_model.models.htnet import TokenAttention, mosaic
from mepipe_model.models.maps import optical_strain, stretched, uv_strain
from mepipe_model.recipes import input_options, learning_rate, resolved

BASELINES = ("ststnet", "off_apexnet", "htnet")
SMALL = {"ststnet": {}, "off_apexnet": {}, "htnet": {"dim": 16, "depths": [1, 1, 2]}}


def parameters(name, **options):
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, **options).parameters())


def flow(n=4, size=224, seed=0):
    """Smooth flow in px, (n, 3, size, size) with its magnitude."""
    g = torch.Generator().manual_seed(seed)
    uv = torch.nn.functional.interpolate(torch.randn(n, 2, 7, 7, generator=g), size=size, mode="bicubic")
    return torch.cat((uv, uv.norm(dim=1, keepdim=True)), 1)


# --- counts --------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_authors_code():
    assert parameters("ststnet") == 1_683
    assert parameters("htnet") == 139_582_982
    assert parameters("htnet", depths=[2, 2, 8]) == 114_429_446
    assert parameters("ststnet") - 2 * 16 == 1_651, "without its batch norms"


def test_off_apexnet_counts_by_hand():
    stream = (25 * 6 + 6) + (25 * 6 * 16 + 16)
    linear = (1568 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 3 + 3)
    assert parameters("off_apexnet") == 2 * stream + linear == model_info("off_apexnet").params


# --- strain and maps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["expansion", "shear", "rotation", "shift"])
def test_strain_of_linear_flow_is_exact(name):
    """u = a x + b y, v = c x + d y has the strain sqrt(a^2 + d^2 + (b + c)^2 / 2) everywhere; turning has none."""
    a, b, c, d = {"expansion": (0.1, 0, 0, 0.3), "shear": (0, 0.2, 0.1, 0), "rotation": (0, -0.2, 0.2, 0),
                  "shift": (0, 0, 0, 0)}[name]  # fmt: skip
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    got = optical_strain((a * x + b * y + 5)[None], (c * x + d * y - 1)[None])
    want = (a**2 + d**2 + (b + c) ** 2 / 2) ** 0.5
    torch.testing.assert_close(got, torch.full((1, 9, 12), want), atol=1e-5, rtol=0)


def test_maps_are_area_means_and_a_third_channel_of_strain_is_taken_as_it_is():
    x = flow()
    maps = uv_strain(x, "magnitude")
    assert maps.shape == (4, 3, 28, 28)
    np.testing.assert_allclose(maps[0, 1, 3, 5], x[0, 1, 24:32, 40:48].mean(), rtol=1e-4)
    strain = optical_strain(x[:, 0], x[:, 1])
    torch.testing.assert_close(maps[:, 2], uv_strain(torch.cat((x[:, :2], strain[:, None]), 1), "strain")[:, 2])
    assert not torch.allclose(maps[:, 2], uv_strain(x, "strain")[:, 2]), "the magnitude is not used as strain"


def test_every_map_fills_0_to_255_and_a_constant_one_is_0():
    maps = stretched(uv_strain(flow(), "magnitude"))
    assert torch.equal(maps.amin((2, 3)), torch.zeros(4, 3))
    assert torch.equal(maps.amax((2, 3)), torch.full((4, 3), 255.0))
    assert torch.equal(stretched(torch.full((1, 3, 4, 4), 7.0)), torch.zeros(1, 3, 4, 4))
    whole = torch.arange(256.0).view(1, 1, 16, 16)
    torch.testing.assert_close(stretched(whole), whole, rtol=0, atol=1e-4)


def test_the_units_of_the_flow_do_not_reach_the_network():
    for name in BASELINES:
        model = create_model(name, **SMALL[name]).eval()
        x = flow()
        torch.testing.assert_close(model.prepare(x), model.prepare(3 * x), atol=1e-2, rtol=0)


# --- networks ------------------------------------------------------------------------------------------


def test_ststnet_is_its_three_streams():
    """One convolution of 16 filters equals the paper's three of 3, 5 and 8, concatenated."""
    torch.manual_seed(0)
    model = create_model("ststnet").eval()
    maps = model.prepare(flow())
    conv, norm = model.streams[0], model.streams[2]
    torch.nn.init.normal_(norm.running_mean)
    parts = []
    for low, high in itertools.pairwise((0, 3, 8, 16)):
        y = torch.nn.functional.conv2d(maps, conv.weight[low:high], conv.bias[low:high], padding=2).relu()
        assert y.shape[2:] == (30, 30)
        y = (y - norm.running_mean[low:high, None, None]) / (norm.running_var[low:high, None, None] + norm.eps).sqrt()
        parts.append(torch.nn.functional.max_pool2d(y, 3, 3, 1))
    joined = torch.cat(parts, 1)
    assert joined.shape[1:] == (16, 10, 10)
    features = torch.nn.functional.avg_pool2d(joined, 2).flatten(1)
    torch.testing.assert_close(model.network(maps), model.head.linear(features), rtol=1e-4, atol=1e-3)


def test_off_apexnet_looks_at_u_and_v_alone():
    model = create_model("off_apexnet").eval()
    maps = model.prepare(flow())
    other = maps.clone()
    other[:, 2] = 0
    assert torch.equal(model.network(maps), model.network(other))
    for channel in (0, 1):
        changed = maps.clone()
        changed[:, channel] = 0
        assert not torch.equal(model.network(maps), model.network(changed))


def test_htnet_tiles_the_crops_around_eyes_and_mouth():
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    rows, columns = mosaic(torch.stack((y, x))[None])[0]
    centres = [(int(rows[r, c]), int(columns[r, c])) for r in (7, 21) for c in (7, 21)]
    assert centres == [(10, 11), (21, 11), (10, 21), (21, 21)], "left eye, left mouth; right eye, right mouth corner"
    assert mosaic(torch.zeros(2, 3, 28, 28)).shape == (2, 3, 28, 28)


def test_htnet_halves_its_map_at_every_level_and_has_heads_of_85():
    with torch.device("meta"):
        model = create_model("htnet")
    attentions = [m for m in model.modules() if isinstance(m, TokenAttention)]
    assert [a.heads for a in attentions] == [3] * 2 + [6] * 2 + [12] * 10
    assert {a.out.in_channels // a.heads for a in attentions} == {85}
    small = create_model("htnet", **SMALL["htnet"])
    maps = small.embed(torch.nn.functional.pixel_unshuffle(torch.zeros(1, 3, 28, 28), 7))
    sizes = [tuple(maps.shape[1:])]
    for layer in small.levels:
        maps = layer(maps)
        sizes.append(tuple(maps.shape[1:]))
    assert list(dict.fromkeys(sizes)) == [(16, 4, 4), (32, 2, 2), (64, 1, 1)]


def test_htnets_attention_to_a_single_token_is_a_projection_of_the_values():
    attention = TokenAttention(12, 3, 0.0)
    x = torch.randn(2, 12, 4, 4)
    values = torch.nn.functional.conv2d(x, attention.qkv.weight[24:])
    torch.testing.assert_close(attention(x), attention.out(values))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_learns_eight_clips_by_heart_from_flow(name):
    torch.manual_seed(0)
    model = create_model(name, drop_rate=0.0, **SMALL[name])
    x, target = flow(8), torch.arange(8) % 3
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2 if name == "ststnet" else 1e-3)
    maps = model.prepare(x)
    for _ in range(120 if name == "ststnet" else 25):
        optimiser.zero_grad()
        loss = model.head.loss(model.network(maps), target, 0.0)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
    assert torch.equal(model.eval().head.decide(model(x)), target), "forward prepares as the trainer did"


def test_options_are_checked_by_name():
    for name, options, message in [
        ("ststnet", {"third": "depth"}, "must be one of magnitude, strain"),
        ("ststnet", {"head": "dgcm"}, "must be one of linear"),
        ("htnet", {"depths": [2, 2]}, "must be three whole numbers"),
        ("htnet", {"heads": 300}, "at most dim=256"),
        ("off_apexnet", {"dim": 3}, "has no option 'dim'"),
    ]:
        with pytest.raises(UsageError, match=message):
            create_model(name, **options)


# --- recipes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_the_published_recipe_is_the_default(name):
    c = resolved(TrainConfig(model=name))
    got = (c.optimizer, c.lr, c.batch_size, c.epochs, c.weight_decay, c.flip, c.order, c.scale, c.clip_norm)
    assert got == ("adam", 5e-5, 256, 800, 0.0, 0.0, "listed", "none", 0.0)
    assert {learning_rate(c, step, 2) for step in (0, 1, 799, 1599)} == {5e-5}
    assert isinstance(make_optimizer(create_model(name, **SMALL[name]), c), torch.optim.Adam)
    own = resolved(TrainConfig(model=name, optimizer="adamw", weight_decay=0.1, schedule="cosine", flip=0.5, lr=1e-3))
    assert (own.optimizer, own.weight_decay, own.schedule, own.flip, own.lr) == ("adamw", 0.1, "cosine", 0.5, 1e-3)


def test_merbas_settings_are_what_they_were_before_recipes_held_them():
    c = resolved(TrainConfig(model="merba"))
    got = (c.optimizer, c.weight_decay, c.clip_norm, c.flip, c.scale, c.schedule, c.order)
    assert got == ("adamw", 0.05, 5.0, 0.5, "standard", "cosine", "shuffled")
    optimiser = make_optimizer(create_model("merba_tiny"), c)
    assert isinstance(optimiser, torch.optim.AdamW)
    assert [g["weight_decay"] for g in optimiser.param_groups] == [0.05, 0.0]


def test_a_constant_schedule_still_warms_up():
    c = resolved(TrainConfig(model="ststnet", warmup=4, lr=1e-3))
    assert [learning_rate(c, s, 1) for s in (0, 2, 4, 799)] == pytest.approx([1e-6, 5.005e-4, 1e-3, 1e-3])


def test_a_model_that_takes_px_is_told_what_it_gets_and_is_never_given_scaled_flow():
    from mepipe.shards import PX, Content

    for name in BASELINES:
        assert input_options(name, PX) == {"third": "magnitude"}
        assert input_options(name, Content(("u", "v", "strain"), True, (0.0, 255.0))) == {"third": "strain"}
        with pytest.raises(UsageError, match=f"{name} prepares its own input from flow in px"):
            resolved(TrainConfig(model=name, scale="standard"))
    assert input_options("merba", PX) == {}
    assert [n for n in list_models() if model_info(n).flow == "px"] == [*BASELINES, "bi_woof"]


def test_a_baseline_trains_on_flow_in_px_and_its_weights_predict(own):
    from mepipe import get_corpus
    from mepipe.workspace import Workspace
    from mepipe_model.predict import predict_clip
    from mepipe_model.runs import read_predictions
    from mepipe_model.train import train_run

    ws = Workspace(own.work)
    config = TrainConfig(model="ststnet", epochs=3, flip=0.5, jobs=1, threads=1, device="cpu", folds="1")
    outcome = train_run(ws, config)
    row = read_predictions(outcome.folder / "predictions.csv")[0][0]
    clip = next(c for c in get_corpus("casme2").clips(own.raw) if (c.subject, c.name) == (row.subject, row.clip))
    answer = predict_clip(ws, outcome.folder.name, clip.frames, onset=clip.onset, apex=clip.apex, fold=row.fold)
    assert list(answer.probabilities.values()) == pytest.approx(row.probabilities, abs=5e-3)
