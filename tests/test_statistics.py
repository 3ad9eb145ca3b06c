from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from mepipe.errors import DataError, UsageError
from mepipe.workspace import Workspace
from mepipe_model.evaluate import LEAKY, compare_runs, comparison_lines, evaluate_runs, lines, score
from mepipe_model.metrics import Scores, uf1_uar
from mepipe_model.runs import ORACLE_FILE, Prediction, write_predictions
from mepipe_model.statistics import _figures, compare, intervals, mcnemar

CLASSES = ("negative", "positive", "surprise")


def made(subjects=20, clips=6, right=0.7, seed=0):
    """Predictions of known truth; each is right with probability ``right``."""
    rng = np.random.default_rng(seed)
    rows = []
    for s in range(subjects):
        for c in range(clips):
            true = CLASSES[c % 3]
            pred = true if rng.random() < right else CLASSES[(c + 1) % 3]
            p = tuple(float(pred == k) for k in CLASSES)
            rows.append(Prediction("samm", f"{s:03d}", f"c{c}", f"samm_{s:03d}", true, pred, p))
    return rows


def test_mcnemar_is_the_exact_binomial_test():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 5) == mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert 0 < mcnemar(4000, 3000) < 1e-20


def test_clips_of_one_subject_do_not_narrow_an_interval():
    """Ten copies of every clip are no new evidence; an interval over clips would shrink to a third."""
    rows = made(clips=3)
    copies = [replace(r, clip=f"{r.clip}-{k}") for r in rows for k in range(10)]
    one, ten = intervals(rows, CLASSES), intervals(copies, CLASSES)
    for name in ("UF1", "UAR", "ACC"):
        assert ten[name] == pytest.approx(one[name], abs=1e-12)
        assert one[name][1] - one[name][0] > 0.1


def test_intervals_do_not_depend_on_the_order_of_rows():
    rows = made()
    assert intervals(rows, CLASSES) == intervals(rows[::-1], CLASSES)


def test_a_run_against_itself_does_not_differ():
    rows = made()
    c = compare(rows, rows[::-1], CLASSES)
    assert (c.clips, c.subjects) == (120, 20)
    assert (c.mcnemar.only_first, c.mcnemar.only_second, c.mcnemar.p) == (0, 0, 1.0)
    for d in c.differences.values():
        assert (d.difference, d.interval, d.p) == (0.0, (0.0, 0.0), 1.0)


def test_a_better_run_is_found_better_and_the_other_way_round():
    good, bad = made(right=0.9, seed=1), made(right=0.5, seed=2)
    c, back = compare(good, bad, CLASSES), compare(bad, good, CLASSES)
    true = [r.true for r in good]
    want = uf1_uar(true, [r.pred for r in good], CLASSES).UF1 - uf1_uar(true, [r.pred for r in bad], CLASSES).UF1
    assert c.differences["UF1"].difference == pytest.approx(want)
    for name, d in c.differences.items():
        assert 0 < d.interval[0] < d.difference < d.interval[1]
        assert d.p < 0.01
        assert back.differences[name].interval == pytest.approx((-d.interval[1], -d.interval[0]))
        assert back.differences[name].p == d.p
    assert c.mcnemar.only_first == sum(a.true == a.pred != b.pred for a, b in zip(good, bad, strict=True))
    assert c.mcnemar.p == back.mcnemar.p < 0.01


def test_pairing_sees_a_small_steady_gain_that_two_intervals_hide():
    """One clip of every subject better: small beside the spread between subjects, yet in every resample."""
    rng = np.random.default_rng(0)
    base = made(clips=12, right=0.6, seed=3)
    base = [replace(r, pred=r.true) if rng.random() < 0.5 and int(r.subject) % 2 else r for r in base]
    better = list(base)
    for s in {r.subject for r in base}:
        at = next(i for i, r in enumerate(base) if r.subject == s and (r.pred != r.true or r is base[-1]))
        better[at] = replace(base[at], pred=base[at].true)
    a, b = intervals(better, CLASSES)["ACC"], intervals(base, CLASSES)["ACC"]
    assert a[0] < b[1], "the two intervals overlap"
    assert compare(better, base, CLASSES).differences["ACC"].interval[0] > 0


