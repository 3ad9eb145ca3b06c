"""The page of a run in a real browser: from a cell of the confusion matrix to the clips behind it."""

from __future__ import annotations

import json

import pytest
from test_report import CLASSES, EVIL, make_run

from mepipe.report import report_run

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
