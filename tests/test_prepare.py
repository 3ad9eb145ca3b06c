from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest

from mepipe import clipfiles, clipwork, get_corpus
from mepipe.clipwork import Record
from mepipe.corpuswork import usual_widths
from mepipe.errors import UsageError
from mepipe.faces.find import fits
from mepipe.frames import FrameFolder, read_image
from mepipe.prepare import own_part, prepare_corpus
from mepipe.settings import PrepareConfig
from mepipe.workspace import TEMP_MARK, Workspace

SHEET = "CASME2-coding-20140508.xlsx"


def prepare(raw: Path, work: Path, **options):
    """One worker: starting more costs these tests more than it saves."""
    return prepare_corpus(Workspace(work), get_corpus("casme2"), raw, PrepareConfig(**{"jobs": 1} | options))


def rows(work: Path) -> list[dict[str, str]]:
    with (work / "prepared/casme2/clips.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def content(work: Path) -> dict[str, bytes]:
    folder = work / "prepared/casme2"
    names = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix in (".png", ".csv")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in names}


def clip_folder(raw: Path, n: int = 0) -> Path:
    return sorted(p for p in raw.glob("CASME2_RAW_selected/*/*") if p.is_dir())[n]


def annotated(raw: Path, folder: Path) -> list:
    """The sheet's row of a clip folder: [subject, name, None, onset, apex, offset, ...]."""
    book = openpyxl.load_workbook(raw / SHEET)
    for row in book.active.iter_rows(min_row=2, values_only=True):
        if f"sub{int(row[0]):02d}" == folder.parent.name and row[1] == folder.name:
            return list(row)
    raise AssertionError(folder)


def frame_numbers(work: Path, folder: Path, suffix: str) -> list[int]:
    """The frames that are kept of the clip whose raw folder is ``folder``."""
    kept = work / "prepared/casme2" / folder.parent.name / folder.name
    return sorted(int(p.stem) for p in kept.glob(f"*{suffix}"))


def size_of(files: Iterable[Path]) -> int:
    return sum(p.stat().st_size for p in files)


def set_cells(raw: Path, folder: Path, **cells) -> None:
    book = openpyxl.load_workbook(raw / SHEET)
    columns = {str(c.value): c.column for c in book.active[1]}
    for row in book.active.iter_rows(min_row=2):
        if f"sub{int(row[0].value):02d}" == folder.parent.name and row[1].value == folder.name:
            for name, value in cells.items():
                row[columns[name] - 1].value = value
    book.save(raw / SHEET)


def test_every_face_is_found_aligned_and_cropped(made):
    found = rows(made.work)
    assert len(found) == 9
    for r in found:
        assert (r["status"], r["apex_source"], r["align"], r["detector"]) == ("ok", "annotated", "landmarks68", "dlib")
        folder = made.work / "prepared/casme2" / r["subject"] / r["clip"]
        assert {p.name for p in folder.glob("*.png")} == {f"{r['onset']}.png", f"{r['apex']}.png"}
        for png in folder.glob("*.png"):
            image = cv2.imread(str(png), cv2.IMREAD_UNCHANGED)
            assert image.shape[:2] == (224, 224)
            assert image.dtype == np.uint8


def test_crops_put_the_eyes_where_the_template_says(made):
    """Against the made-up corpus's own landmarks, not the detector's."""
    from mepipe.synth import synthetic_clip

    with (made.raw / "truth.csv").open(newline="") as f:
        truth = list(csv.DictReader(f))
    for t in truth:
        clip = synthetic_clip("casme2", int(t["seed"]), int(t["subject_index"]), int(t["clip_index"]))
        facts = json.loads((made.work / "prepared/casme2" / t["subject"] / t["clip"] / "clip.json").read_text())
        matrix = np.array(facts["matrix"])
        points = clip.landmarks @ matrix[:, :2].T + matrix[:, 2]
        np.testing.assert_allclose(points[36:42].mean(0), (68, 60), atol=12)
        np.testing.assert_allclose(points[42:48].mean(0), (156, 60), atol=12)


def test_results_do_not_depend_on_the_number_of_workers(made, own_raw, tmp_path):
    prepare(made.raw, tmp_path / "a", jobs=3)
    assert content(tmp_path / "a") == content(made.work)


def test_the_same_command_again_touches_nothing(own):
    before = {p: p.stat().st_mtime_ns for p in (own.work / "prepared").rglob("*.png")}
    summary = prepare(own.raw, own.work)
    assert summary.reused == 9
    assert before == {p: p.stat().st_mtime_ns for p in (own.work / "prepared").rglob("*.png")}


