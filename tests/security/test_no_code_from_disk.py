"""Nothing on a disk becomes code: no pickle, no yaml.load, no eval; by reading our sources, and by trying."""

from __future__ import annotations

import argparse
import ast
import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import mepipe
import mepipe_model
from mepipe.errors import DataError, MepipeError
from mepipe.shards.importing import import_npz
from mepipe_model.models.checkpoints import read_checkpoint
from mepipe_model.weights import load_weights
from security.targets import saved_weights

PACKAGES = [Path(p.__file__).parent for p in (mepipe, mepipe_model)]
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))

# Whatever of these is called turns bytes into code or objects of any class, runs a shell, unpacks to any place, or
# asks a network.  A dot at the end: everything in that module.
FORBIDDEN = (
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler", "pickle.dump",
    "pickle.dumps", "_pickle.", "marshal.", "shelve.", "dill.", "cloudpickle.", "joblib.", "jsonpickle.", "yaml.load",
    "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pandas.read_pickle", "pandas.read_hdf", "pandas.HDFStore",
    "pandas.eval", "torch.hub.load", "torch.package.", "runpy.", "code.", "os.system", "os.popen", "tempfile.mktemp",
    "tarfile.", "shutil.unpack_archive", "xml.", "lxml.", "urllib.request.", "http.client.", "requests.", "ftplib.",
)  # fmt: skip
# Where a dangerous call is right, and why.
ALLOWED = {
    ("mepipe_model/export.py", "torch.jit.load"): "reads back the file it has just written, to check it",
    ("mepipe_model/export.py", "onnx.load"): "the same",
    ("mepipe/report/html.py", "markupsafe.Markup"): "our own script, which holds no data",
    ("mepipe/report/timeline.py", "markupsafe.Markup"): "a drawing of numbers, and our own style",
    ("mepipe/shards/header.py", "h5py.File"): "in a process of its own, see mepipe/shards/apart.py",
    ("mepipe/shards/write.py", "h5py.File"): "writes",
    ("mepipe/datasets/workbook.py", "zipfile.ZipFile"): "counts what it unpacks to",
    ("mepipe/shards/importing.py", "zipfile.ZipFile"): "reads the sizes",
    ("mepipe_model/tensorfiles.py", "zipfile.ZipFile"): "reads the sizes",
    ("mepipe/datasets/workbook.py", "openpyxl.load_workbook"): "after its parts were checked",
}
GUARDED = ("torch.jit.load", "onnx.load", "markupsafe.Markup", "h5py.File", "zipfile.ZipFile", "openpyxl.load_workbook",
           "onnxruntime.InferenceSession")  # fmt: skip
ALLOWED[("mepipe_model/export.py", "onnxruntime.InferenceSession")] = "reads back the file it has just written"
# Keywords without which a call is dangerous.
NEEDED = {
    "numpy.load": ("allow_pickle", False), "torch.load": ("weights_only", True),
    "jinja2.Environment": ("autoescape", True), "jinja2.Template": ("autoescape", True),
}  # fmt: skip


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, call) of each call whose function the imports of the file name."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                (a.asname or a.name.split(".")[0]): (a.name if a.asname else a.name.split(".")[0]) for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {(a.asname or a.name): f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts, at = [], node.func
            while isinstance(at, ast.Attribute):
                parts.append(at.attr)
                at = at.value
            if isinstance(at, ast.Name) and (at.id in names or not parts):
                yield ".".join([names.get(at.id, at.id), *reversed(parts)]), node


def dangers(source: str, where: str) -> list[str]:
    """The calls of ``source`` that could run what a file says."""
    found = []
    for name, call in calls(ast.parse(source)):
        given = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
        bad = any(name == f or (f.endswith(".") and name.startswith(f)) for f in FORBIDDEN)
        bad = bad or (name in GUARDED and (where, name) not in ALLOWED)
        if name in NEEDED:
            keyword, value = NEEDED[name]
            bad = bad or keyword not in given or given[keyword] is not value
        if bad or given.get("shell") is True or name.endswith(".extractall"):
            found.append(f"{where}:{call.lineno} {name}")
    return found


def test_no_call_in_our_sources_can_run_what_a_file_says():
    root = PACKAGES[0].parent
    assert len(SOURCES) > 100
    found = [d for path in SOURCES for d in dangers(path.read_text("utf-8"), path.relative_to(root).as_posix())]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)",
        "exec(x)",
        "import pickle\npickle.load(f)",
        "from pickle import loads\nloads(b)",
        "import pickle as p\np.Unpickler(f)",
        "import numpy as np\nnp.load(f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import yaml\nyaml.load(f)",
        "import pandas as pd\npd.read_pickle(f)",
        "import joblib\njoblib.load(f)",
        "import marshal\nmarshal.loads(b)",
        "import shelve\nshelve.open(x)",
        "from jinja2 import Environment\nEnvironment()",
        "from jinja2 import Environment\nEnvironment(autoescape=False)",
        "from markupsafe import Markup\nMarkup(x)",
        "import h5py\nh5py.File(p)",
        "import xml.etree.ElementTree as E\nE.parse(f)",
        "import subprocess\nsubprocess.run(x, shell=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert dangers(source, "mepipe/x.py")


