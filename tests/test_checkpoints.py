"""A MambaVision checkpoint as a start: names, doubled dt bias, what does not match; files that are refused.

The checkpoint is made up from a small MambaVision-B of ours, written under its authors' names by a mapping of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from mepipe.errors import DataError, UsageError
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace, hash_file
from mepipe_model.models import create_model
from mepipe_model.models.checkpoints import load_checkpoint
from mepipe_model.train import train_run

SMALL = {"dim": 16, "stem_dim": 8, "heads": [2, 4]}
MERBA = {"dim": 16, "stem_dim": 8, "heads": [1, 2, 4]}


def vision(**options):
    return create_model("mambavision_b", **SMALL | options)


def theirs(model):
    """The weights of our MambaVision-B in NVIDIA's layout; their code adds dt's bias twice."""
    out = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stem":
            out[".".join(["patch_embed.conv_down", *parts[1:]])] = value
        elif parts[0] == "norm":
            out[name] = value
        elif parts[0] == "head":
            out["head." + parts[2]] = value
        elif len(parts) == 4 and parts[3] == "weight":
            out[f"levels.{parts[1]}.downsample.reduction.0.weight"] = value
        elif parts[3] not in ("local", "global_"):
            out[f"levels.{parts[1]}.blocks.{'.'.join(parts[2:])}"] = value
        else:
            stage, mixers = int(parts[1]), {2: 5, 3: 3}[int(parts[1])]
            block = int(parts[5]) + (mixers if parts[3] == "global_" else 0)
            out.update(block_theirs(f"levels.{stage}.blocks.{block}.", ".".join(parts[6:]), value))
    return {k: v.clone() for k, v in out.items()}


def block_theirs(place, name, value):
    if name == "mixer.cores.0.conv":
        x, z = value.chunk(2)
        return {f"{place}mixer.conv1d_x.weight": x[:, None], f"{place}mixer.conv1d_z.weight": z[:, None]}
    names = {"mixer.in_proj.0": "mixer.in_proj", "mixer.cores.0": "mixer", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}
    for ours, there in names.items():
        if name.startswith(ours + "."):
            name = there + name.removeprefix(ours)
    name = {"scale1.gain": "gamma_1", "scale2.gain": "gamma_2"}.get(name, name)
    return {place + name: value / 2 if name == "mixer.dt_proj.bias" else value}


@pytest.fixture(scope="module")
def source():
    """A MambaVision-B with nothing at its starting value."""
    torch.manual_seed(1)
    model = vision(num_classes=5).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.normal_()
    return model


@pytest.fixture
def checkpoint(source, tmp_path):
    path = tmp_path / "mambavision.safetensors"
    save_file({k: v.contiguous() for k, v in theirs(source).items()}, path)
    return path


def test_a_checkpoint_makes_mambavision_the_model_it_came_from(source, checkpoint):
    model = vision(num_classes=5, init_checkpoint=str(checkpoint)).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(x), source(x))
    assert set(model.loaded[0].matched) == set(model.state_dict())
    assert not model.loaded[0].skipped
    assert not model.loaded[0].unused
    assert model.loaded[0].sha256 == hash_file(checkpoint)
    assert "init_checkpoint" not in model.config, "what was trained is rebuilt without it"


def test_dt_bias_is_doubled_and_another_head_is_left_as_it_was_drawn(source, checkpoint):
    torch.manual_seed(7)
    fresh = vision(num_classes=3)
    torch.manual_seed(7)
    model = vision(num_classes=3, init_checkpoint=str(checkpoint))
    name = "stages.2.0.local.blocks.1.mixer.cores.0.dt_proj.bias"
    torch.testing.assert_close(model.state_dict()[name], 2 * theirs(source)["levels.2.blocks.1.mixer.dt_proj.bias"])
    assert set(model.loaded[0].skipped) == {"head.linear.weight", "head.linear.bias"}
    assert model.loaded[0].skipped["head.linear.bias"] == "of another shape there (5, not 3)"
    assert torch.equal(model.head.linear.weight, fresh.head.linear.weight)


@pytest.mark.parametrize("sharing", ["shared", "ssm", "full"])
def test_merba_takes_what_has_a_counterpart_in_every_direction(source, checkpoint, sharing):
    model = create_model("merba", **MERBA, mixer_sharing=sharing, init_checkpoint=str(checkpoint))
    mine, given, (loaded,) = model.state_dict(), theirs(source), model.loaded
    matched = {n.split(".", 2)[0] + "." + n.split(".", 2)[1] if n.startswith("stages") else n.split(".")[0]
               for n in loaded.matched}  # fmt: skip
    assert matched == {"stem", "stages.0", "stages.1", "stages.2", "stages.3", "norm"}
    assert [n for n in loaded.matched if n.startswith("stages.1.")] == ["stages.1.1.weight"], "of stage 2, its end"
    torch.testing.assert_close(mine["stages.2.0.local.blocks.4.mlp.3.bias"], given["levels.2.blocks.4.mlp.fc2.bias"])
    assert not any(n.startswith("stages.2.0.local.blocks.5.") for n in loaded.matched), "they have five mixers there"
    first = given["levels.2.blocks.5.mixer.qkv.weight"]
    torch.testing.assert_close(mine["stages.2.0.global_.blocks.0.mixer.qkv.weight"], first)
    directions = 1 if sharing == "shared" else 4
    for g in range(directions):
        core = f"stages.3.0.local.blocks.0.mixer.cores.{g}"
        torch.testing.assert_close(mine[f"{core}.A_log"], given["levels.3.blocks.0.mixer.A_log"])
        torch.testing.assert_close(
            mine[f"{core}.conv"][:64, 1], given["levels.3.blocks.0.mixer.conv1d_x.weight"][:, 0, 1]
        )
    assert "levels.1.blocks.0.conv1.weight" in loaded.unused
    assert "levels.2.blocks.7.mixer.qkv.weight" in loaded.unused
    assert set(loaded.matched) | set(loaded.skipped) == set(mine)
    text = "\n".join(loaded.lines())
    assert f"{len(loaded.matched)} of {len(mine)} tensors match" in text
    assert "as drawn, no counterpart in the file: stages.1.0.local" in text
    assert "not used of the file: levels.1.blocks.0" in text


def test_the_usual_wrappers_are_seen_through_and_only_tensors_are_read(source, tmp_path):
    weights = theirs(source)
    for n, content in enumerate(({"state_dict": weights, "epoch": 3}, {"model": weights}, weights,
                                 {"state_dict": {"module." + k: v for k, v in weights.items()}},
                                 {"model." + k: v for k, v in weights.items()})):  # fmt: skip
        path = tmp_path / f"{n}.pth.tar"
        torch.save(content, path)
        assert len(load_checkpoint(vision(num_classes=5), path).matched) == len(source.state_dict())
    torch.save({"state_dict": weights, "args": argparse.Namespace(lr=1)}, tmp_path / "args.pth")
    with pytest.raises(DataError, match=r"args\.pth cannot be read as tensors alone \(UnpicklingError\)"):
        load_checkpoint(vision(), tmp_path / "args.pth")


def test_files_that_are_no_mambavision_of_these_widths_are_refused(checkpoint, tmp_path):
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name, message in (("other.safetensors", "is no MambaVision checkpoint: it has no patch_embed"),
                          ("text.safetensors", "cannot be read as tensors alone"),
                          ("absent.pth", "there is no such file")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            vision(init_checkpoint=str(tmp_path / name))
    with pytest.raises(UsageError, match="init_checkpoint=3 must be the name of a file"):
        vision(init_checkpoint=3)
    with pytest.raises(DataError, match="no tensor fits this model; give a checkpoint of the same widths"):
        create_model("merba_tiny", dim=32, stem_dim=16, heads=[2, 4, 8], init_checkpoint=str(checkpoint))


def test_a_run_tells_what_matched_keeps_the_hash_and_refuses_another_file(own, checkpoint, source, tmp_path):
    said: list[str] = []
    config = TrainConfig(
        model="merba_tiny", epochs=1, batch_size=4, device="cpu", jobs=1, folds="1", run="started",
        options=(f"init_checkpoint={checkpoint}",),
    )  # fmt: skip
    outcome = train_run(Workspace(own.work), config, say=said.append)
    assert any("tensors match" in line for line in said)
    kept = json.loads((outcome.folder / "config.json").read_text())["model"]["init_checkpoint"]
    assert kept == {"path": str(checkpoint), "sha256": hash_file(checkpoint)}
    save_file({k: v.contiguous() + 1 for k, v in theirs(source).items()}, checkpoint)
    with pytest.raises(Exception, match="is not the file that this run began with"):
        train_run(Workspace(own.work), TrainConfig(**{**vars(config), "folds": "2"}))
    shutil.move(checkpoint, tmp_path / "gone")
    from mepipe_model.weights import load_weights

    model, _ = load_weights(outcome.folder / "folds/casme2_sub01")
    assert not model.loaded, "a trained model needs the file no more"
