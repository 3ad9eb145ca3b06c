"""MS-VSSM, MSSTNet, FERMam: what their sources say and what is ours; test_models.py has what holds for every model."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mepipe.errors import DataError, UsageError
from mepipe_model.models import create_model, model_info
from mepipe_model.models.counting import multiply_accumulates
from mepipe_model.models.fermam import SMOOTHING
from mepipe_model.models.fermam_net import by_memory, by_place, drawn
from mepipe_model.models.ms_vssm_net import PathAttention
from mepipe_model.models.msstnet_net import halves
from mepipe_model.models.resnet import ResNet
from mepipe_model.models.ss2d import SS2D

FERMAM = {"width": 4, "depths": [1, 1, 1], "dim": 16, "d_state": 4}
MSSTNET = {"width": 8, "depths": [1, 1, 1, 1], "embed_dim": 32, "heads": 2, "drop_rate": 0.0, "input_size": 32}
SOURCE = {"landmark_branch": "mobilefacenet", "faithful": True, "num_classes": 7}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def size(module):
    return sum(p.numel() for p in module.parameters())


# --- counts beside the published ones -----------------------------------------------------------------


def test_fermam_has_the_parameters_that_its_source_uses_and_with_two_idle_layers_those_it_builds():
    with torch.device("meta"):
        used = size(create_model("fermam", **SOURCE))
        idle = [nn.BatchNorm2d(512), nn.Linear(512 * 49, 512), nn.BatchNorm1d(512)]  # of IR-50
        idle += [nn.Conv2d(512, 512, 7, groups=512, bias=False), nn.BatchNorm2d(512)]  # of MobileFaceNet
        idle += [nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512)]
        built = used + sum(map(size, idle))
    assert (used, built) == (26_874_791, 40_011_687), "26.87 M of 40.01 M"
    assert used / 1e6 == pytest.approx(43.7 - 16.7, abs=0.2), "16.7 M less than POSTER++"
    operations = multiply_accumulates("fermam", (3, 224, 224), **SOURCE)
    assert operations == 5_925_868_544
    assert operations / 1e9 == pytest.approx(8.4 - 2.43, abs=0.05), "2.43 G less than POSTER++"


def test_ms_vssm_without_its_additions_is_vmamba():
    with torch.device("meta"):
        bare = size(create_model("ms_vssm", path_attention="none", dspp=False, layer_scale=None, num_classes=1000))
        attended = size(create_model("ms_vssm", dspp=False))
        wide = size(create_model("ms_vssm", mlp_ratio=4.0))
    assert bare == 22_893_448, "VMamba-T, first version: 23 M"
    assert (attended, wide) == (27_377_475, 50_723_955)


def test_the_backbone_of_msstnet_is_resnet_18():
    with torch.device("meta"):
        assert size(ResNet()) == 11_689_512 - 513_000, "less the classifier of 1000"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ms_vssm", "msstnet", "fermam"])
def test_the_full_size_trains_on_one_sample_of_its_own_kind(name):
    torch.manual_seed(0)
    model = create_model(name)
    x = torch.rand(1, *model_info(name).shape)
    points = 224 * torch.rand(1, 68, 2)
    out = model(x.repeat(2, *[1] * (x.ndim - 1)), *([points.repeat(2, 1, 1)] if model.wants_landmarks else []))
    model.head.loss(out, torch.tensor([0, 2]), 0.0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters() if "absent" not in n)


# --- MS-VSSM ------------------------------------------------------------------------------------------


def by_hand(scan, x):
    """SS2D as its description reads, one path, place and channel at a time; x (H, W, D)."""
    height, width, _ = x.shape
    u, z = scan.in_proj(x).chunk(2, -1)
    u = F.silu(scan.conv(u.permute(2, 0, 1)[None]))[0].permute(1, 2, 0)
    rows = [(r, c) for r in range(height) for c in range(width)]
    columns = [(r, c) for c in range(width) for r in range(height)]
    total = torch.zeros_like(u)
    for weights, path in zip(scan.paths, (rows, columns, rows[::-1], columns[::-1]), strict=True):
        h = torch.zeros(u.shape[2], weights.d_state, dtype=u.dtype)
        for r, c in path:
            dt, b, out = weights.x_proj(u[r, c]).split((weights.rank, weights.d_state, weights.d_state))
            delta = F.softplus(weights.dt_proj(dt))[:, None]
            h = torch.exp(-delta * weights.A_log.exp()) * h + delta * b * u[r, c][:, None]
            total[r, c] += h @ out + weights.D * u[r, c]
    return scan.out_proj(scan.norm(total) * F.silu(z))


def test_ss2d_reads_rows_and_columns_both_ways_with_weights_of_their_own():
    torch.manual_seed(0)
    scan = SS2D(8, d_state=3).double()
    x = numbers(3, 4, 8).double()
    with torch.no_grad():
        torch.testing.assert_close(scan(x[None])[0], by_hand(scan, x))


@pytest.mark.parametrize(("joint", "heard"), [(False, [0]), (True, [0, 1, 2, 3])])
def test_a_path_is_weighed_by_itself_or_by_all_four(joint, heard):
    torch.manual_seed(0)
    attention = PathAttention(16, 4, joint)
    y = numbers(2, 4, 9, 16).requires_grad_()
    gain = attention(y) / y
    assert ((gain > 0) & (gain < 1)).all()
    torch.testing.assert_close(gain, gain[:, :, :1].expand_as(gain), msg="one gain per path and channel")
    (attention(y)[:, 0] / y[:, 0].detach()).sum().backward()
    assert [k for k in range(4) if y.grad[:, k].abs().max() > 1e-7] == heard


# --- MSSTNet ------------------------------------------------------------------------------------------


def test_msstnet_reads_sequences_of_any_length_in_their_order_and_flow_as_one_frame():
    torch.manual_seed(0)
    model = create_model("msstnet", frames=6, **MSSTNET).eval()
    frames = numbers(2, 6, 3, 32, 32)
    with torch.no_grad():
        out = model(frames)
        assert not torch.allclose(out, model(frames.flip(1)), atol=1e-4), "time has a direction"
        assert model(numbers(2, 9, 3, 48, 40)).shape == (2, 3)
        torch.testing.assert_close(model(frames[:, 0]), model(frames[:, :1]))
        torch.testing.assert_close(model(frames[:1]), out[:1], rtol=1e-4, atol=1e-5)


def test_the_scales_join_the_transformer_one_by_one():
    """A scale's embedding reaches no block before its own."""
    torch.manual_seed(0)
    model = create_model("msstnet", **MSSTNET).eval()
    seen: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, out: seen.append(out.detach()))
    x = numbers(1, 4, 3, 32, 32)
    with torch.no_grad():
        model(x)
        before, seen[:] = list(seen), []
        model.embeddings[2].project.bias += 1.0
        model(x)
    assert [torch.equal(a, b) for a, b in zip(before, seen, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize("n", [2, 4, 7])
def test_a_map_is_pooled_as_adaptive_pooling_does(n):
    x = numbers(2, 3, n, n)
    torch.testing.assert_close(halves(halves(x, 2), 3), F.adaptive_avg_pool2d(x, 2))


# --- FERMam -------------------------------------------------------------------------------------------


def influence(model):
    """(7, 7) bool: the landmark tokens that the logits depend on."""
    kept: list[torch.Tensor] = []
    hook = model.landmarks.register_forward_hook(lambda module, inputs, out: kept.append(out) or out.retain_grad())
    model(numbers(1, 3, 112, 112)).square().sum().backward()
    hook.remove()
    return (kept[0].grad.abs().sum(-1) > 0).view(7, 7)


def test_the_sources_readout_sees_sixteen_landmark_tokens_and_the_repaired_one_all():
    torch.manual_seed(0)
    corner = torch.zeros(7, 7, dtype=torch.bool)
    corner[:4, :4] = True
    assert torch.equal(influence(create_model("fermam", faithful=True, **FERMAM).eval()), corner)
    assert influence(create_model("fermam", **FERMAM).eval()).all()


def test_a_token_of_the_source_is_a_slab_of_channels_and_a_repaired_one_a_place():
    channel = torch.arange(256.0).view(1, 256, 1, 1).expand(1, 256, 14, 14)
    assert [len(token.unique()) for token in by_memory(channel)[0]][:2] == [6, 6], "1024 of 196 numbers per channel"
    assert all(len(token.unique()) == 256 for token in by_place(channel)[0])
    row = torch.arange(14.0).view(1, 1, 14, 1).expand(1, 256, 14, 14)
    assert by_place(row)[0, 7].unique().tolist() == [2.0, 3.0], "the second row of 2x2 places"


def test_the_skip_weight_of_the_source_is_the_number_of_channels():
    torch.manual_seed(0)
    x = numbers(2, 9, 32)
    grown = [create_model("fermam", faithful=f, **FERMAM).scales[0] for f in (True, False)]
    for refine, without in zip(grown, (32.0, 1.0), strict=True):  # E = 2 * 16, D = 1 at the start
        refine.x_proj.weight.data.zero_()  # B = C = 0: the skip alone is left
        torch.testing.assert_close(refine.scanned(x), without * x)


def test_each_oddity_can_be_chosen_by_itself_and_the_choice_is_kept():
    with torch.device("meta"):
        config = create_model("fermam", faithful=True, readout="mean", **FERMAM).config
        assert (config["token_view"], config["readout"], config["skip"]) == ("memory", "mean", "channels")
        assert create_model(**config).config == config
        assert create_model("fermam", head="dgcm", num_classes=7, **FERMAM).config["label_smoothing"] == 0.0


def test_landmarks_are_drawn_where_they_are_whatever_the_size_of_the_crop():
    points = torch.tensor([[[16.0 * 5 + 7.5, 16.0 * 2 + 7.5], [0.0, 111.0]]])  # the middle of cell (2, 5); a corner
    maps = drawn(points, 112, 112).view(7, 7, 2)
    assert maps[2, 5, 0] == 1.0
    assert maps[2, 4, 0] == pytest.approx(math.exp(-0.5))
    assert maps[..., 1].argmax() == 6 * 7
    torch.testing.assert_close(drawn(2 * points + 0.5, 224, 224), drawn(points, 112, 112))


def test_a_sample_without_landmarks_is_read_as_one_of_flow():
    torch.manual_seed(0)
    model = create_model("fermam", **FERMAM).eval()
    nn.init.normal_(model.landmarks.absent)
    x, points = numbers(2, 3, 112, 112), 112 * torch.rand(2, 68, 2)
    points[1, 5, 0] = torch.nan
    with torch.no_grad():
        out, without = model(x, points), model(x)
    torch.testing.assert_close(out[1], without[1])
    assert not torch.allclose(out[0], without[0], atol=1e-5)


def test_the_sources_loss_is_a_smoothed_one():
    out, target = numbers(5, 7), torch.arange(5)
    theirs = F.cross_entropy(out, target) + 2 * F.cross_entropy(out, target, label_smoothing=0.2)
    torch.testing.assert_close(3 * F.cross_entropy(out, target, label_smoothing=SMOOTHING), theirs)
    with torch.device("meta"):
        assert create_model("fermam").head.label_smoothing == SMOOTHING


# --- weights of the user's own ------------------------------------------------------------------------


def test_a_resnet_of_the_users_own_starts_the_frames(tmp_path):
    torch.manual_seed(1)
    theirs = {f"module.{k}": v for k, v in ResNet(8, (1, 1, 1, 1)).state_dict().items()}
    theirs |= {"module.fc.weight": torch.zeros(5, 64)}
    torch.save({"state_dict": theirs, "epoch": 3}, tmp_path / "resnet.pth")
    model = create_model("msstnet", **MSSTNET, init_checkpoint=str(tmp_path / "resnet.pth"))
    (loaded,) = model.loaded
    assert (len(loaded.matched), loaded.skipped, loaded.unused) == (len(theirs) - 1, {}, ("module.fc.weight",))
    assert torch.equal(model.backbone.layer3[0].conv1.weight, theirs["module.layer3.0.conv1.weight"])
    assert "init_checkpoint" not in model.config
    torch.save({"head.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"other\.pth is no ResNet: it has no conv1\.weight"):
        create_model("msstnet", **MSSTNET, init_checkpoint=str(tmp_path / "other.pth"))
    with pytest.raises(DataError, match=r"init_checkpoint=nowhere\.pth: there is no such file"):
        create_model("msstnet", **MSSTNET, init_checkpoint="nowhere.pth")


def test_a_mobilefacenet_of_the_users_own_is_frozen_with_its_statistics(tmp_path):
    torch.manual_seed(0)
    branch = {**FERMAM, "dim": 512, "d_state": 2, "landmark_branch": "mobilefacenet"}
    drawn_at_random = create_model("fermam", **branch)
    torch.save(drawn_at_random.landmarks.state_dict(), tmp_path / "mobile.pth")
    model = create_model("fermam", **branch, landmark_checkpoint=str(tmp_path / "mobile.pth")).train()
    before = {k: v.clone() for k, v in model.landmarks.state_dict().items()}
    model(numbers(2, 3, 112, 112)).square().sum().backward()
    assert all(p.grad is None for p in model.landmarks.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.landmarks.state_dict().items())
    assert all(p.requires_grad for p in drawn_at_random.landmarks.parameters()), "without a file it is trained"
    with pytest.raises(UsageError, match="landmark_checkpoint goes with landmark_branch=mobilefacenet"):
        create_model("fermam", **FERMAM, landmark_checkpoint="mobile.pth")
    with pytest.raises(UsageError, match="dim=16 must be 512 with landmark_branch=mobilefacenet"):
        create_model("fermam", **FERMAM, landmark_branch="mobilefacenet")
