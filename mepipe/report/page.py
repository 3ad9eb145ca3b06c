"""RUN/report.html: one file that needs nothing else, written from what the run's folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mepipe.progress import Progress
from mepipe.report import tables
from mepipe.report.canvas import DARK, LIGHT, jpeg
from mepipe.report.colours import flow_limit
from mepipe.report.examples import Example, choose, load_examples, load_faces
from mepipe.report.flowpictures import arrows_picture, colour_picture, magnitude_picture
from mepipe.report.html import Picture, uri, wheel_picture, write_page
from mepipe.report.lengths import px
from mepipe.report.plots import curves_picture
from mepipe.report.reading import RunData, read_run
from mepipe.report.runclips import run_clips
from mepipe.report.saliencyview import saliency_view
from mepipe.workspace import Workspace
from mepipe_model.evaluate import LEAKY
from mepipe_model.statistics import RESAMPLES

MEANING = {
    "UF1": "mean F1 of the classes, each counting the same",
    "UAR": "mean recall of the classes, each counting the same",
    "ACC": "share of clips that are right",
    "WF1": "mean F1 of the classes, each counting as many times as it has clips",
}


def report_run(ws: Workspace, run: str | Path, progress: Progress | None = None) -> Path:
    """Write the page of a run.

    Works on a run of which some folds are finished.  Crops and shards that are gone are said to be so.

    Parameters
    ----------
    ws
        The workspace that run names are looked up in.
    run
        A name or a folder.
    progress
        progress(done, total) is called after every clip.

    Returns
    -------
    Path
        RUN/report.html.

    Raises
    ------
    UsageError
        No such run.
    DataError
        No fold is finished or a file is damaged.
    """
    data = read_run(ws, run)
    picked, faces = choose(data.rows, data.run.classes), data.run.settings.input is not None
    examples = load_faces(ws, picked) if faces else load_examples(ws, picked)
    clips, clip_notes = ([], []) if faces else run_clips(ws, data.rows, data.run.classes, progress)
    return write_page(
        data.run.folder / "report.html",
        "report.html",
        **numbers(data),
        curves=curves(data),
        examples=[card(e, data.run.classes) for e in examples],
        legend=wheel_picture(),
        clips=clips,
        clip_notes=clip_notes,
        saliency=saliency_view(data.run.folder, data.run.classes),
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
        "groups": groups(data.scores),
        "oracle": data.oracle,
        "leaky": LEAKY,
        "notes": data.notes,
        "complete": data.complete,
        "meaning": MEANING,
        "summary": tables.summary(run, data.rows),
        "protocol": tables.PROTOCOL[settings.protocol or "loso"],
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


def groups(scores: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """The parts with a confusion matrix of their own: name, scores, and what their clips have in common."""
    corpora = scores["per_corpus"] if len(scores["per_corpus"]) > 1 else {}
    out = [(name, part, {"corpus": name}) for name, part in corpora.items()]
    return out + [(name, part, {"part": name}) for name, part in scores.get("per_part", {}).items()]


def curves(data: RunData) -> Picture | None:
    """The learning curves, in light and dark."""
    if not data.logs:
        return None
    light, dark = (uri(curves_picture(data.logs, theme)) for theme in (LIGHT, DARK))
    last = [log["accuracy"][-1] for log in data.logs.values()]
    alt = f"training loss, training accuracy and learning rate over the epochs of {len(data.logs)} folds; "
    alt += f"training accuracy after the last epoch {min(last):.2f} to {max(last):.2f}"
    return Picture(light, alt, dark=dark)


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
    if example.face is not None:
        out.append(Picture(uri(jpeg(example.face), "jpeg"), f"face of {name}", "as the model saw it"))
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
