"""--ddp N: processes that train one fold together have the gradient of one process; gloo, on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tinyfaces import coloured, put_faces
from tinyflow import quick, samples, write_flow
from torch import nn

from mepipe.errors import UsageError
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace
from mepipe_model import together
from mepipe_model.comparing import compare_models
from mepipe_model.facedata import Looked
from mepipe_model.fold import _Training
from mepipe_model.launched import Launch, with_launch
from mepipe_model.queueing import Failure
from mepipe_model.running import devices_together
from mepipe_model.seeds import checked_seeds
from mepipe_model.together import ALONE, Group, folds_together
from mepipe_model.train import train_run

SIZES = (7, 8, 1)  # of batches: uneven parts, even ones, fewer clips than processes


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4))


def weighed(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss that is no mean over clips: class weights, and a term over some classes only, as DGCM has."""
    loss = nn.functional.cross_entropy(out, target, weight=torch.tensor([1.0, 5.0, 0.5, 2.0]))
    some = target > 0
    return loss + nn.functional.cross_entropy(out[some], target[some]) if some.any() else loss


def gradients(count: int) -> list[torch.Tensor]:
    """Of a batch of ``count`` clips, by this process and those it belongs to."""
    group, model = together.group(), network()
    if group.rank:
        nn.init.zeros_(model[0].weight)  # alike gives it the first one's
    model.idle = nn.Parameter(torch.ones(2))
    model = group.alike(model)
    generator = torch.Generator().manual_seed(count)
    x, target = torch.randn(count, 5, generator=generator), torch.arange(count) * 3 % 4
    own = group.own(range(count))
    out = group.whole(model(x[list(own)]), count)
    assert out.shape == (count, 4)
    weighed(out, target).backward()
    group.sum_gradients(model.parameters(), count)
    assert model.idle.grad is None, "no weight decay for what took no part"
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def checked(count: int) -> list[list[float]]:
    if count == 0 and together.group().rank == 1:
        raise ValueError("the second one fails")
    return [g.flatten().tolist() for g in gradients(count)] if count else []