def test_every_exception_to_the_rule_is_still_needed():
    root = PACKAGES[0].parent
    used = {(where, name) for where, _ in ALLOWED for name, _ in calls(ast.parse((root / where).read_text("utf-8")))}
    assert set(ALLOWED) <= used


# --- pickles that would run something ---------------------------------------------------------------


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def proof(tmp_path):
    """A path that a bomb makes; the bomb is shown to work first."""
    path = tmp_path / "a bomb went off"
    pickle.loads(pickle.dumps(Bomb(path)))
    path.rmdir()
    return path


def zip_bomb(proof: Path) -> bytes:
    """The bomb in the zip that torch.save writes."""
    whole, out = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(1)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Bomb(proof), 2) if name.endswith("data.pkl") else old.read(name))
    return out.getvalue()


def saved(proof: Path) -> bytes:
    out = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(1)}, "more": Bomb(proof)}, out)
    return out.getvalue()


BOMBS = {"plain": lambda proof: pickle.dumps(Bomb(proof)), "zip": zip_bomb, "torch.save": saved}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(kind, proof, tmp_path):
    for name in ("weights.pth", "weights.pth.tar", "weights.safetensors"):
        (tmp_path / name).write_bytes(BOMBS[kind](proof))
        with pytest.raises(DataError, match="cannot be read as tensors alone") as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert not proof.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_a_state_to_go_on_with_that_would_run_code_is_refused_and_runs_nothing(kind, proof, made, run_mepipe, tmp_path):
    shutil.copytree(made.work / "flow", tmp_path / "mepipe-work/flow")
    args = ("train", "--model", "ststnet", "--epochs", "1", "--jobs", "1", "--device", "cpu", "--run", "r", "--folds")
    assert run_mepipe(*args, "2").returncode == 0, "the run is there, and this fold not yet"
    fold = tmp_path / "mepipe-work/runs/r/folds/casme2_sub01"
    fold.mkdir(parents=True)
    (fold / "state.pt").write_bytes(BOMBS[kind](proof))
    done = run_mepipe(*args, "1")
    assert done.returncode == 1
    assert "state.pt is no state of this fold (UnpicklingError); remove it" in done.stderr
    assert "Traceback" not in done.stderr
    assert not proof.exists()


def test_a_harmless_object_in_a_checkpoint_is_refused_too(tmp_path):
    torch.save({"args": argparse.Namespace(lr=1)}, tmp_path / "x.pth")
    with pytest.raises(DataError, match="UnpicklingError"):
        read_checkpoint(tmp_path / "x.pth")


def test_an_npz_of_pickled_objects_is_refused_and_runs_nothing(proof, tmp_path):
    texts = {name: np.array(["a"]) for name in ("corpus", "subject", "clip", "label3")}
    for name in ("corpus", "flow"):
        np.savez(tmp_path / "x.npz", **{**texts, name: np.array([Bomb(proof)], dtype=object)})
        with pytest.raises(MepipeError, match="pickled objects"):
            import_npz(tmp_path / "flow", tmp_path / "x.npz")
        assert not proof.exists()


def test_weights_of_a_stranger_are_safetensors_and_name_no_other_file(proof, tmp_path):
    import json

    place = saved_weights(tmp_path)
    about = json.loads((place / "weights.json").read_text())
    load_weights(place)
    (tmp_path / "bomb.pth").write_bytes(saved(proof))
    for change in ({"init_checkpoint": str(tmp_path / "bomb.pth")}, {"name": "no such model"}, {"num_classes": 10**9}):
        (place / "weights.json").write_text(json.dumps({**about, "model": {**about["model"], **change}}))
        with pytest.raises(DataError, match=r"weights\.safetensors cannot be used"):
            load_weights(place)
    (place / "weights.json").write_text(json.dumps(about))
    (place / "weights.safetensors").write_bytes(saved(proof))
    with pytest.raises(DataError, match=r"weights\.safetensors cannot be used"):
        load_weights(place)
    assert not proof.exists()


def test_modules_beside_the_data_are_not_imported(run_mepipe, made, tmp_path):
    """One stands in an unpacked corpus and reads shards: its json.py is no module of ours."""
    for name in ("json", "h5py", "numpy", "mepipe_plugin", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(3)\n")
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if p]; from mepipe.shards import open_shards; "
        f"print(len(open_shards({str(made.work / 'flow')!r})))"
    )
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "9\n", done.stderr
    assert not (tmp_path / "ran").exists()


def test_weights_that_lack_an_option_of_their_model_are_not_built_with_a_guess(tmp_path):
    """What a preset sets today need not be what it was when the weights were saved."""
    import json

    place = saved_weights(tmp_path)
    about = json.loads((place / "weights.json").read_text())
    option = next(name for name in about["model"] if name not in ("name", "num_classes"))
    del about["model"][option]
    (place / "weights.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=f"no option {option}"):
        load_weights(place)
