"""Exported flow: what another program reads back is what the shard holds."""

import csv

import cv2
import numpy as np
import pytest
from tinyfaces import coloured, put_faces

from mepipe.errors import DataError
from mepipe.flow.preview import write_previews
from mepipe.flow.run import flow_corpora
from mepipe.settings import FlowConfig
from mepipe.shards import Sample, open_shards, write_shard
from mepipe.shards.exporting import export_flo, export_pictures, flo_bytes, read_flo
from mepipe.shardtools import describe, export, table
from mepipe.workspace import Workspace

NAMES = [("casme2", "sub01", "EP02_01f"), ("casme2", "sub02", "EP02_01f"), ("samm", "006", "006_1_2")]


def make_flow(seed, strength):
    u, v = strength * np.random.default_rng(seed).normal(0, 1, (2, 28, 28)).astype(np.float32)
    flow = np.stack([u, v, np.hypot(u, v)])
    return flow.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture
def folder(tmp_path):
    """Two corpora; the third clip moves ten times as much as the first."""
    flows = [make_flow(i, s) for i, s in enumerate((0.1, 0.2, 1.0))]
    for corpus, part in (("casme2", slice(2)), ("samm", slice(2, 3))):
        samples = [Sample(*name, label3="negative", onset=3, apex=9) for name in NAMES[part]]
        about = {"engine": "opencv", "parameters": {}, "versions": {}}
        write_shard(tmp_path / "flow" / f"{corpus}-00000.h5", samples, flows[part], **about)
    return tmp_path / "flow"


def index(path):
    with (path / "index.csv").open(newline="") as f:
        return list(csv.DictReader(f))


@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 17, 16)])
def test_a_flo_file_gives_back_u_and_v_bit_by_bit(tmp_path, shape):
    flow = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    path = tmp_path / "a.flo"
    path.write_bytes(flo_bytes(flow))
    assert np.array_equal(read_flo(path), flow[:2])
    assert np.array_equal(cv2.readOpticalFlow(str(path)).transpose(2, 0, 1), flow[:2])  # as others read it


def test_flo_written_by_opencv_is_read(tmp_path):
    flow = np.random.default_rng(1).standard_normal((7, 9, 2)).astype(np.float32)
    cv2.writeOpticalFlow(str(tmp_path / "a.flo"), flow)
    assert np.array_equal(read_flo(tmp_path / "a.flo"), flow.transpose(2, 0, 1))


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"X" + b[1:], lambda b: b[:8]])
def test_a_damaged_flo_file_is_told(tmp_path, damage):
    path = tmp_path / "a.flo"
    path.write_bytes(damage(flo_bytes(np.ones((2, 3, 4), np.float32))))
    with pytest.raises(DataError, match=r"a\.flo"):
        read_flo(path)


def test_every_sample_becomes_a_flo_file_named_in_the_index(folder, tmp_path):
    assert export_flo(folder, tmp_path / "out") == 3
    rows = index(tmp_path / "out")
    assert [r["file"] for r in rows] == [f"{c}/{s}/{k}.flo" for c, s, k in NAMES]
    for row, (flow, sample) in zip(rows, open_shards(folder), strict=True):
        assert np.array_equal(read_flo(tmp_path / "out" / row["file"]), flow[:2])
        assert (row["subject"], row["label3"], row["apex"]) == (sample.subject, "negative", "9")


def test_pictures_of_strong_and_weak_motion_share_one_scale(folder, tmp_path):
    """A picture scaled by its own maximum would make them look alike."""
    export_pictures(folder, tmp_path / "out")
    rows = index(tmp_path / "out")
    assert len({r["limit_px"] for r in rows}) == 1
    assert (tmp_path / "out/legend.png").is_file()
    colour = [np.ptp(cv2.imread(str(tmp_path / "out" / r["file"])).astype(int), axis=2).mean() for r in rows]
    assert colour[1] / colour[0] == pytest.approx(2, rel=0.25)
    assert colour[2] > 5 * colour[0]


def test_the_command_exports_the_corpora_named(folder, tmp_path, run_mepipe):
    done = run_mepipe("-w", tmp_path, "shards", "export", "out", "samm", "--format", "flo")
    assert (done.returncode, done.stdout.strip()) == (0, "1 samples -> out"), done.stderr
    assert [r["corpus"] for r in index(tmp_path / "out")] == ["samm"]


@pytest.mark.parametrize(("format", "target"), [("npz", "folder"), ("flo", "file"), ("png", "file")])
def test_a_folder_where_a_file_is_meant_is_told_and_the_reverse(folder, tmp_path, run_mepipe, format, target):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    done = run_mepipe("-w", tmp_path, "shards", "export", target, "--format", format)
    assert done.returncode == 2
    assert f"--format {format} writes" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_normalised_flow_is_not_exported_as_px(folder, tmp_path):
    from mepipe.shards import Content

    content = Content(("u", "v", "strain"), normalised=True, span=(0.0, 255.0))
    about = {"engine": "imported", "parameters": {}, "versions": {}, "content": content}
    write_shard(folder / "smic-00000.h5", [Sample("smic", "s1", "a")], [make_flow(0, 1.0)], **about)
    with pytest.raises(DataError, match="normalised"):
        export_flo(folder, tmp_path / "out")
    assert export_flo(folder, tmp_path / "out", ["samm"]) == 1


@pytest.mark.parametrize("format", ["npz", "flo", "png"])
def test_faces_are_not_exported_as_flow(tmp_path, format):
    ws = Workspace(tmp_path)
    put_faces(ws, [Sample("rafdb", "", "a")], coloured([9]))
    with pytest.raises(DataError, match="holds faces"):
        export(ws.faces, tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_flow_with_strain_can_be_exported_listed_and_looked_at(own, tmp_path):
    """u and v as .flo, pictures of them, and all four channels by name as .npz."""
    ws = Workspace(own.work)
    plain = open_shards(ws.flow).read_all()
    flow_corpora(ws, config=FlowConfig(strain=True))
    assert export(ws.flow, tmp_path / "flo", format="flo") == 9
    assert export(ws.flow, tmp_path / "png", format="png") == 9
    assert export(ws.flow, tmp_path / "all.npz") == 9
    first = open_shards(ws.flow).samples[0]
    flo = read_flo(tmp_path / "flo" / first.corpus / first.subject / f"{first.clip}.flo")
    assert np.array_equal(flo, plain[0, :2])
    with np.load(tmp_path / "all.npz") as archive:
        assert list(archive["channels"]) == ["u", "v", "magnitude", "strain"]
        assert np.array_equal(archive["flow"], open_shards(ws.flow).read_all())
    assert "native, pad 16, strain" in table(describe(ws.flow))
    assert len(write_previews(ws, "casme2", 1)) == 1
