"""The page of a prepared corpus in a real browser: filter, sort, open, keys, size."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mepipe.cliptable import read_records, to_csv
from mepipe.datasets import get_corpus
from mepipe.flow.run import flow_corpora
from mepipe.prepare import prepare_corpus
from mepipe.report import report_corpus
from mepipe.report.corpus import ranked, source_of, values
from mepipe.report.html import write_page
from mepipe.report.packing import BUDGET, Packer, chosen_side
from mepipe.settings import PrepareConfig
from mepipe.workspace import Workspace

ROWS = "#clips-table tbody tr"
MANY = 2629  # clips of DFME, the largest corpus


@pytest.fixture(scope="module")
def ws(made_raw, tmp_path_factory) -> Workspace:
    """Nine clips with all their frames, of which one has lost its folder and is refused."""
    raw = Path(shutil.copytree(made_raw, tmp_path_factory.mktemp("pages") / "raw"))
    with (raw / "truth.csv").open(newline="") as f:
        last = list(csv.DictReader(f))[-1]
    shutil.rmtree(next(p for p in raw.rglob(last["clip"]) if p.parent.name == last["subject"]))
    ws = Workspace(tmp_path_factory.mktemp("work"))
    prepare_corpus(ws, get_corpus("casme2"), raw, PrepareConfig(jobs=1, frames="all"))
    flow_corpora(ws)
    return ws


@pytest.fixture(scope="module")
def path(ws) -> Path:
    return report_corpus(ws, "casme2")


def shown(page) -> list[str]:
    """The clips of the visible rows, from top to bottom."""
    return page.js(f"[...document.querySelectorAll('{ROWS}')].filter((r) => !r.hidden).map((r) => r.dataset.clip)")


def test_every_clip_is_a_row_and_outliers_come_first(opened, path, ws):
    page = opened(path)
    records = read_records(ws.prepared("casme2"))
    assert sorted(shown(page)) == sorted(f"{r.corpus}/{r.subject}/{r.clip}" for r in records)
    refused = [f"{r.corpus}/{r.subject}/{r.clip}" for r in records if r.status == "refused"]
    assert len(refused) == 1
    assert shown(page)[:1] == refused
    assert "no folder" in page.text(f"{ROWS}:first-child .why")


@pytest.mark.parametrize(
    ("control", "field", "value"), [("subject", "subject", "sub02"), ("status", "status", "refused")]
)
def test_a_filter_leaves_exactly_the_rows_that_fit(opened, path, control, field, value):
    page = opened(path)
    fitting = page.all(f'{ROWS}[data-{field}="{value}"]', "dataset.clip")
    page.choose(f"form.filter [name={control}]", value)
    assert shown(page) == fitting
    assert page.text("form.filter output") == f"{len(fitting)} of 9 clips"
    page.click("form.filter [type=reset]")
    page.until(f"document.querySelectorAll('{ROWS}:not([hidden])').length === 9")


def test_filters_by_emotion_score_and_words_are_joined_by_and(opened, path):
    page = opened(path)
    emotion = page.all(ROWS, "dataset.emotion")[1]
    page.choose("form.filter [name=emotion]", emotion)
    page.choose("form.filter [name=score]", "1.2")
    page.choose("form.filter [name=text]", "sub0")
    rows = page.js(f"[...document.querySelectorAll('{ROWS}')].map((r) => ({{...r.dataset, hidden: r.hidden}}))")
    for row in rows:
        fits = row["emotion"] == emotion and row["score"] != "" and float(row["score"]) <= 1.2
        assert row["hidden"] is not fits


def test_a_check_of_the_outliers_shows_its_clips(opened, path):
    page = opened(path)
    page.click("#checks a[data-filter]")
    page.until(f"document.querySelectorAll('{ROWS}:not([hidden])').length === 1")
    assert page.js("document.querySelector('form.filter [name=flags]').value") == "refused"


def test_a_click_on_a_head_sorts_by_it_and_a_second_turns_it_round(opened, path):
    page = opened(path)
    before = shown(page)

    def scores() -> list[float]:
        return [float(s) for s in page.all(ROWS, "dataset.score") if s]

    page.click("th[data-sort=score] button")
    assert scores() == sorted(scores())
    assert page.all(ROWS, "dataset.score")[-1] == "", "what has no score comes last"
    page.click("th[data-sort=score] button")
    assert scores() == sorted(scores(), reverse=True)
    assert page.all(ROWS, "dataset.score")[-1] == ""
    assert page.js("document.querySelector('th[data-sort=score]').ariaSort") == "descending"
    page.click("th[data-sort=score] button")
    assert shown(page) == before


def test_an_opened_clip_shows_landmarks_box_curve_and_flow(opened, path, ws):
    page = opened(path)
    page.click(f"{ROWS} th", nth=1)
    name = page.all(ROWS, "dataset.clip")[1].removeprefix("casme2/")
    assert page.text("#clip-title") == name
    assert len(page.all("dialog .views .points circle")) == 68
    assert len(page.all("dialog .views .box polygon")) == 1
    assert len(page.all("dialog .views > figure > svg .arrows path")) > 10
    record = next(r for r in read_records(ws.prepared("casme2")) if f"{r.subject}/{r.clip}" == name)
    assert page.all("dialog .curve text") == [
        f"apex {record.apex}", f"onset {record.onset}", f"offset {record.offset}",
    ]  # fmt: skip
    assert "px" in page.text("dialog .scale")
    displayed = "getComputedStyle(document.querySelector('dialog .box')).display"
    assert page.js(displayed) != "none"
    page.click("#show-box")
    assert page.js(displayed) == "none"


def test_landmarks_lie_on_the_template_that_all_crops_are_aligned_to(opened, path):
    from mepipe.faces.align import mean_face

    page = opened(path)
    page.click(f"{ROWS} th", nth=1)
    circles = "[...document.querySelectorAll('dialog .views .points circle')]"
    points = page.js(f"{circles}.map((c) => [+c.getAttribute('cx'), +c.getAttribute('cy')])")
    away = [((x - a) ** 2 + (y - b) ** 2) ** 0.5 for (x, y), (a, b) in zip(points[17:], mean_face()[17:], strict=True)]
    assert sorted(away)[len(away) // 2] < 8, "a face differs from the mean face by a few px, not by a wrong transform"


def test_the_source_frame_shows_what_the_detector_took_and_where_the_crop_was_cut(opened, path, ws):
    page = opened(path)
    page.click(f"{ROWS} th", nth=1)
    folder = ws.prepared("casme2") / page.text("#clip-title")
    facts = json.loads((folder / "clip.json").read_text())
    svg = "document.querySelector('dialog .source svg')"
    assert page.js(f"{svg}.getAttribute('viewBox')") == f"0 0 {facts['size'][0]} {facts['size'][1]}"
    for part in ("image", ".box polygon", ".cut", "circle"):
        assert page.js(f"{svg}.querySelector('{part}').getBoundingClientRect().width") > 1, f"{part} is not shown"
    seen = page.js(
        f"(() => {{ const m = {svg}.querySelector('g').transform.baseVal[0].matrix;"
        f"const at = (e) => [...{svg}.querySelectorAll(e)];"
        "const through = (p) => { const q = new DOMPoint(p[0], p[1]).matrixTransform(m); return [q.x, q.y]; };"
        "const corners = (e) => e.getAttribute('points').split(' ').map((p) => p.split(',').map(Number));"
        "return {points: at('circle').map((c) => through([+c.getAttribute('cx'), +c.getAttribute('cy')])),"
        "box: corners(at('.box polygon')[0]).map(through), cut: corners(at('.cut')[0])}; })()"
    )
    assert np.allclose(seen["points"], facts["landmarks"], atol=0.3), "in px of the source"
    x, y, w, h = facts["record"]["box"]
    assert np.allclose(seen["box"], [(x, y), (x + w, y), (x + w, y + h), (x, y + h)], atol=0.3)
    matrix = np.array(facts["matrix"])
    cut = np.array(seen["cut"]) @ matrix[:, :2].T + matrix[:, 2]
    assert np.allclose(cut, [(0, 0), (224, 0), (224, 224), (0, 224)], atol=0.3), "what becomes the crop"


def test_the_keyboard_alone_finds_opens_pages_and_closes(opened, path):
    page = opened(path)
    page.press("/")
    assert page.js("document.activeElement.name") == "text"
    page.type("sub01")
    page.until(f"document.querySelectorAll('{ROWS}:not([hidden])').length === 3")
    clips = shown(page)
    page.js(f"document.querySelector('{ROWS}[tabindex]').focus()")
    page.press("ArrowDown")
    assert page.js("document.activeElement.dataset.clip") == clips[1]
    page.press("Enter")
    assert page.text("#clip-title") == clips[1].removeprefix("casme2/")
    page.press("ArrowRight")
    assert page.text("#clip-title") == clips[2].removeprefix("casme2/")
    page.press("ArrowRight")
    assert page.text("#clip-title") == clips[2].removeprefix("casme2/"), "the last one has no next"
    page.press("ArrowLeft")
    page.press("Escape")
    page.until("!document.getElementById('clip').open")
    page.until(f"document.activeElement.dataset.clip === '{clips[1]}'")


def test_blinking_shows_onset_and_apex_in_turn_and_stops(opened, path):
    page = opened(path)
    page.click(f"{ROWS} th", nth=1)
    first = "document.querySelector('dialog .views image').getAttribute('href')"
    onset = page.js(first)
    page.press("b")
    page.until(f"{first} !== {onset!r}")
    page.press("b")
    assert page.js(first) == onset


def test_a_link_to_a_clip_opens_it(opened, path):
    clip = shown(opened(path))[2]
    page = opened(path, hash=f"#clip={clip}")
    assert page.js("document.getElementById('clip').open")
    assert page.text("#clip-title") == clip.removeprefix("casme2/")


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground_in_light_and_dark(opened, path, dark):
    page = opened(path, dark=dark)
    for selector in ("h2", f"{ROWS} th", ".soft", ".verdict", "a"):
        ratio = page.js(CONTRAST % selector)
        assert ratio > 4.5, f"{selector}: contrast {ratio:.1f} (WCAG 2 AA asks for 4.5)"


CONTRAST = """(() => {
  const shade = (text) => {
    const c = text.match(/[\\d.]+/g).map(Number);
    const l = c.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return [0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2], c.length > 3 ? c[3] : 1];
  };
  let e = document.querySelector('main %s');
  const [ink] = shade(getComputedStyle(e).color);
  let ground = 1;
  for (; e; e = e.parentElement) {
    const [l, alpha] = shade(getComputedStyle(e).backgroundColor);
    if (alpha > 0.5) { ground = l; break; }
  }
  return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
})()"""


def test_a_narrow_window_does_not_scroll_sideways(opened, path):
    page = opened(path, width=390, height=800)
    assert page.js("document.documentElement.scrollWidth") <= 390
    page.click(f"{ROWS} th", nth=1)
    assert page.js("document.getElementById('clip').getBoundingClientRect().right") <= 390


def test_paper_has_the_clips_and_no_controls(opened, path, tmp_path):
    page = opened(path)
    page.media(print=True)
    assert page.visible("form.filter") == 0
    assert page.visible(ROWS) == 9
    assert page.pdf(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert not page.cut_off()


def test_without_all_frames_a_spotted_clip_shows_its_curve_and_an_annotated_one_says_why_not(opened, ws, tmp_path):
    bare = Workspace(tmp_path)
    shutil.copytree(ws.root / "prepared", bare.root / "prepared")
    folder = bare.prepared("casme2")
    records = read_records(folder)
    first = next(r for r in records if r.status == "ok")
    for r in records:
        for path in (folder / r.subject / r.clip).glob("*.png"):
            if path.stem not in (str(r.onset), str(r.apex)):
                path.unlink()
    about = folder / first.subject / first.clip / "clip.json"
    facts = json.loads(about.read_text())
    frames = [first.onset, first.onset + 2, first.apex, first.offset]
    facts["curve"] = {"method": "upc", "frames": frames, "values": [0, 1.5, 4, 1]}
    about.write_text(json.dumps(facts))
    spotted = [replace(r, apex_source="spotted:upc") if r == first else r for r in records]
    (folder / "clips.csv").write_text(to_csv(spotted))
    path = report_corpus(bare, "casme2")
    page = opened(path, hash=f"#clip=casme2/{first.subject}/{first.clip}")
    assert page.text("dialog .curve figcaption") == "apex curve of “upc”, lowest to highest"
    assert page.all("dialog .curve text")[0] == f"apex {first.apex}"
    assert len(page.js("document.querySelector('dialog .curve polyline').getAttribute('points')").split()) == 4
    page.press("ArrowRight")
    assert page.text("dialog .curve figcaption").startswith("No apex curve: the apex is annotated")
    assert "no apex curve of 7 of 8 clips: the apex is annotated" in page.text(".warnings")


def test_a_page_before_mepipe_flow_says_that_there_is_no_flow(opened, ws, tmp_path):
    bare = Workspace(tmp_path)
    shutil.copytree(ws.root / "prepared", bare.root / "prepared")
    page = opened(report_corpus(bare, "casme2"))
    assert "the flow shards of casme2 are not in the workspace" in page.text(".warnings")
    page.click(f"{ROWS} th", nth=1)
    assert len(page.all("dialog .views figure")) == 2


def test_2629_clips_stay_below_60_mb_and_answer_at_once(opened, ws, tmp_path):
    """The clips are the few real ones repeated; each has its own pictures, as large as so many allow."""
    records = [r for r in read_records(ws.prepared("casme2")) if r.status != "refused"]
    sources = [source_of(r) for r in records]
    side, quality = chosen_side(ws, sources * (MANY // len(sources) + 1), ["casme2"], BUDGET)
    packer = Packer(ws.root, ["casme2"], side, quality)
    packed = [packer.pack(s) for s in sources]
    many = [replace(records[i % len(records)], clip=f"clip{i}", subject=f"{i % 259}") for i in range(MANY)]
    rows = ranked(many, [packed[i % len(packed)] for i in range(MANY)])
    path = write_page(tmp_path / "many.html", "corpus.html", **values("casme2", rows, []))
    assert path.stat().st_size < 60e6
    assert side >= 160, "large enough to see a brow"
    page = opened(path)
    loaded = page.work()
    assert len(page.all("td.thumb img")) < 100, "thumbnails are made when they come into view"
    page.js("const s = document.querySelector('[name=subject]'); s.value = '17';"
            "s.dispatchEvent(new Event('input', {bubbles: true})); document.body.offsetHeight")  # fmt: skip
    filtered = page.work()
    assert len(shown(page)) == sum(i % 259 == 17 for i in range(MANY))
    page.click("form.filter [type=reset]")
    page.until(f"document.querySelectorAll('{ROWS}:not([hidden])').length === {MANY}")
    before = page.work()
    page.js("document.querySelector('th[data-sort=called] button').click(); document.body.offsetHeight")
    sorting = page.work() - before
    assert shown(page)[:2] == ["casme2/0/clip0", "casme2/1/clip1"]
    size = f"{path.stat().st_size / 1e6:.1f} MB, pictures {side} px"
    print(f"{size}; CPU: load {loaded:.1f} s, filter {filtered - loaded:.2f} s, sort {sorting:.2f} s")
    assert loaded < 8
    assert filtered - loaded < 0.8
    assert sorting < 3
