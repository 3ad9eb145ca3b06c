"""Apex spotting: the promise about the answer, the parts against brute force, and how near it lands."""

from __future__ import annotations

import json
import shutil
import time
from itertools import combinations

import cv2
import numpy as np
import pytest

from mepipe import apex
from mepipe.apex import divide, frequency, lbp, regions, residual, upc
from mepipe.apex.evaluate import Evaluation, Score, Spotted, evaluate_corpus, spread
from mepipe.apex.trials import trial
from mepipe.datasets import get_corpus
from mepipe.datasets.base import Clip, Corpus
from mepipe.errors import DataError, UsageError
from mepipe.faces.align import SIZE
from mepipe.settings import PrepareConfig
from mepipe.synth import make_corpus

METHODS = list(apex.SPOTTERS)
WITH_CURVE = [m for m in METHODS if m != "midpoint"]
SEEDS = range(900, 912)


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)


def errors(trials, method: str) -> np.ndarray:
    return np.array([abs(apex.spot(t.crops, method) - t.apex) for t in trials])


@pytest.fixture(scope="module")
def plain():
    """1.5 px in noise of 2 grey levels, flicker of 1 %, head drift of 0.8 px."""
    return [trial(s, 1.5, lengths=(24, 60)) for s in SEEDS]


@pytest.fixture(scope="module")
def faint():
    return [trial(s, 0.3, lengths=(24, 60)) for s in SEEDS]


# --- how near it lands -----------------------------------------------------------------------------


def test_default_lands_within_two_frames_and_four_times_nearer_than_the_midpoint(plain):
    default, middle = errors(plain, apex.DEFAULT).mean(), errors(plain, "midpoint").mean()
    assert default <= 2
    assert middle >= 4 * default


def test_default_beats_the_midpoint_on_a_third_of_a_pixel(faint):
    assert errors(faint, apex.DEFAULT).mean() < 0.6 * errors(faint, "midpoint").mean()


def test_default_is_never_worse_than_upc(plain, faint):
    for trials in (plain[:6], faint[:6]):
        assert errors(trials, apex.DEFAULT).mean() <= errors(trials, "upc").mean()


def test_upc_beats_the_midpoint_on_plain_motion(plain):
    assert errors(plain[:6], "upc").mean() < errors(plain[:6], "midpoint").mean()


def test_prepare_uses_the_default():
    assert PrepareConfig().apex == apex.DEFAULT


def test_a_blink_is_not_taken_for_the_apex():
    """Both eyes shut for some frames early in the clip, far from its true apex."""
    for seed in (920, 921, 922):
        t = trial(seed, 1.0, lengths=(40, 60))
        when = 5 if t.apex > 20 else len(t.crops) - 6
        strength = np.exp(-0.5 * ((np.arange(len(t.crops)) - when) / 3) ** 2)[:, None, None]
        lids = cv2.GaussianBlur(cv2.erode(regions.eyes().astype(np.float32), np.ones((9, 9))), (0, 0), 2)
        shut = t.crops + strength * lids * (float(np.median(t.crops[0])) - t.crops)
        assert abs(apex.spot(np.round(shut).astype(np.uint8)) - t.apex) <= 4


def test_light_that_flickers_and_leans_does_not_move_the_apex(plain):
    rng, across = np.random.default_rng(0), np.linspace(-1, 1, SIZE)
    for t in plain[:3]:
        gain, lean = 1 + 0.05 * rng.standard_normal((2, len(t.crops), 1, 1))
        lit = t.crops * gain * (1 + (lean - 1) * 0.3 * across)
        assert abs(apex.spot(np.clip(lit, 0, 255).astype(np.uint8)) - t.apex) <= 3


def test_a_head_that_moves_several_pixels_does_not_hide_the_apex():
    moving = [trial(s, 1.5, lengths=(30, 60), drift=4.0) for s in range(930, 936)]
    assert errors(moving, apex.DEFAULT).mean() <= 2


@pytest.mark.parametrize(("method", "seconds"), [(apex.DEFAULT, 0.5), ("upc", 1.5)])
def test_a_clip_of_70_frames_takes_its_stated_time_on_one_core(method, seconds):
    crops = trial(1, 1.0, lengths=(69, 69)).crops
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    apex.spot(crops[:5], method)  # masks are made once per process
    before = time.thread_time()
    apex.spot(crops, method)
    used = time.thread_time() - before
    cv2.setNumThreads(threads)
    assert used < seconds


