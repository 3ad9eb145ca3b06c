import dataclasses
import json
import subprocess
import sys
from itertools import product

import pytest
import torch

from mepipe.errors import UsageError
from mepipe_model.data import Scale
from mepipe_model.export import FORMATS, WRITERS, Graph, largest_difference
from mepipe_model.models import create_model, list_models, model_info
from mepipe_model.models.counting import multiply_accumulates
from mepipe_model.models.registry import _MODELS, register_model
from mepipe_model.weights import load_weights, save_weights

QUICK = [name for name in list_models() if model_info(name).params < 5e6]
MEDIUM = [name for name in list_models() if model_info(name).params < 5e7]
FRAMES = {"lbp_top": {"radii": [1, 1, 1]}}  # the three channels of a batch then are a clip of three frames
NARROW = {"dim": 16, "stem_dim": 8}
MERBA = {**NARROW, "heads": [1, 2, 4], "local_depths": [0, 1, 0], "global_depths": [1, 1, 0], "conv_depths": [1]}
VSSM = {"input_size": 32, "patch": 8, "dim": 8, "depths": [1, 1, 1, 1]}
# Every registered model at a size that a test can afford; one of a user's own has its own
SMALL = {
    **FRAMES,
    "merba": MERBA,
    "merba_small": MERBA,
    "mambavision_b": {
        **NARROW,
        "heads": [2, 4],
        "conv_depths": [1, 1],
        "local_depths": [1, 0],
        "global_depths": [1, 1],
    },
    "htnet": {"dim": 16, "depths": [1, 1, 2]},
    "ms_vssm": VSSM,
    "ms_vssm_tiny": VSSM,
    "fermam": {"width": 4, "depths": [1, 1, 1], "dim": 16, "d_state": 4},
    "msstnet": {"width": 8, "depths": [1, 1, 1, 1], "embed_dim": 32, "heads": 2},
}


def batch(n=8, size=56, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=g), torch.arange(n) % classes


def on_meta(name, **options):
    """The model without memory for its weights."""
    with torch.device("meta"):
        return create_model(name, **options)


@pytest.mark.parametrize("name", list_models())
def test_a_model_is_described_and_has_the_parameters_it_claims(name):
    info = model_info(name)
    assert info.name == name
    assert info.fidelity in {"paper", "code", "reconstruction"}
    assert all(getattr(info, f.name) for f in dataclasses.fields(info) if f.name != "macs")
    assert sum(p.numel() for p in on_meta(name).parameters()) == info.params


@pytest.mark.parametrize("name", list_models())
def test_a_model_costs_the_operations_it_claims(name):
    info = model_info(name)
    if info.trained_by == "fit":
        assert info.macs == 0
        return
    assert multiply_accumulates(name, info.shape) == info.macs


@pytest.mark.parametrize("name", list_models())
def test_a_configuration_is_json_and_rebuilds_the_model(name):
    model = on_meta(name, num_classes=5)
    config = json.loads(json.dumps(model.config))
    assert config["name"] == name
    assert config["num_classes"] == 5
    again = on_meta(**config)
    assert again.config == model.config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", MEDIUM)
def test_logits_loss_and_gradients_are_finite_and_reach_every_parameter(name):
    torch.manual_seed(0)
    model = create_model(name, num_classes=7, **FRAMES.get(name, {}))
    x, target = batch(n=4, classes=7)
    out = model(x)
    assert out.shape == (4, 7)
    model.head.loss(out, target, 0.0).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing
    p = model.head.probabilities(out)
    torch.testing.assert_close(p.sum(-1), torch.ones(4))
    assert torch.equal(model.head.decide(out), p.argmax(-1))


@pytest.mark.parametrize("name", [n for n in QUICK if model_info(n).trained_by == "fit"])
def test_a_fitted_model_knows_eight_samples_by_heart(name):
    model = create_model(name, **FRAMES.get(name, {}))
    x, target = batch()
    model.fit(model.prepare(x), target)
    assert torch.equal(model.head.decide(model(x)), target)


@pytest.mark.parametrize("name", [n for n in QUICK if model_info(n).trained_by == "epochs"])
def test_a_model_can_learn_eight_samples_by_heart(name):
    small = model_info(name).params < 1e4  # too small to learn eight random fields in 25 steps, or with dropout
    known = create_model(name).config
    plain = {"label_smoothing": 0.0} if "label_smoothing" in known else {}  # smoothed targets cannot be met
    torch.manual_seed(0)
    model = create_model(name, **plain, **({"drop_rate": 0.0} if small else {}))
    x, target = batch()
    optimiser = torch.optim.AdamW(model.parameter_groups(0.05), lr=1e-2 if small else 2e-3)
    for _ in range(100 if small else 25):
        optimiser.zero_grad()
        loss = model.head.loss(model(x), target, 0.0)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
    assert torch.equal(model.eval().head.decide(model(x)), target)


