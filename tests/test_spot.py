"""Spotting: the rule, the parts, a made-up video of some seconds from file to page, and what bad videos are told.

The F1 of whole minutes is measured by benchmarks/spot.py.
"""

from __future__ import annotations

import csv
import json
import time
from itertools import pairwise

import cv2
import numpy as np
import pytest

from mepipe.errors import DataError, UsageError
from mepipe.settings import TrainConfig
from mepipe.spot import Score, SpotConfig, Truth, read_truth, score, spot
from mepipe.spot.detect import bump, candidates, clean, lag_of, shape, spans, without_blinks, without_head
from mepipe.spot.motion import Motion, centres, near_eyes, part_of, seen
from mepipe.spot.reading import SteadyClock, ahead, frame_rate, open_source
from mepipe.spot.run import CORE, MARGIN, _Collector
from mepipe.spot.scoring import iou
from mepipe.spot.tracking import HALF, FaceTracker, Tracked
from mepipe.synth.video import LongVideo, make_video

FPS = 100


@pytest.fixture(scope="module")
def made_video(tmp_path_factory):
    """Seven seconds, 320 px wide, two micro-expressions, a blink, a sway. Read only."""
    return make_video(tmp_path_factory.mktemp("video") / "long.avi", seconds=7, fps=FPS, seed=5, expressions=2,
                      width=320, jobs=1)  # fmt: skip


@pytest.fixture(scope="module")
def spotted(made_video):
    cv2.setNumThreads(1)
    return spot(made_video.path).against(read_truth(made_video.truth))


def error_of(done) -> str:
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return line


# --- the rule ----------------------------------------------------------------------------------------


def test_iou_counts_both_ends_as_frames():
    assert iou((10, 19), (10, 19)) == 1
    assert iou((10, 19), (15, 24)) == pytest.approx(5 / 15)
    assert iou((10, 19), (20, 29)) == 0


def test_half_an_overlap_counts_and_a_little_less_does_not():
    assert score([(0, 9)], [(0, 19)]).tp == 1
    assert score([(0, 9)], [(0, 20)]).tp == 0


def test_an_interval_is_counted_once():
    twice = score([(0, 9), (0, 9)], [(0, 9)])
    assert (twice.tp, twice.fp, twice.fn) == (1, 1, 0)
    assert twice.f1 == pytest.approx(2 / 3)
    once = score([(0, 19)], [(0, 19), (0, 9)])
    assert (once.tp, once.fp, once.fn) == (1, 0, 1)


def test_pairs_are_made_so_that_as_many_as_can_be_match():
    """The first found overlaps both true ones, the second only the first: greedy pairing would lose one."""
    found, true = [(0, 15), (0, 8)], [(0, 11), (5, 15)]
    assert iou(found[0], true[0]) > iou(found[0], true[1]) >= 0.5
    assert score(found, true).tp == 2


def test_scores_of_videos_are_pooled_not_averaged():
    pooled = Score(10, 0, 0) + Score(0, 0, 10)
    assert pooled.f1 == pytest.approx(2 / 3)
    assert Score(0, 0, 0).f1 == 0


def test_truth_is_read_by_column_and_only_for_its_video(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("Offset_Frame,Onset_Frame,video,kind\n30,10,a.avi,micro\n50,40,b.avi,micro\n90,60,a.avi,blink\n")
    assert read_truth(path, "a.avi") == [Truth(10, 30), Truth(60, 90, "blink")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("onset,apex\n1,2\n", "row 2 has no offset"),
        ("onset,offset\n5,x\n", "row 2: offset is 'x'"),
        ("onset,offset\n5,3\n", "offset 3 is before onset 5"),
        ("onset,offset\n", "has no row"),
    ],
)
def test_a_wrong_truth_file_is_named_with_its_row(tmp_path, text, says):
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        read_truth(path)


# --- parts -------------------------------------------------------------------------------------------


