"""Ctrl-C while a model trains whose backward alone takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from tinyflow import quick, samples, write_flow

from mepipe.workspace import Workspace
from mepipe_model.models import list_models, model_info
from mepipe_model.plan import make_plan
from mepipe_model.recipes import resolved
from mepipe_model.running import LARGE, slow_to_stop


@pytest.fixture
def ws(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    write_flow(workspace, samples("casme2", ["sub01", "sub02"], clips=8))
    return workspace


def test_only_large_models_on_the_cpu_get_a_process_for_themselves(ws):
    slow = {name for name in list_models() if model_info(name).params > LARGE}
    assert {"merba", "merba_small", "mambavision_b", "htnet"} <= slow
    assert not slow & {"merba_tiny", "ststnet", "bi_woof"}
    for model in ("merba_small", "merba_tiny"):
        assert slow_to_stop(make_plan(ws, resolved(quick(model=model)))) == (model in slow)


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_step_that_takes_seconds(ws):
    """As a terminal sends it, to the workers as well; eight clips a step take merba_small some five seconds."""
    words = ["-w", str(ws.root), "train", "--model", "merba_small", "--batch-size", "8", "--jobs", "1"]
    process = subprocess.Popen([sys.executable, "-m", "mepipe", *words], start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list(ws.runs.glob("*/folds/*")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        assert time.monotonic() - begin < 2
        assert process.returncode == 130
        assert "Traceback" not in process.stderr.read()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
