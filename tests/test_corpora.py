from __future__ import annotations

import itertools
import re
import shutil
import sys
import textwrap
from collections import Counter
from pathlib import Path

import openpyxl
import pytest
import tiny

from mepipe import get_corpus, list_corpora
from mepipe.datasets.aus import Unit, parse_aus
from mepipe.datasets.base import CORPORA
from mepipe.datasets.folders import FrameFolders, loose
from mepipe.datasets.listing import known_corpora, listing
from mepipe.datasets.manifests import corrections, published_counts
from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.frames import FrameFolder
from mepipe.prepare import prepare_corpus
from mepipe.settings import PrepareConfig
from mepipe.workspace import Workspace

ALL = ["casme2", "samm", "smic-hs", "smic-vis", "smic-nir", "dfme", "casme3", "mmew", "4dme"]


def clips(corpus: str, raw, **kw):
    return get_corpus(corpus).clips(raw, **kw)


def only(corpus: str, raw, **kw):
    (clip,) = clips(corpus, raw, **kw)
    return clip


# --- SAMM ------------------------------------------------------------------------------------------

ANGER = ("006", "006_1_2", 5562, 5588, 5632, "Anger")


@pytest.mark.parametrize("preamble", [0, 13, 39])
def test_samm_header_may_stand_in_any_of_the_first_forty_rows(tmp_path, preamble):
    clip = only("samm", tiny.samm(tmp_path / "raw", [ANGER], preamble=preamble))
    assert (clip.id, clip.onset, clip.apex, clip.offset, clip.fps) == ("006/006_1_2", 5562, 5588, 5632, 200)
    assert (clip.emotion, clip.label3, clip.label7, clip.problem, clip.notes) == ("anger", "negative", "anger", "", ())


def test_a_header_below_the_fortieth_row_is_not_looked_for(tmp_path):
    with pytest.raises(DataError, match="no header row with the columns Subject, Filename, OnsetFrame"):
        clips("samm", tiny.samm(tmp_path / "raw", [ANGER], preamble=40))


@pytest.mark.parametrize("subject", ["006", 6, 6.0, "6"])
def test_samm_subject_is_three_digits_whatever_excel_made_of_it(tmp_path, subject):
    raw = tiny.samm(tmp_path / "raw", [(subject, *ANGER[1:])])
    assert only("samm", raw).subject == "006"


@pytest.mark.parametrize("digits", [1, 4, 5])
def test_samm_frames_are_found_whatever_their_padding(tmp_path, digits):
    clip = only("samm", tiny.samm(tmp_path / "raw", [("028", "028_3_1", 71, 88, 99, "Fear")], digits=digits))
    assert clip.frames == tmp_path / "raw" / "SAMM" / "028" / "028_3_1"


@pytest.mark.parametrize("word", ["Other", "Others", "other "])
def test_other_is_read_in_singular_and_plural_and_is_no_class(tmp_path, word):
    clip = only("samm", tiny.samm(tmp_path / "raw", [(*ANGER[:5], word)]))
    assert (clip.emotion, clip.label3, clip.label7, clip.problem) == ("others", "", "", "")


def test_samm_028_4_1_gets_its_digits_back(tmp_path):
    raw = tiny.samm(tmp_path / "raw", [("028", "028_4_1", 1071, 1143, 1134, "Contempt")])
    clip = only("samm", raw)
    assert (clip.apex, clip.apex_source) == (1134, "corrected:1143->1134")
    assert "correction: apex 1143 -> 1134" in clip.notes[0]
    plain = only("samm", raw, corrections=False)
    assert plain.apex is None
    assert plain.notes == ("apex 1143 is outside (onset 1071, offset 1134]",)


def test_samm_032_3_1_gets_its_typo_mended(tmp_path):
    raw = tiny.samm(tmp_path / "raw", [("032", "032_3_1", 4896, 1930, 4970, "Anger")])
    assert (only("samm", raw).apex, only("samm", raw).apex_source) == (4930, "corrected:1930->4930")


def test_samm_032_3_2_is_odd_but_legal_and_left_alone(tmp_path):
    clip = only("samm", tiny.samm(tmp_path / "raw", [("032", "032_3_2", 5126, 5127, 5207, "Anger")]))
    assert (clip.apex, clip.notes, clip.problem) == (5127, (), "")


def test_a_clip_of_another_subject_is_refused_not_taken(tmp_path):
    raw = tiny.samm(tmp_path / "raw", [("007", "006_1_2", 5562, 5588, 5632, "Anger")])
    assert "clip '006_1_2' does not belong to subject '007'" in only("samm", raw).problem


# --- SMIC ------------------------------------------------------------------------------------------

SHORT = ("s1_ne_01", 559740, 559775, "negative")


@pytest.mark.parametrize("top", ["SMIC_all_raw", "SMIC_all_raw/SMIC_all_raw", "SMIC_all_cropped", "."])
def test_smic_needs_no_sheet(tmp_path, top):
    clip = only("smic-hs", tiny.smic(tmp_path / "raw", [SHORT], top=top))
    assert (clip.id, clip.onset, clip.apex, clip.offset, clip.fps) == ("s1/s1_ne_01", 559740, None, 559775, 100)
    assert (clip.label3, clip.problem, clip.notes) == ("negative", "", ())


def test_smic_ids_are_unpadded_whatever_the_folders_are(tmp_path):
    raw = tiny.smic(tmp_path / "raw", [("s01_ne_01", 10, 40, "negative"), ("S03_PO_8", 50, 80, "positive")])
    assert [c.id for c in clips("smic-hs", raw)] == ["s1/s1_ne_01", "s3/s3_po_08"]


def test_smic_clips_come_in_the_order_of_their_numbers(tmp_path):
    names = ["s2_sur_01", "s11_ne_01", "s1_po_10", "s1_po_02"]
    found = clips("smic-hs", tiny.smic(tmp_path / "raw", [(n, 10, 40, "x") for n in names]))
    assert [c.name for c in found] == ["s1_po_02", "s1_po_10", "s2_sur_01", "s11_ne_01"]


def test_smic_cameras_are_kept_apart(tmp_path):
    raw = tiny.smic(tmp_path / "raw", [SHORT])
    tiny.smic(raw, [("s11_sur_01", 1, 9, "surprise")], camera="VIS")
    tiny.smic(raw, [("s11_sur_01", 5, 9, "surprise")], camera="NIR")
    assert [c.name for c in clips("smic-hs", raw)] == ["s1_ne_01"]
    for corpus, onset in (("smic-vis", 1), ("smic-nir", 5)):
        clip = only(corpus, raw)
        assert (clip.name, clip.onset, clip.fps, clip.label3) == ("s11_sur_01", onset, 25, "surprise")


