"""The built wheel, installed in an empty environment, works from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git tracks, so that a file forgotten in the metadata is missing here too."""
    folder = tmp_path_factory.mktemp("wheel")
    if (ROOT / ".git").exists():
        archive = folder / "source.tar"
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(archive, "w") as tar:
            for name in filter(None, listed.decode().split("\0")):
                if (ROOT / name).is_file():
                    tar.add(ROOT / name, name)
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "source", filter="data")
    source = folder / "source" if (folder / "source").exists() else ROOT
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_code_tables_templates_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"data_manifests", "mepipe", "mepipe_model"}
    for needed in (
        "data_manifests/labels.csv",
        "mepipe/py.typed",
        "mepipe_model/py.typed",
        "mepipe/report/templates/report.html",
    ):
        assert needed in names
    assert not [n for n in names if n.endswith((".xlsx", ".npz", ".jpg", ".h5"))]


@pytest.mark.slow
def test_the_installed_wheel_runs_from_another_folder(wheel, tmp_path):
    """An environment of its own holds the wheel only; the libraries come from this one by path."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, str(wheel)], check=True
    )
    # the checkout's own editable install is hooked up by a .pth file, which is left out
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "mepipe" not in entry.name and entry.suffix != ".pth":
            (libraries / entry.name).symlink_to(entry)
    environment = {**os.environ, "PYTHONPATH": str(libraries)}

    def run(*args: str) -> str:
        command = [str(python), "-m", "mepipe", *args]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [str(python), "-c", "import mepipe, data_manifests as d; print(mepipe.__file__, d.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert where.count(site) == 2, "the wheel is tested, not the checkout"
    assert "casme2" in run("datasets")
    assert "1 made-up clips" in run("synth", "casme2", "raw", "--subjects", "1", "--clips", "1")
    assert (tmp_path / "raw/CASME2-coding-20140508.xlsx").is_file()


def test_the_metadata_keeps_library_ranges_wide():
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    requires = config["options"]["install_requires"].split()
    assert not [r for r in requires if "==" in r]
    assert not [r for r in requires if r.lower().startswith(("dlib", "mamba", "timm", "torchvision"))]
    assert "opencv-contrib-python>=4.10,<6" in requires
    assert "pandas>=2.2,<4" in requires
