"""What the page of a corpus is made of: packed clips, outliers, counts."""

from __future__ import annotations

import base64
import json

import cv2
import numpy as np
import pytest
from test_report import crop, smooth_flow

from mepipe.clipfiles import write_source
from mepipe.clipwork import Record
from mepipe.errors import UsageError
from mepipe.faces.align import mean_face
from mepipe.report import report_corpus
from mepipe.report.corpus import ranked
from mepipe.report.counting import count_rows
from mepipe.report.outliers import CHECKS, flags, usual_widths
from mepipe.report.packing import SIDES, Measures, Packed, Packer, Source, chosen_side, measured, pack_clips
from mepipe.shards import Sample, write_shard
from mepipe.workspace import Workspace, write_json

CLIPS = 5
MATRIX = [[0.5, 0.1, 10.0], [-0.1, 0.5, 20.0]]


@pytest.fixture
def ws(tmp_path) -> Workspace:
    """Five clips of one subject: crops, clip.json, flow."""
    ws = Workspace(tmp_path)
    samples = [Sample("samm", "006", f"c{i}", label3="negative", onset=1, apex=4, offset=9) for i in range(CLIPS)]
    for n, s in enumerate(samples):
        folder = ws.prepared("samm") / s.subject / s.clip
        folder.mkdir(parents=True)
        for frame in range(1, 10):
            cv2.imwrite(str(folder / f"{frame}.png"), np.roll(crop(n), frame if frame < 5 else 9 - frame, axis=1))
        points = (mean_face() - [10.0, 20.0]) @ np.linalg.inv(np.array(MATRIX)[:, :2]).T
        record = {"box": (50.0, 60.0, 300.0, 300.0)}
        write_json(
            folder / "clip.json", {"record": record, "files": [], "matrix": MATRIX, "landmarks": points.tolist()}
        )
    flows = (smooth_flow(i) for i in range(CLIPS))
    write_shard(ws.flow / "samm-00000.h5", samples, flows, engine="opencv", parameters={}, versions={})
    return ws


def sources(**changes) -> list[Source]:
    return [Source(**{"corpus": "samm", "subject": "006", "clip": f"c{i}", "onset": 1, "apex": 4, "curve": "residual"}
                   | changes) for i in range(CLIPS)]  # fmt: skip


def picture(uri: str) -> np.ndarray:
    head, data = uri.split(",")
    assert head == "data:image/webp;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


def test_a_packed_clip_has_its_crops_close_to_the_stored_ones(ws):
    view = pack_clips(ws, sources())[0].view
    stored = cv2.imread(str(ws.prepared("samm") / "006" / "c0" / "1.png"))
    assert np.abs(picture(view["onset"]).astype(int) - stored).mean() < 4
    assert picture(view["flow"]).shape == (224, 224, 3)


def test_landmarks_and_box_go_through_the_clips_transform(ws):
    view = pack_clips(ws, sources())[0].view
    assert np.allclose(view["points"], mean_face(), atol=0.06)
    corner = np.array(MATRIX) @ [50.0, 60.0, 1.0]
    assert np.allclose(view["box"][0], corner, atol=0.06)
    back = np.array(MATRIX) @ [*view["place"][2], 1.0]
    assert np.allclose(back, [224, 224], atol=0.1)


def test_arrows_are_the_mean_flow_of_their_cells_to_the_stated_step(ws):
    view = pack_clips(ws, sources())[2].view
    steps = np.frombuffer(base64.b64decode(view["arrows"]), np.int8).reshape(2, 16, 16)
    means = smooth_flow(2)[:2].reshape(2, 16, 14, 16, 14).mean(axis=(2, 4))
    assert np.abs(steps * view["unit"] - means).max() <= view["unit"] / 2 + 1e-6


def test_the_curve_is_the_spotters_own_over_all_frames(ws):
    from mepipe import apex

    curve = pack_clips(ws, sources())[0].view["curve"]
    grey = np.stack([cv2.imread(str(ws.prepared("samm") / "006" / "c0" / f"{n}.png"), 0) for n in range(1, 10)])
    values = apex.curve(grey, "residual")
    assert curve["frames"] == list(range(1, 10))
    assert np.argmax(curve["values"]) == np.argmax(values)
    assert (min(curve["values"]), max(curve["values"])) == (0.0, 1.0)


def test_a_spotter_without_a_curve_gives_none(ws):
    view = pack_clips(ws, sources(curve="midpoint", spotted=True))[0].view
    assert "curve" not in view
    assert "midpoint" in view["uncurved"]


def keep_two_frames(ws, clip: str, **facts) -> None:
    """As ``prepare --frames onset-apex`` leaves a clip; ``facts`` go into its clip.json."""
    folder = ws.prepared("samm") / "006" / clip
    for frame in set(range(1, 10)) - {1, 4}:
        (folder / f"{frame}.png").unlink()
    write_json(folder / "clip.json", json.loads((folder / "clip.json").read_text()) | facts)


