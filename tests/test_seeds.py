"""Several seeds: a run for each, mean and spread at the end; other differences are refused."""

from __future__ import annotations

import json
import statistics

import pytest
from tinyflow import quick, samples, write_flow

from mepipe.errors import DataError, UsageError
from mepipe.workspace import Workspace
from mepipe_model.evaluate import LEAKY
from mepipe_model.runs import find_run
from mepipe_model.seeds import Spread, seed_spread, spread_lines, train_seeds
from mepipe_model.train import train_run


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """LOSO over two corpora under two seeds. Read only."""
    ws = Workspace(tmp_path_factory.mktemp("seeds"))
    for n, corpus in enumerate(("casme2", "samm")):
        write_flow(ws, samples(corpus, ["a", "b"]), seed=n)
    seen: list[tuple[int, int]] = []
    outcome = train_seeds(ws, quick(), [0, 1], lambda done, total: seen.append((done, total)))
    return ws, outcome, seen


def test_a_spread_is_that_of_the_textbook():
    assert Spread.of([0.5, 0.7, 0.9]) == Spread(pytest.approx(0.7), pytest.approx(0.2), 0.5, 0.9)


def test_each_seed_has_the_run_it_would_have_alone_and_the_summary_is_of_both(seeded):
    ws, outcome, _ = seeded
    runs = [train_run(ws, quick(seed=s)) for s in (0, 1)]
    assert [r.folder for r in runs] == outcome.folders
    (file,) = ws.runs.glob("*.seeds.json")
    summary = json.loads(file.read_text())
    assert summary["runs"] == {str(s): r.folder.name for s, r in enumerate(runs)}
    for figure in ("UF1", "UAR", "ACC"):
        values = [r.metrics[figure] for r in runs]
        got = summary["spread"]["pooled"][figure]
        assert got["mean"] == pytest.approx(statistics.fmean(values))
        assert got["sd"] == pytest.approx(statistics.stdev(values))
        assert (got["min"], got["max"]) == (min(values), max(values))
        samm = [r.metrics["per_corpus"]["samm"][figure] for r in runs]
        assert summary["spread"]["per_corpus"]["samm"][figure]["mean"] == pytest.approx(statistics.fmean(samm))
    assert any(line.strip().startswith("samm") and " ± " in line for line in outcome.lines())


def test_the_progress_is_one_over_all_seeds(seeded):
    _, _, seen = seeded
    assert seen[-1] == (16, 16), "2 seeds x 4 folds x 2 epochs"
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_evaluate_seeds_gives_the_same_summary_of_runs_that_are_there(seeded, run_mepipe):
    ws, outcome, _ = seeded
    done = run_mepipe("-w", ws.root, "evaluate", *(f.name for f in outcome.folders), "--seeds", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == outcome.summary


def test_runs_that_differ_in_more_than_the_seed_are_refused(seeded):
    ws, outcome, _ = seeded
    one = outcome.folders[0].name
    other = train_run(ws, quick(seed=1, lr=1e-3)).folder.name
    with pytest.raises(DataError, match=r"differ in more than the seed: lr 5e-05 and 0\.001"):
        seed_spread(ws, [one, other])
    with pytest.raises(DataError, match="seed 0 is there twice"):
        seed_spread(ws, [one, one])
    with pytest.raises(UsageError, match="two runs or more"):
        seed_spread(ws, [one])


def test_only_folds_that_all_seeds_have_are_compared(seeded):
    ws, _, _ = seeded
    parts = [train_run(ws, quick(seed=s, run=f"part{s}", folds=folds)) for s, folds in ((0, "1,2"), (1, "2,3"))]
    summary = seed_spread(ws, [p.folder.name for p in parts])
    assert (summary["clips"], summary["folds"]) == (3, {"finished": 1, "of": 4})
    assert "not a result yet" in summary["warnings"][0]
    third = train_run(ws, quick(seed=2, run="part2", folds="4")).folder.name
    with pytest.raises(DataError, match="no finished fold in common"):
        seed_spread(ws, ["part0", third])


def test_scores_that_saw_the_test_subject_are_apart_and_marked(seeded):
    ws, _, _ = seeded
    outcome = train_seeds(ws, quick(select="oracle", folds="1", run="leaky"), [0, 1])
    assert [f.name for f in outcome.folders] == ["leaky-seed0", "leaky-seed1"]
    assert outcome.summary["selection"] == "fixed (last epoch)"
    assert outcome.summary[LEAKY]["selection"] == LEAKY
    fair, marked = (lines for lines in _split(spread_lines(outcome.summary)))
    assert not any(LEAKY in line for line in fair)
    assert all(line.count(LEAKY) >= 3 for line in marked if "UF1" in line)


def _split(lines):
    at = next(i for i, line in enumerate(lines) if LEAKY in line)
    return lines[:at], lines[at:]


def test_the_command_reads_seeds_as_words_and_a_dry_run_trains_nothing(seeded, run_mepipe):
    ws, _, _ = seeded
    count = len(list(ws.runs.iterdir()))
    args = ["-w", ws.root, "train", "--model", "ststnet", "--epochs", "2"]
    done = run_mepipe(*args, "--seeds", "3", "4", "5", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "seeds: 3, 4, 5, a run for each" in done.stdout
    assert len(list(ws.runs.iterdir())) == count
    for words, message in ((["--seeds", "3"], "needs two seeds"), (["--seeds", "1", "2", "--seed", "3"], "--seed")):
        refused = run_mepipe(*args, *words, "--dry-run")
        assert (refused.returncode, message in refused.stderr) == (2, True)


def test_a_failed_fold_of_one_seed_does_not_end_the_others(seeded, monkeypatch):
    from mepipe_model import fold
    from mepipe_model.train import FoldsFailed

    ws, _, _ = seeded
    real, calls = fold.train_fold, []

    def fails_first(fold_id):
        calls.append(fold_id)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        return real(fold_id)

    monkeypatch.setattr(fold, "train_fold", fails_first)
    config = quick(epochs=1, run="failing", folds="1")
    with pytest.raises(FoldsFailed, match="seed 6: 1 fold failed"):
        train_seeds(ws, config, [6, 7])
    assert find_run(ws, "failing-seed7").finished() == ["casme2_a"]
