import math

import pytest
import torch
import torch.nn.functional as F

from mepipe.errors import UsageError
from mepipe_model.models import create_model
from mepipe_model.models.blocks import Attention, DropPath, Mlp, TokenBlock, TokenBlocks, from_windows, to_windows
from mepipe_model.models.mixer import LocalMixer, SequenceConv, path_orders
from mepipe_model.ops import scan_order, selective_scan

W = 7


def tiny(**options):
    torch.manual_seed(0)
    return create_model("merba_tiny", **options)


def mixer(dim=8, scans="a+b+c+d", sharing="shared", seed=0):
    """A mixer in double precision whose every parameter is well away from its start value."""
    torch.manual_seed(seed)
    made = LocalMixer(dim, scans, sharing).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


def windows(n=3, dim=8, seed=1):
    return torch.randn(n, W * W, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"name": "merba", "num_classes": 7, "head": "dgcm"}, 99_808_584),
        ({"name": "merba", "num_classes": 7}, 99_807_559),
        ({"name": "merba", "num_classes": 3}, 99_803_459),
        ({"name": "merba", "num_classes": 7, "head": "dgcm", "mixer_sharing": "ssm"}, 101_283_144),
        ({"name": "merba", "num_classes": 7, "head": "dgcm", "mixer_sharing": "full"}, 118_977_864),
        ({"name": "merba", "num_classes": 7, "head": "dgcm", "scans": "a"}, 99_808_584),
        ({"name": "mambavision_b", "num_classes": 1000}, 97_685_288),
        ({"name": "mambavision_b", "num_classes": 7}, 96_667_463),
        ({"name": "mambavision_b", "num_classes": 3}, 96_663_363),
    ],
)
def test_the_number_of_parameters_is_exact(options, count):
    with torch.device("meta"):
        model = create_model(**options)
    assert sum(p.numel() for p in model.parameters()) == count


def test_each_part_has_its_share_of_the_parameters():
    with torch.device("meta"):
        model = create_model("merba", num_classes=7, head="dgcm")
    parts = [model.stem, *model.stages, model.norm, model.head]
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    # a stage ends with its downsampling, as a row of Table I does
    assert counts == [75_840, 1_181_952, 4_092_928, 26_935_296, 67_512_320, 2_048, 8_200]


def test_the_maps_halve_and_double_as_in_table_1():
    model, shapes = tiny(input_size=None), []
    for part in (model.stem, *model.stages):
        part.register_forward_hook(lambda module, given, out: shapes.append(tuple(out.shape[1:])))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224))
    assert shapes == [(16, 56, 56), (32, 28, 28), (64, 14, 14), (128, 7, 7), (128, 7, 7)]


# ---- the mixer ----------------------------------------------------------------------------------


def mixer_by_the_formulas(m, x):
    """Paper eqs. (2), (3) and MambaVision's mixer, one window, direction and step at a time."""
    core, e = m.cores[0], m.cores[0].channels
    total = torch.zeros_like(x)
    for scan in m.groups[0]:
        order = torch.tensor(scan_order(scan, W, W))
        xz = F.linear(x, m.in_proj[0].weight)[:, order]
        padded = F.pad(xz, (0, 0, 1, 1))
        conv = sum(padded[:, k : k + W * W] * core.conv[:, k] for k in range(3))
        u, z = F.silu(conv).split(e, -1)
        dtl, b, c = F.linear(u, core.x_proj.weight).split((core.rank, 8, 8), -1)
        dt = F.linear(dtl, core.dt_proj.weight, core.dt_proj.bias)
        y = selective_scan(u, dt, -core.A_log.exp(), b, c, core.D, backend="loop")
        back = torch.empty_like(x)
        back[:, order] = torch.cat((y, z), -1)
        total = total + back
    return F.linear(total, m.out_proj.weight)


@pytest.mark.parametrize("scans", ["a", "a+b+c+d", "a+a_sy+b+b_sy"])
def test_the_mixer_computes_its_formulas(scans):
    m, x = mixer(scans=scans), windows()
    torch.testing.assert_close(m(x, (W, W)), mixer_by_the_formulas(m, x))


def test_the_mixer_passes_the_numerical_gradient_check():
    m = mixer(dim=4)
    x = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: m(v, (2, 3)), (x,))
    parameters = list(m.parameters())

    def of_parameters(*values):
        names = [n for n, _ in m.named_parameters()]
        return torch.func.functional_call(m, dict(zip(names, values, strict=True)), (x.detach(), (2, 3)))

    assert torch.autograd.gradcheck(of_parameters, parameters)