def signals(events, length=500, blink=None, seed=0):
    """Motion of noise and of ``events`` (onset, offset, patches, strength); blink: (frame, patches, strength)."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(0, 1, (length, len(centres()), 2)).astype(np.float32)
    eyes = 0.01 * rng.random((length, 2))
    for onset, offset, where, strength in events:
        hill = np.sin(np.pi * np.linspace(0, 1, offset - onset + 1))
        patches[onset : offset + 1, where, 0] += strength * hill[:, None]
    if blink:
        frame, where, strength = blink
        hill = np.sin(np.pi * np.linspace(0, 1, 25))
        patches[frame : frame + 25, where, 1] += strength * hill[:, None]
        eyes[frame : frame + 25] += 0.6 * hill[:, None]
    return Motion(patches, eyes, np.zeros((length, 6)))


MOUTH = (np.abs(centres() - (112, 152)) < (45, 20)).all(1)


def found_in(motion, config=None):
    config = config or SpotConfig()
    return sorted(candidates(clean(motion, FPS, config), FPS, config), key=lambda c: -c.score)


def test_a_bump_of_its_length_is_found_where_it_is():
    best = found_in(signals([(200, 235, MOUTH, 40)]))[0]
    assert best.verdict == "micro"
    assert best.part == "mouth"
    assert iou((best.onset, best.offset), (200, 235)) > 0.7
    assert abs(best.apex - 217) <= 3


def test_noise_alone_has_no_candidate():
    assert found_in(signals([], seed=3)) == []


def test_what_lasts_too_long_or_does_not_come_back_is_held_back():
    long = found_in(signals([(100, 300, MOUTH, 200)], 600))
    assert all(c.verdict != "micro" for c in long)
    step = signals([], 500)
    step.patches[250:, MOUTH, 0] += 60
    assert {c.verdict for c in found_in(step)} <= {"step", "too long", "too short"}


def test_a_blink_that_pulls_at_the_skin_is_none_and_hides_none():
    """The blink alone gives nothing; an expression that overlaps it is still found."""
    alone = found_in(signals([], blink=(300, near_eyes(), 80)))
    assert [c for c in alone if c.verdict == "micro"] == []
    both = found_in(signals([(290, 325, MOUTH, 40)], blink=(300, near_eyes(), 80)))
    micro = [c for c in both if c.verdict == "micro"]
    assert len(micro) == 1
    assert iou((micro[0].onset, micro[0].offset), (290, 325)) > 0.5


def test_without_the_eyes_signal_the_same_motion_would_have_been_taken():
    """The suppression rests on the eyes, not on the pattern being near them."""
    motion = signals([], blink=(300, near_eyes(), 80))
    blind = Motion(motion.patches, np.zeros_like(motion.eyes), motion.poses)
    assert found_in(blind)[0].verdict == "micro"


def test_the_pattern_of_a_blink_is_taken_out_without_a_step():
    motion = signals([], blink=(200, near_eyes(), 80))
    shut = motion.eyes.min(1) > 0.12
    blink = np.convolve(shut, np.ones(21), "same") > 0
    left = without_blinks(motion.patches, blink, shut)
    assert np.abs(left[:, near_eyes(), 1].mean(1)).max() < 0.1 * np.abs(motion.patches[:, near_eyes(), 1].mean(1)).max()


def test_what_follows_the_head_is_taken_out_and_what_does_not_stays():
    motion, lag = signals([(350, 385, MOUTH, 40)]), 30
    pose = np.zeros((500, 6), np.float32)
    pose[100:140, 0] = 4 * np.sin(np.pi * np.linspace(0, 1, 40))
    parallax = motion.patches + 20 * pose[:, :1, None]
    left = without_head(parallax, pose, lag)
    assert np.abs(left[100:140].mean((1, 2))).max() < 0.1 * np.abs(parallax[100:140].mean((1, 2))).max()
    assert left[367, MOUTH, 0].mean() > 0.9 * motion.patches[367, MOUTH, 0].mean()


def test_a_bump_ignores_what_stays_and_what_drifts():
    ramp = np.linspace(0, 50, 200)[:, None]
    assert np.abs(bump(ramp, 30)[30:-30]).max() < 1e-9
    hill = np.zeros((200, 1))
    hill[100] = 1
    assert bump(hill, 30)[100, 0] == 1


def test_a_hill_ends_where_its_slope_does_although_the_ground_drifts():
    course = np.zeros(200)
    course[80:121] = np.sin(np.pi * np.linspace(0, 1, 41))
    course += np.linspace(0, 0.5, 200)
    onset, apex, offset, rise, fall = shape(course, 100, 30)
    assert abs(apex - 101) <= 2
    assert iou((onset, offset), (80, 120)) > 0.6
    assert rise > fall > 0


def test_spans_are_inclusive_and_reach_the_ends():
    assert spans(np.array([True, False, True, True, False, True])) == [(0, 0), (2, 3), (5, 5)]
    assert spans(np.zeros(3, bool)) == []


def test_patches_lie_on_the_face_and_have_a_part():
    assert seen().sum() == len(centres())
    energy = MOUTH.astype(float)
    assert part_of(energy) == "mouth"
    assert part_of((np.abs(centres() - (112, 30)) < (60, 10)).all(1).astype(float)) == "brows"


def test_tracking_follows_a_shifted_face_to_a_tenth_of_a_pixel():
    """The head of a made-up video moves by px; the tracked pose says the same, and the crops stay alike."""
    video = LongVideo(2, FPS, seed=3, expressions=0, width=320)
    still = video.frame(0)
    matrix = np.array([[1.9, 0, -190.0], [0, 1.9, -120.0]])
    tracker = FaceTracker(lambda image: matrix, FPS)
    first = tracker.see(0, still)
    moved = cv2.warpAffine(still, np.array([[1, 0, 1.5], [0, 1, -0.75]]), still.shape[1::-1], flags=cv2.INTER_CUBIC,
                           borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    second = tracker.see(1, moved)
    assert first.crop.shape == second.crop.shape == (HALF, HALF)
    assert second.pose[:2] == pytest.approx([1.5 * 1.9 / 2, -0.75 * 1.9 / 2], abs=0.1)
    inner = (slice(20, 90),) * 2
    assert np.abs(second.crop - first.crop)[inner].mean() < 0.25 * np.abs(cv2.absdiff(still, moved)).mean()
    assert tracker.looks == 1


def test_a_cut_begins_a_new_stretch_and_an_empty_scene_has_no_face():
    one, other = (LongVideo(2, FPS, seed=s, expressions=0, width=320) for s in (3, 4))
    asked = []

    def find(image):
        asked.append(image)
        if image.mean() < 5:
            raise DataError("no face")
        return np.array([[1.9, 0, -190.0], [0, 1.9, -120.0]])

    tracker = FaceTracker(find, FPS)
    assert tracker.see(0, one.frame(0)).stretch == 0
    black = np.zeros((240, 320, 3), np.uint8)
    assert tracker.see(1, black) is None
    assert tracker.see(2, black) is None
    assert len(asked) == 2, "an absent face is not looked for in every frame"
    for n in range(3, 60):
        again = tracker.see(n, other.frame(0))
    assert again.stretch == 1


# --- from file to page -------------------------------------------------------------------------------


def test_a_made_up_video_is_spotted_faster_than_it_lasts(made_video, spotted):
    assert spotted.scored.f1 >= 0.8, (spotted.intervals, spotted.truth)
    assert spotted.frames == made_video.frames == 700
    assert spotted.reader == "cv2"
    assert len(spotted.curves.numbers) == 700
    began = time.process_time()
    spot(made_video.path)
    # of one core: on two the decoder runs beside; the work of other processes does not count
    assert time.process_time() - began < spotted.seconds


def test_blinks_are_told_and_none_is_an_interval(spotted):
    true = [(t.onset, t.offset) for t in spotted.truth if t.kind == "blink"]
    assert len(spotted.blinks) == len(true) == 1
    assert iou(spotted.blinks[0], true[0]) > 0.3
    micro = [(t.onset, t.offset) for t in spotted.truth if t.kind == "micro"]
    for one in spotted.intervals:
        assert any(iou((one.onset, one.offset), m) > 0 for m in micro)


def test_the_same_video_gives_the_same_pixels_and_another_seed_others():
    a, b, c = (LongVideo(2, 50, seed=s, expressions=0, width=160) for s in (1, 1, 2))
    assert np.array_equal(a.frame(30), b.frame(30))
    assert not np.array_equal(a.frame(30), c.frame(30))
    assert a.events == b.events


def test_planted_expressions_keep_their_distance_and_length():
    video = LongVideo(60, FPS, seed=8, width=160)
    micros = [e for e in video.events if e.kind == "micro"]
    assert len(micros) == 12
    assert all(0.2 * FPS - 1 <= e.offset - e.onset <= 0.5 * FPS + 1 and e.onset < e.apex < e.offset for e in micros)
    assert all(b.onset - a.offset >= 0.6 * FPS for a, b in pairwise(micros))
    with pytest.raises(UsageError, match="do not fit"):
        LongVideo(2, FPS, expressions=12)


def test_a_blink_covers_the_eye_and_leaves_the_chin():
    video = LongVideo(7, FPS, seed=5, expressions=0, width=320)
    blink = next(e for e in video.events if e.kind == "blink")
    before, shut = video.frame(blink.onset - 1).astype(int), video.frame(blink.apex + 2).astype(int)
    x, y = video._who.landmarks[36:42].mean(0).round().astype(int)
    eye = np.abs(shut - before)[y - 3 : y + 4, x - 6 : x + 7].mean()
    x, y = video._who.landmarks[8].round().astype(int)
    chin = np.abs(shut - before)[y - 3 : y + 4, x - 6 : x + 7].mean()
    assert eye > 5 * chin


def test_the_command_writes_table_json_and_a_page_without_a_script(made_video, run_mepipe, tmp_path):
    done = run_mepipe("spot", made_video.path, "--truth", made_video.truth, "--out", "found")
    assert done.returncode == 0, done.stderr
    assert "F1 " in done.stdout
    rows = list(csv.DictReader((tmp_path / "found/intervals.csv").open()))
    facts = json.loads((tmp_path / "found/intervals.json").read_text())
    assert len(rows) == len(facts["intervals"]) > 0
    assert facts["reader"] == "cv2"
    assert facts["score"]["f1"] >= 0.8
    page = (tmp_path / "found/timeline.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/jpeg") == 2 * len(rows)


def test_text_from_data_is_escaped_on_the_page(spotted):
    from dataclasses import replace

    from mepipe.report.timeline import timeline_page

    nasty = "<script>alert(1)</script>.avi"
    truth = (*spotted.truth, Truth(3, 5, "micro", "<img src=x>"))
    page = timeline_page(replace(spotted, video=nasty, warnings=("<b>",)).against(list(truth)))
    assert "<script" not in page
    assert "<b>" not in page
    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;" in page


def test_a_folder_of_frames_is_spotted_by_its_own_numbers(made_video, spotted, tmp_path):
    """Every frame as a JPEG, numbered from 1001: the same intervals, a thousand and one later."""
    source = open_source(made_video.path)
    for number, image, _ in source.stream():
        cv2.imwrite(str(tmp_path / f"img{number + 1001}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 98])
    with pytest.raises(UsageError, match="--fps N"):
        spot(tmp_path)
    result = spot(tmp_path, SpotConfig(fps=FPS))
    assert result.reader == "folder of images"
    pairs = [(i.onset - 1001, i.offset - 1001) for i in result.intervals]
    assert score(pairs, [(i.onset, i.offset) for i in spotted.intervals]).f1 == 1


# --- bad input ---------------------------------------------------------------------------------------


def tiny_video(path, frames, size=(64, 48), fps=FPS):
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    for image in frames:
        writer.write(image)
    writer.release()
    return path


def grey_frames(count, size=(64, 48)):
    return [np.full((size[1], size[0], 3), 90, np.uint8)] * count


def test_bad_videos_are_refused_with_the_reason(tmp_path):
    (tmp_path / "text.avi").write_text("this is no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "hollow.avi").write_bytes(b"RIFF" + bytes(4000))
    tiny_video(tmp_path / "three.avi", grey_frames(3))
    tiny_video(tmp_path / "faceless.avi", grey_frames(80))
    tiny_video(tmp_path / "slow.avi", grey_frames(80), fps=10)
    for name, says in (
        ("absent.avi", "does not exist"),
        ("text.avi", "nor a video"),
        ("empty.mp4", "is empty"),
        ("hollow.avi", "is no video|cannot be opened"),
        ("three.avi", "has 3 frames"),
        ("faceless.avi", "no face in"),
        ("slow.avi", "too few for a micro-expression"),
    ):
        with pytest.raises(DataError, match=says):
            spot(tmp_path / name)
    with pytest.raises(UsageError, match="not below"):
        SpotConfig(min_duration=0.6)
    with pytest.raises(UsageError, match="--fps is 0"):
        spot(tmp_path / "three.avi", SpotConfig(fps=0))


def test_the_command_says_what_is_wrong_in_one_line(run_mepipe, tmp_path):
    tiny_video(tmp_path / "three.avi", grey_frames(3))
    done = run_mepipe("spot", "three.avi")
    assert done.returncode == 1
    assert "has 3 frames" in error_of(done)
    assert list(tmp_path.iterdir()) == [tmp_path / "three.avi"], "nothing is written"


def test_a_video_cut_short_is_told(made_video, tmp_path):
    """The index says 700 frames; the copy ends at two thirds of them."""
    data = made_video.path.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: 2 * len(data) // 3])
    source = open_source(cut)
    decoded = sum(1 for _ in source.stream())
    if len(source.numbers) <= decoded:  # this OpenCV counts what is there, having found no index at the end
        assert decoded < 700
        return
    assert any("cut short" in w for w in spot(cut).warnings)


class Stamped:
    reader, path = "cv2", "v.mp4"


def test_a_varying_frame_rate_is_refused_and_rounded_stamps_are_not():
    steady = SteadyClock(Stamped(), 30)
    for n in range(300):
        steady.tick(round(n / 30, 3) + (n == 100) / 30)  # rounded to ms, one dropped frame
    varying = SteadyClock(Stamped(), 30)
    rng = np.random.default_rng(0)
    stamps = np.cumsum(rng.choice([1 / 60, 1 / 30, 1 / 15], 300))
    with pytest.raises(DataError, match="variable frame rate"):
        list(map(varying.tick, stamps))


def test_the_frame_rate_given_wins_and_none_is_an_error(tmp_path):
    source = open_source(tiny_video(tmp_path / "v.avi", grey_frames(5)))
    assert frame_rate(source, None) == FPS
    assert frame_rate(source, 25.0) == 25
    source.fps = 0.0
    with pytest.raises(UsageError, match="does not say its frame rate"):
        frame_rate(source, None)


def test_frames_decoded_ahead_come_in_order_with_their_error_and_the_thread_ends():
    import threading

    def broken():
        yield from range(3)
        raise DataError("here")

    numbers = ahead(broken(), 2)
    assert [next(numbers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="here"):
        next(numbers)
    endless = ahead(iter(int, 1), 2)
    assert next(endless) == 0
    endless.close()
    assert not [t for t in threading.enumerate() if t.name == "mepipe-decode"]


def test_pyav_reads_what_opencv_reads_and_says_that_it_did(made_video):
    pytest.importorskip("av")
    by_cv2, by_av = open_source(made_video.path, "cv2"), open_source(made_video.path, "av")
    assert by_av.reader == "av"
    assert (by_av.fps, len(by_av.numbers)) == (by_cv2.fps, len(by_cv2.numbers))
    assert np.abs(by_av.read(40).astype(int) - by_cv2.read(40)).mean() < 2
    assert np.array_equal(by_av.read(3), by_av.read(3))


def test_a_video_with_a_varying_rate_is_refused_from_its_file(tmp_path):
    av = pytest.importorskip("av")
    from fractions import Fraction

    path = tmp_path / "varying.mkv"
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=100)
        track.width, track.height, track.codec_context.time_base = 64, 48, Fraction(1, 1000)
        for n, stamp in enumerate(np.cumsum(np.tile([10, 10, 40], 40))):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), n, np.uint8), format="bgr24")
            frame.pts, frame.time_base = int(stamp), Fraction(1, 1000)
            container.mux(track.encode(frame))
        container.mux(track.encode())
    for reader in ("cv2", "av"):
        with pytest.raises(DataError, match="variable frame rate"):
            spot(path, SpotConfig(reader=reader))


def test_without_pyav_the_reader_says_how_to_get_it(monkeypatch, tmp_path):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kw):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"mepipe\[video\]"):
        open_source(tiny_video(tmp_path / "v.avi", grey_frames(5)), "av")


# --- with a run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """A workspace with a small trained run in it; (workspace, run's name)."""
    import shutil
    from pathlib import Path

    from mepipe.workspace import Workspace
    from mepipe_model.train import train_run

    ws = Workspace(Path(shutil.copytree(made.work, tmp_path_factory.mktemp("spot-run") / "work")))
    outcome = train_run(ws, TrainConfig(model="ststnet", epochs=1, batch_size=4, jobs=1, folds="1"))
    return ws, outcome.folder.name


def test_with_a_run_every_interval_has_a_class_like_predict_gives(run, made_video):
    from mepipe_model.predict import predict_clip
    from mepipe_model.spotting import spot_video

    ws, name = run
    result = spot_video(ws, made_video.path, run=name)
    assert result.answers
    for one, answer in zip(result.spotting.intervals, result.answers, strict=True):
        same = predict_clip(ws, name, made_video.path, onset=one.onset, apex=one.apex, offset=one.offset)
        assert answer.probabilities == pytest.approx(same.probabilities)
    row = next(csv.DictReader(result.files[0].open()))
    assert row["prediction"] in result.classes
    assert float(row[f"p_{row['prediction']}"]) == pytest.approx(
        max(result.answers[0].probabilities.values()), abs=1e-6
    )
    assert result.files[2].parent == ws.root / "spot" / "long.avi"
    assert row["prediction"] in result.files[2].read_text()


def test_no_more_crops_are_held_at_the_end_of_a_long_video_than_early_in_it():
    """Fifteen seconds of frames through the collector: it never holds more than one block with its surroundings."""
    config = SpotConfig()
    collector = _Collector(FaceTracker(None, FPS), FPS, config)
    crop = np.random.default_rng(0).normal(128, 20, (8, HALF, HALF)).astype(np.float32)
    most = []
    for n in range(1500):
        collector.add(Tracked(n, crop[n % 8], np.zeros(6), 0))
        most.append(len(collector._held))
    assert max(most) <= (CORE + 2 * MARGIN) * lag_of(FPS, config)
    assert max(most[:700]) == max(most[700:])
    collector.close()
    assert np.array_equal(np.concatenate([c[0] for c in collector._curves]), np.arange(1500)), "every frame, once"


def test_results_of_a_video_with_any_name_have_a_folder():
    from pathlib import Path

    from mepipe_model.spotting import folder_name

    assert folder_name(Path("long video (1).avi")) == "long video (1).avi"
    assert folder_name(Path("видео.mp4")).startswith("video-")
    assert folder_name(Path("видео.mp4")) != folder_name(Path("видео2.mp4"))


def test_lag_follows_the_longest_duration():
    assert lag_of(100, SpotConfig()) == 30
    assert lag_of(200, SpotConfig(max_duration=1.0)) == 120
