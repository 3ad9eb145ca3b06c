"""No name from a sheet, table, shard or run leads out of the input folder on reading or the workspace on writing."""

from __future__ import annotations

import csv
import json
import os
import socket
import unicodedata
from pathlib import Path

import pytest
import tiny

from mepipe import get_corpus
from mepipe.errors import DataError, MepipeError
from mepipe.frames import FrameFolder, open_frames, read_image
from mepipe.limits import JSON_BYTES, read_file
from mepipe.prepare import read_records
from mepipe.shards import Sample, ShardFile, list_shards, open_shards, write_shard
from mepipe.shards.exporting import export_flo
from mepipe.workspace import Workspace, safe_name
from mepipe_model.runs import load_run, read_json
from security.targets import clip_tables, configs

ROW = ("01", "EP02_01f", 46, 59, 86, "happiness")
# every way out, or into trouble, that a cell can spell
TRICKS = [
    "..", "../x", "../../../../etc", "a/../../x", "/etc/passwd", "//server/share", "\\\\server\\share", "..\\x",
    "C:\\x", "C:x", "C:", "x:stream", ".", "", " ", "~", "~root", "$HOME", "%2e%2e%2f", "con", "NUL", "nul.txt", "COM1",
    "lpt9.png", "aux ", "x" * 300, "EP\n02", "EP\r", "EP\0x", "\u202eEP", "EP\u200b02", "EP02_01f.", "EP02_01f ", "-rf",
    "*", "?", "a|b", "<x>", "ｅｐ02", "EP０2", "ЕР02_01f", "EP02\u0301", "\u2025", "\uff0e\uff0e", "\u2215etc",
    "\ud7ff", "😀", unicodedata.normalize("NFC", "é02"), unicodedata.normalize("NFD", "é02"),
]  # fmt: skip


def everything(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.mark.parametrize("trick", TRICKS)
def test_such_a_name_is_no_folder_of_ours(trick):
    with pytest.raises(DataError, match="cannot be a folder name") as caught:
        safe_name(trick)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["sub01", "006", "s1", "EP02_01f", "spNO.1", "a b", "console", "nulls", "com10", "aux-1"]
)
def test_the_names_of_real_corpora_are(name):
    assert safe_name(name) == name


def test_prepare_writes_nothing_outside_its_workspace_whatever_the_cells_say(run_mepipe, tmp_path):
    raw = tiny.casme2(tmp_path / "raw", [ROW])
    with (tmp_path / "sheet.csv").open("w", newline="", encoding="utf-8") as f:
        rows = [
            (s, c, None, 46, 59, 86, None, "4", "happiness") for t in TRICKS for s, c in (("01", t), (t, "EP02_01f"))
        ]
        csv.writer(f).writerows([["" if c is None else c for c in row] for row in (tiny.CASME2, *rows)])
    secret = tmp_path / "x" / "46.jpg"
    secret.parent.mkdir()
    secret.write_bytes(b"not to be touched")
    before = everything(tmp_path)
    done = run_mepipe("-w", "ws", "prepare", "casme2", raw, "--sheet", tmp_path / "sheet.csv", "--jobs", "1")
    assert "Traceback" not in done.stderr
    made = {p for p in everything(tmp_path) - before if Path(p).parts[0] != "ws"}
    assert not made
    with (tmp_path / "ws/prepared/casme2/clips.csv").open(encoding="utf-8") as f:
        refused = [r for r in csv.DictReader(f) if r["status"] == "refused"]
    assert len(refused) >= 2 * len(TRICKS) - 4


def test_names_that_differ_in_case_alone_are_one_clip(tmp_path):
    raw = tiny.casme2(tmp_path / "raw", [ROW, ("01", "ep02_01F", 46, 59, 86, "disgust")])
    first, second = get_corpus("casme2").clips(raw)
    assert not first.problem
    assert second.problem_kind == "duplicate clip"


# --- links, pipes, devices ---------------------------------------------------------------------------


def clip_folder(tmp_path: Path) -> tuple[Path, Path]:
    raw = tiny.casme2(tmp_path / "raw", [ROW])
    return raw, raw / "CASME2_RAW_selected" / "sub01" / "EP02_01f"


def test_a_frame_that_is_a_link_out_of_the_input_folder_refuses_its_clip(tmp_path):
    raw, clip = clip_folder(tmp_path)
    secret = tmp_path / "private" / "img59.jpg"
    secret.parent.mkdir()
    (clip / "img59.jpg").rename(secret)
    (clip / "img59.jpg").symlink_to(secret)
    (found,) = get_corpus("casme2").clips(raw)
    assert "img59.jpg is a link that leads out of" in found.problem


