"""Small files that would become huge, and endless ones: refused by limits, within bounded time and memory.

Each is read in a process that the system allows MEMORY and SECONDS: without the limits it would be killed.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import cv2
import h5py
import numpy as np
import openpyxl
import pytest
import tiny

from mepipe import get_corpus
from mepipe.clipwork import needed_frames
from mepipe.errors import DataError, UsageError
from mepipe.frames import open_frames, read_image
from mepipe.limits import LIMITS, SHEET_CELLS
from mepipe.shards import FLOW_SHAPE, ShardFile, apart
from mepipe_model.weights import load_weights
from security.targets import csv_sheets, picture, saved_weights, shards, videos, xlsx_sheets

MEMORY = 2 << 30  # bytes of address space: Python, OpenCV and HDF5 alone map 1 GB
SECONDS = 60

READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
from pathlib import Path
from mepipe import get_corpus
from mepipe.errors import MepipeError
from mepipe.frames import read_image, open_frames
from mepipe.shards import ShardFile
from mepipe.shards.importing import import_npz
path = Path(sys.argv[1])
read = {{
    "image": read_image, "shard": ShardFile, "sheet": lambda p: get_corpus("casme2").clips(p.parent, sheet=p),
    "npz": lambda p: import_npz(p.parent / "flow", p), "video": lambda p: open_frames(p).read(0),
}}[sys.argv[2]]
try:
    read(path)
    print("read")
except MepipeError as e:
    print("refused:", e)
# VmHWM and not ru_maxrss, which remembers the process that started this one
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print("peak", int(peak) >> 10)
"""


def refused(path: Path, kind: str, megabytes: int = 700) -> str:
    """What a process of its own says of the file; it must refuse it, in one line that names it, in little memory."""
    command = [sys.executable, "-c", READ.format(memory=MEMORY), str(path), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    line, peak = done.stdout.splitlines()
    assert line.startswith("refused: "), line
    assert path.name in line
    assert int(peak.split()[1]) < megabytes
    return line


# --- pictures ----------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: int) -> bytes:
    """A grey PNG whose data has so many of its rows, all black: 1000 times smaller than what it unpacks to."""
    packer = zlib.compressobj(9)
    data = b"".join([*(packer.compress(bytes(width + 1)) for _ in range(rows)), packer.flush()])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def sized_jpeg(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".jpg", picture())[1].tobytes())
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def sized_bmp(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".bmp", picture())[1].tobytes())
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def sized_tiff(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".tif", picture())[1].tobytes())
    first = int.from_bytes(data[4:8], "little")
    for at in range(first + 2, first + 2 + 12 * data[first], 12):
        if data[at : at + 2] in (b"\x00\x01", b"\x01\x01"):
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, width if data[at] == 0 else height)
    return bytes(data)


@pytest.mark.parametrize(("name", "data"), [
    ("img1.png", lambda: png(60_000, 60_000, rows=6000)),
    ("img1.jpg", lambda: sized_jpeg(65_000, 65_000)),
    ("img1.bmp", lambda: sized_bmp(60_000, -60_000)),
    ("img1.tif", lambda: sized_tiff(60_000, 60_000)),
])  # fmt: skip
def test_a_picture_that_claims_billions_of_pixels_is_refused_by_its_header(name, data, tmp_path):
    (tmp_path / name).write_bytes(data())
    assert (tmp_path / name).stat().st_size < 500_000
    assert "px, and at most 67108864 are read; if it is sound, allow more with MEPIPE_MAX_IMAGE_PIXELS" in refused(
        tmp_path / name, "image"
    )


