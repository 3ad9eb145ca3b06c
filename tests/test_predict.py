"""mepipe predict: many inputs of every kind, with table and page; a damaged one is refused and the others go on."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mepipe.errors import DataError, UsageError
from mepipe.frames import FrameFolder
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace
from mepipe_model.predict import (
    mean_probabilities,
    mean_probabilities_of,
    predict_clip,
    predict_many,
    usable_folds,
)
from mepipe_model.predictinputs import Input, inputs_of
from mepipe_model.predictpage import check_places, predictions_page
from mepipe_model.runs import find_run


@pytest.fixture(scope="module")
def run(made, tmp_path_factory) -> tuple[Workspace, str]:
    """A workspace with a small trained run of two folds; (workspace, its name)."""
    from mepipe_model.train import train_run

    ws = Workspace(Path(shutil.copytree(made.work, tmp_path_factory.mktemp("predict-run") / "work")))
    outcome = train_run(ws, TrainConfig(model="ststnet", epochs=1, batch_size=4, jobs=1, folds="1,2"))
    return ws, outcome.folder.name


@pytest.fixture(scope="module")
def folders(made) -> list[Path]:
    found = sorted({p.parent for p in made.raw.rglob("*.jpg")})
    assert len(found) >= 4
    return found[:4]


@pytest.fixture
def pair(folders) -> tuple[Path, Path]:
    frames = FrameFolder(folders[0])
    onset, apex = frames.numbers[0], frames.numbers[len(frames.numbers) // 2]
    return tuple(folders[0] / frames._names[n] for n in (onset, apex))


@pytest.fixture
def damaged(folders, tmp_path) -> Path:
    """A copy of a clip whose onset frame is cut in half."""
    copy = Path(shutil.copytree(folders[1], tmp_path / "damaged"))
    first = copy / FrameFolder(copy)._names[FrameFolder(copy).numbers[0]]
    first.write_bytes(first.read_bytes()[:2000])
    return copy


def test_many_clips_have_the_answers_of_single_ones(run, folders):
    ws, name = run
    many = predict_many(ws, name, [Input(f) for f in folders[:3]])
    assert many.refused == ()
    for folder, answer in zip(folders, many.answers, strict=False):
        alone = predict_clip(ws, name, folder)
        assert answer == alone
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.reader == "folder of images"


def test_a_pair_of_images_has_the_answer_of_its_frames(run, folders, pair):
    ws, name = run
    numbers = FrameFolder(folders[0]).numbers
    (answer,) = predict_many(ws, name, inputs_of([], [str(pair[0])], [str(pair[1])])).answers
    same = predict_clip(ws, name, folders[0], onset=numbers[0], apex=numbers[len(numbers) // 2])
    assert answer.probabilities == pytest.approx(same.probabilities, abs=1e-6)
    assert (answer.onset, answer.apex, answer.apex_source, answer.reader) == (0, 1, "given", "pair of images")


def test_a_video_is_read_and_it_is_said_by_whom(run, folders, tmp_path):
    ws, name = run
    frames = FrameFolder(folders[0])
    images = [frames.read(n) for n in frames.numbers]
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), 200,
                             images[0].shape[1::-1])  # fmt: skip
    for image in images:
        writer.write(image)
    writer.release()
    answer = predict_clip(ws, name, path)
    assert answer.reader == "cv2"
    assert abs(answer.apex + frames.numbers[0] - predict_clip(ws, name, folders[0]).apex) <= 3
    pytest.importorskip("av")
    assert predict_many(ws, name, [Input(path)], reader="av").answers[0].reader == "av"


def test_a_damaged_clip_is_refused_by_name_and_the_others_go_on(run, folders, damaged, run_mepipe, tmp_path):
    ws, name = run
    args = ("-w", ws.root, "predict", name, folders[0], damaged, tmp_path / "absent", folders[2])
    done = run_mepipe(*args, "--csv", "all.csv", "--page", "all.html", "--json")
    assert done.returncode == 1
    assert "2 inputs were refused" in done.stderr
    said = json.loads(done.stdout)
    assert [a["clip"] for a in said["answers"]] == [str(folders[0]), str(folders[2])]
    assert [r["name"] for r in said["refused"]] == [str(damaged), str(tmp_path / "absent")]
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [r["status"] for r in rows] == ["ok", "ok", "refused", "refused"]
    assert "truncated JPEG" in rows[2]["reason"]
    assert all(r[f"p_{r['prediction']}"] for r in rows[:2])
    page = (tmp_path / "all.html").read_text()
    assert page.count("data:image/jpeg") == 6
    assert "truncated JPEG" in page
    assert "<script" not in page


def test_the_only_input_fails_with_its_own_reason(run, damaged):
    ws, name = run
    with pytest.raises(DataError, match="truncated JPEG"):
        predict_many(ws, name, [Input(damaged)])


def test_one_clip_prints_as_it_always_did(run, folders, run_mepipe):
    ws, name = run
    facts = json.loads(run_mepipe("-w", ws.root, "predict", name, folders[0], "--json").stdout)
    assert facts["prediction"] in facts["probabilities"]
    result = predict_many(ws, name, [Input(folders[0])])
    assert result.as_dict() == facts
    text = "\n".join(result.lines())
    assert text.startswith(f"{folders[0]}: ")
    assert f"mean of 2 models of {name}" in text


def test_a_page_escapes_names(run, folders, tmp_path):
    ws, name = run
    nasty = Path(shutil.copytree(folders[0], tmp_path / "<img src=x onerror=alert(1)>"))
    page = predictions_page(predict_many(ws, name, [Input(nasty), Input(folders[1])], pictures=True))
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_each_model_is_loaded_once_for_all_clips(run, monkeypatch):
    ws, name = run
    loaded = []
    import mepipe_model.weights as weights

    real = weights.load_weights
    monkeypatch.setattr(weights, "load_weights", lambda folder: loaded.append(folder) or real(folder))
    the_run = find_run(ws, name)
    folds = usable_folds(the_run, None)
    flows = list(np.random.default_rng(0).normal(0, 0.3, (3, 3, 224, 224)).astype(np.float32))
    many = mean_probabilities_of(the_run, folds, flows)
    assert len(loaded) == len(folds) == 2
    for flow, row in zip(flows, many, strict=True):
        assert np.array_equal(mean_probabilities(the_run, folds, flow), row)


def test_head_motion_is_removed_once_from_each_clip_whatever_the_number_of_folds(run, monkeypatch):
    import mepipe_model.data as data

    ws, name = run
    the_run, removed, real = find_run(ws, name), [], data.without_head_motion
    monkeypatch.setattr(data, "without_head_motion", lambda x: removed.append(x) or real(x))
    keeping = replace(the_run.settings, head_motion="keep")
    flows = list(np.random.default_rng(1).normal(0.5, 0.3, (2, 3, 224, 224)).astype(np.float32))
    still = [real(torch.from_numpy(flow)[None])[0].numpy() for flow in flows]
    monkeypatch.setattr(type(the_run), "settings", replace(keeping, head_motion="remove"))
    moving = mean_probabilities_of(the_run, usable_folds(the_run, None), flows)
    assert len(removed) == len(flows)
    monkeypatch.setattr(type(the_run), "settings", keeping)
    assert np.array_equal(moving, mean_probabilities_of(the_run, usable_folds(the_run, None), still))
    assert not np.array_equal(moving, mean_probabilities_of(the_run, usable_folds(the_run, None), flows))


@pytest.mark.parametrize(
    ("paths", "onsets", "apexes", "says"),
    [
        ([], [], [], "nothing to classify"),
        (["a", "b"], ["3"], [], "frame numbers belong to one clip"),
        (["a"], ["3", "4"], [], "frame numbers belong to one clip"),
        ([], ["3"], ["9"], "frame numbers belong to one clip"),
        ([], ["a.png"], [], "1 onset and 0 apex images"),
        ([], ["a.png"], ["7"], "mix frame numbers and images"),
    ],
)
def test_a_wrong_mixture_of_inputs_is_said(paths, onsets, apexes, says):
    with pytest.raises(UsageError, match=says):
        inputs_of([Path(p) for p in paths], onsets, apexes)


def test_numbers_are_frames_and_everything_else_images():
    assert inputs_of([Path("a")], ["3"], ["9"], 12) == [Input(Path("a"), None, 3, 9, 12)]
    pairs = inputs_of([Path("a")], ["1.png", "x.png"], ["2.png", "y.png"])
    assert [p.name for p in pairs] == ["a", "1.png > 2.png", "x.png > y.png"]


def test_a_file_that_could_not_be_written_is_said_before_the_work(run, folders, tmp_path):
    ws, name = run
    with pytest.raises(UsageError, match="there is no folder"):
        check_places(None, tmp_path / "absent" / "all.csv")
    with pytest.raises(UsageError, match="there is no folder"):
        predict_many(ws, name, [Input(folders[0])], picture=tmp_path / "absent" / "one.png")
    with pytest.raises(UsageError, match="--picture draws one clip"):
        predict_many(ws, name, [Input(f) for f in folders[:2]], picture=tmp_path / "two.png")