# --- the promise about the answer ------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [2, 3, 4, 9])
@pytest.mark.parametrize("make", [lambda n: np.full((n, SIZE, SIZE), 80, np.uint8), noise], ids=["constant", "noise"])
def test_the_apex_lies_after_the_onset_and_not_after_the_offset(method, count, make):
    crops = make(count)
    for found in (apex.spot(crops, method), apex.SPOTTERS.get(method)(crops)):
        assert isinstance(found, int)
        assert 1 <= found <= count - 1


@pytest.mark.parametrize("method", METHODS)
def test_where_nothing_moves_the_answer_is_the_middle(method):
    still = np.repeat(noise(1), 11, axis=0)
    assert apex.spot(still, method) == 5


@pytest.mark.parametrize("method", METHODS)
def test_black_and_saturated_frames_do_no_harm(method):
    crops = noise(8)
    crops[3], crops[5] = 0, 255
    crops[:, :, :100] = 0
    assert 1 <= apex.spot(crops, method) <= 7


@pytest.mark.parametrize("method", METHODS)
def test_the_same_crops_give_the_same_apex_and_stay_as_they_were(method, plain):
    crops = plain[0].crops[:12]
    before = crops.copy()
    assert apex.spot(crops, method) == apex.spot(crops, method)
    np.testing.assert_array_equal(crops, before)


@pytest.mark.parametrize("method", WITH_CURVE)
def test_a_curve_has_a_finite_value_for_every_frame(method, plain):
    crops = plain[1].crops[:20]
    seen = apex.curve(crops, method)
    assert seen.shape == (20,)
    assert seen.dtype == np.float64
    assert np.isfinite(seen).all()
    if method != "dc-rois":  # halving may end below the highest peak
        assert apex.spot(crops, method) == 1 + int(np.argmax(seen[1:]))


def test_a_method_that_looks_at_nothing_says_that_it_has_no_curve():
    with pytest.raises(UsageError, match="'midpoint' has no curve"):
        apex.curve(noise(4), "midpoint")


def test_wrong_crops_are_refused():
    with pytest.raises(ValueError, match="at least one frame after the onset"):
        apex.spot(noise(1))
    for wrong in (noise(4).astype(np.float32), noise(4)[0], noise(4)[..., None]):
        with pytest.raises(ValueError, match="grey crops"):
            apex.spot(wrong)
    with pytest.raises(UsageError, match="no apex spotter is called 'guess'"):
        apex.spot(noise(4), "guess")


def test_crops_of_another_size_are_brought_to_the_templates(plain):
    t = plain[0]
    small = np.stack([cv2.resize(c, (160, 160), interpolation=cv2.INTER_AREA) for c in t.crops])
    assert abs(apex.spot(small) - t.apex) <= 3


def test_a_spotter_of_somebody_else_cannot_leave_the_clip(monkeypatch):
    for answer, kept in ((999, 5), (-3, 1)):
        monkeypatch.setitem(apex.SPOTTERS._things, "theirs", lambda crops, a=answer: a)
        assert apex.spot(noise(6), "theirs") == kept


def test_midpoint_is_the_floor_of_the_middle():
    assert [apex.spot(noise(n), "midpoint") for n in (2, 3, 4, 5, 12)] == [1, 1, 1, 2, 5]