@pytest.mark.parametrize("name", QUICK)
def test_one_seed_gives_the_same_weights_and_the_same_training(name):
    def run():
        drops = {"drop_rate": 0.1, "drop_path": 0.2}
        known = create_model(name).config
        torch.manual_seed(3)
        model = create_model(name, **FRAMES.get(name, {}), **{k: v for k, v in drops.items() if k in known})
        x, target = batch(n=4)
        loss = model.head.loss(model(x), target, 0.0)
        loss.backward()
        return [loss.detach(), *(p.detach() for p in model.parameters()), *(p.grad for p in model.parameters())]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize("name", list_models())
def test_every_model_is_saved_and_loaded_as_it_was(name, tmp_path):
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **SMALL.get(name, {})).eval()
    scale = Scale((0.5, -1.0, 2.0), (3.0, 1.0, 0.25))
    save_weights(tmp_path, model, scale, list("abcde"))
    torch.manual_seed(1)  # what is loaded must not depend on what is drawn
    again, its_scale = load_weights(tmp_path)
    x, _ = batch(n=2)
    assert its_scale == scale
    assert again.config == model.config
    assert torch.equal(again(x), model(x))


# A small preset's graph is that of its model: one of the two is enough of what takes seconds
GRAPHS = [n for n in list_models() if n not in ("ms_vssm_tiny", "msstnet_tiny", "fermam_tiny")]


@pytest.mark.parametrize(("name", "format"), [*product(GRAPHS, FORMATS)])
def test_every_model_is_exported_and_computes_the_same(name, format, tmp_path):
    if format != "safetensors" and model_info(name).native == "frames":
        pytest.skip("no graph: test_export.py has its error line")
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **SMALL.get(name, {})).eval()
    scale = Scale.none() if model_info(name).flow != "scaled" else Scale((0.5, -1.0, 2.0), (3.0, 1.0, 0.25))
    about = {"model": model.config, "scale": {"mean": scale.mean, "std": scale.std}}
    original = Graph(model, scale).eval()
    with torch.no_grad():
        written = WRITERS[format](tmp_path / f"model{FORMATS[format]}", original, json.dumps(about))
        difference, bound = largest_difference(original, written)
    assert difference <= bound
    assert len(list(tmp_path.iterdir())) == 1, "one file holds all"


@pytest.mark.parametrize("name", list_models())
def test_norms_biases_and_state_parameters_do_not_decay(name):
    model = on_meta(name)
    names = {id(p): n for n, p in model.named_parameters()}
    decay, keep = model.parameter_groups(0.05)
    assert (decay["weight_decay"], keep["weight_decay"]) == (0.05, 0.0)
    assert sorted(id(p) for g in (decay, keep) for p in g["params"]) == sorted(names)
    kept = {names[id(p)] for p in keep["params"]}
    assert all(p.ndim >= 2 for p in decay["params"])
    assert {n for n in names.values() if n.endswith(("A_log", ".D", "bias", "gain"))} <= kept
    decayed = {names[id(p)] for p in model.parameter_groups(0.05, decay_state=True)[0]["params"]}
    matrices = {n for n, p in model.named_parameters() if p.ndim >= 2}  # ASFR has one decay per state: a vector
    assert {n for n in matrices if n.endswith("A_log")} <= decayed


def test_unknown_names_options_and_values_are_refused_with_what_is_valid():
    with pytest.raises(UsageError, match="no model is called 'merbaa'; did you mean 'merba'"):
        create_model("merbaa")
    with pytest.raises(UsageError, match=r"model merba has no option 'windows'; did you mean 'window'"):
        create_model("merba", windows=7)
    for options, match in [
        ({"num_classes": 1}, "at least 2"),
        ({"dim": 0}, "option dim=0 must be a whole number"),
        ({"heads": [3, 8, 16]}, "3 does not divide stage width 256"),
        ({"scans": "a+x"}, "must join directions"),
        ({"variant": "local"}, "must be one of local/global"),
        ({"drop_path": 1.5}, r"must be a number in \[0, 1\)"),
        ({"heads": [4, 8]}, "must have 3 entries"),
        ({"head": "dgcm", "num_classes": 3}, "7 DFME classes, not for 3"),
        ({"head": "dgcm", "num_classes": 7, "label_smoothing": 0.1}, "head=linear only"),
        ({"scan_backend": "fast"}, "must be one of auto"),
    ]:
        with pytest.raises(UsageError, match=match):
            on_meta("merba", **options)


def test_models_are_listed_and_described_without_importing_torch():
    code = (
        "import sys; from mepipe_model.models import list_models, model_info;"
        "print([model_info(n).params for n in list_models()]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_model_of_the_users_own_registers_and_is_built_by_name():
    about = {"summary": "s", "input": "i", "source": "s", "published": "none", "params": 1}
    try:

        @register_model("mine", fidelity="reconstruction", **about)
        def mine(name, options):
            return name, options

        assert "mine" in list_models()
        assert create_model("mine", num_classes=4, depth=2) == ("mine", {"num_classes": 4, "depth": 2})
    finally:
        _MODELS._things.pop("mine")
