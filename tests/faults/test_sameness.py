"""Same in, same out: crops to the byte and flow to the bit, whatever --jobs and the order in which files are listed.

That `train` gives the same predictions for the same seed is held by tests/test_train.py
(test_the_same_seed_gives_the_same_predictions_and_another_seed_others, test_folds_trained_apart_or_in_parallel_...).
"""

from __future__ import annotations

import os
import shutil

import pytest
from faultkit import QUICK_FLOW, crops, done, environment, samples

# the command, with every folder listed backwards
BACKWARDS = """
import os
scandir, listdir = os.scandir, os.listdir

class Backwards:
    def __init__(self, *args):
        with scandir(*args) as entries:
            self._entries = reversed(list(entries))
    def __iter__(self):
        return self
    def __next__(self):
        return next(self._entries)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def close(self):
        pass

os.scandir = Backwards
os.listdir = lambda *args: listdir(*args)[::-1]
"""


@pytest.fixture
def backwards(small_env, tmp_path):
    """An environment in which every folder is listed in the opposite order."""
    (tmp_path / "backwards").mkdir()
    (tmp_path / "backwards/sitecustomize.py").write_text(BACKWARDS)
    return {**small_env, "PYTHONPATH": f"{tmp_path / 'backwards'}:{small_env['PYTHONPATH']}"}


@pytest.mark.parametrize("jobs", [pytest.param("1", marks=pytest.mark.long), "3"])
def test_crops_do_not_depend_on_the_workers_nor_on_the_order_of_listing(small, small_work, backwards, tmp_path, jobs):
    assert done(["-w", "ws", *small.prepare, "--jobs", jobs], tmp_path, env=backwards) == (0, "")
    assert crops(tmp_path / "ws") == crops(small_work)


def test_a_corpus_copied_in_another_order_gives_the_same_crops(small, small_env, small_work, tmp_path):
    """Another folder, its files created last to first, with other times."""
    for source in sorted(small.raw.rglob("*"), reverse=True):
        if source.is_file():
            copy = tmp_path / "copy" / source.relative_to(small.raw)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            os.utime(copy, (0, 0))
    words = [str(tmp_path / "copy") if word == str(small.raw) else word for word in small.prepare]
    assert done(["-w", "ws", *words], tmp_path, env=small_env) == (0, "")
    got, right = crops(tmp_path / "ws"), crops(small_work)
    pictures = [name for name in right if name.endswith(".png")]
    assert sorted(got) == sorted(right)
    assert [got[name] for name in pictures] == [right[name] for name in pictures]


@pytest.mark.parametrize(
    ("engine", "jobs"), [("opencv", "3"), pytest.param("native", "1", marks=pytest.mark.long), ("native", "3")]
)
def test_flow_does_not_depend_on_the_threads_nor_on_the_order_of_listing(small_work, backwards, tmp_path, engine, jobs):
    for folder in ("ws", "one"):
        shutil.copytree(small_work / "prepared", tmp_path / folder / "prepared")
    quick = [word if word != "opencv" else engine for word in QUICK_FLOW]
    args = ["flow", *quick, "--shard-size", "5"]
    assert done(["-w", "ws", *args, "--jobs", jobs], tmp_path, env=backwards)[0] == 0
    assert done(["-w", "one", *args, "--jobs", "2"], tmp_path, env=environment())[0] == 0
    got, right = samples(tmp_path / "ws"), samples(tmp_path / "one")
    assert list(got) == list(right)
    assert got == right