def test_the_curve_that_prepare_kept_is_drawn_without_the_frames(ws):
    keep_two_frames(ws, "c0", curve={"method": "upc", "frames": [1, 3, 4, 9], "values": [1.0, 2.0, 5.0, 3.0]})
    curve = pack_clips(ws, sources(curve="upc", spotted=True))[0].view["curve"]
    assert curve == {"method": "upc", "frames": [1, 3, 4, 9], "values": [0.0, 0.25, 1.0, 0.5], "chose": True}


@pytest.mark.parametrize(
    ("facts", "source", "why"),
    [
        ({}, {"spotted": False}, "the apex is annotated"),
        ({}, {"spotted": True}, "by a mepipe that kept none"),
        ({"curve": None}, {"spotted": True}, "had no choice"),
    ],
)
def test_why_there_is_no_curve_is_said(ws, facts, source, why):
    keep_two_frames(ws, "c0", **facts)
    view = pack_clips(ws, sources(**source))[0].view
    assert "curve" not in view
    assert why in view["uncurved"]


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"curve": {"method": "upc", "frames": [1, 2], "values": [1.0]}}, "no apex curve"),
        ({"curve": [1]}, "no apex curve"),
        ({"files": ["source.jpg"]}, "no source frame"),
        ({"files": ["source.jpg"], "size": "large"}, "no source frame"),
        ({"files": 3}, "no source frame"),
    ],
)
def test_facts_that_cannot_be_are_a_note(ws, facts, what):
    keep_two_frames(ws, "c0", **facts)
    packed = pack_clips(ws, sources(curve="upc", spotted=True))[0]
    assert [n.split(":")[0] for n in packed.notes] == [what]
    assert {"onset", "apex", "flow"} <= packed.view.keys()


def test_the_source_frame_keeps_its_shape_and_its_size_in_px(ws):
    folder = ws.prepared("samm") / "006" / "c0"
    image = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)  # soft, as photographs are
    image = cv2.resize(image, (960, 650), interpolation=cv2.INTER_CUBIC)
    name = write_source(folder, image)
    keep_two_frames(ws, "c0", files=[name], size=[960, 650])
    view = pack_clips(ws, sources(curve=None))[0].view
    assert view["size"] == [960, 650]
    small = picture(view["source"])
    assert small.shape[1] == SIDES[0][0]
    assert small.shape[0] / small.shape[1] == pytest.approx(650 / 960, rel=0.01)
    expected = cv2.resize(image, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - expected).mean() < 8


def test_what_is_gone_is_a_note_and_never_an_error(ws):
    folder = ws.prepared("samm") / "006" / "c1"
    (folder / "1.png").unlink()
    (folder / "clip.json").write_text("{")
    packed = pack_clips(ws, sources())[1]
    assert "onset" not in packed.view
    assert {"apex", "flow"} <= packed.view.keys()
    assert [n.split(":")[0] for n in packed.notes] == ["no onset crop", "no landmarks and no face box"]


def test_without_shards_the_crops_are_still_shown(ws):
    (ws.flow / "samm-00000.h5").unlink()
    packed = pack_clips(ws, sources())
    assert all("onset" in p.view and "flow" not in p.view for p in packed)
    assert packed[0].notes == ("the flow shards of samm are not in the workspace",)


def test_pictures_shrink_until_all_clips_fit(ws):
    one = Packer(ws.root, ["samm"], *SIDES[0]).pack(sources()[0]).bytes
    assert chosen_side(ws, sources(), ["samm"], budget=1e9) == SIDES[0]
    assert chosen_side(ws, sources() * 100, ["samm"], budget=one * 300)[0] < SIDES[0][0]
    assert sum(p.bytes for p in pack_clips(ws, sources(curve=None) * 8, budget=one * 16)) < one * 17


def test_packing_tells_its_progress_and_keeps_the_order(ws):
    told = []
    packed = pack_clips(ws, sources(), progress=lambda done, total: told.append((done, total)))
    assert told == [(i + 1, CLIPS) for i in range(CLIPS)]
    assert [p.view["name"] for p in packed] == [f"samm 006/c{i}" for i in range(CLIPS)]


# --- measures and outliers ---------------------------------------------------------------------------


def flow_of(u: float = 0.0, v: float = 0.0) -> np.ndarray:
    return np.stack([np.full((224, 224), u), np.full((224, 224), v)]).astype(np.float32)


def test_head_motion_is_the_length_of_the_median_motion():
    flow = flow_of(0.6, -0.8)
    flow[0, 100:120, 100:120] = 9.0
    m = measured(flow)
    assert m.head == pytest.approx(1.0)
    assert m.length == pytest.approx(np.hypot(9, 0.8), rel=0.01)


def test_border_and_inside_are_measured_apart():
    flow = flow_of()
    flow[1, :8] = 3.0
    flow[0, 50:80, 50:80] = 1.0
    m = measured(flow)
    assert m.border == pytest.approx(3.0)
    assert m.inner == pytest.approx(1.0)


def test_flow_that_is_not_finite_counts_as_none():
    flow = flow_of(0.2)
    flow[0, 0, 0] = np.nan
    assert measured(flow).head == pytest.approx(0.2)


