from __future__ import annotations

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace
from mepipe_model.evaluate import LEAKY, evaluate_runs
from mepipe_model.runs import find_run
from mepipe_model.train import train_run

QUICK = {"model": "merba_tiny", "epochs": 2, "batch_size": 4, "device": "cpu", "jobs": 1}


def train(work, **options):
    return train_run(Workspace(work), TrainConfig(**QUICK | options))


def predictions(folder):
    with (folder / "predictions.csv").open(newline="") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    """One quick LOSO run over the made-up corpus. Read only."""
    import shutil

    work = shutil.copytree(made.work, tmp_path_factory.mktemp("trained") / "work")
    return work, train(work)


def test_a_run_leaves_everything_the_contract_names(trained):
    folder = trained[1].folder
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["epochs"] == 2
    assert config["settings"]["lr"] == 2e-3, "the settings are resolved: nothing is left to guess"
    assert set(config["data"]["shards"]) == {"casme2-00000.h5"}
    assert config["versions"]["torch"]
    for fold in ("casme2_sub01", "casme2_sub02", "casme2_sub03"):
        names = {p.name for p in (folder / "folds" / fold).iterdir()}
        assert names == {"fold.json", "log.csv", "predictions.csv", "weights.json", "weights.safetensors"}
    rows = predictions(folder)
    assert list(rows[0]) == [
        "corpus",
        "subject",
        "clip",
        "fold",
        "true",
        "pred",
        "p_negative",
        "p_positive",
        "p_surprise",
    ]
    for r in rows:
        assert r["fold"] == f"{r['corpus']}_{r['subject']}"
        p = [float(r[k]) for k in r if k.startswith("p_")]
        assert math.isclose(sum(p), 1, abs_tol=1e-5)
        assert r["pred"] == ["negative", "positive", "surprise"][p.index(max(p))]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"UF1", "UAR", "ACC", "per_corpus", "per_class", "confusion", "selection"} <= set(metrics)
    assert metrics["ACC"] == pytest.approx(sum(r["true"] == r["pred"] for r in rows) / len(rows))


def test_the_same_command_again_reads_the_finished_run(trained):
    work, outcome = trained
    before = {p: p.stat().st_mtime_ns for p in outcome.folder.rglob("fold.json")}
    again = train(work)
    assert again.folder == outcome.folder
    assert again.metrics == outcome.metrics
    assert before == {p: p.stat().st_mtime_ns for p in outcome.folder.rglob("fold.json")}


def test_the_same_seed_gives_the_same_predictions_and_another_seed_others(trained):
    work, outcome = trained
    assert predictions(train(work, run="again").folder) == predictions(outcome.folder)
    other = train(work, seed=1)
    assert other.folder != outcome.folder
    assert predictions(other.folder) != predictions(outcome.folder)


def test_folds_trained_apart_or_in_parallel_pool_to_the_same_predictions(trained):
    work, outcome = trained
    part = train(work, run="parts", folds="3,casme2_sub01")
    assert part.metrics["folds"] == {"finished": 2, "of": 3}
    assert "not a result yet" in part.lines()[0]
    whole = train(work, run="parts")
    assert whole.metrics["folds"] == {"finished": 3, "of": 3}
    assert predictions(whole.folder) == predictions(outcome.folder)


def test_a_run_goes_on_by_name_with_its_own_settings(trained):
    work, outcome = trained
    train(work, run="named", folds="1")
    done = train_run(Workspace(work), TrainConfig(resume="named"))
    assert predictions(done.folder) == predictions(outcome.folder)


def test_a_fold_resumed_from_its_state_equals_an_uninterrupted_one(trained, monkeypatch):
    """The state is written after every epoch here; the second epoch of the first fold is 'killed'."""
    from mepipe_model import fold
    from mepipe_model.runs import load_run

    work, outcome = trained
    folder = train(work, run="state", folds="2").folder
    monkeypatch.setattr(fold, "STATE_EVERY", -1.0)
    fold.start_worker(work, folder, "cpu", 1)
    training = fold._Training(fold._bench, fold._bench.folds["casme2_sub01"])
    real = training._epoch
    monkeypatch.setattr(
        training, "_epoch", lambda epoch: real(epoch) if epoch == 0 else exec("raise KeyboardInterrupt")
    )
    with pytest.raises(KeyboardInterrupt):
        training.run()
    assert (load_run(folder).fold("casme2_sub01") / "state.pt").is_file()
    monkeypatch.undo()
    assert fold._Training(fold._bench, fold._bench.folds["casme2_sub01"])._load_state() == 1
    whole = train(work, run="state")
    assert predictions(whole.folder) == predictions(outcome.folder)
    assert not list(folder.rglob("state.pt"))


def test_other_settings_under_the_same_name_are_refused(trained):
    work, _ = trained
    train(work, run="mine", folds="1")
    with pytest.raises(MepipeError, match="other settings or data"):
        train(work, run="mine", folds="1", lr=1e-3)


