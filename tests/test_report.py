"""The page of a run and its pictures, made from a run folder and shards written here."""

from __future__ import annotations

import base64
import colorsys
import hashlib
import html.parser
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from mepipe.errors import DataError, UsageError
from mepipe.report import (
    FlowClip,
    arrows_picture,
    colour_picture,
    confusion_picture,
    curves_picture,
    flow_legend,
    flow_picture,
    magnitude_picture,
    overview_picture,
    prediction_picture,
    report_run,
)
from mepipe.report.colours import MIN_LIMIT, flow_limit, wheel
from mepipe.report.examples import choose
from mepipe.report.flowpictures import arrow_field, magnification, nice, px
from mepipe.report.plots import mean_curve
from mepipe.report.reading import read_run
from mepipe.report.tables import constant_answer, duration, subject_rows
from mepipe.settings import TrainConfig
from mepipe.shards import Sample, write_shard
from mepipe.workspace import Workspace, write_json, write_text
from mepipe_model.evaluate import LEAKY, score
from mepipe_model.metrics import Scores
from mepipe_model.runs import Prediction, write_predictions
from mepipe_model.statistics import FIGURES, intervals

CLASSES = ("negative", "positive", "surprise")
SHAPE = (224, 224)
EVIL = "<script>alert(1)</script>"


# --- a run made up -----------------------------------------------------------------------------------