def test_a_jpeg_of_a_thousand_scans_is_refused(tmp_path):
    """Each costs a pass over all pixels: 100 kB keep a decoder busy for minutes."""
    whole = cv2.imencode(".jpg", picture(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    (tmp_path / "ok.jpg").write_bytes(whole)
    assert read_image(tmp_path / "ok.jpg").size
    last = whole.rfind(b"\xff\xda")
    (tmp_path / "img1.jpg").write_bytes(whole[:-2] + 1000 * whole[last:-2] + whole[-2:])
    with pytest.raises(DataError, match=r"img1\.jpg cannot be decoded: 10\d\d JPEG scans"):
        read_image(tmp_path / "img1.jpg")


@pytest.mark.parametrize("length", [2**31, 2**32 - 1, 5000])
def test_a_png_with_a_chunk_longer_than_the_file_is_refused(length, tmp_path):
    """Found by benchmarks/fuzz.py: OpenCV 5 never came back from those of 2 GB and more."""
    data = bytearray(cv2.imencode(".png", picture()[:8, :8])[1].tobytes())
    at = data.find(b"IDAT")
    data[at - 4 : at] = struct.pack(">I", length)
    (tmp_path / "img1.png").write_bytes(data)
    assert "longer than the file" in refused(tmp_path / "img1.png", "image")


# --- sheets ------------------------------------------------------------------------------------------


def workbook(**parts: bytes) -> bytes:
    """A sound workbook with other content of some parts."""
    out = io.BytesIO()
    (sound, *_) = xlsx_sheets(Path())
    with zipfile.ZipFile(io.BytesIO(sound)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, parts.get(Path(name).stem, old.read(name)))
    return out.getvalue()


SHEET = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>%s</sheetData></worksheet>'
LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (n, b"&%c;" % (n - 1) * 10) for n in range(ord("b"), ord("k")))
    + b"]>"
)


def lying(data: bytes) -> bytes:
    """The zip says in both places that the worksheet unpacks to 100 bytes."""
    out = bytearray(data)
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        name = out.find(b"xl/worksheets/sheet1.xml", out.find(mark) if at == 22 else out.find(b"PK\x01\x02"))
        start = out.rfind(mark, 0, name)
        out[start + at : start + at + 4] = struct.pack("<I", 100)
    return bytes(out)


BOOKS = {
    "zeros": (lambda: workbook(sheet1=b"0" * (100 << 20)), "unpacked bytes, and at most"),
    "zip that lies": (lambda: lying(workbook(sheet1=SHEET % (b"<row/>" * 100_000))), "its zip says 100"),
    "cells": (lambda: workbook(sheet1=SHEET % (b"<row>" + b"<c/>" * 3_000_000 + b"</row>")), "XML tags"),
    "rows far down": (lambda: workbook(sheet1=SHEET % b'<row r="9000000"><c r="A9000000"><v>1</v></c></row>'), "rows"),
    "wide rows": (lambda: workbook(sheet1=SHEET % (b'<row><c r="ZZZ1"><v>1</v></c></row>' * 5000)), "cells"),
    "styles": (lambda: workbook(styles=b"<styleSheet>" + b"<xf/>" * 700_000 + b"</styleSheet>"), "XML tags"),
    "a billion laughs": (lambda: workbook(sheet1=LAUGHS + SHEET % b"<row><c><v>&j;</v></c></row>"), "defines entities"),
    "an external entity": (
        lambda: workbook(sheet1=b'<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + SHEET % b"&x;"),
        "defines entities",
    ),
    "UTF-16": (lambda: workbook(sheet1=(LAUGHS + SHEET % b"").decode().encode("utf-16")), "is not UTF-8"),
}


@pytest.mark.parametrize("name", BOOKS)
def test_a_workbook_that_grows_is_refused(name, tmp_path):
    make, message = BOOKS[name]
    (tmp_path / "sheet.xlsx").write_bytes(make())
    assert (tmp_path / "sheet.xlsx").stat().st_size < 600_000
    assert message in refused(tmp_path / "sheet.xlsx", "sheet", megabytes=400)


def test_a_csv_of_one_endless_line_or_of_nothing_but_commas_is_refused(tmp_path):
    for data, message in (
        (b"x" * (40 << 20), "40 MB"), (b"x" * (20 << 20), "field larger than field limit"), (b"," * (2 << 20), "cells"),
        (b"\n" * (2 << 20), "cells"), (b'"' + b"\n" * (20 << 20), "field larger than field limit"),
    ):  # fmt: skip
        path = tmp_path / "sheet.csv"
        path.write_bytes(data)
        said = refused(path, "sheet", megabytes=300)
        assert (message if message != "40 MB" else "41943040 bytes, and at most 33554432 are read") in said


# --- shards ------------------------------------------------------------------------------------------


def bad_shard(path: Path, change) -> Path:
    path.write_bytes(shards(path.parent)[0])
    with h5py.File(path, "r+") as f:
        change(f)
    return path


def replaced(name: str, **how):
    def change(f: h5py.File) -> None:
        del f[name]
        f.create_dataset(name, **how)

    return change


def linked(link: object):
    def change(f: h5py.File) -> None:
        del f["flow"]
        f["flow"] = link

    return change


def virtual(f: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, *FLOW_SHAPE), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "flow", (3, *FLOW_SHAPE))
    del f["flow"]
    f.create_virtual_dataset("flow", layout)