def test_inner_selection_uses_training_subjects_and_oracle_is_marked_leaky(trained):
    work, _ = trained
    inner = train(work, select="inner", folds="1")
    facts = find_run(Workspace(work), inner.folder.name).fold_facts("casme2_sub01")
    assert facts["validation_clips"] > 0
    assert facts["train_clips"] + facts["validation_clips"] + facts["test_clips"] == len_labelled(work)
    oracle = train(work, select="oracle", folds="1")
    assert oracle.metrics["selection"] == "fixed (last epoch)"
    assert oracle.metrics[LEAKY]["selection"] == LEAKY
    leaky = [line for line in oracle.lines() if "oracle" in line]
    assert leaky
    assert all(line.count("oracle (leaky)") >= 4 for line in leaky)
    fair = next(line for line in oracle.lines() if "fixed" in line)
    assert f"UF1 {oracle.metrics['UF1']:.4f}" in fair


def len_labelled(work) -> int:
    from mepipe_model.data import FlowDataset

    return len(FlowDataset(Workspace(work).flow))


def test_nothing_of_the_test_subject_reaches_training(trained, tmp_path):
    """Planted leak: the test subject's flow is replaced by one that shouts its label; training must not change."""
    import shutil

    from safetensors.torch import load_file

    from mepipe.shards import open_shards, write_shard

    work, outcome = trained
    other = shutil.copytree(work, tmp_path / "work")
    shards = open_shards(Workspace(other).flow)
    flows = shards.read_all()
    for i, s in enumerate(shards.samples):
        if s.subject == "sub02":
            flows[i] = 50.0 * (1 + len(s.label3))
    write_shard(Workspace(other).flow / "casme2-00000.h5", shards.samples, flows, engine=shards.engine,
                parameters=shards.parameters, versions=shards.versions)  # fmt: skip
    planted = train(other, run="planted", folds="casme2_sub02")
    name = "folds/casme2_sub02/weights.safetensors"
    fair, shouted = load_file(outcome.folder / name), load_file(planted.folder / name)
    assert all(torch.equal(fair[k], shouted[k]) for k in fair)
    scale = [json.loads((o.folder / "folds/casme2_sub02/fold.json").read_text())["scale"] for o in (outcome, planted)]
    assert scale[0] == scale[1]


def test_a_dry_run_prints_the_recipe_and_writes_nothing(made, tmp_path):
    import shutil

    work = shutil.copytree(made.work, tmp_path / "work")
    text = "\n".join(train(work, dry_run=True).lines())
    assert "3 folds" in text
    assert "fold 2 casme2_sub02" in text
    assert "learning rate: epoch 1:" in text
    assert not (work / "runs").exists()


def test_evaluate_pools_files_and_refuses_a_clip_twice(trained, tmp_path):
    work, outcome = trained
    ws = Workspace(work)
    parts = [str(outcome.folder / "folds" / f"casme2_sub0{n}" / "predictions.csv") for n in (1, 2, 3)]
    assert evaluate_runs(ws, parts)["UF1"] == outcome.metrics["UF1"]
    assert evaluate_runs(ws, [outcome.folder.name])["confusion"] == outcome.metrics["confusion"]
    with pytest.raises(DataError, match="is predicted twice"):
        evaluate_runs(ws, [parts[0], parts[0]])
    bad = tmp_path / "bad.csv"
    bad.write_text("corpus,subject,clip,fold,true,pred,p_a,p_b\nx,s,c,f,a,b,0.5,zero\n")
    with pytest.raises(DataError, match=r"bad\.csv row 2"):
        evaluate_runs(ws, [str(bad)])
    for true, pred in (("", "b"), ("a", " ")):
        bad.write_text(f"corpus,subject,clip,true,pred\nx,s,c,a,b\nx,s,d,{true},{pred}\n")
        with pytest.raises(DataError, match=rf"bad\.csv row 3: {'pred' if true else 'true'} is empty"):
            evaluate_runs(ws, [str(bad)])
    with pytest.raises(UsageError, match="there is no run 'absent'"):
        evaluate_runs(ws, ["absent"])


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "con"])
def test_a_run_that_can_be_no_folder_is_a_wrong_option(made, name):
    with pytest.raises(UsageError, match=r"--run .* cannot be a folder name"):
        train(made.work, run=name)


def test_damaged_flow_and_weights_are_refused(trained, tmp_path):
    import shutil

    from mepipe_model.predict import mean_probabilities

    work, outcome = trained
    other = shutil.copytree(work, tmp_path / "work")
    shard = other / "flow/casme2-00000.h5"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="do not match their checksum; run mepipe flow again"):
        train(other, run="new")
    run = find_run(Workspace(other), outcome.folder.name)
    weights = run.fold("casme2_sub01") / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DataError, match=r"weights\.safetensors cannot be used .*sha256"):
        mean_probabilities(run, ["casme2_sub01"], np.zeros((3, 224, 224), np.float32))