def test_framediff_sees_the_last_frame():
    crops = np.repeat(noise(1) // 2, 6, axis=0)
    crops[-1] += 40
    assert apex.spot(crops, "framediff") == 5


# --- the parts against brute force -----------------------------------------------------------------


def best_unimodal(curve: np.ndarray) -> float:
    """Smallest squared error of a unimodal fit: blocks of equal value, over all ways to cut."""
    n, best = len(curve), np.inf
    for parts in range(1, n + 1):
        for cuts in combinations(range(1, n), parts - 1):
            blocks = np.split(curve, cuts)
            means = np.array([b.mean() for b in blocks])
            steps = np.sign(np.diff(means))
            if (np.diff(steps[steps != 0]) <= 0).all():
                best = min(best, sum(((b - m) ** 2).sum() for b, m in zip(blocks, means, strict=True)))
    return best


def test_unimodal_fit_is_the_best_there_is():
    rng = np.random.default_rng(4)
    for n in (2, 3, 6, 9):
        for _ in range(4):
            curve = rng.standard_normal(n)
            fit = upc.unimodal(curve)
            steps = np.sign(np.diff(fit))
            assert (np.diff(steps[steps != 0]) <= 0).all()
            assert ((curve - fit) ** 2).sum() == pytest.approx(best_unimodal(curve))


def test_upc_prefers_the_unimodal_region_and_refuses_one_that_only_rises():
    t = np.linspace(0, 1, 40)
    clean, wavy = np.exp(-(((t - 0.3) / 0.2) ** 2)), np.sin(12 * t) ** 2 * 5
    assert int(np.argmax(upc.decide([wavy, clean, t]))) == int(np.argmax(clean))
    assert upc.decide([t, np.zeros(40)]) is None


def test_upc_turns_to_the_eyes_only_when_nothing_else_peaks():
    """Lids that move alone, the rest of the frame still."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (SIZE, SIZE)).astype(np.float32), (0, 0), 3) * 4 - 380
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    bump = np.exp(-0.5 * (((x - 62) / 9) ** 2 + ((y - 62) / 5) ** 2))
    strength = 3 * np.exp(-0.5 * ((np.arange(30) - 12) / 4) ** 2)
    frames = [cv2.remap(texture, x, y + s * bump, cv2.INTER_LINEAR) for s in np.float32(strength - strength[0])]
    crops = np.clip(frames, 0, 255).astype(np.uint8)
    assert abs(apex.spot(crops, "upc") - 12) <= 2


def test_frequency_is_the_authors_transform():
    """Window by window, block by block, as their code does it."""
    codes = np.random.default_rng(1).integers(0, 256, (3, 222, 222), dtype=np.uint8)
    padded = codes[np.clip(np.arange(-30, 33), 0, 2)].astype(float)
    axes = [np.arange(n) - n // 2 for n in (61, 37, 37)]
    high = sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) >= 31**2
    expected = []
    for i in range(3):
        blocks = padded[i : i + 61].reshape(61, 6, 37, 6, 37).transpose(1, 3, 0, 2, 4).reshape(36, 61, 37, 37)
        spectrum = np.fft.fftshift(np.fft.fftn(blocks[:4], axes=(1, 2, 3)), axes=(1, 2, 3))
        expected.append(np.abs(spectrum * high).sum())
    spectra, radius = frequency.block_spectra(codes)
    got = np.zeros(3)
    for k in range(31):
        beyond = radius**2 + k**2 >= 31**2
        if beyond.any():
            got += (2 if k else 1) * frequency.sliding_magnitude(spectra[:, :4, beyond], k)
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_lbp_codes_and_bins():
    image = np.array([[[9, 1, 9], [1, 5, 1], [1, 1, 5]]], np.uint8)
    assert lbp.codes(image).tolist() == [[[0b00010101]]]
    bins = lbp.uniform_bins()
    assert len(set(bins.tolist())) == lbp.UNIFORM
    assert bins[0b00111000] < 58
    assert bins[0b00010101] == 58


def test_histograms_of_a_frame_do_not_depend_on_its_neighbours():
    binned = np.random.default_rng(0).integers(0, lbp.UNIFORM, (4, 21, 30), dtype=np.uint8)
    together = lbp.histograms(binned, 4)
    np.testing.assert_array_equal(together[2], lbp.histograms(binned[2:3], 4)[0])
    np.testing.assert_allclose(together.sum(1), 16)


def test_halving_keeps_the_half_with_more_peaks():
    curve = np.array([0, 5, 0, 5, 0, 0, 0, 0, 7, 0], float)
    assert divide.local_peaks(curve).tolist() == [1, 3, 8]
    assert divide.halving(curve) == 1
    assert divide.halving(np.arange(6.0)) == 5


def test_time_course_of_a_shared_pattern_is_found_in_noise():
    rng, n = np.random.default_rng(0), 50
    strength = np.exp(-0.5 * ((np.arange(n) - 20) / 6) ** 2)
    motion = np.outer(strength - strength.mean(), rng.standard_normal(300)) + rng.standard_normal((n, 300))
    course = residual.time_course(motion)
    assert abs(np.corrcoef(course, strength)[0, 1]) > 0.97


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_a_trial_moves_by_its_amplitude(seed):
    t = trial(seed, 2.0, noise=0, flicker=0, drift=0, lengths=(24, 30))
    solver = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    solver.setFinestScale(0)
    solver.setPatchStride(2)
    solver.setGradientDescentIterations(50)
    flow = solver.calc(t.crops[0], t.crops[t.apex], None)
    assert 1.6 < np.hypot(flow[..., 0], flow[..., 1]).max() < 2.2
    assert t.course[0] == 0
    assert int(np.argmax(t.course)) == t.apex


# --- against annotated apexes ----------------------------------------------------------------------


def test_evaluation_on_a_corpus_accounts_for_every_row(own_raw):
    lost = sorted((own_raw / "CASME2_RAW_selected").glob("*/*"))[0]
    shutil.rmtree(lost)
    told = []
    found = evaluate_corpus(get_corpus("casme2"), own_raw, ["residual"], jobs=2, progress=lambda *a: told.append(a))
    assert len(found.used) == 8
    assert [(s.kind, s.clip) for s in found.left_out] == [("refused", f"{lost.parent.name}/{lost.name}")]
    assert told[-1] == (8, 8)
    ours, middle = found.scores["residual"], found.scores["midpoint"]
    assert ours.frames < middle.frames / 3
    assert ours.ms == pytest.approx(5 * ours.frames)  # 200 fps
    assert ours.within[2] >= middle.within[2]
    report = found.as_dict()
    assert report == json.loads(json.dumps(report))
    assert report["left_out_counts"] == {"refused": 1}
    table = "\n".join(found.lines())
    assert "residual" in table
    assert lost.name in table


def test_the_command_compares_every_method_and_takes_the_options_of_prepare(made_raw, run_mepipe):
    command = ("apex", "evaluate", "casme2", made_raw, "--limit", "2", "--jobs", "1")
    done = run_mepipe(*command, "--json", "--no-corrections")
    assert set(json.loads(done.stdout)["methods"]) == set(apex.SPOTTERS)
    refused = run_mepipe(*command, "--sheet", "absent.xlsx")
    assert refused.returncode in (1, 2)
    assert "absent.xlsx" in refused.stderr


def test_a_made_up_corpus_without_annotated_apexes_is_judged_by_its_truth(tmp_path):
    make_corpus("smic-hs", tmp_path, subjects=1, clips=3, seed=5, jobs=1)
    found = evaluate_corpus(get_corpus("smic-hs"), tmp_path, ["residual"], jobs=1)
    assert len(found.used) == 3
    assert found.scores["residual"].frames <= found.scores["midpoint"].frames


def test_a_limited_evaluation_takes_clips_from_the_whole_annotation():
    assert spread(list("abcdefghi"), 3) == ["a", "d", "g"]
    assert spread(list("abc"), 9) == spread(list("abc"), None) == ["a", "b", "c"]


def test_score_counts_frames_and_milliseconds():
    score = Score.of([0, -2, 6], [200, 200, 500])
    assert score.frames == pytest.approx(8 / 3)
    assert score.ms == pytest.approx((0 + 10 + 12) / 3)
    assert score.late == pytest.approx(4 / 3)
    assert score.within == {1: 1 / 3, 2: 2 / 3, 5: 2 / 3}


def test_long_lists_of_clips_left_out_are_cut_and_counted():
    out = tuple(Spotted(f"s/{i}", 200.0, {}, "refused", "why") for i in range(14))
    lines = Evaluation("x", {"midpoint": Score.of([0], [200])}, (), out, 1.0).lines()
    assert "  left out: 14 refused" in lines
    assert lines[-1].strip() == "... and 4 more, see --json"


class NoApex(Corpus):
    name = "no-apex"

    def clips(self, raw, *, sheet=None, corrections=True):
        return [Clip("no-apex", "s1", "a", 1, None, 9, 100.0, "happiness", frames=raw)]


def test_a_corpus_without_apexes_cannot_be_compared_with(tmp_path):
    with pytest.raises(DataError, match="no clip has an apex to compare with; the first: s1/a, none annotated"):
        evaluate_corpus(NoApex(), tmp_path)


def test_evaluation_refuses_wrong_options(made_raw):
    with pytest.raises(UsageError, match="no apex spotter is called 'guess'"):
        evaluate_corpus(get_corpus("casme2"), made_raw, ["guess"])
    with pytest.raises(UsageError, match="--limit is 0"):
        evaluate_corpus(get_corpus("casme2"), made_raw, limit=0)
