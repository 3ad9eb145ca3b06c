"""``mepipe demo``: the whole job on a made-up corpus, by the same functions the commands call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mepipe import progress
from mepipe.settings import FlowConfig, PrepareConfig, TrainConfig
from mepipe.workspace import Workspace

CORPUS = "casme2"


@dataclass
class Demo:
    """What the demo did: (step, what came of it, seconds), scores, and the files to open."""

    out: Path
    steps: list[tuple[str, str, float]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    page: Path | None = None
    picture: Path | None = None

    def lines(self) -> list[str]:
        text = ["", "What was done"]
        text += [f"  {name:8} {seconds:6.1f} s  {what}" for name, what, seconds in self.steps]
        m = self.metrics
        text += [
            "",
            f"Scores of merba_tiny, leave one subject out, last epoch, {m['clips']} clips pooled",
            f"  UF1 {m['UF1']:.3f}   UAR {m['UAR']:.3f}   ACC {m['ACC']:.3f}   (a constant answer: UF1 about 0.2)",
            "",
            "The faces are one photograph, changed and moved: this shows that the road works, not how well a model",
            "recognises real micro-expressions.",
            "",
            "Open",
            f"  {self.page}    scores, confusion matrix, learning curves, flow pictures",
            f"  {self.picture}    one clip classified by mepipe predict",
            f"  {self.out / 'raw'}    the made-up corpus in CASME II's layout, truth.csv beside it",
        ]
        return text


def run_demo(out: Path, seed: int = 0) -> Demo:
    """Run synth -> prepare -> flow -> train -> report -> predict in the folder ``out``. Run again, it resumes."""
    demo = Demo(out)
    ws, raw = Workspace(out / "work"), out / "raw"

    def step(name: str, unit: str, work: Callable[[progress.Progress], tuple[str, Any]]) -> Any:
        progress.say(f"-- {name}")
        started = time.monotonic()
        with progress.bar(name, unit) as tick:
            what, result = work(tick)
        demo.steps.append((name, what, time.monotonic() - started))
        return result

    step("synth", "clip", lambda tick: _synth(raw, seed, tick))
    step("prepare", "clip", lambda tick: _prepare(ws, raw, tick))
    step("flow", "pair", lambda tick: _flow(ws, tick))
    outcome = step("train", "epoch", lambda tick: _train(ws, seed, tick))
    demo.metrics = outcome.metrics
    demo.page = step("report", "page", lambda tick: _report(ws, outcome.folder))
    demo.picture = step("predict", "clip", lambda tick: _predict(ws, raw, out, outcome.folder))
    return demo


def _synth(raw: Path, seed: int, tick: progress.Progress) -> tuple[str, Any]:
    from mepipe.synth import make_corpus

    made = make_corpus(CORPUS, raw, seed=seed, progress=tick)
    return f"a made-up corpus in CASME II's layout: {made}", made


def _prepare(ws: Workspace, raw: Path, tick: progress.Progress) -> tuple[str, Any]:
    from mepipe.datasets import get_corpus
    from mepipe.prepare import prepare_corpus

    done = prepare_corpus(ws, get_corpus(CORPUS), raw, PrepareConfig(), tick)
    c = done.counts
    return f"faces found, aligned and cropped: {c['ok']} ok, {c['repaired']} repaired, {c['refused']} refused", done


def _flow(ws: Workspace, tick: progress.Progress) -> tuple[str, Any]:
    from mepipe.flow.run import flow_corpora

    done = flow_corpora(ws, (CORPUS,), FlowConfig(), tick, progress.say)
    return f"TV-L1 from onset to apex of {done.computed + done.reused} clips, engine {done.engine}", done


def _train(ws: Workspace, seed: int, tick: progress.Progress) -> tuple[str, Any]:
    from mepipe_model.train import train_run

    config = TrainConfig(data=(CORPUS,), model="merba_tiny", seed=seed, device="cpu")
    outcome = train_run(ws, config, tick, progress.say)
    assert outcome.metrics is not None
    return f"merba_tiny trained {outcome.metrics['folds']['of']} times, each without one subject", outcome


def _report(ws: Workspace, run: Path) -> tuple[str, Any]:
    from mepipe.report import report_run

    page = report_run(ws, run)
    return f"a page of {page.stat().st_size / 1e6:.1f} MB", page


def _predict(ws: Workspace, raw: Path, out: Path, run: Path) -> tuple[str, Any]:
    """The first clip of the corpus, by the model that never saw its subject."""
    from mepipe.datasets import get_corpus
    from mepipe_model.predict import predict_clip

    clip = next(c for c in get_corpus(CORPUS).clips(raw) if c.label3 and c.frames)
    assert clip.frames is not None
    picture = out / "prediction.png"
    fold = f"{clip.corpus}_{clip.subject}"
    answer = predict_clip(ws, str(run), clip.frames, onset=clip.onset, fold=fold, picture=picture)
    return f"{clip.subject}/{clip.name}, truth {clip.label3}: {answer.prediction}", picture