def test_only_what_changed_is_redone(own_raw, tmp_path):
    prepare(own_raw, tmp_path / "w")
    folder = clip_folder(own_raw, 4)
    onset = annotated(own_raw, folder)[3]
    set_cells(own_raw, folder, OnsetFrame=onset + 2)
    summary = prepare(own_raw, tmp_path / "w")
    assert summary.reused == 8
    changed = tmp_path / "w/prepared/casme2" / folder.parent.name / folder.name
    assert (changed / f"{onset + 2}.png").is_file()
    assert not (changed / f"{onset}.png").exists()
    assert prepare(own_raw, tmp_path / "w", max_gap=4).reused == 0, "settings are part of the key"


def test_a_lost_crop_is_made_again(own):
    lost = next((own.work / "prepared").rglob("*.png"))
    whole = lost.read_bytes()
    lost.unlink()
    assert prepare(own.raw, own.work).reused == 8
    assert lost.read_bytes() == whole


def test_damaged_clips_are_refused_by_name_and_the_rest_is_done(own_raw, tmp_path):
    truncated, empty, text, good = (clip_folder(own_raw, n) for n in (0, 2, 4, 6))
    onset = truncated / f"img{annotated(own_raw, truncated)[3]}.jpg"
    onset.write_bytes(onset.read_bytes()[:5000])
    for frame in empty.iterdir():
        frame.unlink()
    (text / f"img{annotated(own_raw, text)[4]}.jpg").write_text("I am no image")
    summary = prepare(own_raw, tmp_path / "w")
    assert (summary.counts["ok"], summary.counts["refused"]) == (6, 3)
    reasons = {f"{r['subject']}/{r['clip']}": r["reason"] for r in rows(tmp_path / "w") if r["status"] == "refused"}
    assert "truncated JPEG" in reasons[f"{truncated.parent.name}/{truncated.name}"]
    assert "no numbered image" in reasons[f"{empty.parent.name}/{empty.name}"]
    assert "is not an image" in reasons[f"{text.parent.name}/{text.name}"]
    assert not (tmp_path / "w/prepared/casme2" / truncated.parent.name / truncated.name).exists()
    assert (tmp_path / "w/prepared/casme2" / good.parent.name / good.name / "clip.json").is_file()
    assert not list((tmp_path / "w").rglob(f"{TEMP_MARK}*"))


def test_a_refused_clip_leaves_no_crops_of_an_earlier_state(own_raw, tmp_path):
    prepare(own_raw, tmp_path / "w")
    folder = clip_folder(own_raw)
    shutil.rmtree(folder)
    folder.mkdir()
    assert prepare(own_raw, tmp_path / "w").counts["refused"] == 1
    assert not (tmp_path / "w/prepared/casme2" / folder.parent.name / folder.name).exists()


def test_a_repeated_row_is_refused_and_leaves_the_crops_of_the_first(own_raw, tmp_path):
    from mepipe.flow.run import flow_corpora

    folder = clip_folder(own_raw)
    book = openpyxl.load_workbook(own_raw / SHEET)
    book.active.append(annotated(own_raw, folder))
    book.save(own_raw / SHEET)
    for _ in range(2):
        assert prepare(own_raw, tmp_path).counts == {"ok": 9, "refused": 1}
        assert (tmp_path / "prepared/casme2" / folder.parent.name / folder.name / "clip.json").is_file()
    assert flow_corpora(Workspace(tmp_path)).computed == 9


