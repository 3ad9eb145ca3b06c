"""The page of two runs side by side, and the page of a published table."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
from test_report import CLASSES, Outline, make_run, text_of

from mepipe.errors import DataError, UsageError
from mepipe.report import report_pair, report_table
from mepipe.report.pair import PairRow, pair_rows, subject_pairs
from mepipe.report.table import table_page
from mepipe.workspace import Workspace, write_json
from mepipe_model.evaluate import compare_runs, comparison_lines
from mepipe_model.reproduce import reproduce
from mepipe_model.reproduce.matching import Cell, Found
from mepipe_model.runs import find_run, write_predictions


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run, and one that answers otherwise on every third clip and was trained with another seed."""
    run = make_run(tmp_path_factory.mktemp("pair"), subjects=8)
    other = shutil.copytree(run.folder, run.ws.runs / "other")
    config = json.loads((other / "config.json").read_text())
    config["settings"]["seed"] = 7
    write_json(other / "config.json", config)
    changed = [replace(r, pred=CLASSES[(CLASSES.index(r.pred) + 1) % 3]) if i % 3 == 0 else r
               for i, r in enumerate(run.rows)]  # fmt: skip
    for fold in {r.fold for r in changed}:
        write_predictions(other / "folds" / fold / "predictions.csv", [r for r in changed if r.fold == fold], CLASSES)
    return run, changed


@pytest.fixture(scope="module")
def page(two) -> str:
    run, _ = two
    path = report_pair(run.ws, run.name, "other")
    assert path == run.folder / "against-other.html"
    return path.read_text("utf-8")


def test_the_page_shows_the_figures_of_the_paired_tests(two, page):
    run, _ = two
    c = compare_runs(run.ws, [run.name], "other")
    text = text_of(page)
    for name, d in c.differences.items():
        row = text[text.index(f" {name} {d.first:.4f}") :][:200]
        for figure in (f"{d.second:.4f}", f"{d.difference:+.4f}", f"{d.interval[0]:+.2f} to {d.interval[1]:+.2f}"):
            assert figure in row
    assert f"is right on {c.mcnemar.only_first} clips, only the second on {c.mcnemar.only_second} :" in text


def test_the_comparison_says_what_else_differs(two, tmp_path):
    run, _ = two
    c = compare_runs(run.ws, [run.name], "other")
    assert c.settings == (f"seed {find_run(run.ws, run.name).settings.seed} and 7",)
    assert f"  they differ in seed {find_run(run.ws, run.name).settings.seed} and 7" in comparison_lines(c, "other")
    elsewhere = tmp_path / "theirs.csv"
    write_predictions(elsewhere, run.rows, CLASSES)
    c = compare_runs(run.ws, [str(elsewhere)], "other")
    assert c.settings is None
    assert not any("they differ in" in line for line in comparison_lines(c, "other"))


def test_disagreements_come_first_and_every_outcome_is_counted(two, page):
    run, changed = two
    expected = [PairRow(a, b).outcome for a, b in zip(run.rows, changed, strict=True)]
    shown = re.findall(r'data-outcome="([^"]*)"', page)
    assert sorted(shown) == sorted(expected)
    one_alone = sum(o.startswith("only") for o in expected)
    assert all(o.startswith("only") for o in shown[:one_alone])
    for outcome in set(expected):
        assert f"{outcome} ({expected.count(outcome)})" in text_of(page)


def test_cells_of_both_matrices_filter_by_the_answers_of_their_own_run(two, page):
    run, changed = two
    cells = re.findall(r"data-filter='([^']*(?:first|second)[^']*)'[^>]*>(\d+)<", page)
    assert cells
    for wanted, n in ((json.loads(w.replace("&#34;", '"')), int(n)) for w, n in cells):
        rows, key = (run.rows, "first") if "first" in wanted else (changed, "second")
        assert n == sum((r.true, r.pred) == (wanted["truth"], wanted[key]) for r in rows)


def test_what_differs_between_the_runs_is_named(page):
    assert "seed 0 and 7" in text_of(page)


def test_every_clip_holds_both_answers(two, page):
    run, changed = two
    blocks = re.findall(r'<script type="application/json" data-clip="[^"]*">(.*?)</script>', page, re.S)
    assert len(blocks) == len(run.rows)
    facts = [dict(json.loads(b)["facts"]) for b in blocks]
    for fact, a, b in zip(facts, run.rows, changed, strict=True):
        assert fact["made-up"].startswith(a.pred)
        assert fact["other"].startswith(b.pred)


def test_the_pair_page_needs_no_other_file(page):
    for tag, attributes in Outline(page).tags:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, name)
    assert len(Outline(page).scripts) == 1


def test_a_run_against_itself_or_over_other_clips_is_refused(two, tmp_path):
    run, _ = two
    with pytest.raises(UsageError, match="itself"):
        report_pair(run.ws, run.name, run.name)
    fewer = make_run(tmp_path, subjects=8, clips=3, crops=False, flow=False)
    with pytest.raises(DataError, match="in one of the two alone"):
        report_pair(run.ws, run.name, fewer.folder)


def test_subjects_are_sorted_by_the_lead_of_the_second(two):
    run, changed = two
    pairs = subject_pairs(pair_rows(run.rows, changed))
    assert [p.lead for p in pairs] == sorted(p.lead for p in pairs)
    assert sum(p.first for p in pairs) == sum(r.true == r.pred for r in run.rows)
    assert sum(p.clips for p in pairs) == len(run.rows)


# --- a published table -------------------------------------------------------------------------------


def test_the_table_page_shows_published_figures_and_commands_before_any_run(tmp_path):
    path = report_table(Workspace(tmp_path), "table7")
    assert path == tmp_path / "tables" / "table7.html"
    text = text_of(path.read_text("utf-8"))
    assert "a+b+c+d Test B 0.4302? 0.4263? 0.4415?" in text
    assert "no run yet" in text
    assert "mepipe train --protocol holdout" in text
    assert "how the epoch was chosen is not stated" in text


def test_the_table_page_lays_a_run_beside_the_paper_with_the_difference(two):
    run, _ = two
    found = Found(
        runs=[find_run(run.ws, run.name)],
        cells={"testB": {"UF1": Cell(0.4402, 0.01), "UAR": Cell(0.4163), "ACC": Cell(0.4415)}},
        leaky={"testB": {"UF1": Cell(0.6), "UAR": Cell(0.61), "ACC": Cell(0.62)}},
    )
    result = replace(reproduce(run.ws, "table7"), found={"a+b+c+d": found}, commands={})
    text = text_of(table_page(run.ws, result).read_text("utf-8"))
    row = text[text.index("a+b+c+d Test B") :]
    published, ours = "0.4302? 0.4263? 0.4415?", "0.4402 ± 0.0100 0.4163 0.4415"
    assert row.startswith(f"a+b+c+d Test B {published} {ours} +0.0100 -0.0100 +0.0000 0.6000 0.6100 0.6200")
    assert "oracle (leaky)" in text


def test_an_unknown_table_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="table9"):
        report_table(Workspace(tmp_path), "table9")
