"""The page of a run in a real browser: from a cell of the confusion matrix to the clips behind it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
from test_report import CLASSES, EVIL, make_run

from mepipe.report import report_pair, report_run, report_table
from mepipe_model.runs import write_predictions

ROWS = "#predictions-table tbody tr"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def path(run):
    return report_run(run.ws, run.name)


def shown(page) -> list[dict]:
    return page.js(f"[...document.querySelectorAll('{ROWS}')].filter((r) => !r.hidden).map((r) => ({{...r.dataset}}))")


def test_a_confusion_cell_opens_the_clips_behind_it(opened, path, run):
    page = opened(path)
    links = page.js(
        "[...document.querySelectorAll('table.confusion a')].map((a) => [a.dataset.filter, a.firstChild.data])"
    )
    at = next(i for i, (wanted, _) in enumerate(links) if json.loads(wanted)["truth"] != json.loads(wanted)["pred"])
    wanted, count = json.loads(links[at][0]), int(links[at][1])
    page.click("table.confusion a", nth=at)
    page.until(f"document.querySelectorAll('{ROWS}:not([hidden])').length === {count}")
    expected = {r.clip for r in run.rows if (r.true, r.pred) == (wanted["truth"], wanted["pred"])}
    assert {row["clip"].split("/")[-1] for row in shown(page)} == expected
    page.until("document.activeElement.matches('tr[data-clip]')")
    page.press("Enter")
    assert page.text("#clip-place") == f"1 of {count}"
    assert page.js("[...document.querySelectorAll('#clip-facts dd')].map((e) => e.textContent)")[0] == wanted["truth"]
    assert len(page.all("dialog .views figure")) == 4


def test_a_cell_of_one_corpus_shows_clips_of_that_corpus_only(opened, path):
    page = opened(path)
    at = page.all("table.confusion a", "dataset.filter").index(
        next(f for f in page.all("table.confusion a", "dataset.filter") if "corpus" in f)
    )
    wanted = json.loads(page.all("table.confusion a", "dataset.filter")[at])
    page.click("table.confusion a", nth=at)
    page.until("document.querySelector('[name=corpus]').value !== ''")
    page.until("document.activeElement.matches('tr[data-clip]')")
    assert {(r["corpus"], r["truth"], r["pred"]) for r in shown(page)} == {
        (wanted["corpus"], wanted["truth"], wanted["pred"])
    }


def test_a_subject_of_the_bars_shows_its_clips(opened, path):
    page = opened(path)
    page.click("#subjects a[data-filter]")
    page.until("document.querySelector('[name=subject]').value !== ''")
    page.until(f"document.querySelectorAll('{ROWS}:not([hidden])').length === 4")


def test_only_wrong_ones_and_sorting_by_probability(opened, path, run):
    page = opened(path)
    page.click("form.filter [name=wrong]")
    assert len(shown(page)) == sum(r.true != r.pred for r in run.rows)
    page.click("th[data-sort=p0] button")
    values = [float(r["p0"]) for r in shown(page)]
    assert values == sorted(values)


@pytest.mark.parametrize("dark", [False, True])
def test_the_run_page_fits_a_narrow_window_in_light_and_dark(opened, path, dark):
    page = opened(path, width=390, height=800, dark=dark)
    assert page.js("document.documentElement.scrollWidth") <= 390


def test_names_from_data_run_nothing(opened, tmp_path):
    run = make_run(tmp_path, clip_name=EVIL + '"{}', crops=False, subjects=2, clips=1)
    page = opened(report_run(run.ws, run.name))
    page.click(f"{ROWS} th")
    assert EVIL in page.text("#clip-title")
    assert page.js("document.scripts.length") == 1 + len(page.all("script[data-clip]"))


def test_a_run_without_crops_and_flow_has_a_table_that_filters(opened, tmp_path):
    run = make_run(tmp_path, crops=False, flow=False, subjects=5)
    page = opened(report_run(run.ws, run.name))
    page.choose("form.filter [name=truth]", CLASSES[1])
    assert {r["truth"] for r in shown(page)} == {CLASSES[1]}
    page.click(f"{ROWS} th")
    assert page.js("document.getElementById('clip')") is None


# --- two runs, and a published table -----------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(run):
    other = shutil.copytree(run.folder, run.ws.runs / "other")
    for fold in {r.fold for r in run.rows}:
        rows = [replace(r, pred=r.true) if i % 2 else r for i, r in enumerate(run.rows) if r.fold == fold]
        write_predictions(other / "folds" / fold / "predictions.csv", rows, CLASSES)
    return report_pair(run.ws, run.name, "other")


def test_a_cell_of_the_second_run_shows_its_clips_and_both_answers(opened, pair):
    page = opened(pair)
    filters = page.all("table.confusion a", "dataset.filter")
    at = next(i for i, f in enumerate(filters) if "second" in f)
    wanted, count = json.loads(filters[at]), int(page.all("table.confusion a", "firstChild.data")[at])
    page.click("table.confusion a", nth=at)
    page.until("document.querySelector('[name=second]').value !== ''")
    page.until(f"document.querySelectorAll('{ROWS}:not([hidden])').length === {count}")
    assert {(r["truth"], r["second"]) for r in shown(page)} == {(wanted["truth"], wanted["second"])}
    page.until("document.activeElement.matches('tr[data-clip]')")
    page.press("Enter")
    facts = dict(zip(page.all("#clip-facts dt"), page.all("#clip-facts dd"), strict=True))
    assert facts["other"].startswith(wanted["second"])
    assert "made-up" in facts


def test_outcomes_can_be_chosen_and_disagreements_come_first(opened, pair):
    page = opened(pair)
    assert shown(page)[0]["outcome"] == "only second right"
    page.choose("form.filter [name=outcome]", "both right")
    assert {r["outcome"] for r in shown(page)} == {"both right"}


@pytest.mark.parametrize("dark", [False, True])
def test_the_pages_of_pairs_and_tables_fit_a_narrow_window(opened, pair, run, dark):
    for path in (pair, report_table(run.ws, "table5")):
        page = opened(path, width=390, height=800, dark=dark)
        assert page.js("document.documentElement.scrollWidth") <= 390
        page.media(print=True)
        assert page.visible("nav") == 0


def test_no_section_overlaps_the_next_on_paper(opened, path, pair):
    for each in (path, pair):
        page = opened(each)
        page.media(print=True)
        rows = "[...s.querySelectorAll('tr')].filter((e) => !e.closest('details:not([open])'))"
        last = f"Math.max(0, ...{rows}.map((e) => e.getBoundingClientRect().bottom))"
        box = f"(s) => {{ const r = s.getBoundingClientRect(); return [r.top, r.bottom, {last}]; }}"
        edges = page.js(f"[...document.querySelectorAll('main > section')].map({box})")
        for (_, bottom, last_row), (top, _, _) in pairwise(edges):
            assert bottom <= top
            assert last_row <= top, "a table that scrolls on the screen is whole on paper"


def test_paper_loses_no_column(opened, path, pair, run):
    for each in (path, pair, report_table(run.ws, "table5")):
        page = opened(each)
        page.media(print=True)
        assert not page.cut_off(), each.name