def test_few_subjects_give_a_difference_but_no_interval():
    rows = made(subjects=4)
    d = compare(rows, rows, CLASSES).differences["UF1"]
    assert (d.interval, d.p) == (None, None)
    assert score(rows, CLASSES)["interval"] is None


def test_other_clips_or_another_truth_are_refused_by_name():
    rows = made()
    with pytest.raises(DataError, match="1 clips are in one of the two alone, such as samm 019 c5 in the first"):
        compare(rows, rows[:-1], CLASSES)
    other = [replace(rows[0], true="surprise"), *rows[1:]]
    with pytest.raises(DataError, match="samm 000 c0 is negative in the first and surprise in the second"):
        compare(rows, other, CLASSES)


def test_scores_hold_intervals_as_json_whole_and_per_corpus():
    rows = made() + [replace(r, corpus="casme2") for r in made(subjects=3)]
    result = json.loads(json.dumps(score(rows, CLASSES)))
    low, high = result["interval"]["UF1"]
    assert low < result["UF1"] < high
    assert result["per_corpus"]["samm"]["interval"]["ACC"][0] < result["per_corpus"]["samm"]["ACC"]
    assert result["per_corpus"]["casme2"]["interval"] is None


def test_the_command_compares_pooled_parts_with_another_run(tmp_path, run_mepipe):
    good, bad = made(right=0.9, seed=1), made(right=0.5, seed=2)
    files = {"a1.csv": good[:60], "a2.csv": good[60:], "b.csv": bad}
    for name, rows in files.items():
        write_predictions(tmp_path / name, rows, CLASSES)
    ws = Workspace(tmp_path / "work")
    parts = [str(tmp_path / "a1.csv"), str(tmp_path / "a2.csv")]
    comparison = compare_runs(ws, parts, str(tmp_path / "b.csv"))
    assert comparison == compare(good, bad, CLASSES)
    done = run_mepipe("evaluate", "a1.csv", "a2.csv", "--against", "b.csv", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["clips"] == 120
    assert answer["against"]["mcnemar"]["p"] == comparison.mcnemar.p
    assert answer["against"]["differences"]["UF1"]["interval"] == list(comparison.differences["UF1"].interval)
    text = comparison_lines(comparison, "b.csv")
    assert f"= {comparison.differences['UF1'].difference:+.4f}" in text[1]
    assert "intervals over subjects" in "\n".join(lines(evaluate_runs(ws, parts)))


def test_predictions_that_saw_the_test_subject_are_marked_and_never_compared(tmp_path):
    rows, ws = made(), Workspace(tmp_path / "work")
    for name in (ORACLE_FILE, "fair.csv"):
        write_predictions(tmp_path / name, rows, CLASSES)
    leaky, fair = str(tmp_path / "renamed.csv"), str(tmp_path / "fair.csv")
    (tmp_path / ORACLE_FILE).rename(leaky)
    text = lines(evaluate_runs(ws, [leaky]))[1:]
    assert all(LEAKY in line for line in text if "UF1" in line or "F1 " in line)
    assert not any(LEAKY in line for line in lines(evaluate_runs(ws, [fair])))
    for a, b in ((leaky, fair), (fair, leaky)):
        with pytest.raises(UsageError, match="saw the test subjects"):
            compare_runs(ws, [a], b)


def test_the_published_predictions_have_the_published_score_inside_a_wide_interval(real_data):
    with (real_data / "ststnet_predictions.csv").open(newline="") as f:
        table = list(csv.DictReader(f))
    rows = [
        Prediction("3db", r["subject"], r["index"], r["subject"], CLASSES[int(r["true"])], CLASSES[int(r["pred"])], ())
        for r in table
    ]
    result = score(rows, CLASSES)
    assert result["UF1"] == pytest.approx(0.7209, abs=5e-5)
    low, high = result["interval"]["UF1"]
    assert low < 0.7209 < high
    assert 0.05 < high - low < 0.2, "68 subjects do not decide the second digit"


def test_the_figures_of_resamples_are_those_of_the_scores():
    matrices = np.random.default_rng(0).integers(0, 4, (20, 3, 3)).astype(float)
    matrices[0, :, 2] = matrices[0, 2] = 0  # a class that does not occur
    scores = [Scores((0, 1, 2), m) for m in matrices]
    expected = [[s.uf1, s.uar, s.acc, s.wf1] for s in scores]
    np.testing.assert_allclose(_figures(matrices), expected, rtol=1e-12)