def test_smic_clips_without_an_expression_are_none(tmp_path):
    raw = tiny.smic(tmp_path / "raw", [SHORT])
    tiny.frames(raw / "SMIC_all_raw" / "HS" / "s1" / "non_micro" / "s1_ne_02", (1, 2))
    tiny.frames(raw / "SMIC_all_raw" / "HS" / "s1" / "non_micro" / "s1_n1", (1, 2))
    assert [c.name for c in clips("smic-hs", raw)] == ["s1_ne_01"]


def test_the_empty_cropped_folder_of_s18_sur_03_does_not_hide_the_raw_one(tmp_path):
    raw = tiny.smic(tmp_path / "raw", [("s18_sur_03", 1695782, 1695809, "surprise")])
    (raw / "SMIC_all_cropped" / "HS" / "s18" / "micro" / "surprise" / "s18_sur_03").mkdir(parents=True)
    clip = only("smic-hs", raw)
    assert (clip.onset, clip.label3, clip.problem) == (1695782, "surprise", "")
    shutil.rmtree(raw / "SMIC_all_raw")
    assert "holds no numbered image" in only("smic-hs", raw).problem


def test_s18_sur_03_is_surprise_whatever_smic_e_says(tmp_path):
    raw = tiny.smic_e(tmp_path / "raw", [("s18_sur_03", "negative", [(1695782, 1695809)])])
    clip = only("smic-hs", raw)
    assert clip.label3 == "surprise"
    assert "correction: emotion negative -> surprise" in clip.notes[0]
    plain = only("smic-hs", raw, corrections=False)
    assert plain.label3 == "negative"
    assert plain.notes == ("the annotation says negative, the clip's name surprise",)


@pytest.mark.parametrize(
    ("clip", "old", "new"),
    [("s3_ne_16", 409062, 409063), ("s3_po_08", 402223, 402225), ("s3_sur_01", 308889, 308890),
     ("s3_sur_05", 402326, 402327)],
)  # fmt: skip
def test_smic_e_offsets_are_set_to_those_of_the_short_clips(tmp_path, clip, old, new):
    emotion = {"ne": "negative", "po": "positive", "sur": "surprise"}[clip.split("_")[1]]
    raw = tiny.smic_e(tmp_path / "e", [(clip, emotion, [(old - 20, old)])])
    assert only("smic-hs", raw).offset == new
    assert only("smic-hs", raw, corrections=False).offset == old
    measured = only("smic-hs", tiny.smic(tmp_path / "short", [(clip, old - 20, old, emotion)], top="SMIC_all_cropped"))
    assert (measured.offset, measured.notes) == (old, ()), "what is on disk is no annotation"


def test_the_later_expressions_of_an_extended_clip_are_clips(tmp_path):
    rows = [
        ("s4_ne_04", "negative", [(100, 120), (200, 230), (300, 320)]),
        ("s9_sur_01", "surprise", [(50, 60), (80, 99)]),
    ]
    found = clips("smic-hs", tiny.smic_e(tmp_path / "raw", rows))
    assert [(c.name, c.onset, c.offset) for c in found] == [
        ("s4_ne_04", 100, 120), ("s4_ne_05", 200, 230), ("s4_ne_06", 300, 320), ("s9_sur_01", 50, 60),
        ("s9_sur_02", 80, 99),
    ]  # fmt: skip
    assert len({c.frames for c in found if c.subject == "s4"}) == 1
    assert not any(c.problem for c in found)


def test_the_broken_formulas_of_the_third_expression_make_no_clip(tmp_path):
    raw = tiny.smic_e(tmp_path / "raw", [("s4_ne_04", "negative", [(100, 120), (200, 230)])])
    edit(raw / "SMIC-HS-E_annotation.xlsx", {"H2": -3971.5, "I2": 12})
    assert [c.name for c in clips("smic-hs", raw)] == ["s4_ne_04", "s4_ne_05"]


def test_short_clips_win_over_the_sheet_and_all_are_there_that_it_lacks(tmp_path):
    raw = tiny.smic(tmp_path / "raw", [SHORT, ("s1_ne_02", 563854, 563885, "negative")])
    tiny.smic_e(raw, [("s1_ne_01", "negative", [(559741, 559770)]), ("s2_po_01", "positive", [(5, 30)])])
    found = clips("smic-hs", raw)
    assert [(c.name, c.onset) for c in found] == [("s1_ne_01", 559740), ("s1_ne_02", 563854), ("s2_po_01", 5)]


def test_a_sheet_row_without_any_folder_is_named(tmp_path):
    raw = tiny.smic_e(tmp_path / "raw", [("s1_ne_01", "negative", [(50, 60)]), ("s2_ne_01", "negative", [(50, 60)])])
    shutil.rmtree(raw / "SMIC-E_raw image" / "HS_long" / "SMIC-HS-E" / "s02")
    assert "no folder with frames for s2/s2_ne_01" in clips("smic-hs", raw)[1].problem


def test_the_vis_camera_never_reads_the_hs_sheet(tmp_path):
    raw = tiny.smic_e(tmp_path / "raw", [("s11_ne_01", "negative", [(50, 60)])])
    tiny.frames(raw / "SMIC-E_raw image" / "VIS_long" / "SMIC-VIS-E" / "s11" / "s11_ne_01", (1, 9))
    with pytest.raises(DataError, match="no header row"):
        clips("smic-vis", raw)


def test_no_smic_at_all_says_what_was_expected(tmp_path):
    tiny.frames(tmp_path / "holiday", (1, 2))
    with pytest.raises(DataError, match="SMIC-HS: no annotation sheet"):
        clips("smic-hs", tmp_path)


@pytest.mark.parametrize("name", ["smic-hs", "SMIC-HS", "hs", "SMIC", "x"])
def test_the_camera_named_nearest_above_a_clip_decides_and_not_what_raw_is_called(tmp_path, name):
    """A clip that HS lacks must not be taken from VIS because RAW itself is called smic-hs."""
    raw = tiny.smic(tmp_path / name, [SHORT])
    tiny.smic(raw, [("s11_ne_01", 1, 9, "negative")], camera="VIS")
    assert [c.name for c in clips("smic-hs", raw)] == ["s1_ne_01"]
    assert [c.name for c in clips("smic-vis", raw)] == ["s11_ne_01"]


