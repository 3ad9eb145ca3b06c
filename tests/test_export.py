"""``mepipe export``: one file, described, checked against the model; every model's graph is in test_models.py."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace
from mepipe_model import export as export_module
from mepipe_model.export import export_run, tracing, typical_flow
from mepipe_model.models.mixer import ReadAlong
from mepipe_model.predict import mean_probabilities
from mepipe_model.runs import find_run
from mepipe_model.train import train_run


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    """Two folds of merba_tiny, one epoch, seven classes with two heads, as the run "two". Read only."""
    work = shutil.copytree(made.work, tmp_path_factory.mktemp("export") / "work")
    config = TrainConfig(model="merba_tiny", classes=7, head="dgcm", epochs=1, batch_size=4, device="cpu", jobs=1,
                         folds="1,2", run="two")  # fmt: skip
    train_run(Workspace(work), config)
    return Workspace(work)


@pytest.fixture
def ws(trained, tmp_path):
    return Workspace(shutil.copytree(trained.root, tmp_path / "work"))


@pytest.mark.slow
def test_onnx_serves_flow_in_px_of_any_batch_and_says_what_it_is(ws):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    made = export_run(ws, "two", "onnx", "casme2_sub02")
    assert made.path == ws.runs / "two/export/casme2_sub02.onnx"
    assert made.difference <= made.bound
    about = json.loads({p.key: p.value for p in onnx.load(made.path).metadata_props}["mepipe"])
    assert about["classes"][0] == "anger"
    assert about["channels"] == ["u", "v", "magnitude"]
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    (flow,) = session.get_inputs()
    assert (flow.name, flow.type, flow.shape) == ("flow", "tensor(float)", ["batch", 3, 224, 224])
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("logits", ["batch", 8]), ("probabilities", ["batch", 7]), ("label", ["batch"]),
    ]  # fmt: skip
    x = typical_flow(5, seed=9).numpy()
    got = session.run(["probabilities"], {"flow": x})[0]
    run = find_run(ws, "two")
    want = np.stack([mean_probabilities(run, ["casme2_sub02"], clip) for clip in x])
    np.testing.assert_allclose(got, want, atol=1e-5, err_msg="the fold's scaling is inside")


def test_torchscript_needs_nothing_of_ours(ws):
    made = export_run(ws, "two", "torchscript")
    extra = {"mepipe.json": ""}
    module = torch.jit.load(str(made.path), _extra_files=extra)
    assert json.loads(extra["mepipe.json"])["fold"] == "casme2_sub01"
    x = typical_flow(2, seed=3)
    want = mean_probabilities(find_run(ws, "two"), ["casme2_sub01"], x[1].numpy())
    np.testing.assert_allclose(module(x)[1][1].detach(), want, atol=1e-5)
    code = module.inlined_graph
    assert "PythonOp" not in str(code), "no call back into Python"


def test_safetensors_hold_the_weights_and_their_description(ws, tmp_path):
    from safetensors import safe_open

    made = export_run(ws, "two", "safetensors", out=tmp_path / "new folder" / "model.safetensors")
    assert made.difference == 0
    with safe_open(made.path, "pt") as file:
        about = json.loads(file.metadata()["mepipe"])
        assert set(file.keys()) > {"norm.weight", "head.coarse.weight"}
    assert about["model"]["name"] == "merba_tiny"
    assert len(about["scale"]["mean"]) == 3


def test_the_command_prints_the_fold_it_took_and_the_difference(ws, run_mepipe):
    done = run_mepipe("-w", ws.root, "export", "two", "--format", "safetensors")
    assert done.returncode == 0, done.stderr
    assert "two, fold casme2_sub01, one of 2; --fold chooses: safetensors -> " in done.stdout
    assert "largest difference from the model 0.0e+00, allowed " in done.stdout
    wrong = run_mepipe("-w", ws.root, "export", "two", "--format", "onnx", "--fold", "sub09")
    assert wrong.returncode == 2
    assert "has no fold 'sub09'" in wrong.stderr


def test_a_file_that_differs_is_not_left_behind(ws, monkeypatch):
    real = export_module._torchscript

    def off(path, graph, about):
        written = real(path, graph, about)
        return lambda x: [written(x)[0], written(x)[1] + 1e-3, written(x)[2]]

    monkeypatch.setitem(export_module.WRITERS, "torchscript", off)
    with pytest.raises(MepipeError, match=r"torchscript file differs from the model by 1\.0e-03.*nothing was written"):
        export_run(ws, "two", "torchscript")
    assert not list((ws.runs / "two" / "export").iterdir())


def test_wrong_requests_say_what_would_be_right(ws, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="valid: safetensors, torchscript, onnx"):
        export_run(ws, "two", "tflite")
    with pytest.raises(UsageError, match="is a folder; name a file"):
        export_run(ws, "two", "safetensors", out=tmp_path)
    with pytest.raises(UsageError, match="there is no run 'three'"):
        export_run(ws, "three", "onnx")
    monkeypatch.setattr(export_module, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(MepipeError, match=r"onnx needs onnxruntime; pip install 'mepipe\[export\]'"):
        export_run(ws, "two", "onnx")
    files = sorted((ws.runs / "two").rglob("weights.safetensors"))
    files[0].unlink()
    assert export_run(ws, "two", "safetensors").fold == files[1].parent.name
    with pytest.raises(DataError, match=f"fold {files[0].parent.name} of .* has no weights any more; put them back"):
        export_run(ws, "two", "safetensors", fold=files[0].parent.name)
    for file in files[1:]:
        file.unlink()
    with pytest.raises(DataError, match="has no weights any more"):
        export_run(ws, "two", "safetensors")
    (files[0].parent / "fold.json").unlink()
    with pytest.raises(DataError, match="has no weights yet; the same train command finishes it"):
        export_run(ws, "two", "safetensors", fold=files[0].parent.name)
    config = ws.runs / "two" / "config.json"
    config.write_text(config.read_text().replace('"weights": "all"', '"weights": "none"'))
    with pytest.raises(DataError, match="was trained with --weights none"):
        export_run(ws, "two", "safetensors")


def test_a_model_that_reads_frames_has_no_graph_and_says_so(ws):
    config = ws.runs / "two" / "config.json"
    config.write_text(config.read_text().replace('"model": "merba_tiny"', '"model": "lbp_top"'))
    for format in ("torchscript", "onnx"):
        with pytest.raises(UsageError, match=r"lbp_top counts patterns.*no graph; use --format safetensors"):
            export_run(ws, "two", format)


def test_tracing_leaves_the_autograd_functions_as_they_were():
    x, order = torch.randn(1, 4, 2, requires_grad=True), torch.arange(4).flip(0)[None]
    with tracing():
        assert ReadAlong.apply(x, order, order).grad_fn.name() != "ReadAlongBackward"
    assert ReadAlong.apply(x, order, order).grad_fn.name() == "ReadAlongBackward"