def test_the_sequence_conv_is_a_depthwise_same_convolution():
    x = torch.randn(4, 9, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    expected = F.conv1d(x.transpose(1, 2), weight[:, None], padding=1, groups=6).transpose(1, 2)
    torch.testing.assert_close(SequenceConv.apply(x, weight), expected)
    assert torch.autograd.gradcheck(SequenceConv.apply, (x, weight))


@pytest.mark.parametrize("sharing", ["ssm", "full"])
def test_directions_with_tied_weights_equal_shared_ones(sharing):
    shared, apart = mixer(), mixer(sharing=sharing, seed=5)
    with torch.no_grad():
        apart.out_proj.weight.copy_(shared.out_proj.weight)
        for proj in apart.in_proj:
            proj.weight.copy_(shared.in_proj[0].weight)
        for core in apart.cores:
            core.load_state_dict(shared.cores[0].state_dict())
    x = windows()
    torch.testing.assert_close(apart(x, (W, W)), shared(x, (W, W)), rtol=1e-12, atol=1e-12)


def test_directions_with_weights_of_their_own_differ():
    torch.manual_seed(0)
    m = LocalMixer(8, "a+b+c+d", "ssm")
    convs = [core.conv for core in m.cores]
    assert len(convs) == 4
    assert not torch.equal(convs[0], convs[1])


def test_a_prediction_first_does_not_keep_the_same_process_from_training():
    """Scan orders are made once for a window size, by whoever asks first: here in inference mode."""
    path_orders.cache_clear()
    mixer, x = LocalMixer(8, "a+b"), torch.randn(2, 6, 8)
    with torch.inference_mode():
        mixer(x, (2, 3))
    mixer(x, (2, 3)).sum().backward()
    assert mixer.in_proj[0].weight.grad is not None


def test_windows_do_not_mix_in_the_mixer():
    m, x = mixer(), windows()
    changed = x.clone()
    changed[1] += 1
    before, after = m(x, (W, W)), m(changed, (W, W))
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])
    assert (after[1] - before[1]).abs().max() > 1e-3


def mirror(x):
    return x.unflatten(1, (W, W)).flip(2).flatten(1, 2)


def test_mirroring_a_window_does_not_mirror_the_output_of_the_asymmetric_scans():
    x = windows()
    asymmetric = mixer()
    assert (mirror(asymmetric(x, (W, W))) - asymmetric(mirror(x), (W, W))).abs().max() > 1e-2
    symmetric = mixer(scans="a+a_sy+b+b_sy")  # closed under mirroring: the control
    torch.testing.assert_close(mirror(symmetric(x, (W, W))), symmetric(mirror(x), (W, W)))


def test_steps_start_at_ln2_under_mambavision_and_small_under_mamba():
    def steps(**options):
        seen = []
        model = tiny(**options).eval()
        for stage in model.stages[1:]:
            core = stage[0].local.blocks[0].mixer.cores[0]
            u = torch.randn(50, core.channels)
            low_rank = core.x_proj(u)[:, : core.rank]
            seen.append(F.softplus(core.dt_proj(low_rank)).flatten())
        return torch.cat(seen)

    ln2 = steps(init="mambavision")
    assert ln2.median().item() == pytest.approx(math.log(2), abs=2e-3)
    small = steps(init="mamba")
    assert 2e-3 < small.median().item() < 5e-2


# ---- windows, attention, stages -----------------------------------------------------------------


def test_windows_are_ordered_by_image_row_and_column_and_come_back():
    b, h, w, d = 2, 14, 21, 3
    x = torch.arange(b * h * w * d).view(b, h, w, d)
    tokens = to_windows(x, W, W)
    assert tokens.shape == (b * 2 * 3, W * W, d)
    # image 1, window row 1, window column 2, token (3, 4)
    assert torch.equal(tokens[1 * 6 + 1 * 3 + 2, 3 * W + 4], x[1, 7 + 3, 14 + 4])
    assert torch.equal(from_windows(tokens, W, W, x.shape), x)


def attention_blocks(count, window):
    torch.manual_seed(0)
    blocks = [TokenBlock(8, Attention(8, 2, 0.0, 0.0), Mlp(8, 4.0, 0.0), 0.0, None) for _ in range(count)]
    return TokenBlocks(blocks, window).double()


def reach(module, x, row, column):
    """Which outputs (H, W) change with the input token at (row, column)."""
    changed = x.clone()
    changed[:, row, column] += torch.arange(x.shape[-1])  # a constant would vanish in the layer norm
    return (module(changed) - module(x)).abs().amax((0, 3)) > 1e-12


def test_global_attention_connects_every_token_and_local_attention_its_window():
    x = torch.randn(1, 14, 14, 8, dtype=torch.float64)
    assert reach(attention_blocks(2, None), x, 0, 13).all()
    local = reach(attention_blocks(2, W), x, 0, 13)
    assert local[:W, W:].all()
    assert local.sum() == W * W