@pytest.mark.parametrize(
    ("place", "camera"),
    [("HS/from VIS", "vis"), ("VIS_NIR/HS", "hs"), ("VIS/HS_VIS_NIR", "vis"), ("nir/VISUAL", "nir"), ("x", "hs")],
)
def test_of_several_camera_names_above_a_clip_the_nearest_single_one_counts(tmp_path, place, camera):
    raw = tmp_path / "HS"
    tiny.frames(raw / place / "s1_ne_01", (1, 9), "image{:06d}.bmp")
    found = {}
    for name in ("hs", "vis", "nir"):
        try:
            found[name] = len(clips(f"smic-{name}", raw))
        except (DataError, UsageError):
            found[name] = 0
    assert found == {"hs": 0, "vis": 0, "nir": 0} | {camera: 1}


@pytest.mark.parametrize("link", [False, True])
def test_the_folder_of_one_camera_is_refused_as_another_however_it_is_given(tmp_path, monkeypatch, link):
    tiny.smic(tmp_path, [SHORT], camera="VIS", top=".")
    raw = tmp_path / "VIS"
    if link:
        (tmp_path / "mine").symlink_to(raw, target_is_directory=True)
        raw = tmp_path / "mine"
    monkeypatch.chdir(raw)
    for given in (raw, Path()):
        with pytest.raises(UsageError, match="no clip of SMIC-HS and is called after VIS; ask for smic-vis, or give"):
            clips("smic-hs", given)
        assert only("smic-vis", given).name == "s1_ne_01"


def test_a_copy_made_by_a_file_manager_does_not_become_the_onset(tmp_path):
    raw = tiny.smic(tmp_path / "raw", [SHORT])
    folder = next(raw.rglob("s1_ne_01"))
    shutil.copy(folder / "image559740.bmp", folder / "image559740 (1).bmp")
    clip = only("smic-hs", raw)
    assert (clip.onset, clip.offset, clip.problem) == (559740, 559775, "")
    doubled = FrameFolder(folder).doubled()
    assert doubled == "frame numbers with several files: 1, such as image559740.bmp (used) and image559740 (1).bmp"
    (folder / "image559741 (1).bmp").write_bytes(b"x")
    (folder / "preview_2.png").write_bytes(b"x")
    clip = only("smic-hs", raw)
    assert (clip.onset, clip.offset) == (559740, 559775)
    assert clip.notes == (
        "images left out of onset and offset: 2, such as image559741 (1).bmp (not image<number>)",
    )  # fmt: skip


@pytest.mark.parametrize(
    "copy", ["img46 (1)", "img46(2)", "img46 - Copy", "img46 - Kopie (3)", "img46 copy", "img46 copy 2", "img46 2"]
)
@pytest.mark.parametrize("base", [True, False])
def test_a_copy_of_a_frame_is_another_name_of_it_where_the_frame_is_there(tmp_path, copy, base):
    tiny.frames(tmp_path, (46, 59) if base else (59,))
    (tmp_path / f"{copy}.jpg").write_bytes(b"x")
    frames = FrameFolder(tmp_path)
    if base:
        assert frames.numbers == [46, 59]
        assert frames.signature(46)[0] == "img46.jpg"
        assert frames.doubled().endswith(f"img46.jpg (used) and {copy}.jpg")
    else:
        assert len(frames.numbers) == 2, "which frame it was is not certain: it goes by its last number as any name"


def test_frames_numbered_in_brackets_alone_are_frames(tmp_path):
    assert FrameFolder(tiny.frames(tmp_path, (1, 2, 10), "clip ({}).jpg")).numbers == [1, 2, 10]


def test_renamed_smic_frames_and_a_jump_in_their_numbers_are_told(tmp_path):
    raw = tmp_path / "raw" / "HS"
    tiny.frames(raw / "s1_ne_01", (3, 40), "frame{}.bmp")
    tiny.frames(raw / "s1_ne_02", (100, 130, 1130, 1131, 2132), "image{:06d}.bmp")
    first, second = clips("smic-hs", raw)
    assert (first.onset, first.offset) == (3, 40)
    assert "no image is called image<number>" in first.notes[0]
    assert second.notes == ("the frame numbers jump from 1131 to 2132: check that this is one recording",)


def test_a_raw_name_that_says_extended_does_not_decide_over_the_layout_below(tmp_path):
    raw = tiny.smic(tmp_path / "smic-e", [SHORT])
    assert only("smic-hs", raw).measured
    extended = tiny.smic_e(tmp_path / "SMIC_all", [("s1_ne_01", "negative", [(50, 60)])])
    assert not only("smic-hs", extended).measured


@pytest.mark.parametrize(("clip", "short", "sheet"), [("s8_ne_01", 252626, 252644), ("s2_sur_05", 219114, 219124)])
def test_the_disputed_onsets_of_smic_are_read_off_the_folder_and_never_corrected(tmp_path, clip, short, sheet):
    """SLSTT has the first number, SAC2-Net or xiazhaoqiang the second: neither is imposed on the other."""
    emotion = {"ne": "negative", "sur": "surprise"}[clip.split("_")[1]]
    raw = tiny.smic_e(tmp_path / "raw", [(clip, emotion, [(sheet, sheet + 30)])])
    assert (only("smic-hs", raw).onset, only("smic-hs", raw).notes) == (sheet, ())
    tiny.smic(raw, [(clip, short, sheet + 30, emotion)])
    assert (only("smic-hs", raw).onset, only("smic-hs", raw).notes) == (short, ())


def test_s9_sur_03_has_no_face_and_is_refused_unless_a_box_is_given(tmp_path):
    """A detector finds no face in the real clip: it is named, never cropped by guess."""
    import cv2
    import numpy as np

    raw = tiny.smic(tmp_path / "raw", [("s9_sur_03", 100, 120, "surprise")])
    flat = np.full((480, 640, 3), 90, np.uint8)
    for file in next(raw.rglob("s9_sur_03")).iterdir():
        cv2.imwrite(str(file), flat)

    def record(**options):
        ws = Workspace(tmp_path / f"work-{options.get('detector', 'dlib')}")
        return prepare_corpus(ws, get_corpus("smic-hs"), raw, PrepareConfig(jobs=1, **options)).records[0]

    refused = record()
    assert (refused.status, refused.clip) == ("refused", "s9_sur_03")
    assert "no face" in refused.reason
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("subject,clip,x,y,width,height\ns9,s9_sur_03,200,100,200,200\n")
    given = record(detector="given", detector_file=str(boxes))
    assert (given.status, given.box) == ("repaired", (200.0, 100.0, 200.0, 200.0))
    assert given.reason == "apex spotted at 110 among 2 frames by residual"


# --- DFME ------------------------------------------------------------------------------------------

PARTS = [
    ("train", "sub0003", "sub0003_01", 1, 40, 109, "disgust", 500),
    ("testA", "sub0007", "sub0007_02", 0, 20, 60, "surprise", 300),
    ("testB", "sub0001", "sub0001_01", 3, 9, 20, "contempt", 200),
]