def found(measures: Measures = Measures(1.0, 0.1, 0.1, 1.0, 1.0), **about) -> list[str]:  # noqa: B008 - frozen
    usual = {"status": "ok", "score": 1.0, "detector": "dlib", "width": 200.0, "usual": 200.0}
    return [f.name for f in flags(measures, **usual | about)]


def test_an_ordinary_clip_has_no_flag():
    assert found() == []


@pytest.mark.parametrize(
    ("measures", "about", "flag"),
    [
        (Measures(), {"status": "refused"}, "refused"),
        (Measures(1.0, 0.1, 0.1, 1.0, scale=2.5), {}, "tiny face"),
        (Measures(1.0, 0.1, 0.1, 1.0, 1.0), {"width": 90.0}, "odd face size"),
        (Measures(1.0, 0.1, 0.1, 1.0, 1.0), {"score": 0.02}, "low score"),
        (Measures(0.04, 0.01, 0.03, 0.04, 1.0), {}, "zero flow"),
        (Measures(25.0, 0.1, 0.1, 25.0, 1.0), {}, "far motion"),
        (Measures(1.8, 1.4, 1.5, 1.8, 1.0), {}, "head motion"),
        (Measures(1.0, 0.1, 2.0, 1.0, 1.0), {}, "border motion"),
    ],
)
def test_each_check_finds_what_it_is_for(measures, about, flag):
    assert found(measures, **about) == [flag]
    assert flag in CHECKS


def test_scores_of_detectors_with_another_scale_are_not_judged():
    assert found(score=0.02, detector="yunet") == []


def test_usual_sizes_need_a_few_clips():
    boxes = [("a", 100.0)] * 3 + [("a", 300.0), ("b", 50.0)]
    assert usual_widths(boxes) == {"a": 100.0}


def record(n: int, **changes) -> Record:
    facts = {"corpus": "samm", "subject": "006", "clip": f"c{n}", "onset": 1, "apex": 4, "offset": 9, "fps": 200.0,
             "emotion": "anger", "label3": "negative", "label7": "", "split": "", "apex_source": "annotated",
             "status": "ok", "reason": "", "detector": "dlib", "score": 1.0,
             "box": (0.0, 0.0, 200.0, 200.0)}  # fmt: skip
    return Record(**facts | changes)


def test_outliers_come_first_refused_before_all_and_the_rest_keep_their_order():
    usual = Measures(1.0, 0.1, 0.1, 1.0, 1.0)
    records = [record(0), record(1), record(2, status="refused", box=(), score=None), record(3), record(4)]
    packed = [Packed({}, m) for m in (usual, Measures(2, 1.5, 1, 2, 1), Measures(), Measures(3, 2.5, 1, 3, 1), usual)]
    assert [row.record.clip for row in ranked(records, packed)] == ["c2", "c3", "c1", "c0", "c4"]


# --- counts ------------------------------------------------------------------------------------------


def test_published_counts_stand_beside_ours_with_what_is_usable():
    records = [record(i) for i in range(3)] + [record(3, status="refused"), record(4, emotion="fear", subject="007")]
    rows = {(r.where, r.what): (r.published, r.here, r.usable) for r in count_rows("samm", records)}
    assert rows["whole corpus", "clips"] == (159, 5, 4)
    assert rows["whole corpus", "subjects"] == (29, 2, None)
    assert rows["whole corpus", "anger"] == (57, 4, 3)
    assert rows["whole corpus", "fear"] == (8, 1, 1)
    assert rows["its part of 3db", "clips"] == (133, 0, 0)


def test_members_of_a_composite_are_counted_by_its_list_and_not_by_the_sheet():
    from mepipe.datasets.composite import members

    member = next(m for m in members("3db") if m.corpus == "samm" and m.label3 == "surprise")
    records = [record(0, subject=member.subject, clip=member.clip, emotion="happiness", label3="positive")]
    rows = {(r.where, r.what): r.here for r in count_rows("samm", records)}
    assert rows["its part of 3db", "surprise"] == 1
    assert rows["its part of 3db", "positive"] == 0


def test_the_edition_of_the_sheet_that_fits_best_is_shown_alone():
    numbers = {"others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25, "sadness": 7, "fear": 2}
    emotions = [e for e, n in numbers.items() for _ in range(n)]
    records = [record(i, corpus="casme2", emotion=e) for i, e in enumerate(emotions)]
    rows = [r for r in count_rows("casme2", records) if r.part.isdigit()]
    assert {r.part for r in rows} == {"20140508"}
    assert all(r.same for r in rows)


def test_a_corpus_without_published_counts_has_no_rows():
    assert count_rows("nowhere", [record(0)]) == []


def test_a_corpus_that_is_not_prepared_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="not prepared"):
        report_corpus(Workspace(tmp_path), "samm")


def test_the_page_says_where_curves_come_from_when_there_are_none(own):
    ws = Workspace(own.work)
    page = report_corpus(ws, "casme2").read_text("utf-8")
    assert "no apex curve of 9 of 9 clips" in page
    blocks = page.count('<script type="application/json" data-clip=')
    assert blocks == 9
    saved = json.loads((ws.prepared("casme2") / "prepare.json").read_text())
    assert saved["detector"] in page