def test_a_missing_apex_is_spotted_near_the_true_one(own_raw, tmp_path):
    folders = [clip_folder(own_raw, n) for n in range(9)]
    truth = {f: annotated(own_raw, f) for f in folders}
    for f in folders:
        set_cells(own_raw, f, ApexFrame="/")
    summary = prepare(own_raw, tmp_path / "w")
    assert summary.counts["repaired"] == 9
    found = {(r["subject"], r["clip"]): r for r in rows(tmp_path / "w")}
    errors, midpoint = [], []
    for f, row in truth.items():
        r = found[f.parent.name, f.name]
        assert r["apex_source"] == "spotted:residual"
        assert "apex cell holds '/'" in r["reason"]
        assert row[3] < int(r["apex"]) <= row[5]
        clip = tmp_path / "w/prepared/casme2" / f.parent.name / f.name
        curve = json.loads((clip / "clip.json").read_text())["curve"]
        assert (curve["method"], curve["frames"][0], curve["frames"][-1]) == (
            "residual",
            int(r["onset"]),
            int(r["offset"]),
        )
        assert curve["frames"][1 + int(np.argmax(curve["values"][1:]))] == int(r["apex"])
        assert (clip / "source.jpg").stat().st_size < 40_000
        errors.append(abs(int(r["apex"]) - row[4]))
        midpoint.append(abs((row[3] + row[5]) // 2 - row[4]))
    assert np.mean(errors) < 2
    assert np.mean(errors) < np.mean(midpoint)


def test_absent_frames_are_replaced_by_near_ones_visibly_or_refused(own_raw, tmp_path):
    near, far, apex = (clip_folder(own_raw, n) for n in (0, 1, 2))
    for folder, count in ((near, 2), (far, 9)):
        onset = annotated(own_raw, folder)[3]
        for n in range(onset, onset + count):
            (folder / f"img{n}.jpg").unlink()
    (apex / f"img{annotated(own_raw, apex)[4]}.jpg").unlink()
    summary = prepare(own_raw, tmp_path / "w")
    found = {(r["subject"], r["clip"]): r for r in rows(tmp_path / "w")}
    r = found[near.parent.name, near.name]
    assert r["status"] == "repaired"
    assert "nearest is" in r["reason"]
    assert int(r["onset"]) == annotated(own_raw, near)[3] + 2
    r = found[far.parent.name, far.name]
    assert r["status"] == "refused"
    assert "--max-gap 3" in r["reason"]
    r = found[apex.parent.name, apex.name]
    assert int(r["apex"]) == annotated(own_raw, apex)[4] - 1
    assert summary.counts == {"ok": 6, "repaired": 2, "refused": 1}


@pytest.mark.parametrize("name", ["apex", "offset"])
def test_an_apex_or_offset_far_from_any_file_refuses_the_clip(own_raw, tmp_path, name):
    """A clip that was unpacked by half must not lend its last frame as the apex."""
    half = clip_folder(own_raw)
    onset, apex, offset = annotated(own_raw, half)[3:6]
    keep_to = onset + 1 if name == "apex" else offset - 4
    for n in range(keep_to + 1, offset + 20):
        (half / f"img{n}.jpg").unlink(missing_ok=True)
    prepare(own_raw, tmp_path)
    (row,) = [r for r in rows(tmp_path) if (r["subject"], r["clip"]) == (half.parent.name, half.name)]
    assert row["status"] == "refused"
    absent = {"apex": apex, "offset": offset}[name]
    assert row["reason"].startswith(f"{name} frame {absent} is absent and the nearest is {keep_to}")


def test_an_offset_near_a_file_is_moved_there_and_told(own_raw, tmp_path):
    short = clip_folder(own_raw)
    offset = annotated(own_raw, short)[5]
    for n in range(offset - 1, offset + 20):
        (short / f"img{n}.jpg").unlink(missing_ok=True)
    prepare(own_raw, tmp_path)
    (row,) = [r for r in rows(tmp_path) if (r["subject"], r["clip"]) == (short.parent.name, short.name)]
    assert (row["status"], row["offset"]) == ("repaired", str(offset - 2))
    assert f"offset {offset} has no file, nearest is {offset - 2}" in row["reason"]


def test_a_part_does_not_keep_rows_that_the_annotation_has_lost(own_raw, tmp_path):
    prepare(own_raw, tmp_path, shard="1/2")
    prepare(own_raw, tmp_path, shard="2/2")
    book = openpyxl.load_workbook(own_raw / SHEET)
    book.active.delete_rows(2)
    book.save(own_raw / SHEET)
    prepare(own_raw, tmp_path, shard="1/2")
    assert len(rows(tmp_path)) == 8


def test_without_a_landmark_file_crops_come_from_the_box_and_say_so(made, tmp_path, monkeypatch):
    monkeypatch.setattr("mepipe.faces.landmarks.find_spec", lambda name: None)

    config = PrepareConfig()
    clipwork.start_worker(config, clipwork.Context.of(config))
    clip = get_corpus("casme2").clips(made.raw)[0]
    record = clipwork.prepare_clip(clipwork.ClipTask(clip, tmp_path / "p"))
    assert (record.status, record.align, record.eye_distance) == ("ok", "box", None)


def test_a_wrong_landmark_path_is_an_error_not_a_box_crop(made, tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        prepare(made.raw, tmp_path, landmarks="absent.dat")
    (tmp_path / "bad.dat").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="not a dlib shape predictor"):
        prepare(made.raw, tmp_path, landmarks=str(tmp_path / "bad.dat"))


def test_given_boxes_are_used_and_a_clip_without_one_is_refused(made, tmp_path):
    first = rows(made.work)[0]
    names = ("box_x", "box_y", "box_width", "box_height")
    box = ",".join(first[n] for n in names)
    (tmp_path / "boxes.csv").write_text(f"subject,clip,x,y,width,height\n{first['subject']},{first['clip']},{box}\n")
    summary = prepare(made.raw, tmp_path / "w", detector="given", detector_file=str(tmp_path / "boxes.csv"))
    assert (summary.counts["ok"], summary.counts["refused"]) == (1, 8)
    name = f"{first['subject']}/{first['clip']}/{first['apex']}.png"
    same = (tmp_path / "w/prepared/casme2" / name).read_bytes()
    assert same == (made.work / "prepared/casme2" / name).read_bytes()


def test_frames_all_keeps_the_aligned_sequence(made, tmp_path):
    prepare(made.raw, tmp_path, frames="all", shard="1/9")
    (r,) = rows(tmp_path)
    folder = tmp_path / "prepared/casme2" / r["subject"] / r["clip"]
    numbers = sorted(int(p.stem) for p in folder.glob("*.png"))
    assert numbers == list(range(int(r["onset"]), int(r["offset"]) + 1))


def test_frames_around_keeps_the_neighbours_of_onset_and_apex(own_raw, tmp_path):
    folder = clip_folder(own_raw)
    onset, apex = (int(n) for n in annotated(own_raw, folder)[3:5])
    prepare(own_raw, tmp_path, frames="around")
    kept = frame_numbers(tmp_path, folder, ".png")
    there = {int(re.findall(r"\d+", p.stem)[-1]) for p in folder.glob("*.jpg")}
    assert kept == sorted(there & {n + d for n in (onset, apex) for d in (-1, 0, 1)})
    assert len(kept) >= 5


def test_frames_all_with_a_quality_keeps_onset_and_apex_lossless_and_the_rest_small(made, tmp_path):
    prepare(made.raw, tmp_path / "png", frames="all", shard="1/9")
    prepare(made.raw, tmp_path / "jpg", frames="all", shard="1/9", quality=95)
    (r,) = rows(tmp_path / "jpg")
    lossless, small = (tmp_path / kind / "prepared/casme2" / r["subject"] / r["clip"] for kind in ("png", "jpg"))
    assert {int(p.stem) for p in small.glob("*.png")} == {int(r["onset"]), int(r["apex"])}
    assert FrameFolder(small).numbers == FrameFolder(lossless).numbers
    for n in FrameFolder(small).numbers:
        a, b = FrameFolder(small).read(n).astype(int), FrameFolder(lossless).read(n)
        assert np.abs(a - b).mean() < (2 if n not in (int(r["onset"]), int(r["apex"])) else 1e-9)
    sizes = [
        sum(p.stat().st_size for p in folder.glob(kind)) for folder, kind in ((small, "*.jpg"), (lossless, "*.png"))
    ]
    assert sizes[0] < sizes[1] / 3


def test_quality_without_frames_all_is_wrong_usage():
    with pytest.raises(UsageError, match="--quality is 95 with --frames onset-apex"):
        PrepareConfig(quality=95)


def test_crops_of_a_grey_camera_are_stored_as_grey_and_read_the_same(tmp_path):
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 256, (224, 224, 1), np.uint8), 3, axis=2)
    colour = rng.integers(0, 256, (224, 224, 3), np.uint8)
    for number, image in ((1, grey), (2, colour)):
        name = clipfiles.write_image(tmp_path, number, image, None)
        assert name == f"{number}.png"
        assert (read_image(tmp_path / name) == image).all()
    assert cv2.imread(str(tmp_path / "1.png"), cv2.IMREAD_UNCHANGED).ndim == 2
    assert (tmp_path / "1.png").stat().st_size < (tmp_path / "2.png").stat().st_size / 2