def test_dfme_reads_three_sheets_with_split_and_frame_rate(tmp_path):
    found = clips("dfme", tiny.dfme(tmp_path / "raw", PARTS))
    assert [(c.split, c.id, c.fps) for c in found] == [
        ("train", "sub0003/sub0003_01", 500),
        ("testA", "sub0007/sub0007_02", 300),
        ("testB", "sub0001/sub0001_01", 200),
    ]  # fmt: skip
    assert [(c.label3, c.label7) for c in found] == [
        ("negative", "disgust"), ("surprise", "surprise"), ("negative", "contempt"),
    ]  # fmt: skip
    assert not any(c.problem or c.notes for c in found)
    assert found[0].frames == tmp_path / "raw" / "train_data" / "train_data" / "sub0003_01"


def test_dfme_sheets_may_be_given_as_a_folder_or_one_by_one(tmp_path):
    raw = tiny.dfme(tmp_path / "raw", PARTS)
    shutil.move(raw / "full_release_annotation", tmp_path / "sheets")
    assert len(clips("dfme", raw, sheet=tmp_path / "sheets")) == 3
    one = tmp_path / "sheets" / "full_release_annotation" / "testA_full_with_AU.xlsx"
    assert [c.split for c in clips("dfme", raw, sheet=one)] == ["testA"]
    with pytest.raises(UsageError, match="no such file"):
        clips("dfme", raw, sheet=tmp_path / "none")
    with pytest.raises(DataError, match="no annotation sheet"):
        clips("dfme", raw)


def test_a_dfme_sheet_whose_name_does_not_say_its_part_is_refused(tmp_path):
    raw = tiny.dfme(tmp_path / "raw", PARTS)
    sheet = raw / "full_release_annotation" / "full_release_annotation" / "training_full_with_AU.xlsx"
    (tmp_path / "given").mkdir()
    for given in ("neutral.xlsx", "given/all_full_with_AU.xlsx"):
        shutil.copy(sheet, tmp_path / given)
        place = tmp_path / given if given == "neutral.xlsx" else tmp_path / "given"
        with pytest.raises(DataError, match=r"xlsx does not say which part it is; call it train\.\.\., testA"):
            clips("dfme", raw, sheet=place)


def test_dfme_never_takes_frames_from_another_part(tmp_path):
    raw = tiny.dfme(tmp_path / "raw", PARTS)
    shutil.move(raw / "test_data_B" / "test_data_B" / "sub0001_01", raw / "train_data" / "train_data" / "sub0001_01")
    assert "no folder" in clips("dfme", raw)[2].problem


def test_dfme_without_the_rows_of_one_part_is_read_and_without_any_refused(tmp_path):
    assert [c.split for c in clips("dfme", tiny.dfme(tmp_path / "raw", PARTS[:1]))] == ["train"]
    with pytest.raises(DataError, match=r"no row in training_full_with_AU.xlsx, testA_full.*download"):
        clips("dfme", tiny.dfme(tmp_path / "none", []))


def test_dfme_emotion_and_its_number_must_agree(tmp_path):
    raw = tiny.dfme(tmp_path / "raw", PARTS)
    edit(raw / "full_release_annotation" / "full_release_annotation" / "training_full_with_AU.xlsx", {"G2": 4})
    assert "Emotion 'disgust' and EmotionId 4 contradict" in clips("dfme", raw)[0].problem


def test_dfme_without_a_frame_rate_is_usable_and_says_so(tmp_path):
    raw = tiny.dfme(tmp_path / "raw", PARTS)
    edit(raw / "full_release_annotation" / "full_release_annotation" / "training_full_with_AU.xlsx", {"H2": "fast"})
    clip = clips("dfme", raw)[0]
    assert (clip.fps, clip.problem, clip.notes) == (0, "", ("frame rate unknown: the cell holds 'fast'",))


def test_dfme_counts_of_the_paper(tmp_path):
    """1856/474/299 and the classes of MERba's Table II, on as many made-up clips: none is lost or doubled."""
    counts = {(c.part, c.emotion): c.clips for c in published_counts("dfme") if c.part and c.emotion}
    sizes = {p: sum(n for (part, _), n in counts.items() if part == p) for p in ("train", "testA", "testB")}
    assert sizes == {"train": 1856, "testA": 474, "testB": 299}
    number = itertools.count(1)
    rows = [(part, f"sub{(i := next(number)):04d}", f"sub{i:04d}_01", 0, 2, 4, emotion, 200)
            for (part, emotion), n in counts.items() for _ in range(n)]  # fmt: skip
    found = clips("dfme", tiny.dfme(tmp_path / "raw", rows, whole=False))
    assert Counter((c.split, c.label7) for c in found) == counts
    assert not any(c.problem for c in found)


# --- CAS(ME)^3, MMEW, 4DME -------------------------------------------------------------------------


def test_casme3_clips_of_one_video_have_names_of_their_own(tmp_path):
    rows = [
        ("spNO.1", "a", 112, 120, 130, "disgust"),
        ("spNO.1", "a", 300, 310, 320, "Others"),
        ("spNO.2", "a", 112, 115, 130, "sad"),
    ]
    found = clips("casme3", tiny.casme3(tmp_path / "raw", rows))
    assert [c.id for c in found] == ["spNO.1/a_112", "spNO.1/a_300", "spNO.2/a_112"]
    assert [c.emotion for c in found] == ["disgust", "others", "sadness"]
    assert found[0].frames == found[1].frames == tmp_path / "raw" / "part_A" / "spNO.1" / "a" / "color"
    assert not any(c.problem for c in found)


@pytest.mark.parametrize(
    ("row", "apex", "offset", "says"),
    [
        (("spNO.9", "b", 112, 83, 190, "fear"), None, 190, "apex 83 is outside"),
        (("spNO.9", "b", 112, 112, 190, "fear"), None, 190, "apex 112 is outside"),
        (("spNO.9", "b", 112, 140, 0, "fear"), 140, 140, "offset 0: the end is not coded"),
    ],
)
def test_casme3_odd_rows_are_repaired_and_say_so(tmp_path, row, apex, offset, says):
    clip = only("casme3", tiny.casme3(tmp_path / "raw", [row]))
    assert (clip.apex, clip.offset, clip.problem) == (apex, offset, "")
    assert says in clip.notes[0]


def test_casme3_onset_after_its_offset_is_refused_by_its_row(tmp_path):
    clip = only("casme3", tiny.casme3(tmp_path / "raw", [("spNO.9", "b", 3647, 2668, 2700, "fear")]))
    assert (clip.problem_kind, clip.id) == ("offset not after onset", "spNO.9/b_3647")


