from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch
from tinyfaces import coloured, put_faces

from mepipe.errors import DataError, UsageError
from mepipe.shards import PX, PX_STRAIN, Sample, open_shards, write_shard
from mepipe.workspace import Workspace
from mepipe_model.data import (
    FlowDataset,
    FlowStore,
    Scale,
    batches,
    fitted_scale,
    flip,
    moments,
    without_head_motion,
)

PROVENANCE = {"engine": "opencv", "parameters": {}, "versions": {}}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    labels = ["negative", "positive", "", "surprise", "positive"]
    samples = [Sample("casme2", f"sub0{i}", f"c{i}", label3=label, key=str(i)) for i, label in enumerate(labels)]
    flows = rng.normal(0, 1 + np.arange(5)[:, None, None, None], (5, 3, 224, 224)).astype(np.float32)
    write_shard(tmp_path / "casme2-00000.h5", samples[:3], flows[:3], **PROVENANCE)
    write_shard(tmp_path / "casme2-00001.h5", samples[3:], flows[3:], **PROVENANCE)
    np.save(tmp_path / "flows.npy", flows)
    return tmp_path


def test_samples_without_label_are_left_out_and_counted(folder):
    data = FlowDataset(folder)
    assert len(data) == 4
    assert data.unlabelled == 1
    assert data.targets == [0, 1, 2, 1]
    flow, target = data[3]
    assert torch.equal(flow, torch.from_numpy(np.load(folder / "flows.npy")[4]))
    assert target == 1


def test_an_unknown_label_names_the_clip(folder):
    write_shard(
        folder / "x-00000.h5", [Sample("x", "s", "c", label3="joy")], np.zeros((1, 3, 224, 224), "f4"), **PROVENANCE
    )
    with pytest.raises(DataError, match="x s/c: label 'joy'"):
        FlowDataset(folder)
    with pytest.raises(UsageError, match="valid: 3"):
        FlowDataset(folder, classes=4)


def test_shards_of_faces_are_not_read_as_flow(tmp_path):
    path = put_faces(Workspace(tmp_path), [Sample("casme2", "sub01", "c", label3="negative")], coloured([0]))
    with pytest.raises(DataError, match="holds faces, not flow"):
        FlowDataset(path.parent)


def test_a_stored_strain_does_not_reach_the_models_and_may_lie_beside_flow_without(folder):
    flows = np.load(folder / "flows.npy")
    samples = [Sample("samm", "006", f"c{i}", label3="negative", key=str(i)) for i in range(2)]
    with_strain = np.concatenate([flows[:2], flows[2:4, :1]], axis=1)
    write_shard(folder / "samm-00000.h5", samples, with_strain, **PROVENANCE, content=PX_STRAIN)
    data = FlowDataset(folder)
    assert data.content == PX
    assert len(data) == 6
    assert torch.equal(data[4][0], torch.from_numpy(flows[0]))
    store = FlowStore(data, torch.device("cpu"))
    assert torch.equal(store.batch([5, 0]), torch.from_numpy(flows[[1, 0]]))
    assert open_shards(folder, ["samm"]).read_all().shape == (2, 4, 224, 224)
    with pytest.raises(DataError, match=r"casme2.* holds u, v, magnitude \(px\).*samm.* holds .*, strain \(px\)"):
        open_shards(folder).read_all()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_workers_read_the_same_values(folder, start):
    data = FlowDataset(folder)
    data[0]  # a handle is open in the parent before workers start
    context = multiprocessing.get_context(start)
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=context)
    got = torch.cat([x for x, _ in loader])
    assert torch.equal(got, torch.from_numpy(np.load(folder / "flows.npy")[[0, 1, 3, 4]]))


def test_a_store_gives_the_same_batches_from_memory_and_from_disk(folder, monkeypatch):
    data = FlowDataset(folder)
    memory = FlowStore(data, torch.device("cpu"))
    monkeypatch.setattr("mepipe_model.data.free_memory", lambda device: 1.0)
    disk = FlowStore(data, torch.device("cpu"))
    assert memory.in_memory
    assert not disk.in_memory
    assert torch.equal(memory.batch([3, 0]), disk.batch([3, 0]))


def test_a_head_that_moved_is_put_back():
    """A quarter of the face moves, all of it drifts: what is left is the quarter's own motion, clip by clip."""
    own = torch.zeros(2, 2, 8, 8)
    own[0, 0, :4, :4], own[1, 1, 4:, 4:] = 1.5, -0.75
    drift = torch.tensor([[0.25, -0.5], [-1.0, 2.0]]).view(2, 2, 1, 1)
    moved = own + drift
    x = without_head_motion(torch.cat((moved, moved.norm(dim=1, keepdim=True)), 1))
    assert torch.equal(x[:, :2], own)
    assert torch.equal(x[:, 2], own.norm(dim=1))
    alone = without_head_motion(torch.cat((moved[1:], torch.zeros(1, 1, 8, 8)), 1))
    assert torch.equal(alone[0], x[1]), "of the other clips in the batch nothing is seen"


@pytest.mark.parametrize("free", [None, 1.0])
def test_a_store_without_head_motion_gives_every_clip_so(folder, monkeypatch, free):
    if free is not None:
        monkeypatch.setattr("mepipe_model.data.free_memory", lambda device: free)
    data = FlowDataset(folder)
    plain, still = FlowStore(data, torch.device("cpu")), FlowStore(data, torch.device("cpu"), "remove")
    x = still.batch([3, 0, 2])
    assert torch.equal(x, without_head_motion(plain.batch([3, 0, 2])))
    assert float(x[:, :2].flatten(2).median(2).values.abs().max()) == 0
    assert float(plain.batch([0])[:, :2].flatten(2).median(2).values.abs().min()) > 0


def test_the_scale_sees_the_training_clips_only(folder):
    data = FlowDataset(folder)
    store = FlowStore(data, torch.device("cpu"))
    m = moments(store, len(data))
    flows = np.load(folder / "flows.npy")[[0, 1, 3, 4]].astype(np.float64)
    scale = fitted_scale(m, [0, 2])
    np.testing.assert_allclose(scale.mean, flows[[0, 2]].mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(scale.std, flows[[0, 2]].std((0, 2, 3)), rtol=1e-5)
    x = scale(store.batch([0, 2]))
    np.testing.assert_allclose(x.double().std((0, 2, 3), unbiased=False), 1, rtol=1e-4)
    assert torch.equal(Scale.none()(store.batch([0])), store.batch([0]))


def test_a_flip_mirrors_the_motion_field():
    """A point moving right on the left cheek becomes one moving left on the right cheek."""
    x = torch.zeros(2, 3, 4, 6)
    x[:, 0, 1, 0], x[:, 1, 1, 0], x[:, 2, 1, 0] = 3.0, 4.0, 5.0
    got = flip(x, torch.tensor([True, False]))
    assert got[0, :, 1, 5].tolist() == [-3.0, 4.0, 5.0]
    assert got[0, :, 1, 0].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(got[1], x[1])
    assert torch.equal(flip(flip(x, torch.tensor([True, True])), torch.tensor([True, True])), x)


def test_batches_cover_every_clip_once_and_leave_no_single_one():
    for n in range(1, 20):
        for size in (1, 3, 4, 8):
            pieces = list(batches(range(n), size))
            assert [i for p in pieces for i in p] == list(range(n))
            if size > 1 and n > size:
                assert min(map(len, pieces)) > 1
