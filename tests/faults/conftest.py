from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from faultkit import QUICK_FLOW, Small, done, small_corpus, small_disk, without_landmarks

# of a longer run (make faults); `-m long` or `-m "long or not long"` asks for them
LONG = "long"


def pytest_collection_modifyitems(config, items):
    if LONG in config.option.markexpr.split():
        return
    long = [item for item in items if item.get_closest_marker(LONG)]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)


@pytest.fixture(scope="session")
def small_env(tmp_path_factory) -> dict[str, str]:
    """The environment for `mepipe prepare` of a small corpus."""
    return without_landmarks(tmp_path_factory.mktemp("shadow"))


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Small:
    """Four subjects with three clips each. Read only."""
    return small_corpus(tmp_path_factory.mktemp("small"), 4, 3)


@pytest.fixture
def own_small(small, tmp_path) -> Small:
    """A copy that a test may damage."""
    shutil.copytree(small.raw, tmp_path / "raw")
    return Small(tmp_path / "raw", small.boxes)


@pytest.fixture(scope="session")
def small_work(small, small_env, tmp_path_factory) -> Path:
    """The small corpus, prepared and with flow in shards of four, in the folder ``ws``. Read only."""
    folder = tmp_path_factory.mktemp("work")
    for args in (small.prepare, ["flow", *QUICK_FLOW, "--shard-size", "4"]):
        code, said = done(["-w", "ws", *args], folder, env=small_env)
        assert code == 0, said
    return folder / "ws"


@pytest.fixture
def disk(tmp_path):
    """disk(megabytes): a real small file system; skips where it cannot be mounted."""
    mounted = []

    def mount(megabytes: int) -> Path:
        context = small_disk(tmp_path / f"disk{len(mounted)}", megabytes)
        try:
            folder = context.__enter__()
        except PermissionError as e:
            pytest.skip(str(e))
        mounted.append(context)
        return folder

    yield mount
    for context in mounted:
        context.__exit__(None, None, None)


@pytest.fixture
def tally(record_property):
    """tally(kind, tried, lost): what `make faults` counts for this test, where that is more than one."""

    def tell(kind: str, tried: int, lost: int = 0) -> None:
        for name, value in (("kind", kind), ("tried", tried), ("lost", lost)):
            record_property(name, value)

    return tell


@pytest.fixture
def deadly(small_env, tmp_path):
    """deadly(how, frame, once=False, folder=""): an environment in which decoding ``frame`` does ``how``."""
    where = tmp_path / "deadly"
    where.mkdir()
    shutil.copy(Path(__file__).with_name("deadly.py"), where / "sitecustomize.py")

    def env(how: str, frame: str, once: bool = False, folder: object = "") -> dict[str, str]:
        plan = {"MEPIPE_TEST_DEATH": how, "MEPIPE_TEST_FRAME": frame, "MEPIPE_TEST_FOLDER": str(folder)}
        if once:
            (where / "once").touch()
            plan["MEPIPE_TEST_ONCE"] = str(where / "once")
        return {**small_env, "PYTHONPATH": f"{where}:{small_env['PYTHONPATH']}", **plan}

    return env