def test_an_old_xls_file_is_told_from_a_damaged_one(tmp_path):
    raw = tiny.casme3(tmp_path / "raw", [("spNO.9", "b", 1, 2, 3, "fear")])
    (raw / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    with pytest.raises(DataError, match=r"old \.xls file; open it and save it as \.xlsx"):
        clips("casme3", raw)


@pytest.mark.parametrize("by_subject", [False, True])
@pytest.mark.parametrize("subject", [3, "S03", "03"])
def test_mmew_lies_by_emotion_or_by_subject(tmp_path, by_subject, subject):
    raw = tiny.mmew(tmp_path / "raw", [(subject, "S03-01-002", 1, 20, 40, "happiness")], by_subject=by_subject)
    tiny.frames(raw / "MMEW_Final" / "Macro_Expression" / "happiness" / "S03-01-002", (1, 2), "{}.jpg")
    clip = only("mmew", raw)
    assert (clip.id, clip.fps, clip.label3, clip.problem) == ("S03/S03-01-002", 90, "positive", "")
    assert "Micro_Expression" in str(clip.frames)


@pytest.mark.parametrize(
    ("cell", "emotion", "label3"),
    [("Positive", "positive", "positive"), ("Negative + Repression", "negative+repression", "negative"),
     ("positive, surprise", "positive+surprise", ""), ("Others", "others", ""),
     ("Positive Surprise", "positive+surprise", ""), (" positive  SURPRISE ", "positive+surprise", ""),
     ("negative\nsurprise", "negative+surprise", ""), ("Negative AND Repression", "negative+repression", "negative")],
)  # fmt: skip
def test_4dme_several_emotions_have_a_label_where_they_agree(tmp_path, cell, emotion, label3):
    clip = only("4dme", tiny.fourdme(tmp_path / "raw", [("S13", "001_01_1", 5, 9, 20, cell)]))
    assert (clip.id, clip.emotion, clip.label3, clip.label7) == ("S13/001_01_1", emotion, label3, "")


@pytest.mark.parametrize("cell", ["sub12", 12, "12", "SUB12", "sub012", "S12"])
def test_4dme_a_subject_is_called_as_its_folder_however_the_sheet_spells_it(tmp_path, cell):
    raw = tiny.fourdme(tmp_path / "raw", [("sub12", "clip_0", 5, 9, 20, "Positive")])
    tiny.frames(raw / "gray_micro" / "sub112" / "clip_0", (5, 9, 20))
    edit(raw / "4DME_Labelling_Micro_release v1.xlsx", {"A2": cell})
    clip = only("4dme", raw)
    assert (clip.id, clip.problem, clip.frames.parent.name) == ("sub12/clip_0", "", "sub12")


def test_4dme_unknown_emotions_are_refused(tmp_path):
    clip = only("4dme", tiny.fourdme(tmp_path / "raw", [("S13", "001_01_1", 5, 9, 20, "Positive+bored")]))
    assert clip.problem_kind == "unknown emotion"


# --- what all share --------------------------------------------------------------------------------


def test_all_corpora_are_known_with_what_is_published_of_them():
    assert list_corpora()[: len(ALL)] == ALL
    known = {c["corpus"]: c for c in known_corpora()}
    published = {"casme2": (255, 26), "samm": (159, 29), "smic-hs": (164, 16), "smic-vis": (71, 8), "smic-nir": (71, 8),
                 "dfme": (2629, 259), "casme3": (860, 94), "mmew": (300, 30), "4dme": (267, None)}  # fmt: skip
    assert {c: (known[c]["clips"], known[c]["subjects"]) for c in ALL} == published
    assert all(known[c]["layout"] and known[c]["licence"] and known[c]["counts_from"] for c in ALL)
    assert "442 clips of 68 subjects: 250 negative, 109 positive, 83 surprise" in listing()


@pytest.mark.parametrize("corpus", ALL)
def test_published_class_counts_add_up_to_the_total(corpus):
    counts = published_counts(corpus)
    for part in {c.part for c in counts if c.emotion}:
        total = next((c.clips for c in counts if c.part == part and not c.emotion), None)
        total = total or next(c.clips for c in counts if not c.part and not c.emotion)
        assert sum(c.clips for c in counts if c.part == part and c.emotion) == total


@pytest.mark.parametrize("corpus", ALL)
def test_every_emotion_of_the_counts_and_corrections_has_a_label(corpus):
    known = set(get_corpus(corpus).labels())
    labels = {"negative", "positive", "surprise"}
    assert {c.emotion for c in published_counts(corpus) if c.emotion} <= known | labels
    for fixes in corrections(corpus).values():
        for fix in fixes:
            assert fix["field"] in ("onset", "apex", "offset", "emotion")
            assert fix["reason"]
            assert fix["source"]
            assert fix["new"] == "spot" or fix["new"].isdigit() or fix["new"] in known


def test_stray_files_and_folders_do_not_matter(tmp_path):
    raw = tiny.casme2(tmp_path / "raw", [("01", "EP02_01f", 46, 59, 86, "happiness")])
    folder = raw / "CASME2_RAW_selected" / "sub01" / "EP02_01f"
    for place in (folder, folder.parent, raw):
        (place / "Desktop - Shortcut.lnk").write_bytes(b"x")
        (place / ".DS_Store").write_bytes(b"x")
        (place / "Thumbs.db").write_bytes(b"x")
        tiny.frames(place / "__MACOSX" / "sub01" / "EP02_01f", (46,), "._img{}.jpg")
    clip = only("casme2", raw)
    assert (clip.frames, clip.problem, clip.notes) == (folder, "", ())


def test_letter_case_of_folders_does_not_matter(tmp_path):
    raw = tiny.samm(tmp_path / "raw", [ANGER])
    (raw / "SAMM").rename(raw / "samm")
    assert only("samm", raw).frames == raw / "samm" / "006" / "006_1_2"
    other = tiny.casme2(tmp_path / "other", [("01", "EP02_01F", 46, 59, 86, "happiness")])
    edit(other / "CASME2-coding-20140508.xlsx", {"B2": "ep02_01f"})
    assert only("casme2", other).frames == other / "CASME2_RAW_selected" / "sub01" / "EP02_01F"


@pytest.mark.parametrize("folder", ["sub1/EP02_01f", "01/EP02_01f", "1/EP2_1f", "SUB01/EP02_1F"])
def test_zero_padding_of_folders_does_not_matter(tmp_path, folder):
    raw = tiny.casme2(tmp_path / "raw", [("01", "EP02_01f", 46, 59, 86, "happiness")])
    shutil.move(raw / "CASME2_RAW_selected", tmp_path / "away")
    tiny.frames(raw / folder, (46, 59, 86))
    assert only("casme2", raw).frames == raw / folder


def test_padding_decides_where_two_names_differ_only_in_it(tmp_path):
    for name in ("EP01_1", "EP01_01"):
        tiny.frames(tmp_path / "sub01" / name, (1,))
    folders = FrameFolders(tmp_path)
    assert folders.find("sub01", "EP01_1") == tmp_path / "sub01" / "EP01_1"
    assert folders.find("sub01", "EP01_01") == tmp_path / "sub01" / "EP01_01"
    assert folders.find("sub01", "EP1_001") is None, "either could be meant"


def test_zeros_inside_and_at_the_end_of_a_number_are_kept():
    assert [loose(n) for n in ("s01_ne_10", "EP100_001", "0", "img000")] == ["s1_ne_10", "ep100_1", "0", "img0"]


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "jpeg", "png", "bmp"])
def test_frames_may_be_of_any_common_format(tmp_path, suffix):
    raw = tiny.casme2(tmp_path / "raw", [("01", "EP02_01f", 46, 59, 86, "happiness")])
    shutil.rmtree(raw / "CASME2_RAW_selected")
    tiny.frames(raw / "sub01" / "EP02_01f", (46, 59, 86), "reg_img{}." + suffix.lower())
    for file in (raw / "sub01" / "EP02_01f").iterdir():
        file.rename(file.with_suffix(f".{suffix}"))
    assert not only("casme2", raw).problem


