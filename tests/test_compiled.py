"""``--compile``: refused where it cannot run, told where it does, the same results."""

from __future__ import annotations

import functools
import shutil

import pytest
import torch
from tinyflow import quick, samples, write_flow

from mepipe.errors import UsageError
from mepipe.workspace import Workspace
from mepipe_model.compiled import COMPILERS, compiled
from mepipe_model.models import create_model
from mepipe_model.recipes import resolved
from mepipe_model.train import train_run


@pytest.fixture
def ws(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    write_flow(workspace, samples("casme2", ["sub01", "sub02"]))
    return workspace


@pytest.mark.parametrize(("named", "what"), [(None, r"g\+\+, clang\+\+, c\+\+"), ("icx", "CXX=icx")])
def test_without_a_compiler_one_line_says_so_before_anything_is_trained(ws, monkeypatch, named, what):
    monkeypatch.setenv("PATH", str(ws.root))
    monkeypatch.delenv("CXX", raising=False)
    if named:
        monkeypatch.setenv("CXX", named)
    with pytest.raises(UsageError, match=rf"^--compile needs a C\+\+ compiler.*{what}.*leave --compile out$"):
        train_run(ws, quick(compile=True))
    assert not ws.runs.exists()


def test_a_model_that_is_fitted_at_once_has_nothing_to_compile():
    with pytest.raises(UsageError, match="--compile: bi_woof is fitted at once, without steps; leave --compile out"):
        resolved(quick(model="bi_woof", epochs=None, batch_size=None, compile=True))


@pytest.mark.slow
def test_a_compiled_network_has_the_same_parameters_and_its_mixers_stay_as_they_are(monkeypatch):
    """The graph is captured and run without a compiler, so that this needs none."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    model = create_model("merba_tiny", input_size=56).eval()
    x = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    names = {*model.state_dict()}
    with torch.no_grad():
        plain = model(x)
        torch.testing.assert_close(compiled(model, model)(x), plain)
    assert {*model.state_dict()} == names


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler")
@pytest.mark.slow
def test_a_compiled_run_predicts_what_a_plain_one_does(ws):
    said: list[str] = []
    plain = train_run(ws, quick(run="plain", folds="1", epochs=1))
    fast = train_run(ws, quick(run="fast", folds="1", epochs=1, compile=True), say=said.append)
    assert any("compiled by torch.compile" in line for line in said)
    for name in ("UF1", "ACC"):
        assert fast.metrics[name] == pytest.approx(plain.metrics[name])