def test_a_damaged_frame_between_onset_and_apex_is_left_out_and_told(own_raw, tmp_path):
    folder = clip_folder(own_raw)
    onset, _, offset = (int(n) for n in annotated(own_raw, folder)[3:6])
    bad = folder / f"img{onset + 1}.jpg"
    bad.write_bytes(bad.read_bytes()[:3000])
    prepare(own_raw, tmp_path, frames="all")
    (row,) = [r for r in rows(tmp_path) if (r["subject"], r["clip"]) == (folder.parent.name, folder.name)]
    assert row["status"] == "repaired"
    assert "damaged frames left out: 1, the first: " in row["reason"]
    assert f"{bad.name} is a truncated JPEG" in row["reason"]
    assert frame_numbers(tmp_path, folder, ".png") == [onset, *range(onset + 2, offset + 1)]


def test_two_files_of_one_frame_number_are_told(own_raw, tmp_path):
    folder = clip_folder(own_raw)
    apex = folder / f"img{annotated(own_raw, folder)[4]}.jpg"
    cv2.imwrite(str(apex.with_suffix(".png")), cv2.imread(str(apex)))
    prepare(own_raw, tmp_path)
    (row,) = [r for r in rows(tmp_path) if (r["subject"], r["clip"]) == (folder.parent.name, folder.name)]
    assert row["status"] == "repaired"
    assert row["reason"] == f"frame numbers with several files: 1, such as {apex.name} (used) and {apex.stem}.png"