@pytest.mark.parametrize("cell", ["/", "\\", "", None, "-", "NaN"])
def test_a_blank_apex_is_spotted_however_it_is_written(tmp_path, cell):
    raw = tiny.casme2(tmp_path / "raw", [("01", "EP02_01f", 46, 59, 86, "happiness")])
    edit(raw / "CASME2-coding-20140508.xlsx", {"E2": cell})
    clip = only("casme2", raw)
    assert (clip.apex, clip.problem) == (None, "")
    assert clip.notes


def test_the_lost_columns_of_a_sheet_are_named(tmp_path):
    raw = tiny.casme2(tmp_path / "raw", [("01", "EP02_01f", 46, 59, 86, "happiness")])
    edit(raw / "CASME2-coding-20140508.xlsx", {"E1": "the top"})
    with pytest.raises(DataError, match=r"\(the nearest lacks ApexFrame\)"):
        clips("casme2", raw)


def test_ids_of_all_corpora_together_never_collide(tmp_path):
    row = (5, 9, 20, "happiness")
    tiny.casme2(tmp_path / "casme2", [("06", "006_1_2", *row)])
    tiny.samm(tmp_path / "samm", [("006", "006_1_2", *row)])
    tiny.mmew(tmp_path / "mmew", [(6, "S06-01-001", *row)])
    tiny.smic(tmp_path / "smic-hs", [("s6_po_01", 5, 9, "positive")])
    tiny.smic(tmp_path / "smic-vis", [("s6_po_01", 5, 9, "positive")], camera="VIS")
    found = [
        c for corpus in ("casme2", "samm", "mmew", "smic-hs", "smic-vis") for c in clips(corpus, tmp_path / corpus)
    ]
    assert len({(c.corpus, c.subject, c.name) for c in found}) == 5
    assert not any(c.problem for c in found)


def casme2_row(*rows, raw):
    return tiny.casme2(raw, [("01", name, onset, 59, 86, "happiness") for name, onset in rows])


@pytest.mark.parametrize("name", ["raw", "data"])
def test_raw_frames_are_preferred_by_what_lies_below_raw_not_by_what_raw_is_called(tmp_path, name):
    """The README's own example is ./raw: with it every folder would be raw."""
    raw = casme2_row(("EP02_01f", 46), raw=tmp_path / name)
    shutil.copytree(raw / "CASME2_RAW_selected", raw / "A_Cropped")
    assert only("casme2", raw).frames == raw / "CASME2_RAW_selected" / "sub01" / "EP02_01f"


def test_an_empty_raw_folder_does_not_beat_filled_crops(tmp_path):
    raw = casme2_row(("EP02_01f", 46), raw=tmp_path / "x")
    shutil.move(raw / "CASME2_RAW_selected", raw / "Cropped")
    (raw / "CASME2_RAW_selected" / "sub01" / "EP02_01f").mkdir(parents=True)
    assert only("casme2", raw).frames == raw / "Cropped" / "sub01" / "EP02_01f"
    (raw / "CASME2_RAW_selected" / "sub01" / "EP02_01f" / "readme.txt").write_text("moved")
    assert only("casme2", raw).frames == raw / "Cropped" / "sub01" / "EP02_01f"


def test_of_two_equal_copies_the_first_by_path_is_taken_for_all_clips(tmp_path):
    raw = casme2_row(("EP02_01f", 46), ("EP03_02", 46), raw=tmp_path / "x")
    for top in ("B_RAW", "A_RAW", "a_RAW_2"):
        shutil.copytree(raw / "CASME2_RAW_selected", raw / top)
    assert {c.frames.parts[-3] for c in clips("casme2", raw)} == {"A_RAW"}


def test_links_to_folders_are_followed(tmp_path):
    """Corpora lie on a shared disk, and RAW is a folder of links."""
    store = casme2_row(("EP02_01f", 46), raw=tmp_path / "store")
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "frames").symlink_to(store / "CASME2_RAW_selected", target_is_directory=True)
    (raw / "sheets").symlink_to(store, target_is_directory=True)
    clip = only("casme2", raw)
    assert (clip.frames, clip.problem) == (raw / "frames" / "sub01" / "EP02_01f", "")


def test_links_that_lead_back_are_followed_to_each_folder_once(tmp_path):
    raw = casme2_row(("EP02_01f", 46), raw=tmp_path / "raw")
    folder = raw / "CASME2_RAW_selected" / "sub01"
    outside = tiny.frames(tmp_path / "outside" / "sub02" / "EP01_11f", (1,)).parent
    for place, target in (
        (raw / "a_self", raw), (folder / "up", folder.parent), (folder / "above", tmp_path), (raw / "disk", "/"),
        (raw / "again", folder), (raw / "sub02", outside), (raw / "z_sub02", outside), (outside / "back", outside),
        (outside / "home", raw), (raw / "dead", tmp_path / "none"),
    ):  # fmt: skip
        place.symlink_to(target, target_is_directory=True)
    assert FrameFolders(raw).all == [folder / "EP02_01f", raw / "sub02" / "EP01_11f"]