def test_a_part_of_a_run_is_never_scored_as_the_whole(trained, tmp_path):
    import shutil

    work, outcome = trained
    other = shutil.copytree(work, tmp_path / "work")
    shutil.rmtree(other / "runs" / outcome.folder.name / "folds/casme2_sub01")
    warned = evaluate_runs(Workspace(other), [outcome.folder.name])["warnings"]
    assert any("2 of 3 folds are finished: not a result yet" in w for w in warned)


def test_predictions_made_elsewhere_can_be_scored(tmp_path):
    """Without fold and probabilities, columns in any order; one class is never predicted and scores 0."""
    file = tmp_path / "theirs.csv"
    file.write_text("pred,true,clip,subject,corpus\na,a,1,s1,x\na,b,2,s1,x\nb,b,3,s2,x\n")
    scores = evaluate_runs(Workspace(tmp_path), [str(file)])
    assert scores["ACC"] == pytest.approx(2 / 3)
    assert scores["confusion"]["labels"] == ["a", "b"]
    file.write_text("subject,clip,true\ns,c,a\n")
    with pytest.raises(DataError, match="has no column corpus, pred; columns: corpus, subject, clip, true, pred"):
        evaluate_runs(Workspace(tmp_path), [str(file)])


def test_the_scan_that_runs_is_told_and_only_where_there_is_one(trained):
    work, _ = trained
    said: list[str] = []
    for model, options in (("merba_tiny", ("scan_backend=loop",)), ("ststnet", ())):
        config = TrainConfig(**QUICK | {"model": model, "options": options, "folds": "1", "epochs": 1})
        train_run(Workspace(work), config, say=said.append)
    (merba,) = [line for line in said if line.startswith("merba_tiny:")]
    (ststnet,) = [line for line in said if line.startswith("ststnet:")]
    assert "586,475 parameters on cpu; selective scan: loop" in merba
    assert ststnet == "ststnet: 1,683 parameters on cpu"
    with pytest.raises(UsageError, match="mixer_sharing"):
        train(work, options=("mixer_sharing=none",))


def test_no_flow_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match="run mepipe flow first"):
        train(tmp_path)


def test_seven_classes_by_either_head(trained):
    work, _ = trained
    for head in ("linear", "dgcm"):
        outcome = train(work, classes=7, head=head, folds="1", epochs=1)
        assert outcome.metrics["confusion"]["labels"][0] == "anger"
    with pytest.raises(UsageError):
        train(work, classes=3, head="dgcm", folds="1", epochs=1)


def test_predict_gives_what_training_saw(trained, made):
    """A clip of the corpus, predicted from its frames, gets the probabilities of predictions.csv."""
    from mepipe import get_corpus
    from mepipe_model.predict import predict_clip

    work, outcome = trained
    row = predictions(outcome.folder)[0]
    clip = next(
        c for c in get_corpus("casme2").clips(made.raw) if c.name == row["clip"] and c.subject == row["subject"]
    )
    answer = predict_clip(Workspace(work), outcome.folder.name, clip.frames, onset=clip.onset, apex=clip.apex,
                          fold=row["fold"])  # fmt: skip
    assert answer.prediction == row["pred"]
    for name, p in answer.probabilities.items():
        assert p == pytest.approx(float(row[f"p_{name}"]), abs=2e-3)
    assert answer.apex_source == "given"


def test_predict_reads_a_video_and_spots_the_apex(trained, made, tmp_path):
    import cv2

    from mepipe import get_corpus
    from mepipe.frames import FrameFolder
    from mepipe_model.predict import predict_clip

    work, outcome = trained
    clip = get_corpus("casme2").clips(made.raw)[0]
    frames = FrameFolder(clip.frames)
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 200, (640, 480))
    for n in frames.numbers:
        writer.write(frames.read(n))
    writer.release()
    answer = predict_clip(Workspace(work), outcome.folder.name, tmp_path / "clip.avi", picture=tmp_path / "p.png")
    assert answer.apex_source == "spotted:residual"
    assert abs(answer.apex - (clip.apex - clip.onset)) <= 3
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert cv2.imread(str(tmp_path / "p.png")) is not None
    with pytest.raises(UsageError, match="onset < apex <= offset"):
        predict_clip(Workspace(work), outcome.folder.name, clip.frames, onset=5, apex=5)


def test_predict_tells_of_damaged_frames(trained, made, tmp_path):
    from mepipe import get_corpus
    from mepipe_model.predict import predict_clip

    work, outcome = trained
    clip = get_corpus("casme2").clips(made.raw)[0]
    shutil.copytree(clip.frames, tmp_path / "clip")
    bad = tmp_path / f"clip/img{clip.onset + 2}.jpg"
    bad.write_bytes(bad.read_bytes()[:4000])
    answer = predict_clip(Workspace(work), outcome.folder.name, tmp_path / "clip")
    assert f"{bad.name} is a truncated JPEG" in answer.warnings[0]
    assert "left out: 1" in answer.warnings[0]
