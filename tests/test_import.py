"""``mepipe shards import``: values are taken over exactly, ids as the corpora spell them, and px never mixes in."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mepipe.errors import DataError, UsageError
from mepipe.settings import TrainConfig
from mepipe.shards import PX, Content, Sample, open_shards, verify_shards, write_shard
from mepipe.shards.importing import import_npz
from mepipe.workspace import Workspace
from mepipe_model.data import FlowDataset, FlowStore, PreparedStore
from mepipe_model.models import create_model
from mepipe_model.train import train_run

# as such files name them; SMIC's and SAMM's ids are not those of the corpora
ROWS = [
    ("samm", "6", "006_1_2", "negative"),
    ("samm", "7", "007_3_1", "negative"),
    ("smic", "s01", "s01_ne_01", "negative"),
    ("smic", "s01", "s01_ne_02", "negative"),
    ("casme2", "sub01", "EP02_01f", "positive"),
    ("casme2", "sub02", "EP03_02f", "negative"),
]


def arrays(rows=ROWS, seed=0):
    columns = dict(zip(("corpus", "subject", "clip", "label3"), np.array(rows).T, strict=True))
    maps = np.random.default_rng(seed).integers(0, 256, (len(rows), 28, 28, 3), dtype=np.uint8)
    maps[:, 0, 0], maps[:, 0, 1] = 0, 255  # each map was stretched over the whole span
    return {**columns, "uv_strain": maps}


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "maps.npz", **arrays())
    return tmp_path / "maps.npz"


@pytest.fixture
def ws(file, tmp_path):
    ws = Workspace(tmp_path / "work")
    import_npz(ws.flow, file)
    return ws


def flow_px(folder, corpus="dfme"):
    flow = np.random.default_rng(1).normal(size=(3, 224, 224)).astype(np.float32)
    flow[2] = np.hypot(flow[0], flow[1])
    sample = Sample(corpus, "1", "c", label3="negative")
    write_shard(folder / f"{corpus}-00000.h5", [sample], [flow], engine="opencv", parameters={}, versions={})


def test_area_means_of_the_enlarged_maps_are_the_maps_exactly(ws):
    shards = open_shards(ws.flow)
    flows = torch.from_numpy(shards.read_all())
    want = {r[2].lstrip("s0"): m for r, m in zip(ROWS, arrays()["uv_strain"], strict=True)}
    for flow, sample in zip(flows, shards.samples, strict=True):
        maps = torch.from_numpy(want[sample.clip.lstrip("s0")]).permute(2, 0, 1).float()
        assert torch.equal(F.adaptive_avg_pool2d(flow, 28), maps)
        assert torch.equal(flow[:, ::8, ::8], maps)
    assert verify_shards(ws.flow) == []


def test_ids_are_those_of_the_corpora_and_one_shard_set_holds_one_corpus(ws):
    assert sorted(p.name for p in ws.flow.glob("*.h5")) == ["casme2-00000.h5", "samm-00000.h5", "smic-hs-00000.h5"]
    ids = {(s.corpus, s.subject, s.clip) for s in open_shards(ws.flow).samples}
    assert {("samm", "006", "006_1_2"), ("smic-hs", "s1", "s1_ne_01"), ("casme2", "sub01", "EP02_01f")} <= ids


def test_shards_say_that_they_are_normalised_and_what_they_hold(ws):
    with h5py.File(ws.flow / "samm-00000.h5") as f:
        assert f.attrs["normalised"]
        assert json.loads(f.attrs["channels"]) == ["u", "v", "strain"]
        assert json.loads(f.attrs["span"]) == [0.0, 255.0]
    assert open_shards(ws.flow).content == Content(("u", "v", "strain"), True, (0.0, 255.0))


def test_shards_in_px_written_before_the_attribute_existed_are_read_as_px(tmp_path):
    flow_px(tmp_path)
    with h5py.File(tmp_path / "dfme-00000.h5", "r+") as f:
        del f.attrs["channels"], f.attrs["facts_checksum"]  # neither did the checksum of the attributes
    assert open_shards(tmp_path).content == PX
    assert verify_shards(tmp_path) == []


@pytest.mark.parametrize(
    ("scale", "span"), [(1 / 255, (0, 1)), (2 / 255, (-1, 1)), (1.0, (0, 255))], ids=["unit", "signed", "bytes"]
)
def test_floats_channels_first_and_reordered_give_the_same_field(tmp_path, scale, span):
    made = arrays()
    maps = made.pop("uv_strain")[..., ::-1].transpose(0, 3, 1, 2) * np.float32(scale) + min(span)
    np.savez(tmp_path / "f.npz", **made, maps=maps)
    imported = import_npz(tmp_path / "flow", tmp_path / "f.npz", ("strain", "v", "u"))
    assert imported.content == Content(("u", "v", "strain"), True, tuple(map(float, span)))
    flow = open_shards(tmp_path / "flow", ["samm"]).flow(0)
    np.testing.assert_array_equal(flow[0, ::8, ::8], maps[0, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("subject"), "no array subject"),
        (lambda a: a.update(more=a["uv_strain"]), "must hold one array"),
        (lambda a: a.update(clip=a["clip"][:-1]), "clip is .5,. for 6 samples"),
        (lambda a: a.update(uv_strain=a["uv_strain"][:, :27, :27]), "27x27 does not divide 224x224"),
        (lambda a: a.update(uv_strain=a["uv_strain"] * 3.0), "run from 0 to 765; scale them"),
        (lambda a: a.update(uv_strain=a["uv_strain"] * np.nan), "NaN"),
        (lambda a: a.update(label3=np.array(["joy"] * 6)), "row 0: label3 'joy'"),
        (lambda a: a.update({k: a[k][[0, 0, 1, 2, 3, 4]] for k in ("corpus", "subject", "clip")}), "rows 0 and 1 are"),
        (lambda a: a.update(corpus=np.array(["../x"] * 6)), "cannot be a folder name"),
        (lambda a: a.update(corpus=a["corpus"].astype(object)), "cannot read"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_named_and_leaves_nothing(tmp_path, change, message):
    made = arrays()
    change(made)
    np.savez(tmp_path / "bad.npz", **made)
    with pytest.raises(DataError, match=message):
        import_npz(tmp_path / "flow", tmp_path / "bad.npz")
    assert not (tmp_path / "flow").exists()


def test_wrong_channels_and_a_file_that_is_no_npz_are_refused(file, tmp_path):
    for channels in (("u", "v"), ("u", "u", "strain"), ("u", "v", "depth"), ("x", "v", "strain")):
        with pytest.raises(UsageError, match="valid: u, v and strain or magnitude"):
            import_npz(tmp_path / "flow", file, channels)
    (tmp_path / "text.npz").write_text("hello")
    for name in ("text.npz", "absent.npz"):
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            import_npz(tmp_path / "flow", tmp_path / name)


def test_shards_that_are_there_are_replaced_only_when_asked_for(ws, file, run_mepipe):
    args = ("-w", ws.root, "shards", "import", file)
    refused = run_mepipe(*args)
    assert refused.returncode == 1
    assert "--force to replace" in refused.stderr
    done = run_mepipe(*args, "--force", "--channels", "u,v,magnitude")
    assert done.returncode == 0, done.stderr
    assert "6 clips of maps.npz: casme2 2, samm 2, smic-hs 2" in done.stdout
    assert open_shards(ws.flow).content.channels[2] == "magnitude"
    listed = run_mepipe("-w", ws.root, "shards", "ls")
    assert "u, v, magnitude, normalised" in listed.stdout
    wrong = run_mepipe(*args, "--channels", "u,v")
    assert wrong.returncode == 2


def test_normalised_and_px_shards_are_never_mixed(ws):
    flow_px(ws.flow)
    with pytest.raises(DataError, match=r"\(normalised\), .* holds u, v, magnitude \(px\)"):
        FlowDataset(ws.flow)
    assert len(FlowDataset(ws.flow, ["samm", "casme2"])) == 4
    with pytest.raises(DataError, match="workspaces of their own"):
        train_run(ws, TrainConfig(model="ststnet", data=("samm", "dfme"), device="cpu"))


def test_training_on_the_composite_records_what_the_shards_hold(ws):
    config = TrainConfig(model="ststnet", data=("3db",), epochs=1, jobs=1, threads=1, device="cpu", folds="1")
    said = []
    outcome = train_run(ws, config, say=said.append)
    assert any("u, v, strain, normalised before" in line for line in said)
    about = json.loads((outcome.folder / "config.json").read_text())["data"]
    assert about["clips"] == 6
    assert about["folds"][0] == "casme2_sub01"
    assert about["flow"]["normalised"] is True
    assert about["flow"]["channels"] == ["u", "v", "strain"]
    assert about["flow"]["parameters"]["file"] == "maps.npz"
    weights = json.loads((outcome.folder / "folds/casme2_sub01/weights.json").read_text())
    assert weights["model"]["third"] == "strain"


def test_weights_for_normalised_arrays_do_not_predict_flow_in_px(ws, tmp_path):
    from mepipe_model.predict import predict_clip

    config = TrainConfig(model="ststnet", epochs=1, jobs=1, threads=1, device="cpu", folds="1", run="r")
    train_run(ws, config)
    with pytest.raises(DataError, match="was trained on imported, normalised arrays"):
        predict_clip(ws, "r", tmp_path)


def test_a_mirrored_map_is_the_map_of_the_mirrored_face(ws):
    """u was stretched to 0..255, so motion to the right at 255 becomes motion to the left at 0."""
    data = FlowDataset(ws.flow)
    store = FlowStore(data, torch.device("cpu"))
    x, mirrored = store.batch([0, 1]), store.batch([0, 1], torch.tensor([True, False]))
    assert torch.equal(mirrored[0, 0], 255 - x[0, 0].flip(-1))
    assert torch.equal(mirrored[0, 1:], x[0, 1:].flip(-1))
    assert torch.equal(mirrored[1], x[1])
    model = create_model("ststnet", third="strain")
    prepared = PreparedStore(store, model.prepare)
    got = prepared.batch([0, 1], torch.tensor([True, False]))
    torch.testing.assert_close(got, model.prepare(mirrored))
    assert torch.equal(prepared.batch([1]), got[1:])


def test_the_published_maps_cover_the_composite(real_data, tmp_path):
    imported = import_npz(tmp_path / "flow", real_data / "3db_flow28.npz")
    assert imported.clips == {"casme2": 145, "samm": 133, "smic-hs": 164}
    data = FlowDataset(tmp_path / "flow", composite="3db")
    assert data.missing == []
    assert [data.targets.count(c) for c in range(3)] == [250, 109, 83]
    assert [s.label3 for s in data.samples] == [data.classes[t] for t in data.targets], "its labels are the list's"
    with np.load(real_data / "3db_flow28.npz") as z:
        maps = {(s, c): m for s, c, m in zip(z["subject"], z["clip"], z["uv_strain"], strict=True)}
    for subject, clip, theirs in [("sub05", "EP03_06", "sub05"), ("006", "006_1_2", "6")]:
        i = next(i for i, s in enumerate(data.samples) if (s.subject, s.clip) == (subject, clip))
        np.testing.assert_array_equal(data.flow(i)[:, ::8, ::8], maps[theirs, clip].transpose(2, 0, 1))