def test_attention_is_the_textbook_formula():
    torch.manual_seed(0)
    att, x = Attention(8, 2, 0.0, 0.0).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = att.qkv(x).split(8, -1)
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(-1)
        heads.append(weights @ v[..., part])
    torch.testing.assert_close(att(x, (1, 5)), att.proj(torch.cat(heads, -1)))


@pytest.mark.parametrize("window", [W, None])
def test_a_map_that_does_not_divide_into_windows_keeps_its_size(window):
    blocks = [TokenBlock(8, LocalMixer(8, "a+b+c+d"), Mlp(8, 4.0, 0.0), 0.0, None)]
    module = TokenBlocks(blocks, window)
    x = torch.randn(2, 9, 15, 8)
    assert module(x).shape == x.shape
    assert path_orders(("a",), W, W, torch.device("cpu"))[0].shape == (1, 49)


def test_the_input_is_brought_to_input_size():
    torch.manual_seed(0)
    as_it_comes, small = tiny(input_size=None).eval(), tiny().eval()
    small.load_state_dict(as_it_comes.state_dict())
    assert small.input_size == 112
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        quarter = x.view(2, 3, 112, 2, 112, 2).mean((3, 5))
        assert torch.allclose(small(x), as_it_comes(quarter), atol=1e-6)
        assert torch.equal(small(quarter), as_it_comes(quarter)), "of the right size: untouched"
        constant = torch.full((1, 3, 28, 28), 2.5)
        assert torch.allclose(small(constant), as_it_comes(constant.expand(1, 3, 28, 28).repeat(1, 1, 4, 4)), atol=1e-5)
    with pytest.raises(UsageError, match="input_size=0 must be a whole number"):
        tiny(input_size=0)


@pytest.mark.parametrize("size", [(224, 224), (112, 160), (50, 75), (28, 28), (16, 16)])
def test_any_input_size_gives_finite_logits(size):
    model = tiny(input_size=None).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, *size)).isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "local/local"},
        {"variant": "global/global"},
        {"stem": "conv4x4"},
        {"scans": "a+a_bi+b+b_bi", "mixer_sharing": "full"},
        {"layer_scale": 1e-5, "drop_path": 0.3, "drop_rate": 0.1, "attn_drop": 0.1},
        {"conv_depths": [1, 2], "local_depths": [2, 0], "global_depths": [0, 2], "heads": [2, 4]},
        {"window": 4, "d_state": 16, "mlp_ratio": 2.0, "init": "mambavision"},
        {"num_classes": 7, "head": "dgcm", "decision": "product", "fine_mean": "batch"},
        {"num_classes": 5, "label_smoothing": 0.1, "scan_backend": "loop"},
    ],
)
def test_every_named_option_trains(options):
    model = tiny(**options)
    out = model(torch.randn(2, 3, 64, 64))
    model.head.loss(out, torch.tensor([0, 2]), 0.1).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    p = model.head.probabilities(out)
    assert p.shape == (2, model.config["num_classes"])
    torch.testing.assert_close(p.sum(-1), torch.ones(2))


def test_the_dgcm_head_decides_hard_by_default():
    torch.manual_seed(0)
    head = tiny(num_classes=7, head="dgcm").head
    out = torch.tensor([[2.0, 1.9, 0, 0, 0, 0, 0, 0]])
    assert head.decide(out).item() == 0
    assert tiny(num_classes=7, head="dgcm", decision="product").head.decide(out).item() == 4


def test_drop_path_grows_over_all_blocks_and_drops_whole_entries():
    with torch.device("meta"):
        model = create_model("merba")
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert len(rates) == 21
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.3)
    torch.manual_seed(0)
    y = DropPath(0.25).train()(torch.ones(4000, 2, 3))
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (y.amax((1, 2)) == y.amin((1, 2))).all()
    assert y.mean().item() == pytest.approx(1, abs=0.05)


def test_the_result_does_not_depend_on_the_scan_backend():
    x = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    outs = [tiny(scan_backend=backend).eval()(x) for backend in ("loop", "recompute")]
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_stays_near_float32_and_trains():
    model, x = tiny(), torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
        loss = model.head.loss(out, torch.tensor([0, 1]), 0.0)
    loss.backward()
    torch.testing.assert_close(out.float(), exact, rtol=0.1, atol=0.1)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_the_full_size_network_trains_a_step_on_cpu():
    torch.manual_seed(0)
    model = create_model("merba", num_classes=7, head="dgcm")
    out = model(torch.randn(1, 3, 224, 224))
    model.head.loss(out, torch.tensor([2]), 0.5).backward()
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
