from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

# Before torch or OpenCV is loaded: two test processes on two cores, each with two threads, are many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REAL = Path(os.environ.get("MEPIPE_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "real"))


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive():
    """A suite that was started in the background ignores SIGINT, and its children would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of small real data beside the project; tests that need it skip where it is absent."""
    if not REAL.is_dir():
        pytest.skip(f"no real data at {REAL} (set MEPIPE_REAL_DATA)")
    return REAL


@dataclass(frozen=True)
class Made:
    """A made-up corpus and the workspace it was prepared into."""

    raw: Path
    work: Path


@pytest.fixture(scope="session")
def made_raw(tmp_path_factory) -> Path:
    """Three subjects, three clips each, in CASME II's layout. Read only: copy it before damaging it."""
    from mepipe.synth import make_corpus

    raw = tmp_path_factory.mktemp("corpus") / "raw"
    make_corpus("casme2", raw, subjects=3, clips=3, seed=1)
    return raw


@pytest.fixture(scope="session")
def made(made_raw, tmp_path_factory) -> Made:
    """The made-up corpus, prepared and with flow. Read only."""
    from mepipe.datasets import get_corpus
    from mepipe.flow.run import flow_corpora
    from mepipe.prepare import prepare_corpus
    from mepipe.settings import PrepareConfig
    from mepipe.workspace import Workspace

    ws = Workspace(tmp_path_factory.mktemp("work"))
    prepare_corpus(ws, get_corpus("casme2"), made_raw, PrepareConfig(jobs=1))
    flow_corpora(ws)
    return Made(made_raw, ws.root)


@pytest.fixture
def own_raw(made_raw, tmp_path) -> Path:
    """A copy of the made-up corpus that a test may damage."""
    return Path(shutil.copytree(made_raw, tmp_path / "raw"))


@pytest.fixture
def own(made, tmp_path) -> Made:
    """A copy of the prepared workspace that a test may change."""
    return Made(made.raw, Path(shutil.copytree(made.work, tmp_path / "work")))


def mepipe(*args: object, cwd: Path, **kw) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does; stdout and stderr as text."""
    command = [sys.executable, "-m", "mepipe", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False, **kw)


@pytest.fixture
def run_mepipe(tmp_path):
    """The command in a test's own empty folder: ``run_mepipe("prepare", "casme2", raw)``."""

    def run(*args: object, cwd: Path = tmp_path, **kw) -> subprocess.CompletedProcess[str]:
        return mepipe(*args, cwd=cwd, **kw)

    return run