class Looking(nn.Module):
    """Reads faces and their landmarks, as the models that take a Looked do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4))
        self.beside = nn.Linear(2, 4)
        self.head = SimpleNamespace(loss=lambda out, target, progress: weighed(out, target))

    def forward(self, x: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.beside(points)


def uphill_gradients(count: int, sam: float = 0.5) -> list[list[float]]:
    """What a step over ``count`` faces leaves in this process: loss and outputs, gradients, weights."""
    training = object.__new__(_Training)  # its passes alone: no data, no folder
    training.group = together.group()
    training.model = training.network = training.group.alike(Looking())
    training.config = TrainConfig(sam=sam)
    training.bench = SimpleNamespace(mixed=False)
    training.optimizer = torch.optim.SGD(training.model.parameters())
    generator = torch.Generator().manual_seed(count)
    x, points = torch.randn(count, 5, generator=generator), torch.randn(count, 2, generator=generator)
    own = list(training.group.own(range(count)))
    loss, out = training._backward(Looked(x[own], points[own]), torch.arange(count) * 3 % 4, 0.0)
    parameters = list(training.model.parameters())
    left = [loss, out, *(p.grad for p in parameters), *parameters]
    return [t.detach().flatten().tolist() for t in left]


def no_setup(device: str) -> None:
    torch.set_num_threads(1)


@pytest.mark.slow
def test_both_passes_of_sam_are_those_of_one_process_also_over_faces_with_landmarks():
    results = dict(folds_together(uphill_gradients, SIZES, ["cpu", "cpu"], no_setup))
    for i, count in enumerate(SIZES):
        for ours, theirs in zip(uphill_gradients(count), results[i], strict=True):
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=1e-6)
    off, up = (torch.tensor(uphill_gradients(7, sam)[2]) for sam in (0.0, 0.5))
    assert (off - up).abs().max() > 1e-2, "the second pass is at other weights"


@pytest.mark.slow
def test_the_gradient_is_that_of_one_process_and_a_failure_of_one_ends_all():
    results = dict(folds_together(checked, [*SIZES, 0, 7], ["cpu", "cpu"], no_setup))
    for i, count in enumerate(SIZES):
        for ours, theirs in zip(gradients(count), results[i], strict=True):
            torch.testing.assert_close(ours.flatten(), torch.tensor(theirs), rtol=1e-5, atol=1e-7)
    assert isinstance(results[3], Failure)
    assert "the second one fails" in results[3].reason
    assert results[4] == results[0], "the next fold has new processes"


def test_parts_of_a_batch_come_back_in_its_order(monkeypatch):
    outs = [torch.arange(7.0)[:, None][rank::3] for rank in range(3)]
    for rank in range(3):

        def gather(parts, mine):
            for part, out in zip(parts, outs, strict=True):
                part.copy_(nn.functional.pad(out, (0, 0, 0, 3 - len(out))))

        monkeypatch.setattr(together.dist, "all_gather", gather)
        group = Group(rank, 3)
        assert group.whole(outs[rank], 7).flatten().tolist() == list(range(7))
        assert list(group.own(range(7))) == list(range(rank, 7, 3))
        assert list(group.own(range(2))) == [0, 1], "fewer clips than processes"


def test_one_process_alone_changes_nothing():
    out = torch.ones(3, 2)
    assert ALONE.whole(out, 3) is out
    assert ALONE.own("abc") == "abc"
    assert ALONE.agreed(True, torch.device("cpu"))
    assert ALONE.word == ""


@pytest.mark.slow
def test_a_fold_trained_by_two_processes_is_one_run(tmp_path):
    ws = Workspace(tmp_path)
    write_flow(ws, samples("casme2", ["sub01", "sub02"]))
    said: list[str] = []
    done = train_run(ws, quick(ddp=2, batch_size=2, options=("drop_rate=0",)), say=said.append)
    assert "each fold on cpu, cpu together" in said
    assert done.metrics["folds"] == {"finished": 2, "of": 2}
    files = sorted(p.name for p in (done.folder / "folds/casme2_sub01").iterdir())
    assert files == ["fold.json", "log.csv", "predictions.csv", "weights.json", "weights.safetensors"]
    assert done.folder != train_run(ws, quick(batch_size=2, dry_run=True)).folder


@pytest.mark.slow
def test_faces_with_landmarks_are_trained_by_two_processes_with_sam(tmp_path):
    ws = Workspace(tmp_path)
    rows = [replace(s, emotion=s.label3, label3="", label7="") for s in samples("rafdb", ["a", "b"])]
    put_faces(ws, rows, coloured(range(0, 240, 40)), class_sets=(("negative", "positive", "surprise"),))
    config = quick(model="fermam_tiny", protocol="loso", ddp=2, batch_size=3, epochs=1, sam=0.05)
    done = train_run(ws, config)
    assert done.metrics["folds"] == {"finished": 2, "of": 2}
    assert done.metrics["clips"] == 6


def test_more_processes_than_gpus_and_models_without_steps_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--ddp is 4 and there are 2 GPUs"):
        devices_together("cuda", 4, ["cuda:0", "cuda:1"])
    ws = Workspace(tmp_path)
    write_flow(ws, samples("casme2", ["sub01", "sub02"]))
    pytest.importorskip("sklearn")
    with pytest.raises(UsageError, match="bi_woof is fitted at once, and --ddp shares steps"):
        train_run(ws, TrainConfig(model="bi_woof", device="cpu", ddp=2))


def torchrun(folder, *words: str) -> subprocess.CompletedProcess[str]:
    """``mepipe -w FOLDER train WORDS`` by two processes of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [sys.executable, "-m", "mepipe", "-w", str(folder), "train", "--model", "ststnet", "--device", "cpu"]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_torchrun_gives_the_run_of_ddp_and_goes_on_with_it(tmp_path):
    words = ("--batch-size", "2", "--epochs", "2", "--threads", "1")
    for place in ("here", "there"):
        write_flow(Workspace(tmp_path / place), samples("casme2", ["sub01", "sub02"]))
    config = quick(model="ststnet", ddp=2, batch_size=2, epochs=2, threads=1, device="cpu")
    ours = train_run(Workspace(tmp_path / "here"), config).folder
    done = torchrun(tmp_path / "there", *words, "--folds", "2")
    assert done.returncode == 0, done.stderr
    assert "each fold in 2 processes of torchrun" in done.stderr
    done = torchrun(tmp_path / "there", *words)
    assert "1 of 2 folds are done" in done.stderr
    assert done.stdout.count("UF1") == 1, "the first process alone tells"
    theirs = tmp_path / "there" / "runs" / ours.name
    for name in ("predictions.csv", "folds/casme2_sub01/weights.safetensors", "folds/casme2_sub02/log.csv"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    done = torchrun(tmp_path / "there", *words, "--json")
    assert done.returncode == 0, "nothing is left, and nobody waits"
    assert json.loads(done.stdout)["runs"], "one object, of the first process"


@pytest.mark.slow
def test_torchrun_ends_all_where_one_cannot_begin(tmp_path):
    done = torchrun(tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr.split("torch/distributed")[0]


def test_under_torchrun_its_number_of_processes_counts(monkeypatch):
    assert with_launch(TrainConfig(ddp=3), None).ddp == 3
    launch = Launch(rank=1, size=4, local=1)
    assert with_launch(TrainConfig(), launch).ddp == 4
    assert with_launch(TrainConfig(ddp=4), launch).ddp == 4
    assert (launch.device("cuda"), launch.device("cpu")) == ("cuda:1", "cpu")
    with pytest.raises(UsageError, match="--ddp is 2, and torchrun has started 4 processes"):
        with_launch(TrainConfig(ddp=2), launch)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="--seeds under torchrun"):
        checked_seeds(TrainConfig(), [0, 1])
    with pytest.raises(UsageError, match="compare under torchrun"):
        compare_models(Workspace("."), ["ststnet", "merba"], TrainConfig())
