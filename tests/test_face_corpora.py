"""Corpora of labelled faces as they are distributed: what is read, what is refused and why."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import tinyfaces

from mepipe import get_corpus
from mepipe.datasets.deap import level
from mepipe.datasets.ferplus import majority
from mepipe.datasets.manifests import published_counts
from mepipe.errors import DataError, UsageError
from mepipe.media import PixelText, resampled
from mepipe.synth import make_corpus
from mepipe.verify import verify_corpus

FACES = ("rafdb", "ferplus", "affectnet", "dfew", "ferv39k", "deap", "image-folder", "clip-folder")


def facts(clips) -> list[tuple[str, str, str, str]]:
    return [(c.name, c.emotion, c.split, c.problem) for c in clips]


def test_rafdb_labels_parts_and_what_is_wrong(tmp_path):
    raw = tinyfaces.rafdb(tmp_path / "raw", [("train_00001", 5), ("test_0001", 7), ("train_00002", 9), ("odd_1", 1)])
    (raw / "basic" / "Image" / "aligned" / "test_0001_aligned.jpg").unlink()
    first, second, third, fourth = get_corpus("rafdb").clips(raw)
    assert (first.name, first.emotion, first.split, first.problem) == ("train_00001", "sadness", "train", "")
    assert "there is no file of test_0001" in second.problem
    assert "is no name and label 1 to 7" in third.problem
    assert "neither train nor test" in fourth.problem
    assert verify_corpus(get_corpus("rafdb"), raw).failed == 3


def test_a_corpus_without_its_list_says_which(tmp_path):
    with pytest.raises(DataError, match=r"no list list_patition_label\.txt or"):
        get_corpus("rafdb").clips(tmp_path)
    with pytest.raises(DataError, match=r"no set_1.csv, set_2.csv, set_3.csv, set_4.csv, set_5.csv"):
        get_corpus("dfew").clips(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        get_corpus("rafdb").clips(tmp_path, sheet=tmp_path / "gone.txt")


@pytest.mark.parametrize(("counts", "label"), [
    ((10, 0, 0, 0, 0, 0, 0, 0, 0, 0), "neutral"),
    ((1, 5, 1, 1, 1, 1, 0, 0, 0, 0), "happiness"),  # single votes are dropped
    ((5, 5, 0, 0, 0, 0, 0, 0, 0, 0), ""),  # a half is no majority
    ((0, 2, 0, 0, 0, 0, 0, 0, 8, 0), ""),  # unknown
    ((1, 1, 1, 1, 1, 1, 1, 1, 1, 1), ""),
])  # fmt: skip
def test_ferplus_majority_is_that_of_its_release(counts, label):
    emotion, shares = majority(counts)
    assert emotion == label
    assert np.isnan(shares).all() or sum(shares) == pytest.approx(1)


def test_ferplus_pixels_votes_and_parts(tmp_path):
    happy = (0, 10, 0, 0, 0, 0, 0, 0, 0, 0)
    raw = tinyfaces.ferplus(tmp_path, [("Training", happy), ("PublicTest", happy), ("PrivateTest", (5, 5, *[0] * 8))])
    clips = get_corpus("ferplus").clips(raw)
    assert facts(clips) == [("fer0000000", "happiness", "train", ""), ("fer0000001", "happiness", "val", ""),
                            ("fer0000002", "", "test", "")]  # fmt: skip
    picture = PixelText(clips[2].frames, *clips[2].pixels).read(0)
    assert np.array_equal(picture[..., 0].ravel(), np.arange(48 * 48) % 256)
    (raw / "fer2013.csv").write_text((raw / "fer2013.csv").read_text() + "0,1 2 3,Training\n")
    with pytest.raises(DataError, match="has more rows than"):
        get_corpus("ferplus").clips(raw)


@pytest.mark.parametrize("longer", ["fer2013.csv", "fer2013new.csv"])
def test_ferplus_pixels_and_votes_are_of_one_length(longer, tmp_path):
    happy = (0, 10, 0, 0, 0, 0, 0, 0, 0, 0)
    raw = tinyfaces.ferplus(tmp_path, [("Training", happy)] * 3)
    lines = (raw / longer).read_text().splitlines()
    (raw / longer).write_text("\n".join([*lines, lines[-1]]) + "\n")
    with pytest.raises(DataError, match=f"{longer} has more rows than"):
        get_corpus("ferplus").clips(raw)


def test_verify_reads_pixels_that_are_written_as_numbers(tmp_path):
    happy = (0, 10, 0, 0, 0, 0, 0, 0, 0, 0)
    raw = tinyfaces.ferplus(tmp_path, [("Training", happy), ("PrivateTest", happy), ("Training", happy)])
    lines = (raw / "fer2013.csv").read_text().splitlines()
    lines[2] = lines[2].replace(" 7 ", " 999 ", 1)
    (raw / "fer2013.csv").write_text("\n".join(lines) + "\n")
    (wrong,) = [f for f in verify_corpus(get_corpus("ferplus"), raw).findings if f.grade == "must-fail"]
    assert "no picture of 48x48 numbers" in wrong.text


def test_a_part_that_is_missing_is_told(tmp_path):
    raw = tinyfaces.affectnet(tmp_path, [("training", "1/a.jpg", 1), ("training", "1/b.jpg", 2)])
    found = [f.text for f in verify_corpus(get_corpus("affectnet"), raw).findings]
    assert any("no clip is of the part test" in text for text in found)


def test_affectnet_lists_arrays_and_folders(tmp_path):
    lists = tinyfaces.affectnet(tmp_path / "lists", [
        ("training", "1/a.jpg", 1), ("training", "1/b.jpg", 9), ("validation", "2/a.jpg", 7),
        ("training", "../../etc/passwd", 0),
    ])  # fmt: skip
    happy, outside, contempt = get_corpus("affectnet").clips(lists)
    assert (happy.name, happy.emotion, happy.split, len(happy.points)) == ("1-a", "happiness", "train", 68)
    assert "there is no file of" in outside.problem
    assert (contempt.emotion, contempt.split) == ("contempt", "test")

    arrays = tmp_path / "arrays" / "val_set"
    tinyfaces.picture(arrays / "images" / "7.jpg")
    (arrays / "annotations").mkdir()
    np.save(arrays / "annotations" / "7_exp.npy", "4")
    assert facts(get_corpus("affectnet").clips(tmp_path / "arrays")) == [("test-7", "fear", "test", "")]
    np.save(arrays / "annotations" / "7_exp.npy", np.array(["x"], object), allow_pickle=True)
    with pytest.raises(DataError, match="is no annotation"):
        get_corpus("affectnet").clips(tmp_path / "arrays")

    folders = tmp_path / "folders"
    for path in ("train/0/a.jpg", "val/Happy/a.jpg", "train/blah/a.jpg"):
        tinyfaces.picture(folders / path)
    found = facts(get_corpus("affectnet").clips(folders))
    assert [f[:3] for f in found] == [("train-0-a", "neutral", "train"), ("train-blah-a", "", "train"),
                                      ("test-Happy-a", "happiness", "test")]  # fmt: skip
    assert "unknown expression 'blah'" in found[1][3]


def test_dfew_folds_and_which_files_are_taken(tmp_path):
    raw = tinyfaces.dfew(tmp_path / "raw", [(1, "2", 1), (5, "10", 7), (2, "3", 0)])
    first, third, second = get_corpus("dfew").clips(raw)
    assert (first.name, first.emotion, first.split, first.crop) == ("00002", "happiness", "fold1", "")
    assert (second.name, second.emotion, second.split) == ("00010", "fear", "fold5")
    assert "label '0' is none of 1 to 7" in third.problem
    videos = tinyfaces.dfew(tmp_path / "videos", [(1, "2", 1)], videos=True)
    (clip,) = get_corpus("dfew").clips(videos)
    assert (clip.frames.name, clip.crop) == ("2.mp4", "aligned")
    assert get_corpus("dfew").crop_of([clip]) == "aligned"


def test_ferv39k_lists_with_and_without_a_header(tmp_path):
    for n in (1, 2):
        tiny.frames(tmp_path / "2_ClipsforFaceCrop" / "Action" / "Happy" / f"000{n}", (1, 2))
    lists = tmp_path / "4_setups" / "All_scenes"
    tinyfaces.write(lists / "train_All.csv", "path label\nAction/Happy/0001 Happy\n")
    tinyfaces.write(lists / "test_All.csv", "Action/Happy/0002 Happy\nAction/Odd/0003 Odd\n../../x Sad\n")
    clips = get_corpus("ferv39k").clips(tmp_path)
    assert facts(clips)[:2] == [("Action-Happy-0001", "happiness", "train", ""),
                                ("Action-Happy-0002", "happiness", "test", "")]  # fmt: skip
    assert "unknown emotion 'odd'" in clips[2].problem
    assert clips[3].problem


@pytest.mark.parametrize(
    ("rating", "said"), [("5", "L"), ("5.01", "H"), ("1", "L"), ("0.9", ""), ("nan", ""), ("x", "")]
)
def test_deap_ratings_above_the_middle_are_high(rating, said):
    assert level(rating) == said


def test_deap_reads_those_who_were_filmed(tmp_path):
    raw = tinyfaces.deap(tmp_path, [(1, 1, 7, 7), (22, 40, 2, 7), (23, 1, 7, 7), (3, 9, 7, 7), ("x", 1, 7, 7)])
    (raw / "face_video" / "s03" / "s03_trial09.avi").unlink()
    clips = get_corpus("deap").clips(raw)
    assert [(c.subject, c.name, c.emotion) for c in clips[:2]] == [("s01", "s01_trial01", "HVHA"),
                                                                   ("s22", "s22_trial40", "LVHA")]  # fmt: skip
    assert "there is no file" in clips[2].problem
    assert "is no participant and trial" in clips[3].problem
    assert len(clips) == 4


def test_class_folders_with_parts_and_a_table(tmp_path):
    for path in ("train/joy/a.jpg", "test/joy/a.jpg", "top.jpg"):
        tinyfaces.picture(tmp_path / "raw" / path)
    found = get_corpus("image-folder").clips(tmp_path / "raw")
    assert [f[:3] for f in facts(found)] == [
        ("test-joy-a", "joy", "test"),
        ("top", "", ""),
        ("train-joy-a", "joy", "train"),
    ]
    assert "lies in no folder" in found[1].problem
    rows = ("file,class,subject", "top.jpg,calm,p1", "../x.jpg,calm,p1", "train/joy/a.jpg,,p2", "top.jpg,calm,..")
    tinyfaces.write(tmp_path / "raw" / "labels.csv", "\n".join(rows))
    first, *rest = get_corpus("image-folder").clips(tmp_path / "raw")
    assert (first.name, first.emotion, first.subject, first.problem) == ("top", "calm", "p1", "")
    assert all(c.problem for c in rest)


def test_a_quoted_table_keeps_people_apart_and_a_row_that_says_too_little_is_refused(tmp_path):
    for name in "abcd":
        tinyfaces.picture(tmp_path / "raw" / f"{name}.jpg")
    rows = ('"file","class","Subject","split"', '"a.jpg","joy","p1","Train"', '"b.jpg","joy","p2","trian"',
            '"c.jpg","joy","",""', '"d.jpg","joy","p3",""')  # fmt: skip
    tinyfaces.write(tmp_path / "raw" / "labels.csv", "\n".join(rows))
    a, b, c, d = get_corpus("image-folder").clips(tmp_path / "raw")
    assert (a.subject, a.split, a.problem) == ("p1", "train", "")
    assert "labels.csv row 3: unknown split 'trian'; known: train, " in b.problem
    assert c.problem == "labels.csv row 4: no subject, in a table that has them"
    assert (d.subject, d.split, d.problem) == ("p3", "", "")


def test_a_picture_that_is_a_link_out_of_the_corpus_is_refused(tmp_path):
    secret = tinyfaces.picture(tmp_path / "secret.jpg")
    folder = tmp_path / "raw" / "joy"
    tinyfaces.picture(folder / "a.jpg")
    (folder / "b.jpg").symlink_to(secret)
    found = get_corpus("image-folder").clips(tmp_path / "raw")
    assert [bool(c.problem) for c in found] == [False, True]
    assert "leads out of" in found[1].problem


def test_clip_folders_are_folders_of_frames_or_videos(tmp_path):
    tiny.frames(tmp_path / "joy" / "c1", (1, 2, 3))
    tinyfaces.write(tmp_path / "joy" / "c2.mp4", "")
    found = get_corpus("clip-folder").clips(tmp_path)
    assert [(c.name, c.emotion) for c in found] == [("joy-c1", "joy"), ("joy-c2", "joy")]
    assert [f.name for f in verify_corpus(get_corpus("clip-folder"), tmp_path).findings] == ["no readable frame"]


@pytest.mark.parametrize("name", FACES)
def test_a_control_character_in_a_name_never_reaches_a_terminal(name, tmp_path):
    corpus = get_corpus(name)
    bad = "a\x1b[2J\u202e"
    if name in ("image-folder", "clip-folder"):
        tinyfaces.write(tmp_path / "labels.csv", f"file,class\n{bad}.jpg,{bad}\n")
    elif name == "rafdb":
        tinyfaces.write(tmp_path / "list_patition_label.txt", f"train_{bad}.jpg 1\n")
    elif name == "ferv39k":
        tinyfaces.write(tmp_path / "train_All.csv", f"{bad}/{bad}/{bad} Happy\n")
        tinyfaces.write(tmp_path / "test_All.csv", f"a/{bad}/c {bad}\n")
    elif name == "dfew":
        tinyfaces.dfew(tmp_path, [])
        folder = tmp_path / "EmoLabel_DataSplit" / "test(single-labeled)"
        tinyfaces.write(folder / "set_1.csv", f"video_name,label\n{bad},{bad}\n")
    elif name == "deap":
        tinyfaces.deap(tmp_path, [(bad, bad, bad, bad)])
    elif name == "affectnet":
        tinyfaces.affectnet(tmp_path, [("training", "../" + bad, bad)])
    else:
        tinyfaces.ferplus(tmp_path, [("Training", [1] * 10)])
        path = tmp_path / "fer2013new.csv"
        path.write_text(path.read_text().replace("\nTraining", f"\n{bad}"), "utf-8")
    clips = corpus.clips(tmp_path)
    assert clips
    for clip in clips:
        assert clip.problem
        assert all(
            t.isprintable() for t in (clip.name, clip.subject, clip.emotion, clip.split, clip.where, clip.problem)
        )


def test_published_counts_of_classes_add_up():
    for name in ("rafdb", "affectnet"):
        counts = published_counts(name)
        for part in {c.part for c in counts if c.emotion}:
            whole = next(c.clips for c in counts if c.part == part and not c.emotion)
            assert sum(c.clips for c in counts if c.part == part and c.emotion) == whole
    assert sum(c.clips for c in published_counts("dfew") if c.part) == 11697


@pytest.mark.parametrize("name", ["rafdb", "dfew"])
def test_a_planted_defect_is_found_and_nothing_else(name, tmp_path):
    made = make_corpus(name, tmp_path / "raw", subjects=1, clips=2, defects=True, jobs=1)
    found = [f for f in verify_corpus(get_corpus(name), tmp_path / "raw", deep=True).findings if "counts" not in f.name]
    assert [f.name for f in found] == ["no readable frame"]
    assert made.defects == 1
    assert make_corpus(name, tmp_path / "raw", subjects=1, clips=2, defects=True).written == 0


@pytest.mark.parametrize(("count", "length", "places"), [
    (16, 16, list(range(16))), (31, 16, list(range(0, 31, 2))), (3, 5, [0, 1, 1, 2, 2]), (1, 4, [0, 0, 0, 0]),
    (2, 2, [0, 1]), (5, 1, [2]),
])  # fmt: skip
def test_sequences_are_resampled_by_a_linear_index(count, length, places):
    assert resampled(count, length) == places
