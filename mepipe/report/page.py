"""RUN/report.html: one file that needs nothing else, written from what the run's folder holds.

All text from data passes jinja2's autoescape; the page's content policy forbids any request and any
script but the one filter of ours, named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mepipe.report import tables
from mepipe.report.canvas import DARK, LIGHT, jpeg
from mepipe.report.colours import flow_limit
from mepipe.report.examples import Example, choose, load_examples
from mepipe.report.flowpictures import arrows_picture, colour_picture, flow_legend, magnitude_picture, px
from mepipe.report.plots import confusion_picture, curves_picture
from mepipe.report.reading import RunData, read_run
from mepipe.workspace import Workspace, write_text
from mepipe_model.evaluate import LEAKY
from mepipe_model.statistics import RESAMPLES

TEMPLATES = Path(__file__).parent / "templates"
MEANING = {
    "UF1": "mean F1 of the classes, each counting the same",
    "UAR": "mean recall of the classes, each counting the same",
    "ACC": "share of clips that are right",
}


@dataclass(frozen=True)
class Picture:
    """A picture in the page: data URIs (``dark`` only where it differs), text for who cannot see it, caption."""

    light: str
    alt: str
    caption: str = ""
    dark: str | None = None


def report_run(ws: Workspace, run: str | Path) -> Path:
    """Write the page of ``run`` (a name in the workspace, or a folder) and return its path, RUN/report.html.

    Works on a run of which some folds are finished.  Crops and shards that are gone are said to be so.
    Raises UsageError for an unknown run, DataError when no fold is finished or a file is damaged.
    """
    data = read_run(ws, run)
    examples = load_examples(ws, choose(data.rows, data.run.classes))
    path = data.run.folder / "report.html"
    write_text(path, render(data, examples, made=time.strftime("%F %T")))
    return path


def render(data: RunData, examples: Sequence[Example], made: str) -> str:
    """The page as HTML text. made: when, as the reader shall see it."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = (TEMPLATES / "filter.js").read_text("utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates.get_template("report.html").render(
        **numbers(data),
        **pictures(data),
        examples=[card(e, data.run.classes) for e in examples],
        legend=Picture(uri(flow_legend()), "colour wheel: right red, down green, left cyan, up violet; white is still"),
        script=Markup(script),  # noqa: S704 - our own file, no data in it
        script_hash=digest,
        made=made,
    )


def numbers(data: RunData) -> dict[str, Any]:
    """Everything of the page that is text."""
    run, settings = data.run, data.run.settings
    answer, constant = tables.constant_answer(data.rows, run.classes)
    return {
        "run": run,
        "settings": settings,
        "classes": run.classes,
        "rows": data.rows,
        "scores": data.scores,
        "oracle": data.oracle,
        "leaky": LEAKY,
        "notes": data.notes,
        "complete": data.complete,
        "meaning": MEANING,
        "summary": tables.summary(run, data.rows),
        "protocol": tables.PROTOCOL[settings.protocol],
        "selection": tables.selection_words(settings, data.facts),
        "constant": {"answer": answer, "UF1": constant.uf1, "UAR": constant.uar, "ACC": constant.acc},
        "intervals": data.scores["interval"],
        "resamples": RESAMPLES,
        "subjects": tables.subject_rows(data.rows),
        "setting_rows": tables.setting_rows(settings),
        "provenance": tables.provenance_rows(run, data.facts),
        "shards": tables.shard_rows(run),
        "folds": tables.fold_rows(data.facts),
    }


def pictures(data: RunData) -> dict[str, Picture | None]:
    """The plots of the page, in light and dark."""
    matrix, classes = data.scores["confusion"]["matrix"], data.run.classes
    light, dark = (uri(confusion_picture(matrix, classes, theme)) for theme in (LIGHT, DARK))
    confusion = Picture(light, confusion_words(matrix, classes), dark=dark)
    if not data.logs:
        return {"confusion": confusion, "curves": None}
    light, dark = (uri(curves_picture(data.logs, theme)) for theme in (LIGHT, DARK))
    last = [log["accuracy"][-1] for log in data.logs.values()]
    alt = f"training loss, training accuracy and learning rate over the epochs of {len(data.logs)} folds; "
    alt += f"training accuracy after the last epoch {min(last):.2f} to {max(last):.2f}"
    return {"confusion": confusion, "curves": Picture(light, alt, dark=dark)}


def confusion_words(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    lines = [", ".join(f"{n} as {c}" for n, c in zip(row, classes, strict=True)) for row in matrix]
    return "confusion matrix: " + "; ".join(f"{c}: {line}" for c, line in zip(classes, lines, strict=True))


def card(example: Example, classes: Sequence[str]) -> dict[str, Any]:
    """An example as the template shows it."""
    r = example.prediction
    probability = r.probabilities[classes.index(r.pred)]
    return {"row": r, "right": r.true == r.pred, "probability": probability, "pictures": _panels(example),
            "notes": example.notes}  # fmt: skip


def _panels(example: Example) -> list[Picture]:
    r, s = example.prediction, example.sample
    name, out = f"{r.subject}/{r.clip}", []
    for which, crop in (("onset", example.onset), ("apex", example.apex)):
        if crop is not None and s is not None:
            number = getattr(s, which)
            out.append(Picture(uri(jpeg(crop), "jpeg"), f"{which} crop of {name}", f"{which}, frame {number}"))
    if example.flow is None:
        return out
    flow, limit = example.flow, flow_limit(example.flow)
    alt = f"of {name}, 99.5 % of the face moves less than {px(limit)} px"
    out.append(Picture(uri(colour_picture(flow, limit)), f"flow in colours {alt}", "flow in colours"))
    if example.onset is not None:
        arrows = arrows_picture(example.onset, flow, limit)
        out.append(Picture(uri(arrows), f"flow as arrows on the onset crop {alt}", "flow as arrows"))
    out.append(Picture(uri(magnitude_picture(flow, limit)), f"length of the flow {alt}", "magnitude"))
    return out


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
