"""A workspace of a stranger: links that lead out of it, pipes and damage where files of ours are expected."""

from __future__ import annotations

import json
import os
import resource
import signal
from contextlib import suppress

import numpy as np
import pytest
import tiny

from mepipe.apex.evaluate import with_truth
from mepipe.clipfiles import RECORD, up_to_date
from mepipe.configfile import MOST_LINES, read_settings
from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.limits import ARRAYS_BYTES, SETTINGS_BYTES
from mepipe.locks import Holder
from mepipe.report.clipfacts import read_facts
from mepipe.report.corpus import _provenance
from mepipe.report.reading import read_log
from mepipe.report.saliencyview import _read as read_saliency
from mepipe.settings import TrainConfig
from mepipe.shards.apart import _Reader
from mepipe.workspace import Workspace, atomic_file
from mepipe_model.loggers import epoch_rows
from mepipe_model.predictinputs import inputs_of
from mepipe_model.running import _epochs_done, refuse_diverged
from mepipe_model.saliency import landmarks_of

ROW = ("01", "EP02_01f", 46, 59, 86, "happiness")


@pytest.fixture(autouse=True)
def _in_time():
    """Whoever waits for a pipe that nobody writes to waits for ever."""

    def late(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# --- links -----------------------------------------------------------------------------------------


PLACES = (
    "prepared", "prepared/casme2", "prepared/casme2/sub01", "prepared/casme2/sub01/EP02_01f", "flow", "runs/mine/folds",
    ".locks",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_leads_out_of_the_workspace_is_never_written_to(tmp_path, place):
    victim, ws = tmp_path / "victim", Workspace(tmp_path / "ws")
    (victim / "EP02_01f").mkdir(parents=True)
    (victim / "EP02_01f" / "mine.txt").write_text("mine")
    (ws.root / place).parent.mkdir(parents=True, exist_ok=True)
    (ws.root / place).symlink_to(victim)
    with pytest.raises(DataError, match="is a link out of the workspace"), ws.lock("prepare-casme2"):
        pass
    assert [p.name for p in victim.rglob("*")] == ["EP02_01f", "mine.txt"]


def test_prepare_stops_before_it_writes_through_a_link(run_mepipe, tmp_path):
    raw = tiny.casme2(tmp_path / "raw", [ROW])
    victim = tmp_path / "victim" / "EP02_01f"
    victim.mkdir(parents=True)
    (victim / "mine.txt").write_text("mine")
    (tmp_path / "ws/prepared/casme2").mkdir(parents=True)
    (tmp_path / "ws/prepared/casme2/sub01").symlink_to(victim.parent)
    done = run_mepipe("-w", str(tmp_path / "ws"), "prepare", "casme2", str(raw))
    assert done.returncode == 1
    assert "sub01 is a link out of the workspace" in done.stderr
    assert [p.name for p in victim.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("words", [["report", "mine"], ["reproduce", "table5"], ["spot", __file__], ["flow"]])
def test_no_command_begins_in_such_a_workspace(run_mepipe, tmp_path, words):
    """Pages and tables are written without a lock."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "ws").mkdir()
    for place in ("runs", "tables", "spot"):
        (tmp_path / "ws" / place).symlink_to(tmp_path / "victim")
    done = run_mepipe("-w", str(tmp_path / "ws"), *words)
    assert done.returncode == 1
    assert "is a link out of the workspace" in done.stderr
    assert not list((tmp_path / "victim").iterdir())


def test_links_within_a_workspace_and_a_workspace_that_is_one_are_fine(tmp_path):
    (tmp_path / "disk/flow").mkdir(parents=True)
    (tmp_path / "ws").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/prepared").symlink_to(tmp_path / "disk/flow")
    with Workspace(tmp_path / "ws").lock("flow"):
        assert (tmp_path / "disk/.locks/flow.json").is_file()


def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "out")
    with pytest.raises(MepipeError, match="no regular file"), atomic_file(tmp_path / "out") as temp:
        temp.write_text("x")
    assert (tmp_path / "out").is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


# --- pipes and damage in the place of files of ours --------------------------------------------------

DEEP = "[" * 200_000


class OneFold:
    """A run whose only fold lies in ``folder``."""

    def __init__(self, folder):
        self.folder = folder

    def fold(self, name):
        return self.folder


READERS = {  # name: (the file, what reads it, whether that is an error)
    "lock": ("flow.json", Holder.of, False),
    "clip.json for prepare": (RECORD, lambda p: up_to_date(p.parent, "key"), False),
    "clip.json for the page": (RECORD, lambda p: read_facts(p.parent, []), False),
    "clip.json for saliency": (RECORD, lambda p: landmarks_of(p.parent), False),
    "prepare.json": ("prepare.json", lambda p: _provenance(p.parent), False),
    "log.csv for the page": ("log.csv", read_log, True),
    "log.csv for progress": ("log.csv", lambda p: _epochs_done(p.parent, 3), False),
    "log.csv after training": ("log.csv", lambda p: refuse_diverged(p.parent), None),
    "log.csv for loggers": ("log.csv", lambda p: epoch_rows(OneFold(p.parent), "only"), False),
    "saliency": ("saliency.npz", read_saliency, True),
    "settings": ("mepipe.toml", read_settings, True),
    "truth.csv": ("truth.csv", lambda p: with_truth([], p.parent), None),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("damage", ["pipe", "endless", "deep", "binary", "list"])
def test_what_is_no_file_of_ours_is_passed_over_or_one_error(name, damage, tmp_path):
    """An error is one of the project's own, and names the file."""
    file, read, fails = READERS[name]
    path = tmp_path / file
    if damage == "pipe":
        os.mkfifo(path)
    elif damage == "endless":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes({"deep": DEEP.encode(), "binary": b"PK\x03\x04\xff\x00", "list": b"[1]"}[damage])
    said = None
    with suppress(MepipeError):
        try:
            read(path)
        except MepipeError as e:
            said = str(e)
            raise
    assert fails is None or fails == (said is not None)
    assert said is None or (file in said and "\n" not in said)


def test_a_settings_file_of_a_stranger_is_read_in_bounded_time(tmp_path):
    path = tmp_path / "mepipe.toml"
    path.write_text("[train]\ndata = [\n" + '"a",\n' * 2 * MOST_LINES + "]\n")
    with pytest.raises(UsageError, match="lines, and at most"):
        read_settings(path)
    path.write_text("#" * (SETTINGS_BYTES() + 1))
    with pytest.raises(UsageError, match="MEPIPE_MAX_SETTINGS_BYTES"):
        read_settings(path)


@pytest.mark.parametrize(
    ("line", "why"), [("seed = " + "9" * 5000, "no TOML"), ("lr = nan", "finite"), ("lr = inf", "finite")]
)
def test_numbers_that_are_none_are_refused_by_name(tmp_path, line, why):
    (tmp_path / "mepipe.toml").write_text(f"[train]\n{line}\n")
    with pytest.raises(UsageError, match=why):
        read_settings(tmp_path / "mepipe.toml")


def test_an_option_that_is_not_finite_is_refused():
    with pytest.raises(UsageError, match="--lr is nan"):
        TrainConfig(lr=float("nan"))


def test_a_frame_number_beyond_any_video_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="beyond any video"):
        inputs_of([tmp_path], ["9" * 5000])


def test_shards_can_be_read_with_a_thousand_files_open():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"the system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        reader = _Reader()
        assert "error" in reader.ask("/no/such/shard.h5")
        reader.stop()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_saliency_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "saliency.npz", maps=np.zeros(10**6))
    monkeypatch.setenv(ARRAYS_BYTES.variable, "1000000")
    with pytest.raises(DataError, match=ARRAYS_BYTES.variable):
        read_saliency(tmp_path / "saliency.npz")


def test_saliency_of_another_shape_is_refused(tmp_path):
    np.savez(tmp_path / "saliency.npz", about=np.array(json.dumps({"format": "mepipe.saliency"})))
    with pytest.raises(DataError, match=r"saliency\.npz cannot be read"):
        read_saliency(tmp_path / "saliency.npz")
