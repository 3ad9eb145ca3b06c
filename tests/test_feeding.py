"""Batches that come ahead of their use, losses that are read without waiting, and what follows from both."""

from __future__ import annotations

import csv
import math
import threading

import pytest
import torch
from tinyflow import quick, samples, write_flow

from mepipe.errors import MepipeError
from mepipe.workspace import Workspace
from mepipe_model import data as data_module
from mepipe_model import feeding, fold
from mepipe_model.data import FlowDataset, FlowStore
from mepipe_model.feeding import Tally, ahead
from mepipe_model.train import FoldsFailed, train_run

CPU = torch.device("cpu")


@pytest.fixture
def ws(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    write_flow(workspace, samples("casme2", ["sub01", "sub02", "sub03"]))
    return workspace


def predictions(folder):
    with (folder / "predictions.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def test_the_next_item_is_made_while_the_one_before_is_in_use():
    made, second = [], threading.Event()

    def make(n):
        made.append((n, threading.current_thread() is threading.main_thread()))
        if n == 1:
            second.set()
        return n * n

    results = ahead(make, range(4))
    assert next(results) == 0
    assert second.wait(10), "item 1 is made although nobody asked for it yet"
    assert [*results] == [1, 4, 9]
    assert made == [(n, False) for n in range(4)]
    assert [*ahead(make, [])] == []


def test_an_item_that_cannot_be_made_is_told_in_its_turn():
    results = ahead(lambda n: 1 // (2 - n), range(4))
    assert next(results) == 0
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("motion", ["keep", "remove"])
@pytest.mark.parametrize("place", ["ram", "disk"])
def test_batches_are_the_same_wherever_the_flow_lies(ws, place, motion):
    data = FlowDataset(ws.flow)
    resident, other = (FlowStore(data, CPU, motion, place=p) for p in ("device", place))
    pieces = [[3, 0, 8], [5, 1, 2], [7]]
    flips = [torch.tensor([True, False, True]), torch.tensor([False] * 3), torch.tensor([True])]
    for mirrored in (flips, None):
        got = [*other.batches(pieces, mirrored)]
        for x, expected in zip(got, resident.batches(pieces, mirrored), strict=True):
            assert torch.equal(x, expected)
        for i, x in enumerate(got):
            assert torch.equal(x, resident.batch(pieces[i], mirrored and mirrored[i]))


def test_a_run_that_reads_its_flow_from_disk_predicts_what_one_in_memory_does(ws, monkeypatch):
    options = {"model": "merba_tiny", "epochs": 1, "batch_size": 3, "folds": "2"}
    memory = train_run(ws, quick(run="memory", **options))
    monkeypatch.setattr(data_module, "free_memory", lambda device: 1.0)
    disk = train_run(ws, quick(run="disk", **options))
    assert predictions(memory.folder) == predictions(disk.folder)


def test_a_tally_is_the_mean_over_clips_and_the_share_of_hits():
    tally = Tally("fold x", 0, 2)
    tally.add(torch.tensor(1.0), torch.tensor([True, False, True]))
    tally.add(torch.tensor(2.0), torch.tensor([True]))
    loss, accuracy = tally.result()
    assert loss == pytest.approx(5 / 4)
    assert accuracy == pytest.approx(3 / 4)


def test_a_loss_that_is_no_number_is_told_within_a_bound_with_its_step(monkeypatch):
    """As on a GPU, where a look at the losses waits for it: not every step, and not later than the bound."""
    monkeypatch.setitem(feeding.LOOK_EVERY, "cpu", 4)
    tally, hit = Tally("fold casme2_sub01", 6, 90), torch.tensor([True])
    for loss in (0.5, 0.4, math.inf):
        tally.add(torch.tensor(loss), hit)
    message = r"^fold casme2_sub01, step 3 of 90: the loss is inf in epoch 7; lower --lr, .* mepipe shards verify"
    with pytest.raises(MepipeError, match=message):
        tally.add(torch.tensor(0.3), hit)


def test_a_training_that_diverges_ends_in_its_step_and_names_it(ws):
    """A step of this size leaves no finite weight; 20 epochs are not waited for."""
    with pytest.raises(FoldsFailed, match=r"fold casme2_sub01, step \d of \d: the loss is (nan|inf) in epoch \d;"):
        train_run(ws, quick(model="off_apexnet", lr=1e30, epochs=20, batch_size=3, folds="1", clip_norm=0))


def test_a_worker_that_is_stopped_lets_go_of_its_data(ws):
    folder = train_run(ws, quick(run="mine", folds="1")).folder
    fold.start_worker(ws.root, folder, "cpu", 1)
    assert fold._bench is not None
    fold.stop_worker()
    assert fold._bench is None
    with pytest.raises(AssertionError, match="start_worker has not run"):
        fold.train_fold("casme2_sub02")