def test_parts_made_apart_add_up_to_the_whole(made, tmp_path):
    for part in ("2/2", "1/2"):
        prepare(made.raw, tmp_path, shard=part)
    key = lambda r: (r["subject"], r["clip"])  # noqa: E731
    assert sorted(rows(tmp_path), key=key) == sorted(rows(made.work), key=key)
    clips = get_corpus("casme2").clips(made.raw)
    clips.append(clips[0])  # a repeated row stays with the clip it repeats
    parts = [own_part(clips, f"{i}/3") for i in (1, 2, 3)]
    assert [len(p) for p in parts] == [4, 3, 3]
    assert parts[0][0] is parts[0][-1]
    for bad in ("0/2", "3/2", "x", "1/2/3"):
        with pytest.raises(UsageError, match="--shard"):
            own_part(clips, bad)


def test_a_dry_run_writes_nothing(made, tmp_path):
    summary = prepare(made.raw, tmp_path / "w", dry_run=True)
    assert summary.counts["ok"] == 9
    assert not (tmp_path / "w").exists()


def test_records_survive_the_csv(made):
    for r in rows(made.work):
        assert {k: str(v) for k, v in Record.from_row(r).row().items()} == r


def test_a_damaged_clips_csv_is_one_line_and_removes_nothing(own):
    from mepipe.errors import DataError
    from mepipe.flow.run import flow_corpora

    table = own.work / "prepared/casme2/clips.csv"
    lines = table.read_text().splitlines()
    for text in ("", "garbage\n", "\n".join([lines[0], "x", *lines[2:]])):
        table.write_text(text)
        with pytest.raises(DataError, match=r"clips\.csv row \d+ cannot be read .*run mepipe prepare casme2 RAW"):
            flow_corpora(Workspace(own.work))
        assert list((own.work / "flow").glob("*.h5"))


def test_frames_of_different_size_within_a_clip_are_refused(own_raw, tmp_path):
    folder = clip_folder(own_raw)
    apex = folder / f"img{annotated(own_raw, folder)[4]}.jpg"
    cv2.imwrite(str(apex), cv2.resize(cv2.imread(str(apex)), (320, 240)))
    prepare(own_raw, tmp_path)
    (reason,) = [r["reason"] for r in rows(tmp_path) if r["status"] == "refused"]
    assert "320x240 px, the onset frame 640x480" in reason


def test_a_clip_on_disk_without_a_row_is_named(own_raw, tmp_path):
    extra = own_raw / "CASME2_RAW_selected/sub01/EP99_01"
    shutil.copytree(clip_folder(own_raw), extra)
    assert prepare(own_raw, tmp_path, dry_run=True).left_over == [extra]


def test_a_false_face_of_another_size_is_noticed():
    def record(width: float, subject: str = "s1") -> Record:
        return Record(
            "smic", subject, "c", 1, 2, 3, 100, "", "", "", "", "annotated", "ok", "", box=(0, 0, width, width)
        )

    records = [record(w) for w in (230, 235, 240, 228, 66)] + [record(160, "s3") for _ in range(6)]
    usual = usual_widths([*records, record(90, "s9")])
    assert usual == {"s1": 230, "s3": 160, "s9": 160}, "s9 has too few clips and is compared with the corpus"
    assert not fits(66, usual["s1"])
    assert fits(160, usual["s3"]), "a subject with a small head is compared with himself"
    assert usual_widths([record(10), record(30)]) == {}
