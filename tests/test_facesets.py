"""Labelled faces from a corpus to shards, a trained model, scores and predictions; and shards of faces themselves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tinyfaces import SETS, coloured, colours, put_faces
from tinyflow import quick

from mepipe import get_corpus
from mepipe.clipwork import Tools
from mepipe.datasets.facecorpus import FaceClip
from mepipe.errors import DataError, UsageError
from mepipe.facesets import faces_of_crops, prepare_faces
from mepipe.facesets.run import read_table, summary_lines
from mepipe.facesets.work import ABSENT, find
from mepipe.settings import FacesConfig, PrepareConfig, TrainConfig
from mepipe.shards import Faces, Sample, ShardFile, ShardWriter, open_shards, verify_shards
from mepipe.shardtools import describe, table
from mepipe.synth import make_corpus, photo
from mepipe.verify import verify_corpus
from mepipe.workspace import Workspace
from mepipe_model.evaluate import evaluate_runs
from mepipe_model.facedata import MIRRORED, FaceDataset, FaceStore, Looked
from mepipe_model.inputs import chosen_kind, settled
from mepipe_model.predict import predict_many
from mepipe_model.predictinputs import inputs_of
from mepipe_model.protocols import LEAKY, make_folds
from mepipe_model.train import train_run


def rows(corpus: str, count: int, **facts) -> list[Sample]:
    labels, splits, who = SETS[0], ("train", "train", "train", "test"), facts.get("subject", "")
    return [Sample(corpus, who, f"c{n}", labels[n % 3], split=splits[n % 4], key=f"k{n}") for n in range(count)]


# --- shards ----------------------------------------------------------------------------------------


def test_faces_come_back_as_they_were_written(tmp_path):
    ws, landmarks = Workspace(tmp_path), np.stack([np.ones((68, 2), np.float32), ABSENT])
    path = put_faces(ws, rows("rafdb", 2), coloured([7, 200]), landmarks)
    shards = open_shards(ws.faces)
    assert shards.content == Faces()
    assert shards.files[0].content.class_sets == SETS
    assert np.array_equal(shards.read_many([1, 0]), coloured([200, 7]))
    assert np.isnan(shards.beside("landmarks", 1)).all()
    assert (shards.beside("landmarks", 0) == 1).all()
    assert verify_shards(ws.faces) == []
    assert "images, crop as-is, 3 classes" in table(describe(ws.faces))
    data = bytearray(path.read_bytes())
    at = data.index(bytes([200] * 64))
    data[at] = 201
    path.write_bytes(data)
    assert "do not match their checksum" in str(verify_shards(path)[0])
    assert open_shards(path).damaged() != []


def test_sequences_and_votes_are_stored_too(tmp_path):
    content = Faces(4, SETS, votes=True)
    with ShardWriter(tmp_path / "a-00000.h5", engine="faces", content=content, parameters={}, versions={}) as shard:
        shard.append(rows("a", 1)[0], coloured([9], 4)[0], landmarks=ABSENT, votes=np.array([0.5, 0.25, 0.25]))
    shard = ShardFile(tmp_path / "a-00000.h5")
    assert shard.content == content
    assert shard.stored(0).shape == (4, 224, 224, 3)
    assert shard.beside("votes", 0).tolist() == [0.5, 0.25, 0.25]
    with pytest.raises(DataError, match=r"give uint8 of shape \(224, 224, 3\)"):
        put_faces(Workspace(tmp_path), rows("b", 1), np.zeros((1, 224, 224, 3), np.float32))
    assert not list((tmp_path / "faces").glob("*"))


# --- from a corpus ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raf(tmp_path_factory) -> Path:
    """Twelve aligned faces of four made-up people. Copy it before changing it."""
    raw = tmp_path_factory.mktemp("raf") / "raw"
    make_corpus("rafdb", raw, subjects=4, clips=3, seed=1)
    return raw


@pytest.fixture(scope="module")
def prepared(raf, tmp_path_factory) -> Workspace:
    ws = Workspace(tmp_path_factory.mktemp("faces"))
    summary = prepare_faces(ws, get_corpus("rafdb"), raf, PrepareConfig(jobs=1))
    assert summary.counts == {"ok": 12, "repaired": 0, "refused": 0}
    return ws


def test_prepare_crops_and_finds_the_landmarks(prepared):
    shards = open_shards(prepared.faces)
    assert shards.parameters["crop"] == "as-is"
    truth = np.array([[112, 166]])  # where the mean face has its mouth, which the made-up crops are aligned to
    for i in range(len(shards)):
        points = shards.beside("landmarks", i)
        assert np.abs(points[57] - truth).max() < 20
        assert shards.read_many([i]).std() > 20
    assert {s.split for s in shards.samples} == {"train", "test"}
    assert all(r.status == "ok" and r.landmarks == 68 for r in read_table(prepared.faces / "rafdb.csv"))


@pytest.mark.slow
def test_a_second_run_looks_at_what_changed_alone(prepared, raf, tmp_path):
    raw = shutil.copytree(raf, tmp_path / "raw")
    ws = Workspace(shutil.copytree(prepared.root, tmp_path / "ws"))
    config, corpus = PrepareConfig(executor="serial"), get_corpus("rafdb")
    path = ws.faces / "rafdb-00000.h5"
    before = path.stat().st_mtime_ns
    assert prepare_faces(ws, corpus, raw, config).reused == 12
    assert path.stat().st_mtime_ns == before
    folder = raw / "basic" / "Image" / "aligned"
    first, second = sorted(folder.iterdir())[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:200])
    again = prepare_faces(ws, corpus, raw, config)
    assert (again.reused, again.counts["refused"], len(open_shards(ws.faces))) == (10, 2, 10)
    assert any("refused" in line and "_aligned.jpg" in line for line in summary_lines(again))
    for name in ("rafdb-00000.csv", "rafdb-00001.h5"):
        assert not (ws.faces / name).exists()


def test_options_that_mean_nothing_here_are_refused(prepared, raf):
    corpus = get_corpus("rafdb")
    with pytest.raises(UsageError, match="--shard: rafdb is prepared as a whole"):
        prepare_faces(prepared, corpus, raf, PrepareConfig(shard="1/2"))
    with pytest.raises(UsageError, match="--executor slurm: rafdb is prepared as a whole"):
        prepare_faces(prepared, corpus, raf, PrepareConfig(executor="slurm"))
    with pytest.raises(UsageError, match="--detector none finds no face to align by"):
        prepare_faces(prepared, corpus, raf, PrepareConfig(detector="none", crop="aligned"))


def test_crops_of_micro_expressions_become_faces(made, tmp_path):
    ws = Workspace(shutil.copytree(made.work, tmp_path / "ws"))
    (summary,) = faces_of_crops(ws, (), FacesConfig(jobs=1))
    assert summary.counts["refused"] == 0
    shards = open_shards(ws.faces)
    from mepipe.frames import read_image

    for i, s in enumerate(shards.samples):
        crop = read_image(ws.prepared("casme2") / s.subject / s.clip / f"{s.apex}.png")
        assert np.array_equal(shards.read_many([i])[0], crop[..., ::-1])
        assert not np.isnan(shards.beside("landmarks", i)).any()
    assert FaceDataset(ws.faces).classes == ("negative", "positive", "surprise")
    with pytest.raises(DataError, match="run mepipe prepare casme2 RAW --frames all"):
        faces_of_crops(ws, (), FacesConfig(kind="sequence", jobs=1))


# --- training --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_a_corpus_to_scores_and_predictions(prepared, raf, tmp_path):
    ws = Workspace(shutil.copytree(prepared.root, tmp_path / "ws"))
    model = colours()
    outcome = train_run(ws, quick(model=model, data=("rafdb",), epochs=1))
    assert outcome.folder.name.startswith(f"holdout-rafdb-{model}-")
    scores = evaluate_runs(ws, [outcome.folder.name])
    assert (scores["clips"], len(scores["per_class"])) == (3, 7)
    pictures = sorted((raf / "basic" / "Image" / "aligned").glob("test*"))
    result = predict_many(ws, outcome.folder.name, inputs_of([*pictures, tmp_path]))
    assert [r.name for r in result.refused] == [str(tmp_path)]
    written = {row["clip"]: row for row in _table(outcome.folder / "predictions.csv")}
    for path, answer in zip(pictures, result.answers, strict=True):
        row = written[path.stem.removesuffix("_aligned")]
        assert answer.landmarks
        for name, p in answer.probabilities.items():
            assert p == pytest.approx(float(row[f"p_{name}"]), abs=2e-6)


def _table(path: Path) -> Iterator[dict[str, str]]:
    import csv

    with path.open(newline="", encoding="utf-8") as f:
        yield from csv.DictReader(f)


def test_batches_are_rgb_in_0_to_1_with_landmarks_that_follow_the_mirror(tmp_path):
    crops = coloured([0, 255])
    crops[0, :, :112, 0] = 255  # red at the left
    where = np.tile(np.linspace(0, 223, 68, dtype=np.float32)[:, None], (2, 1, 2))
    put_faces(Workspace(tmp_path), rows("rafdb", 2), crops, where)
    store = FaceStore(FaceDataset(tmp_path / "faces"), torch.device("cpu"), 56, landmarks=True, place="disk")
    batch = store.batch([0, 1], torch.tensor([True, False]))
    assert isinstance(batch, Looked)
    assert batch.x.shape == (2, 3, 56, 56)
    assert batch.x[0, :, 0, [0, -1]].T.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert torch.allclose(batch.points[1], torch.from_numpy(where[1]) / 4)
    assert torch.allclose(batch.points[0, :, 0], 55 - torch.from_numpy(where[0])[list(MIRRORED), 0] / 4)
    ram = FaceStore(FaceDataset(tmp_path / "faces"), torch.device("cpu"), 56, landmarks=True, place="ram")
    assert torch.equal(ram.batch([1, 0]).x, store.batch([1, 0]).x)
    assert list(MIRRORED) == list(photo.MIRROR)


def test_every_frame_of_a_sequence_can_be_an_image(tmp_path):
    ws = Workspace(tmp_path)
    put_faces(ws, rows("dfew", 3), coloured([1, 2, 3], 4))
    images, sequences = FaceDataset(ws.faces), FaceDataset(ws.faces, kind="sequence")
    assert (len(images), len(sequences)) == (12, 3)
    assert images.samples[5].clip == "c1#002"
    assert images[5][0].shape == (3, 224, 224)
    assert sequences[0][0].shape == (4, 3, 224, 224)
    put_faces(ws, rows("dfew", 3), coloured([1, 2, 3]))
    with pytest.raises(DataError, match="holds images, and sequences are meant"):
        FaceDataset(ws.faces, kind="sequence")


def test_one_of_the_corpus_s_own_class_lists_is_chosen(tmp_path):
    sets = (("anger", "happiness", "sadness"), ("anger", "happiness"))
    put_faces(Workspace(tmp_path), rows("affectnet", 6), coloured(range(6)), class_sets=sets)
    assert FaceDataset(tmp_path / "faces").classes == sets[0]
    two = FaceDataset(tmp_path / "faces", classes=2)
    assert (two.classes, len(two), two.unlabelled) == (sets[1], 4, 2)
    with pytest.raises(UsageError, match="the corpus has 3 or 2"):
        FaceDataset(tmp_path / "faces", classes=7)


def test_what_a_model_reads_follows_from_the_model_and_the_data(tmp_path):
    ws = Workspace(tmp_path)
    put_faces(ws, rows("rafdb", 8), coloured(range(8)))
    model = colours()
    assert chosen_kind(ws, TrainConfig(model=model)) == "image"
    found = settled(ws, TrainConfig(model=model, data=("rafdb",)))
    assert (found.input, found.protocol, found.classes) == ("image", "holdout", 3)
    with pytest.raises(UsageError, match="merba reads flow"):
        chosen_kind(ws, TrainConfig(model="merba", input="image"))
    with pytest.raises(DataError, match="merba reads flow, and rafdb has none"):
        chosen_kind(ws, TrainConfig(model="merba", data=("rafdb",)))
    with pytest.raises(DataError, match="has none"):
        chosen_kind(ws, TrainConfig(model=model, input="sequence"))


# --- protocols -------------------------------------------------------------------------------------


def test_own_folds_test_every_clip_once_and_val_is_left_alone():
    folded = [Sample("dfew", "", f"c{n}", split=f"fold{n % 5 + 1}") for n in range(20)]
    folds = make_folds("folds", folded)
    assert [f.id for f in folds] == [f"fold{n}" for n in range(1, 6)]
    assert sorted(i for f in folds for i in f.test) == list(range(20))
    parts = [Sample("ferplus", "", f"c{n}", split=s) for n, s in enumerate(("train", "val", "test", ""))]
    (fold,) = make_folds("holdout", parts)
    assert (fold.train, fold.test) == ((0,), (2,))
    for protocol, samples in (("folds", parts), ("holdout", folded)):
        with pytest.raises(DataError):
            make_folds(protocol, samples)
    with pytest.raises(DataError, match="does not say who is seen"):
        make_folds("loso", folded)


def test_frames_of_one_clip_stay_together_where_nobody_is_named():
    samples = [Sample("dfew", "", f"c{n // 4}#{n % 4:03d}") for n in range(40)]
    for fold in make_folds("kfold", samples, k=5):
        assert not {samples[i].clip[:2] for i in fold.train} & {samples[i].clip[:2] for i in fold.test}


def test_frames_at_random_score_what_whole_subjects_do_not(tmp_path):
    """Six people with a colour each, whose clips have labels by chance: only who is seen can be learned."""
    ws, levels, labels = Workspace(tmp_path), [20, 60, 100, 140, 180, 220], [0, 2, 1, 1, 2, 0]
    samples = [Sample("deap", f"s{p}", "t1", SETS[0][labels[p]], key=f"{p}") for p in range(6)]
    put_faces(ws, samples, coloured(levels, 4))
    scores = {}
    for protocol in ("kfold", LEAKY):
        config = quick(model=colours(), input="image", protocol=protocol, epochs=40, lr=2e-2, k=2, weights="none",
                       schedule="constant", warmup=0, cooldown=0)  # fmt: skip
        scores[protocol] = train_run(ws, config).metrics["ACC"]
    assert scores[LEAKY] > 0.7
    assert scores["kfold"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["ferplus", "affectnet", "image-folder", "dfew", "ferv39k", "deap", "clip-folder"])
def test_every_corpus_goes_all_the_way(corpus, tmp_path):
    """synth, verify, prepare, train, evaluate and predict, of the files that the corpus has."""
    raw, ws = tmp_path / "raw", Workspace(tmp_path / "ws")
    make_corpus(corpus, raw, subjects=5, clips=4)
    found = get_corpus(corpus)
    assert verify_corpus(found, raw, deep=True).failed == 0
    summary = prepare_faces(ws, found, raw, PrepareConfig(length=4))
    assert summary.counts == {"ok": 20, "repaired": 0, "refused": 0}
    outcome = train_run(ws, quick(model=colours(), data=(corpus,), epochs=1))
    protocol = {"dfew": "folds", "deap": "loso"}.get(corpus, "holdout")
    assert outcome.folder.name.startswith(f"{protocol}-{corpus}-")
    assert evaluate_runs(ws, [outcome.folder.name])["clips"] > 0
    media = next(c.frames for c in found.clips(raw) if c.frames.suffix != ".csv") if corpus != "ferplus" else None
    if media is not None:
        (answer,) = predict_many(ws, outcome.folder.name, inputs_of([media])).answers
        assert sum(answer.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("points", "box", "told"),
    [
        (((0.0, 0.0),) * 68, (), "its landmark area is on no face (0x0 px at 0, 0"),
        (
            tuple((5000.0 + i, 5000.0 + i) for i in range(68)),
            (),
            "its landmark area is on no face (67x67 px at 5000",
        ),
        ((), (9000.0, 9000.0, 50.0, 50.0), "its box is on no face (50x50 px at 9000, 9000"),
        ((), (5.0, 5.0, 1.0, 1.0), "its box is on no face (1x1 px"),
    ],
)
def test_landmarks_and_boxes_that_miss_the_picture_refuse_their_row(points, box, told):
    names, facts = ("affectnet", "", "a"), {"where": "training.csv row 2", "points": points, "box": box}
    clip = FaceClip(*names, None, None, None, 0.0, "anger", **facts)
    with pytest.raises(DataError) as e:
        find(np.zeros((100, 120, 3), np.uint8), clip, Tools.__new__(Tools), as_is=False)
    assert str(e.value).startswith(f"training.csv row 2: {told}")