TERABYTES = (1 << 21, *FLOW_SHAPE)
SHARDS = {
    "terabytes of samples": replaced("flow", shape=TERABYTES, chunks=(1, *FLOW_SHAPE), dtype="f4"),
    "a chunk of gigabytes": replaced("flow", shape=TERABYTES, chunks=(1024, *FLOW_SHAPE), dtype="f4"),
    "a column of terabytes": replaced("checksum", shape=(1 << 40,), dtype="u4", chunks=(1 << 20,)),
    "a column in one huge piece": replaced("checksum", shape=(3,), maxshape=(None,), chunks=(1 << 28,), dtype="u4"),
    "names of a gigabyte": replaced("subject", shape=(3,), dtype="S1000000000"),
    "an external link": linked(h5py.ExternalLink("/etc/passwd", "flow")),
    "a soft link to itself": linked(h5py.SoftLink("/flow")),
    "external storage": replaced("flow", shape=(3, *FLOW_SHAPE), dtype="f4", external=[("/etc/passwd", 0, 1 << 21)]),
    "a virtual dataset": virtual,
    "another filter": replaced("flow", shape=(3, *FLOW_SHAPE), chunks=(1, *FLOW_SHAPE), dtype="f4", compression="lzf"),
    "a huge attribute": lambda f: f.attrs.__setitem__("engine", np.zeros(8000, "u1")),
    "no text where text belongs": lambda f: f.attrs.__setitem__("parameters", 3.0),
    "nested JSON": lambda f: f.attrs.__setitem__("parameters", "[" * 9000),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_claims_too_much_or_points_elsewhere_is_refused(name, tmp_path):
    path = bad_shard(tmp_path / "casme2-00000.h5", SHARDS[name])
    assert path.stat().st_size < 10_000_000
    with pytest.raises(DataError, match=r"casme2-00000\.h5") as caught:
        ShardFile(path)
    assert "root:" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shard_that_hangs_or_crashes_hdf5_costs_its_reader_and_nothing_else(tmp_path, monkeypatch):
    """HDF5 2.0 does both for some shards with one changed byte; here the reader is stopped and killed from outside."""
    monkeypatch.setenv("MEPIPE_MAX_SHARD_SECONDS", "1")
    sound = tmp_path / "casme2-00001.h5"
    sound.write_bytes(shards(tmp_path)[0])
    assert len(ShardFile(sound)) == 3
    for kill, message in ((signal.SIGSTOP, "cannot be read in 1 s"), (signal.SIGKILL, "crashes HDF5's library")):
        reader = apart._running_reader()
        os.kill(reader._process.pid, kill)
        with pytest.raises(DataError, match=message):
            ShardFile(sound)
        assert reader._process.poll() is not None
        assert len(ShardFile(sound)) == 3


def test_the_reader_of_shards_has_a_limit_of_memory(tmp_path):
    code = (
        "import resource; from pathlib import Path; from mepipe.shards import apart; "
        f"apart.headers_apart([Path({str(tmp_path / 'x.h5')!r})]); r = apart._running_reader(); "
        "print(resource.prlimit(r._process.pid, resource.RLIMIT_AS)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "MEPIPE_MAX_SHARD_MEMORY": "3000000000"},
    )  # fmt: skip
    assert done.stdout.strip() == "3000000000", done.stderr


# --- arrays, videos, runs ----------------------------------------------------------------------------


def test_an_npz_that_unpacks_to_terabytes_is_refused(tmp_path, monkeypatch):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 3, 28, 28)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as z:
        for name in ("corpus", "subject", "clip", "label3"):
            z.writestr(f"{name}.npy", head.getvalue())
    assert "is not as large as it says" in refused(tmp_path / "x.npz", "npz")
    np.savez_compressed(tmp_path / "y.npz", flow=np.zeros((100, 3, 28, 28), np.uint8))
    monkeypatch.setenv("MEPIPE_MAX_ARRAYS_BYTES", "200000")
    assert "allow more with MEPIPE_MAX_ARRAYS_BYTES" in refused(tmp_path / "y.npz", "npz")