def smooth_flow(seed: int, strength: float = 1.5) -> np.ndarray:
    """(3, 224, 224) float32 px: two bumps that move, the rest nearly still."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    u, v = (cv2.GaussianBlur(rng.normal(size=SHAPE), (0, 0), 8) * 0.4 for _ in range(2))
    for cx, cy in rng.uniform(60, 164, (2, 2)):
        bump = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 800)
        du, dv = rng.normal(size=2) * strength
        u, v = u + du * bump, v + dv * bump
    return np.stack([u, v, np.hypot(u, v)]).astype(np.float32)


def crop(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(*SHAPE, 3))
    return np.clip(128 + 600 * cv2.GaussianBlur(noise, (0, 0), 12), 0, 255).astype(np.uint8)


@dataclass
class MadeRun:
    """A workspace with one run in it, and what it must say."""

    ws: Workspace
    name: str
    rows: list[Prediction]

    @property
    def folder(self) -> Path:
        return self.ws.runs / self.name

    def page(self) -> str:
        return report_run(self.ws, self.name).read_text("utf-8")


def make_run(
    root: Path, *, subjects: int = 6, clips: int = 4, finished: int | None = None, select: str = "fixed",
    crops: bool = True, flow: bool = True, clip_name: str = "EP{:02d}", epochs: int = 5,
) -> MadeRun:  # fmt: skip
    """Two corpora, LOSO, some three predictions in ten wrong; ``finished`` folds have results."""
    ws, name = Workspace(root), "made-up"
    folder = ws.runs / name
    people = [("casme2" if i % 2 else "samm", f"sub{i:02d}") for i in range(subjects)]
    rng = np.random.default_rng(1)
    rows, samples = [], []
    for n, (corpus, subject) in enumerate(people):
        for k in range(clips):
            true = (n + k) % 3
            pred = (true + int(rng.integers(1, 3))) % 3 if rng.random() < 0.3 else true
            p = rng.dirichlet(np.ones(3) + 8 * np.eye(3)[pred])
            clip, fold = clip_name.format(k), f"{corpus}_{subject}"
            rows.append(Prediction(corpus, subject, clip, fold, CLASSES[true], CLASSES[pred], tuple(p)))
            samples.append(Sample(corpus, subject, clip, label3=CLASSES[true], onset=10, apex=20, offset=30))
    settings = TrainConfig(
        protocol="loso", data=("casme2", "samm"), classes=3, model="merba_tiny", epochs=epochs, batch_size=8, lr=2e-3,
        select=select,
    )  # fmt: skip
    write_json(folder / "config.json", config_json(settings, [f"{c}_{s}" for c, s in people], len(rows)))
    for fold in [f"{c}_{s}" for c, s in people][:finished]:
        write_fold(folder / "folds" / fold, [r for r in rows if r.fold == fold], epochs, select)
    if flow:
        write_flow(ws, samples)
    if crops:
        write_crops(ws, samples)
    return MadeRun(ws, name, rows)


def config_json(settings: TrainConfig, folds: list[str], clips: int) -> dict:
    return {
        "format": "mepipe.run",
        "version": 1,
        "settings": settings.as_dict(),
        "fingerprint": "loso-made-up-0123abcd",
        "model": {"name": "merba_tiny", "source": "MERba, arXiv 2506.14468", "fidelity": "the paper's, made small"},
        "data": {
            "corpora": list(settings.data),
            "classes": list(CLASSES),
            "clips": clips,
            "left_out_without_label": 3,
            "folds": folds,
            "shards": {"casme2-00000.h5": "c0ffee" * 10, "samm-00000.h5": "badcab" * 10},
        },
        "device": {"type": "cpu", "name": "CPU"},
        "versions": {"mepipe": "0.1.0", "torch": "2.13.0", "mamba-ssm": None},
        "started": "2025-01-02 03:04:05",
    }


def write_fold(folder: Path, rows: list[Prediction], epochs: int, select: str) -> None:
    write_predictions(folder / "predictions.csv", rows, CLASSES)
    extra = {"inner": ",inner_UF1", "oracle": ",oracle_leaky_accuracy"}.get(select, "")
    rng = np.random.default_rng(len(folder.name))
    lines = ["epoch,lr,loss,accuracy" + extra]
    for e in range(epochs):
        rate, loss = 1e-3 * (1 + np.cos(np.pi * e / epochs)), np.exp(-e / 8) + 0.1 * rng.random()
        line = f"{e + 1},{rate:.3e},{loss:.6f},{1 - 0.6 * loss / 1.1:.4f}"
        lines.append(line + (f",{0.5 + 0.2 * rng.random():.4f}" if extra else ""))
    write_text(folder / "log.csv", "\n".join(lines) + "\n")
    facts = {"fold": folder.name, "train_clips": 20, "validation_clips": 0, "test_clips": len(rows), "epochs": epochs}
    write_json(folder / "fold.json", facts | {"judged_epoch": epochs, "seconds": 61.5})


def write_flow(ws: Workspace, samples: list[Sample]) -> None:
    for corpus in sorted({s.corpus for s in samples}):
        mine = [s for s in samples if s.corpus == corpus]
        flows = (smooth_flow(i) for i in range(len(mine)))
        write_shard(ws.flow / f"{corpus}-00000.h5", mine, flows, engine="opencv", parameters={}, versions={})


def write_crops(ws: Workspace, samples: list[Sample]) -> None:
    for n, s in enumerate(samples):
        folder = ws.prepared(s.corpus) / s.subject / s.clip
        folder.mkdir(parents=True, exist_ok=True)
        for frame in (s.onset, s.apex):
            assert cv2.imwrite(str(folder / f"{frame}.png"), crop(n))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> MadeRun:
    return make_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def page(made) -> str:
    return made.page()


# --- the page ----------------------------------------------------------------------------------------


class Outline(html.parser.HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def scripts(self) -> list[dict]:
        """Those that a browser runs: blocks of data have a type."""
        return [a for a in self.all("script") if a.get("type") != "application/json"]

    def all(self, tag: str) -> list[dict]:
        return [a for t, a in self.tags if t == tag]


def text_of(page: str) -> str:
    return " ".join(" ".join(Outline(page).words).split())


def test_the_page_shows_the_pooled_scores_of_its_own_predictions(made, page):
    expected = score(made.rows, CLASSES)
    text = text_of(page)
    for name in FIGURES:
        assert re.search(rf"{name} {expected[name]:.4f} ", text), name
    for corpus, part in expected["per_corpus"].items():
        assert f"{corpus} {part['clips']} {part['UF1']:.4f} {part['UAR']:.4f} {part['ACC']:.4f}" in text
    for name, part in expected["per_class"].items():
        assert f"{name} {part['clips']} {part['F1']:.4f} {part['recall']:.4f}" in text


def test_the_page_says_how_the_figures_came_about(page):
    text = text_of(page)
    assert "trained without any clip of its subject" in text
    assert "the last epoch (5) is judged" in text
    assert "Always answering" in text
    assert "c0ffee" in text
    assert "2.13.0" in text
    assert "mamba-ssm not installed" in text
    assert "6 min, summed over 6 folds" in text
    assert "3 clips have no label in this class set" in text
    assert "batch_size 8 " in text


def test_every_prediction_is_in_the_table_and_wrong_ones_are_marked(made, page):
    body = page[page.index('id="predictions-table"') :]
    assert body.count("<tr class=") == len(made.rows)
    assert body.count('<tr class="wrong"') == sum(r.true != r.pred for r in made.rows)


def cells(page: str) -> list[tuple[dict, int]]:
    """(what a cell of a confusion matrix filters by, the number in it), in the order of the page."""
    found = re.findall(r"<a href=\"#predictions\" data-filter='([^']*truth[^']*)'[^>]*>(\d+)<", page)
    return [(json.loads(html.unescape(f)), int(n)) for f, n in found]


def test_a_confusion_cell_filters_for_exactly_the_clips_it_counts(made, page):
    def fits(row: Prediction, wanted: dict) -> bool:
        have = {"truth": row.true, "pred": row.pred, "corpus": row.corpus}
        return all(have[name] == value for name, value in wanted.items())

    found = cells(page)
    assert all(n == sum(fits(r, wanted) for r in made.rows) for wanted, n in found)
    assert sum(n for wanted, n in found if "corpus" not in wanted) == len(made.rows)
    assert sum(n for wanted, n in found if "corpus" in wanted) == len(made.rows)


def test_every_corpus_and_every_part_of_the_test_set_has_scores_with_intervals(tmp_path):
    run = make_run(tmp_path, subjects=12, crops=False, flow=False)
    config = json.loads((run.folder / "config.json").read_text())
    parts = {r.fold: "testA" if int(r.subject[3:]) < 6 else "testB" for r in run.rows}
    config["data"]["parts"] = parts
    write_json(run.folder / "config.json", config)
    page = run.page()
    expected = score(run.rows, CLASSES, parts)
    for group in ("per_corpus", "per_part"):
        for name, m in expected[group].items():
            figures = " ".join(f"{m[k]:.4f}" for k in FIGURES)
            spans = " ".join(f"{low:.2f} to {high:.2f}" for low, high in m["interval"].values())
            assert f"{name} {m['clips']} {figures} {spans}" in text_of(page)
    assert {w["part"] for w, _ in cells(page) if "part" in w} == {"testA", "testB"}
    assert page.count('data-part="testA"') == sum(p == "testA" for p in (parts[r.fold] for r in run.rows))


def test_a_run_whose_protocol_is_not_written_down_is_taken_for_the_usual_one(tmp_path):
    run = make_run(tmp_path, crops=False, flow=False)
    config = json.loads((run.folder / "config.json").read_text())
    config["settings"]["protocol"] = None
    write_json(run.folder / "config.json", config)
    assert "Leave one subject out" in text_of(run.page())


def test_every_clip_can_be_opened_and_holds_its_crops_flow_and_arrows(made, page):
    blocks = re.findall(r'<script type="application/json" data-clip="([^"]*)">(.*?)</script>', page, re.S)
    assert [html.unescape(name) for name, _ in blocks] == [f"{r.corpus}/{r.subject}/{r.clip}" for r in made.rows]
    for _, text in blocks:
        clip = json.loads(text)
        assert {"onset", "apex", "flow", "arrows", "limit", "key", "times"} <= clip.keys()
        assert clip["onset"].startswith("data:image/webp;base64,")
        assert len(base64.b64decode(clip["arrows"])) == 2 * 16 * 16


def test_the_page_needs_no_other_file(page):
    for tag, attributes in Outline(page).tags:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, name)
    assert "@import" not in page
    assert "url(" not in page
    assert "http:" not in page
    assert "https:" not in page


def test_the_content_policy_lets_only_our_script_run(page):
    policy = next(a["content"] for a in Outline(page).all("meta") if a.get("http-equiv"))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(scripts) == 1
    assert len(Outline(page).scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_page_can_be_read_without_eyes_or_mouse(page):
    outline = Outline(page)
    assert all(a.get("alt") for a in outline.all("img"))
    regions = [a for a in outline.all("div") if a.get("role") == "region"]
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)
    levels = [int(t[1]) for t, _ in outline.tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = {a["id"] for _, a in outline.tags if "id" in a}
    assert all(a["href"][1:] in ids for a in outline.all("a"))
    assert outline.all("html")[0]["lang"] == "en"
    assert outline.all("meta")[0] == {"charset": "utf-8"}


def test_plots_come_in_light_and_dark_and_examples_with_all_five_pictures(page):
    outline = Outline(page)
    assert [a["media"] for a in outline.all("source")] == ["(prefers-color-scheme: dark)"]
    assert page.count('<article class="example">') == 12
    captions = ("onset, frame 10", "apex, frame 20", "flow in colours", "flow as arrows", "magnitude")
    assert [page.count(f"<figcaption>{c}</figcaption>") for c in captions] == [12] * 5
    assert len(page) < 6e6


def test_names_from_data_are_text_and_never_markup(tmp_path):
    run = make_run(tmp_path, clip_name=EVIL + '"{}', crops=False, subjects=2, clips=1)
    page = run.page()
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert len(Outline(page).scripts) == 1
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)
    assert [json.loads(b)["name"] for b in blocks] == [f'sub0{i}/{EVIL}"0' for i in range(2)]
    assert any(a.get("data-name", "").endswith('alert(1)</script>"0') for a in Outline(page).all("tr"))


def test_a_partial_run_says_that_it_is_one(tmp_path):
    run = make_run(tmp_path, finished=2, crops=False, flow=False)
    text = text_of(run.page())
    shown = [r for r in run.rows if r.fold in ("samm_sub00", "casme2_sub01")]
    assert "2 of 6 folds: not a result yet" in text
    assert f"Scores so far, pooled over {len(shown)} clips" in text
    assert f"UF1 {score(shown, CLASSES)['UF1']:.4f}" in text
    assert "metrics.json is not there yet" in text


def test_a_run_without_a_finished_fold_is_an_error_that_says_what_to_do(tmp_path):
    run = make_run(tmp_path, finished=0, crops=False, flow=False)
    with pytest.raises(DataError, match="train at least one fold"):
        run.page()


def test_an_unknown_run_is_a_usage_error(made):
    with pytest.raises(UsageError, match="made-up"):
        report_run(made.ws, "other")


def test_missing_crops_are_said_to_be_missing(tmp_path):
    page = make_run(tmp_path, crops=False, subjects=2, clips=2).page()
    assert "the onset crop sub00/EP00/10.png is not there any more" in text_of(page)
    assert "<figcaption>flow in colours</figcaption>" in page
    assert "<figcaption>onset" not in page


def test_missing_shards_are_said_to_be_missing(tmp_path):
    text = text_of(make_run(tmp_path, crops=False, flow=False, subjects=2).page())
    assert (
        "nothing left to draw of these clips: the flow shards of casme2, samm are not in the workspace any more" in text
    )


def test_a_damaged_shard_is_named_and_the_page_goes_on(tmp_path):
    run = make_run(tmp_path, subjects=2, clips=1)
    (run.ws.flow / "samm-00000.h5").write_bytes(b"no shard")
    assert "samm-00000.h5" in text_of(run.page())


def test_a_damaged_crop_and_a_missing_log_do_not_take_the_page_away(tmp_path):
    run = make_run(tmp_path, subjects=2, clips=1)
    (run.ws.prepared("samm") / "sub00" / "EP00" / "20.png").write_bytes(b"no picture")
    (run.folder / "folds" / "samm_sub00" / "log.csv").unlink()
    text = text_of(run.page())
    assert "no apex crop" in text
    assert "no learning curve of fold samm_sub00" in text


def test_metrics_of_other_predictions_are_noticed(tmp_path):
    run = make_run(tmp_path, subjects=2, crops=False, flow=False)
    write_json(run.folder / "metrics.json", {"UF1": 0.9999, "UAR": 0.5, "ACC": 0.5})
    text = text_of(run.page())
    assert "metrics.json was written from other predictions" in text
    assert "UF1 0.9999 there" in text


def test_agreeing_metrics_give_no_warning(tmp_path):
    run = make_run(tmp_path, subjects=2, crops=False, flow=False)
    write_json(run.folder / "metrics.json", score(run.rows, CLASSES))
    assert not [n for n in read_run(run.ws, run.name).notes if "metrics.json" in n]


def test_oracle_figures_are_only_in_their_own_box(tmp_path):
    run = make_run(tmp_path, select="oracle", crops=False, flow=False)
    leaky = score([replace(r, pred=r.true) if i else r for i, r in enumerate(run.rows)], CLASSES)
    write_json(run.folder / "metrics.json", {**score(run.rows, CLASSES), LEAKY: {**leaky, "selection": LEAKY}})
    page = run.page()
    start, end = page.index("<aside"), page.index("</aside>")
    box, rest = text_of(page[start:end]), text_of(page[:start] + page[end:])
    figures = {f"{leaky[k]:.4f}" for k in FIGURES}
    assert all(f in box for f in figures)
    assert not any(f in rest for f in figures)
    assert all(f"oracle (leaky) {k}" in box for k in FIGURES)
    assert "the last epoch (5) is judged" in rest


def test_oracle_figures_of_an_older_version_lack_the_weighted_f1_alone(tmp_path):
    run = make_run(tmp_path, select="oracle", subjects=12, crops=False, flow=False)
    leaky = score(run.rows, CLASSES)
    corpora = leaky["per_corpus"].values()
    for scores in (leaky, *corpora):
        del scores["WF1"], scores["interval"]["WF1"]
    write_json(run.folder / "metrics.json", {**score(run.rows, CLASSES), LEAKY: {**leaky, "selection": LEAKY}})
    page = run.page()
    box = text_of(page[page.index("<aside") : page.index("</aside>")])
    assert f"{leaky['UF1']:.4f} {leaky['UAR']:.4f} {leaky['ACC']:.4f} –" in box


def test_an_oracle_log_changes_no_honest_curve(tmp_path):
    run = make_run(tmp_path, select="oracle", subjects=2, crops=False, flow=False)
    logs = read_run(run.ws, run.name).logs
    honest = {fold: {k: v for k, v in log.items() if "oracle" not in k} for fold, log in logs.items()}
    assert any("oracle_leaky_accuracy" in log for log in logs.values())
    assert curves_picture(logs) == curves_picture(honest)


def test_the_page_of_442_clips_stays_small(tmp_path):
    run = make_run(tmp_path, subjects=68, clips=7, crops=False, flow=False)
    assert len(run.page()) < 1.2e6  # twelve examples of real faces add 5 MB


def test_importing_the_report_loads_no_drawing_library_and_a_report_no_torch(tmp_path):
    made = make_run(tmp_path, subjects=2, clips=1)
    code = (
        "import sys, mepipe.report\n"
        "assert not {'matplotlib', 'torch', 'jinja2', 'cv2'} & set(sys.modules)\n"
        "from mepipe.workspace import Workspace\n"
        f"mepipe.report.report_run(Workspace({str(made.ws.root)!r}), {made.name!r})\n"
        "assert not {'torch', 'pandas', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- tables ------------------------------------------------------------------------------------------


def rows_of(*subjects: tuple[str, str]) -> list[Prediction]:
    """Predictions from ("true classes", "predicted classes") per subject, by their initials."""
    names = {c[0]: c for c in CLASSES}
    return [
        Prediction("samm", f"{i:03d}", f"c{k}", f"samm_{i:03d}", names[t], names[p], (1.0, 0.0, 0.0))
        for i, (true, pred) in enumerate(subjects)
        for k, (t, p) in enumerate(zip(true, pred, strict=True))
    ]


def test_subjects_are_sorted_worst_first_and_larger_ones_before_smaller():
    table = subject_rows(rows_of(("nn", "nn"), ("nn", "pp"), ("npps", "pnnp"), ("np", "nn")))
    assert [s.subject for s in table] == ["002", "001", "003", "000"]
    assert [(s.right, s.clips) for s in table] == [(0, 4), (0, 2), (1, 2), (2, 2)]


def test_the_constant_answer_is_the_most_frequent_class():
    answer, scores = constant_answer(rows_of(("nnp", "ppp"), ("s", "s")), CLASSES)
    assert answer == "negative"
    assert scores.acc == 0.5
    assert scores.uar == pytest.approx(1 / 3)
    assert scores.uf1 == pytest.approx(2 / 3 / 3)


def test_intervals_resample_subjects_and_not_clips():
    # half of the subjects all right, half all wrong: with n subjects the accuracy has sd 0.5 / sqrt(n)
    rows = rows_of(*[("nps" * 10, "nps" * 10), ("nps" * 10, "psn" * 10)] * 10)
    low, high = intervals(rows, CLASSES)["ACC"]
    assert low == pytest.approx(0.5 - 1.96 * 0.5 / 20**0.5, abs=0.06)
    assert high == pytest.approx(0.5 + 1.96 * 0.5 / 20**0.5, abs=0.06)


def test_intervals_hold_the_score_and_are_not_given_for_few_subjects(made):
    for name, (low, high) in intervals(made.rows, CLASSES).items():
        assert low <= score(made.rows, CLASSES)[name] <= high
    assert intervals(rows_of(("n", "n"), ("p", "p")), CLASSES) is None


def test_examples_are_balanced_and_always_the_same(made):
    picked = choose(made.rows, CLASSES)
    assert picked == choose(list(reversed(made.rows)), CLASSES)
    assert len(picked) == 12
    assert {sum(r.true == c for r in picked) for c in CLASSES} <= {3, 4, 5}
    wrong = sum(r.true != r.pred for r in made.rows)
    assert sum(r.true != r.pred for r in picked) == min(6, wrong)


def test_examples_of_a_perfect_run_fill_up_with_right_ones():
    assert len(choose(rows_of(("nps" * 5, "nps" * 5)), CLASSES)) == 12


@pytest.mark.parametrize(("seconds", "words"), [(42, "42 s"), (730, "12 min"), (12000, "3 h 20 min")])
def test_durations_are_said_as_a_reader_says_them(seconds, words):
    assert duration(seconds) == words


def test_the_mean_curve_is_over_the_folds_that_got_that_far():
    logs = [{"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.0]}, {"epoch": [1, 2], "loss": [1.0, 1.0]}]
    assert mean_curve(logs, "loss") == ([1, 2, 3], [2.0, 1.5, 1.0])


# --- pictures ----------------------------------------------------------------------------------------


def uniform(u: float, v: float, size: int = 8) -> np.ndarray:
    return np.broadcast_to(np.array([u, v], np.float32)[:, None, None], (2, size, size))


def hue(colour: np.ndarray) -> float:
    return colorsys.rgb_to_hsv(*(colour / 255.0))[0] * 360


def decoded(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def test_no_motion_is_white():
    assert (flow_picture(uniform(0, 0)) == 255).all()


@pytest.mark.parametrize(("u", "v"), [(1, 0), (0, 1), (0.6, 0.8), (-0.3, 0.9)])
def test_opposite_directions_have_opposite_hues(u, v):
    here, there = (flow_picture(uniform(s * u, s * v), limit=1.0)[0, 0] for s in (1, -1))
    assert abs(hue(here) - hue(there)) == pytest.approx(180, abs=1.5)


def test_right_is_red_and_left_is_cyan():
    assert flow_picture(uniform(2, 0), limit=2.0)[0, 0].tolist() == [255, 0, 0]
    assert flow_picture(uniform(-2, 0), limit=2.0)[0, 0].tolist() == [0, 255, 255]


def test_the_limit_is_where_colour_is_full_and_more_is_the_same():
    assert flow_picture(uniform(0.5, 0), limit=1.0)[0, 0].tolist() == [255, 128, 128]
    assert (flow_picture(uniform(9, 0), limit=1.0) == flow_picture(uniform(1, 0), limit=1.0)).all()


def test_the_default_limit_is_the_percentile_but_noise_is_not_blown_up():
    flow = smooth_flow(3)
    assert flow_limit(flow) == pytest.approx(np.percentile(np.hypot(flow[0], flow[1]), 99.5))
    assert flow_limit(uniform(0.001, 0)) == MIN_LIMIT
    assert (flow_picture(flow) == flow_picture(flow, flow_limit(flow))).all()


def test_what_is_not_finite_is_grey_and_does_not_set_the_limit():
    flow = np.array(uniform(1, 0))
    flow[0, 0, 0] = np.nan
    flow[1, 0, 1] = np.inf
    picture = flow_picture(flow)
    assert picture[0, 0].tolist() == picture[0, 1].tolist() == [128, 128, 128]
    assert picture[1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8), (8, 8, 2)])
def test_a_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        flow_picture(np.zeros(shape))


def test_a_limit_of_zero_is_refused():
    with pytest.raises(ValueError, match="limit"):
        flow_picture(uniform(1, 0), limit=0.0)


def test_the_wheel_has_the_colours_of_the_flow_it_explains():
    picture = wheel(101)
    assert picture[50, 50, :3].min() > 245
    assert hue(picture[50, 98, :3]) == pytest.approx(0, abs=2)
    assert hue(picture[98, 50, :3]) == pytest.approx(90, abs=2)
    assert picture[0, 0, 3] == 0


def test_the_legend_shows_its_limit():
    assert decoded(flow_legend(1.3)).shape == (600, 600, 4)
    assert flow_legend(1.3) != flow_legend(2.6)


def test_panels_are_square_with_a_legend_below():
    flow, onset = smooth_flow(0), crop(0)
    for data in (colour_picture(flow), arrows_picture(onset, flow), magnitude_picture(flow)):
        image = decoded(data)
        assert image.shape == (508, 448, 4)
        assert (image[:440, 8:440, 3] == 255).all()
        assert 0 < (image[456:, :, 3] > 0).mean() < 0.5
    legends = [decoded(magnitude_picture(flow, limit))[456:] for limit in (1.0, 2.0)]
    assert (legends[0] != legends[1]).any()


def test_the_colour_panel_shows_the_pixels_of_the_flow_picture():
    flow = smooth_flow(1)
    image = decoded(colour_picture(flow, 1.0))[20:430:2, 20:430:2, 2::-1]
    assert (image == flow_picture(flow, 1.0)[10:215, 10:215]).all()


def test_grey_crops_are_taken_as_well():
    assert decoded(arrows_picture(crop(0)[..., 0], smooth_flow(0))).shape == (508, 448, 4)


def test_an_arrow_is_the_mean_of_its_cell():
    flow = np.zeros((2, 28, 42))
    flow[0, :14, 14:28] = np.arange(196).reshape(14, 14)
    flow[1, 14:, 28:] = -2.0
    flow[0, 20, 5] = np.nan
    x, y, u, v = arrow_field(flow, 14)
    assert sorted(zip(x, y, u, v, strict=True)) == [
        (6.5, 6.5, 0.0, 0.0), (20.5, 6.5, 97.5, 0.0), (20.5, 20.5, 0.0, 0.0), (34.5, 6.5, 0.0, 0.0),
        (34.5, 20.5, 0.0, -2.0),
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0, 4.7, 60.0])
def test_arrows_are_magnified_by_a_round_number_and_stay_in_reach(limit):
    factor = magnification(limit)
    assert 0.3 * 24 < factor * limit <= 24
    assert f"{factor:e}"[0] in "125"


@pytest.mark.parametrize(("value", "expected"), [(1.0, 1), (1.99, 1), (2, 2), (7, 5), (0.3, 0.2), (0.05, 0.05)])
def test_nice_numbers_are_the_next_round_one_below(value, expected):
    assert nice(value) == pytest.approx(expected)


@pytest.mark.parametrize(("value", "text"), [(12.34, "12"), (9.96, "10.0"), (1.26, "1.3"), (0.254, "0.25")])
def test_lengths_have_the_digits_they_deserve(value, text):
    assert px(value) == text


def test_the_confusion_picture_shows_counts_of_any_class_number():
    matrices = [np.eye(n, dtype=int) * 3 for n in (3, 7)]
    shapes = [decoded(confusion_picture(m, [f"class {i}" for i in range(len(m))])).shape for m in matrices]
    assert shapes[1][0] - shapes[0][0] == 4 * 86 * 2
    assert confusion_picture(matrices[0], CLASSES) != confusion_picture(matrices[0] + 1, CLASSES)


def test_curves_show_inner_scores_only_where_they_were_looked_at():
    log = {"epoch": [1.0, 2.0], "lr": [0.1, 0.05], "loss": [1.0, 0.5], "accuracy": [0.4, 0.6]}
    plain = curves_picture({"a": log})
    inner = curves_picture({"a": {**log, "inner_UF1": [0.3, 0.5]}})
    assert decoded(plain).shape == decoded(inner).shape
    assert plain != inner
    with pytest.raises(ValueError, match="no logs"):
        curves_picture({})


def test_a_prediction_picture_takes_any_title_and_refuses_a_class_without_probability():
    onset, flow = crop(0), smooth_flow(0)
    image = decoded(prediction_picture(onset, crop(1), flow, CLASSES, [0.7, 0.2, 0.1], r"$\frac{clip: negative"))
    assert image.shape[1] > 4 * 1.5 * 224
    with pytest.raises(ValueError, match="3 classes and 2"):
        prediction_picture(onset, onset, flow, CLASSES, [0.7, 0.3], "")


def test_an_overview_has_a_row_per_clip():
    clips = [FlowClip(crop(i), crop(i), smooth_flow(i), f"sub{i}") for i in range(2)]
    one, two, wide = (decoded(data) for data in (
        overview_picture(clips[:1]), overview_picture(clips), overview_picture(clips[:1], arrows=True)
    ))  # fmt: skip
    assert two.shape[0] - one.shape[0] == pytest.approx(1.5 * (224 + 30 + 10), abs=1)
    assert wide.shape[1] - one.shape[1] == pytest.approx(1.5 * (224 + 12), abs=1)


def test_scores_of_resamples_use_the_same_metric():
    matrix = np.array([[2.0, 1.0], [0.0, 3.0]])
    assert Scores(("a", "b"), matrix).uar == pytest.approx((2 / 3 + 1) / 2)