def test_two_rows_of_one_folder_are_not_two_clips(tmp_path):
    raw = casme2_row(("EP99_01", 46), raw=tmp_path / "x")
    tiny.sheet(raw / "CASME2-coding-20190701.xlsx", tiny.CASME2, [
        ("01", "EP99_1", None, 46, 59, 86, None, "4", "happiness"),
        ("01", "EP99_01", None, 47, 59, 86, None, "4", "disgust"),
    ])  # fmt: skip
    first, second = clips("casme2", raw)
    assert (first.problem, second.problem_kind) == ("", "duplicate clip")
    assert "row 3: its frames are those of sub01/EP99_1 of CASME2-coding-20190701.xlsx [Sheet1] row 2" in second.problem


def test_a_row_that_is_refused_takes_no_folder_from_a_sound_one(tmp_path):
    rows = [("007", "6_1_2", 5562, 5588, 5632, "Anger"), ANGER]
    raw = tiny.samm(tmp_path / "raw", rows)
    shutil.rmtree(raw / "SAMM" / "007")
    first, second = clips("samm", raw)
    assert first.frames == second.frames
    assert "does not belong to subject" in first.problem
    assert second.problem == ""


def test_a_video_of_casme3_may_hold_many_clips_but_none_twice(tmp_path):
    rows = [("spNO.1", "a", 112, 120, 130, "fear"), ("spNO.1", "A", 112, 121, 130, "fear"),
            ("spNO.1", "a", 300, 310, 320, "fear")]  # fmt: skip
    found = clips("casme3", tiny.casme3(tmp_path / "raw", rows))
    assert [c.problem_kind for c in found] == ["", "duplicate clip", ""]


@pytest.mark.parametrize(
    ("places", "named"),
    [(("sub1/EP02_01f", "sub001/EP02_01f"), "sub001/EP02_01f and sub1/EP02_01f may both be sub01/EP02_01f"),
     (("sub01/EP2_01f", "sub01/EP02_1f"), "sub01/EP02_1f and sub01/EP2_01f may both be sub01/EP02_01f")],
)  # fmt: skip
def test_two_paddings_of_one_name_are_ambiguous_and_both_named(tmp_path, places, named):
    raw = casme2_row(("EP02_01f", 46), raw=tmp_path / "x")
    shutil.rmtree(raw / "CASME2_RAW_selected")
    for place in places:
        tiny.frames(raw / place, (46, 59, 86))
    clip = only("casme2", raw)
    assert (clip.frames, clip.problem_kind) == (None, "clip folder absent")
    assert clip.problem == f"{named}: rename or remove one"


def test_the_newest_sheet_is_read_however_deep_it_lies(tmp_path):
    raw = casme2_row(("EP02_01f", 46), raw=tmp_path / "x")
    (raw / "a" / "b").mkdir(parents=True)
    shutil.copy(raw / "CASME2-coding-20140508.xlsx", raw / "a" / "b" / "CASME2-coding-20190701.xlsx")
    assert only("casme2", raw).where.startswith("CASME2-coding-20190701.xlsx")


@pytest.mark.parametrize("width", [1, 10, 12, 40])
def test_frames_of_any_padding_are_read_and_absurd_numbers_are_not(tmp_path, width):
    raw = casme2_row(("EP02_01f", 46), raw=tmp_path / "x")
    folder = raw / "CASME2_RAW_selected" / "sub01" / "EP02_01f"
    for file in folder.iterdir():
        file.rename(folder / f"img{int(file.stem[3:]):0{width}d}.jpg")
    tiny.frames(folder, (20140508123456, 10**9), "img{}.jpg")
    assert FrameFolder(only("casme2", raw).frames).numbers == [46, 59, 86]


def test_an_old_xls_file_where_an_xlsx_is_wanted_is_named(tmp_path):
    raw = casme2_row(("EP02_01f", 46), raw=tmp_path / "x")
    (raw / "CASME2-coding-20140508.xlsx").rename(raw / "CASME2-coding-20140508.xls")
    with pytest.raises(DataError, match=r"coding-20140508\.xls is an old \.xls file; open it and save it as \.xlsx"):
        clips("casme2", raw)


def test_a_worksheet_of_headings_alone_does_not_hide_the_full_one(tmp_path):
    raw = casme2_row(("EP02_01f", 46), raw=tmp_path / "x")
    path = raw / "CASME2-coding-20140508.xlsx"
    book = openpyxl.load_workbook(path)
    book.create_sheet("Summary", 0).append([c.value for c in book["Sheet1"][1]])
    book.save(path)
    assert only("casme2", raw).where == "CASME2-coding-20140508.xlsx [Sheet1] row 2"
    del book["Sheet1"]
    book.save(path)
    with pytest.raises(DataError, match="has a header but no rows"):
        clips("casme2", raw)


def test_a_folder_given_as_the_sheet_is_looked_through(tmp_path):
    raw = casme2_row(("EP02_01f", 46), raw=tmp_path / "x")
    (tmp_path / "sheets" / "deep").mkdir(parents=True)
    shutil.move(raw / "CASME2-coding-20140508.xlsx", tmp_path / "sheets" / "deep")
    assert only("casme2", raw, sheet=tmp_path / "sheets").problem == ""
    with pytest.raises(DataError, match=f"no annotation sheet in {re.escape(str(raw))}"):
        clips("casme2", raw, sheet=raw)


def test_a_dry_run_sees_what_the_folders_hold(tmp_path):
    raw = casme2_row(("EP02_01f", 46), ("EP03_02", 46), ("EP04_01", 46), ("EP05_01", 46), raw=tmp_path / "x")
    top = raw / "CASME2_RAW_selected" / "sub01"
    for file in (top / "EP03_02").iterdir():
        file.unlink()
    (top / "EP04_01" / "img86.jpg").unlink()
    (top / "EP05_01" / "img46.jpg").rename(top / "EP05_01" / "img45.jpg")
    done = prepare_corpus(Workspace(tmp_path / "work"), get_corpus("casme2"), raw, PrepareConfig(dry_run=True))
    assert [r.status for r in done.records] == ["ok", "refused", "refused", "repaired"]
    assert "holds no numbered image" in done.records[1].reason
    assert "offset frame 86 is absent" in done.records[2].reason


@pytest.mark.parametrize(
    ("subject", "clip", "frames"),
    [("05", "EP16_04f", (141, 181, 181)), ("12", "EP09_06", (66, 111, 111)), ("20", "EP16_01", (71, 111, 111)),
     ("25", "EP18_04f", (76, 116, 116))],
)  # fmt: skip
def test_the_four_clips_of_casme2_whose_apex_is_the_offset_are_left_alone(tmp_path, subject, clip, frames):
    found = only("casme2", tiny.casme2(tmp_path / "raw", [(subject, clip, *frames, "disgust")]))
    assert (found.onset, found.apex, found.offset) == frames
    assert (found.problem, found.notes, found.apex_source) == ("", (), "annotated")