def test_links_inside_the_input_folder_and_linked_folders_are_followed(tmp_path):
    """Stores that keep every file under its hash link inside; corpora on a shared disk are linked folders."""
    raw, clip = clip_folder(tmp_path)
    store = raw / ".store"
    store.mkdir()
    (clip / "img59.jpg").rename(store / "ab12")
    (clip / "img59.jpg").symlink_to(store / "ab12")
    assert not get_corpus("casme2").clips(raw)[0].problem
    raw.rename(tmp_path / "disk")
    store = tmp_path / "disk" / ".store"
    moved = tmp_path / "disk" / clip.relative_to(raw) / "img59.jpg"
    moved.unlink()
    moved.symlink_to(store / "ab12")
    raw.symlink_to(tmp_path / "disk", target_is_directory=True)
    assert not get_corpus("casme2").clips(raw)[0].problem
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "casme").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert not get_corpus("casme2").clips(outer)[0].problem


def test_pipes_and_devices_are_never_opened_as_files(tmp_path):
    """Whoever opens a pipe for reading waits for ever, and /dev/zero never ends."""
    raw, clip = clip_folder(tmp_path)
    (clip / "img59.jpg").unlink()
    os.mkfifo(clip / "img59.jpg")
    (clip / "img60.jpg").symlink_to("/dev/zero")
    assert FrameFolder(clip).numbers == [46, 86]
    for path in (clip / "img59.jpg", clip / "img60.jpg"):
        with pytest.raises(DataError, match=r"is no file but a (pipe|device)"):
            read_image(path)
    for name, read in {
        "sheet.csv": lambda p: get_corpus("casme2").clips(raw, sheet=p),
        "sheet.xlsx": lambda p: get_corpus("casme2").clips(raw),
        "casme2-00000.h5": ShardFile,
        "x.json": read_json,
        "clip.avi": open_frames,
        "x.npz": lambda p: read_file(p, JSON_BYTES),
    }.items():
        os.mkfifo(tmp_path / name)
        if name == "sheet.xlsx":
            next(raw.glob("*.xlsx")).unlink()
            os.mkfifo(raw / "CASME2-coding-20190701.xlsx")
        with pytest.raises(MepipeError):
            read(tmp_path / name)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "s"))
        with pytest.raises(DataError):
            read_file(tmp_path / "s", JSON_BYTES)


# --- tables, shards and runs of strangers ------------------------------------------------------------


def test_a_clips_csv_that_names_other_folders_is_refused_by_row(tmp_path):
    (table,) = clip_tables(tmp_path)
    for trick in ("../../x", "/etc", "C:\\x", "nul", "x" * 300):
        (tmp_path / "clips.csv").write_bytes(table.replace(b"EP02_01f", trick.encode()))
        with pytest.raises(DataError, match=r"clips\.csv row 2 cannot be read"):
            read_records(tmp_path)
    (tmp_path / "clips.csv").write_bytes(table.replace(b"46", b"99999999999"))
    with pytest.raises(DataError, match=r"clips\.csv row 2"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    "names", [("../../x", "s", "c"), ("casme2", "../../../x", "c"), ("casme2", "s", "/etc/passwd")]
)
def test_the_names_in_a_shard_are_no_paths(names, tmp_path, made):
    flow = open_shards(made.work / "flow").flow(0)
    path = tmp_path / "ws/flow/casme2-00000.h5"
    path.parent.mkdir(parents=True)
    write_shard(path, [Sample(*names, label3="negative")], [flow], engine="x", parameters={}, versions={})
    before = everything(tmp_path)
    with pytest.raises(DataError, match="cannot be a folder name"):
        export_flo(path.parent, tmp_path / "out")
    assert {Path(p).parts[0] for p in everything(tmp_path) - before} <= {"out"}
    assert not list((tmp_path / "out").rglob("*.flo"))


def test_only_files_of_the_folder_itself_are_listed_as_shards(tmp_path):
    (tmp_path / "flow").mkdir()
    for name in ("casme2-00000.h5", "..-00000.h5", "casme2-1.h5"):
        (tmp_path / "flow" / name).touch()
    assert [p.name for p in list_shards(tmp_path / "flow")] == ["casme2-00000.h5"]


def test_the_folds_and_corpora_of_a_strangers_run_are_no_paths(tmp_path):
    config = json.loads(configs(tmp_path)[0])
    for where in ("folds", "corpora"):
        for trick in ("../../x", "/etc", "a/b", "nul", 3, None):
            changed = {**config, "data": {**config["data"], where: [trick]}}
            (tmp_path / "config.json").write_text(json.dumps(changed))
            with pytest.raises(DataError, match=rf"config\.json: data\.{where} is"):
                load_run(tmp_path)


def test_a_run_cannot_make_the_flow_of_a_clip_take_for_ever(tmp_path):
    config = json.loads(configs(tmp_path)[0])
    for wrong in ({"outer": 10**9}, {"average": 10**6}, {"average": -1}, []):
        changed = {**config, "data": {**config["data"], "flow": {"parameters": wrong}}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match=r"data\.flow is"):
            load_run(tmp_path)


def test_a_workspace_writes_only_below_itself(tmp_path):
    ws = Workspace(tmp_path / "ws")
    for trick in TRICKS:
        with pytest.raises(DataError):
            ws.prepared(trick)
        with pytest.raises(DataError), ws.lock(trick):
            pass
    assert everything(tmp_path) <= {"ws", "ws/.locks"}