def test_a_video_without_end_or_with_giant_frames_is_refused(tmp_path, monkeypatch):
    (whole,) = videos(".avi", "MJPG")(tmp_path)
    path = tmp_path / "clip.avi"
    endless = bytearray(whole)
    for mark, at in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        place = endless.find(mark)
        endless[place + at : place + at + 4] = struct.pack("<I", 2**31 - 1)
    path.write_bytes(endless)
    with pytest.raises(DataError, match=r"clip\.avi"):
        open_frames(path)
    path.write_bytes(whole)
    assert open_frames(path).read(0).shape == (48, 64, 3)
    for variable in ("MEPIPE_MAX_IMAGE_PIXELS", "MEPIPE_MAX_VIDEO_FRAMES"):
        with monkeypatch.context() as m:
            m.setenv(variable, "5")
            with pytest.raises(DataError, match=variable):
                open_frames(path)


@pytest.mark.parametrize("text", [
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n",
])  # fmt: skip
def test_a_play_list_that_calls_itself_a_video_opens_nothing(text, tmp_path):
    videos(".avi", "MJPG")(tmp_path)
    for suffix in (".mp4", ".avi", ".mkv"):
        (tmp_path / f"clip{suffix}").write_text(text.format(tmp_path / "sound.avi"))
        with pytest.raises(DataError, match="no AVI, MP4, MOV"):
            open_frames(tmp_path / f"clip{suffix}")


def test_a_clip_of_more_frames_than_fit_in_memory_is_refused(tmp_path, monkeypatch):
    (clip,) = get_corpus("casme2").clips(tiny.casme2(tmp_path / "raw", [("01", "EP02_01f", 46, 59, 86, "happiness")]))
    with pytest.raises(DataError, match="10001 frames, and at most 10000 are read"):
        needed_frames(clip.noted(offset=clip.onset + 10_000), range(20_000), "all")


def test_a_description_that_asks_for_a_huge_model_is_refused(tmp_path):
    place = saved_weights(tmp_path)
    about = json.loads((place / "weights.json").read_text())
    deep, wide, beyond = {"depths": [30_000] * 4}, {"dim": 32_768}, {"dim": 10**12}
    for model in ({"name": "merba"}, {"name": "htnet"}, *({"name": "merba_tiny", **m} for m in (deep, wide, beyond))):
        (place / "weights.json").write_text(json.dumps({**about, "model": model}))
        with pytest.raises(DataError, match=r"weights\.safetensors cannot be used"):
            load_weights(place)


# --- the limits themselves ---------------------------------------------------------------------------


def test_a_limit_is_adjustable_and_a_wrong_one_is_told(tmp_path, monkeypatch):
    path = tmp_path / "sheet.csv"
    path.write_bytes(csv_sheets(tmp_path)[0])
    assert len(get_corpus("casme2").clips(tmp_path, sheet=path)) == 2
    monkeypatch.setenv(SHEET_CELLS.variable, "5")
    with pytest.raises(DataError, match=r"sheet\.csv: more than 5 cells.*MEPIPE_MAX_SHEET_CELLS"):
        get_corpus("casme2").clips(tmp_path, sheet=path)
    for wrong in ("", "x", "0", "-1", "1e9", "٣"):
        monkeypatch.setenv(SHEET_CELLS.variable, wrong)
        with pytest.raises(UsageError, match=SHEET_CELLS.variable):
            SHEET_CELLS()


def test_a_picture_beyond_the_default_can_be_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv("MEPIPE_MAX_IMAGE_PIXELS", "100")
    cv2.imwrite(str(tmp_path / "img1.png"), picture())
    with pytest.raises(DataError, match="3072 px, and at most 100 are read"):
        read_image(tmp_path / "img1.png")
    monkeypatch.setenv("MEPIPE_MAX_IMAGE_PIXELS", "4000")
    assert read_image(tmp_path / "img1.png").shape == (48, 64, 3)


def test_every_limit_has_a_name_of_its_own_and_a_reason():
    assert len({limit.variable for limit in LIMITS}) == len(LIMITS)
    assert all(limit.why and limit.default > 0 for limit in LIMITS)


def test_openpyxl_reads_what_we_let_through(tmp_path):
    """The sound workbook of these tests is one: else every refusal above would be worth nothing."""
    (tmp_path / "sheet.xlsx").write_bytes(workbook())
    assert openpyxl.load_workbook(tmp_path / "sheet.xlsx").active.max_row == 3
    assert len(get_corpus("casme2").clips(tmp_path, sheet=tmp_path / "sheet.xlsx")) == 2
