"""Text from data stays text on every page, wherever it comes from: names, emotions, reasons, settings, versions."""

from __future__ import annotations

import html.parser
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_report import CLASSES, make_run, smooth_flow

from mepipe.cliptable import read_records, to_csv
from mepipe.report import report_run
from mepipe.report.html import TEMPLATES
from mepipe.shards import Sample, write_shard
from mepipe.workspace import Workspace, write_json, write_text
from mepipe_model.runs import Prediction, read_json, write_predictions

EVIL = "</script><script>alert(1)</script>\"' onerror=alert(1) x='{{ 7*7 }}<img src=x onerror=alert(1)>&lt;b&gt;"


class Elements(html.parser.HTMLParser):
    """Every element of a page, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


def check(page: str) -> None:
    """Nothing of EVIL has become an element, an attribute or code."""
    assert "alert(1)" in page, "what was planted is not on the page: this test would protect nothing"
    assert ">49<" not in page
    elements = Elements(page)
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert attributes.get("src") is None or attributes["src"].startswith("data:image/")
        assert not str(attributes.get("href", "")).lower().startswith(("javascript:", "http", "//"))
    code = [
        text
        for (tag, attributes), text in zip(
            [e for e in elements.found if e[0] == "script"], elements.scripts, strict=True
        )
        if attributes.get("type") != "application/json"
    ]
    assert len(code) <= 1, "one script, ours"
    assert not any("alert(1)" in text for text in code)
    policy = next(a["content"] for t, a in elements.found if t == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]


@pytest.fixture
def evil_run(tmp_path):
    """A run in which every text that a stranger can choose is EVIL."""
    run = make_run(tmp_path, subjects=2, clips=3, crops=False, clip_name="EP{:02d}", epochs=1)
    config = read_json(run.folder / "config.json")
    classes = [c + EVIL for c in CLASSES]
    config["data"] |= {"classes": classes, "shards": {EVIL: EVIL}, "missing": [EVIL]}
    config["model"] = {"name": EVIL, "source": EVIL, "fidelity": EVIL}
    config |= {"device": {"type": EVIL, "name": EVIL}, "versions": {EVIL: EVIL}, "started": EVIL, "fingerprint": EVIL}
    config["settings"] |= {"run": EVIL, "options": [f"{EVIL}={EVIL}"], "data": [EVIL]}
    write_json(run.folder / "config.json", config)
    for fold in run.folder.glob("folds/*"):
        rows = [
            replace(r, clip=r.clip + EVIL, true=r.true + EVIL, pred=r.pred + EVIL)
            for r in run.rows
            if r.fold == fold.name
        ]
        write_predictions(fold / "predictions.csv", rows, classes)
        facts = json.loads((fold / "fold.json").read_text())
        write_json(fold / "fold.json", {**facts, "judged_epoch": EVIL, "device": EVIL})
    shutil.rmtree(run.ws.flow)
    rows = [Sample(r.corpus, r.subject, r.clip + EVIL, emotion=EVIL, onset=1, apex=2, offset=3) for r in run.rows]
    for corpus in {r.corpus for r in rows}:
        own = [r for r in rows if r.corpus == corpus]
        write_shard(run.ws.flow / f"{corpus}-00000.h5", own, [smooth_flow(1)] * len(own), engine=EVIL,
                    parameters={EVIL: EVIL}, versions={EVIL: EVIL})  # fmt: skip
    evil = run.ws.runs / EVIL.replace("/", "\N{DIVISION SLASH}")[:80]
    run.folder.rename(evil)
    return run.ws, evil


def test_the_page_of_a_run_shows_text_as_text(evil_run):
    ws, folder = evil_run
    page = report_run(ws, folder).read_text("utf-8")
    check(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page or "&lt;/script&gt;" in page


def test_the_page_of_a_corpus_shows_text_as_text(made, tmp_path):
    """Names of a corpus become folders and so cannot hold it; all its other words can."""
    from mepipe.report.corpus import report_corpus

    ws = Workspace(Path(shutil.copytree(made.work, tmp_path / "work")))
    folder = ws.prepared("casme2")
    records = [
        replace(r, emotion=EVIL, reason=EVIL, aus=EVIL, detector=EVIL, align=EVIL, apex_source=EVIL, split=EVIL,
                label3=EVIL, label7=EVIL, key=EVIL, status="repaired" if n else "refused")
        for n, r in enumerate(read_records(folder))
    ]  # fmt: skip
    write_text(folder / "clips.csv", to_csv(records))
    page = report_corpus(ws, "casme2").read_text("utf-8")
    check(page)


def test_every_template_is_escaped_and_marks_nothing_safe():
    """``|safe`` and ``autoescape false`` would let data through."""
    templates = sorted(TEMPLATES.glob("*.html"))
    assert len(templates) > 1
    for path in templates:
        text = path.read_text("utf-8")
        assert "|safe" not in text.replace(" ", ""), path.name
        assert "autoescape false" not in text, path.name
        assert "onclick" not in text, path.name
        assert "javascript:" not in text, path.name


def test_predictions_with_control_characters_are_refused_before_any_page(tmp_path):
    """ESC would rewrite lines on a terminal, and stand invisibly on a page."""
    from mepipe.errors import DataError
    from mepipe_model.runs import read_predictions

    row = Prediction("casme2", "s", "c\x1b[2J", "f", "a", "a", (1.0, 0.0))
    write_predictions(tmp_path / "p.csv", [row], ("a", "b"))
    with pytest.raises(DataError, match="control characters"):
        read_predictions(tmp_path / "p.csv")