def test_the_four_are_those_of_the_real_table(real_data):
    rows = tiny.rows_of(real_data / "slstt_casme2_coding.csv")
    equal = {(int(r["Subject"]), r["Filename"]) for r in rows if r["ApexFrame"] == r["OffsetFrame"]}
    assert equal == {(5, "EP16_04f"), (12, "EP09_06"), (20, "EP16_01"), (25, "EP18_04f")}


# --- the real tables -------------------------------------------------------------------------------


def test_the_real_samm_table_gives_the_published_classes(tmp_path, real_data):
    real = tiny.rows_of(real_data / "slstt_samm_coding.csv")
    numbers = ("OnsetFrame", "ApexFrame", "OffsetFrame")
    rows = [(r["Subject"], r["Filename"], *(int(r[n]) for n in numbers), r["Emotion"]) for r in real]
    found = clips("samm", tiny.samm(tmp_path / "raw", rows))
    assert not any(c.problem for c in found)
    published = {c.emotion: c.clips for c in published_counts("samm") if c.emotion and not c.part}
    assert Counter(c.emotion for c in found) == published
    assert len({c.subject for c in found}) == 29


def test_the_real_smic_table_gives_all_164_clips(tmp_path, real_data):
    real = tiny.rows_of(real_data / "slstt_smic_coding.csv")
    raw = tiny.smic(
        tmp_path / "raw", [(r["Filename"], int(r["OnsetFrame"]), int(r["OffsetFrame"]), r["Emotion"]) for r in real]
    )
    found = clips("smic-hs", raw)
    assert {(c.name, c.onset, c.offset, c.label3) for c in found} == {
        (r["Filename"], int(r["OnsetFrame"]), int(r["OffsetFrame"]), r["Emotion"]) for r in real
    }
    assert len(found) == 164
    assert len({c.subject for c in found}) == 16


# --- action units ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "units", "rest"),
    [
        ("4", ["4"], ()),
        ("4+7+L10", ["4", "7", "L10"], ()),
        ("R6+R12", ["R6", "R12"], ()),
        ("12C", ["12C"], ()),
        ("10A/B", ["10A/B"], ()),
        ("L12 or L14", [], ("L12 or L14",)),
        ("(R6 or R12)+R15", ["R15"], ("(R6 or R12)",)),
        ("ref(7B)+43", ["43"], ("ref(7B)",)),
        ("R14+17+soft focus", ["R14", "17"], ("soft focus",)),
        ("T23+A7B", [], ("T23", "A7B")),
        ("12+15 ", ["12", "15"], ()),
        ("AU12+AU7(k)", ["12"], ("AU7(k)",)),
        ("AD31+M57+l10b", ["31", "57", "L10B"], ()),
        ("?", [], ("?",)),
        ("", [], ()),
        ("/", [], ()),
    ],
)
def test_action_units_are_read_and_the_rest_is_kept_to_the_letter(text, units, rest):
    read = parse_aus(text)
    assert ([str(u) for u in read.units], read.rest) == (units, rest)


def test_a_unit_tells_side_number_and_intensity():
    assert parse_aus("L12B").units == (Unit("L", 12, "B"),)


def test_a_clip_gives_its_units_and_keeps_its_cell(tmp_path):
    raw = tiny.samm(tmp_path / "raw", [ANGER])
    edit(raw / "SAMM_Micro_FACS_Codes_v2.xlsx", {"I15": "(R6 or R12)+R15"})
    clip = only("samm", raw)
    assert clip.aus == "(R6 or R12)+R15"
    assert clip.action_units.units == (Unit("R", 15),)


# --- corpora of other packages ---------------------------------------------------------------------

ADDING = Path(__file__).parents[1] / "docs" / "corpora" / "adding.md"


def worked_example() -> str:
    """The module that docs/corpora/adding.md shows."""
    return re.search(r"```python\n(.*?)```", ADDING.read_text("utf-8"), re.DOTALL)[1]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a package with one entry point; its corpus is gone again after the test."""
    monkeypatch.setattr(CORPORA, "_things", dict(CORPORA._things))
    monkeypatch.setattr("mepipe.datasets._broken", {})
    place = tmp_path / "site"

    def install(code: str) -> None:
        info = place / "my_corpora-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-corpora\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[mepipe.corpora]\nmine = my_corpora_of_a_test\n")
        (place / "my_corpora_of_a_test.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(place)
        monkeypatch.delitem(sys.modules, "my_corpora_of_a_test", raising=False)

    return install


def test_a_package_adds_a_corpus_through_its_entry_point(plugin, tmp_path):
    plugin(worked_example())
    assert list_corpora()[-1] == "mine"
    raw = tmp_path / "raw"
    tiny.frames(raw / "clips" / "p1" / "c1", (1, 5, 9), "{:04d}.png")
    (raw / "mine.csv").write_text("Subject,Filename,Onset,Apex,Offset,Emotion\np1,c1,1,5,9,Joy\n")
    clip = only("mine", raw)
    assert (clip.id, clip.apex, clip.label3, clip.label7, clip.problem) == ("p1/c1", 5, "positive", "happiness", "")
    assert "My corpus: 12 clips of 3 subjects, 120 fps" in listing()


def test_a_plugin_that_does_not_load_is_named_once_and_stops_nobody_else(plugin, tmp_path, capsys):
    plugin("raise RuntimeError('no licence file')")
    assert list_corpora()[: len(ALL)] == ALL
    assert "mine" not in list_corpora()
    says = "plug-in mine (my_corpora_of_a_test) cannot be loaded: RuntimeError: no licence file"
    assert capsys.readouterr().err == f"warning: the corpus {says}; it is left out\n"
    assert only("casme2", tiny.casme2(tmp_path / "raw", [("01", "EP02_01f", 46, 59, 86, "happiness")])).problem == ""
    assert capsys.readouterr().err == ""
    with pytest.raises(MepipeError, match=re.escape(says)):
        get_corpus("mine")


def test_what_a_plugin_raises_while_reading_is_told_as_its_own(plugin, tmp_path):
    plugin(worked_example().replace("for row in", "raise KeyError('p1')\n        for row in"))
    says = r"plug-in mine \(my_corpora_of_a_test\) failed while reading .*KeyError: 'p1'"
    with pytest.raises(MepipeError, match=says):
        clips("mine", tmp_path)


def test_a_plugin_whose_counts_fail_is_named(plugin):
    plugin(worked_example().replace("return [Count(", "return [1 / 0, Count("))
    with pytest.raises(MepipeError, match=r"plug-in mine .* failed while listing its counts: ZeroDivisionError"):
        listing()


def edit(path, cells: dict[str, object]) -> None:
    book = openpyxl.load_workbook(path)
    for place, value in cells.items():
        book.worksheets[0][place] = value
    book.save(path)
