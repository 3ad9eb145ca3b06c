"""What ``mepipe predict`` writes: a table, and a page with crops, flow and probabilities; refused inputs with why.

The page is one HTML file without a script, in the style of the timeline's; all text from data is escaped.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from mepipe.errors import UsageError
from mepipe.report.canvas import jpeg
from mepipe.report.colours import flow_limit, flow_picture
from mepipe.report.html import uri, wheel_picture
from mepipe.report.timeline import FOOT, HEAD, chances, render
from mepipe.workspace import write_text
from mepipe_model.answers import Answer, FacePredictions, Predictions, Shown
from mepipe_model.predictfaces import answers_table

PAGE = (
    HEAD
    + """<main>
<h1>{{ title }}</h1>
<p class="facts">{{ answers | length }} classified, {{ refused | length }} refused; classes {{ classes | join(', ') }};
{{ 'one model' if models == 1 else 'the mean of %d models' % models }}.</p>
{% for warning in warnings %}<p class="warning">{{ warning }}</p>
{% endfor %}
{% if answers %}
<p class="note wheel"><img src="{{ wheel.light }}" alt="{{ wheel.alt }}"><span>Flow from onset to
apex in px of the 224 × 224 crop. The direction is the colour; full colour is the length under each picture.</span></p>
<div class="wide"><table><thead><tr><th>input</th><th>class</th><th>onset</th><th>apex</th><th>flow</th>
<th class="n">largest motion</th><th>how</th></tr></thead><tbody>
{% for a in answers %}<tr><td class="name">{{ a.name }}</td>
<td><strong>{{ a.prediction }}</strong>{{ a.chances }}</td>
<td><img src="{{ a.first }}" alt="onset" loading="lazy"><br><span class="note">{{ a.onset }}</span></td>
<td><img src="{{ a.top }}" alt="apex" loading="lazy"><br><span class="note">{{ a.apex }}, {{ a.source }}</span></td>
<td><img src="{{ a.flow }}" alt="flow in colours" loading="lazy"><br><span class="note">{{ a.limit }} px</span></td>
<td class="n">{{ a.motion }} px</td><td>{{ a.how }}{% for w in a.warnings %}<br><span class="warning">{{ w }}</span>
{% endfor %}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}
{% if refused %}<h2>Refused</h2>
<div class="wide"><table><thead><tr><th>input</th><th>reason</th></tr></thead><tbody>
{% for r in refused %}<tr><td class="name">{{ r.name }}</td><td class="false name">{{ r.reason }}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}
</main>
"""
    + FOOT
)


def predictions_page(result: Predictions) -> str:
    """The page as HTML text; ``result`` must have its pictures (``predict_many(..., pictures=True)``)."""
    common = _common_warnings(result)
    return render(
        PAGE,
        title=f"What {result.run} says",
        classes=result.classes,
        models=len(result.answers[0].folds) if result.answers else 0,
        warnings=common,
        wheel=wheel_picture(),
        answers=[_row(shown, common) for shown in result.shown],
        refused=result.refused,
    )


def _common_warnings(result: Predictions) -> list[str]:
    """The warnings that every answer has: they are said once."""
    lists = [a.warnings for a in result.answers]
    return [w for w in (lists[0] if lists else ()) if all(w in others for others in lists)]


def _row(shown: Shown, common: list[str]) -> dict[str, Any]:
    a, limit = shown.answer, flow_limit(shown.flow)
    colours = flow_picture(shown.flow, limit)[..., ::-1]  # RGB to BGR, as the encoder takes it
    return {
        "name": a.clip, "prediction": a.prediction, "chances": chances(a),
        "first": uri(jpeg(shown.onset), "jpeg"), "top": uri(jpeg(shown.apex), "jpeg"),
        "flow": uri(jpeg(colours.copy()), "jpeg"), "limit": f"{limit:.2f}", "motion": f"{a.largest_motion:.2f}",
        "onset": a.onset, "apex": a.apex, "source": a.apex_source.replace("spotted:", "spotted by "),
        "how": f"{a.reader}; crop by {a.align}",
        "warnings": [w for w in a.warnings if w not in common],
    }  # fmt: skip


def write_answers(result: Predictions, table: Path | None = None, page: Path | None = None) -> list[Path]:
    """Write ``result`` as a CSV and as a page, where they are asked for. Returns what was written."""
    if table:
        write_text(table, predictions_csv(result))
    if page:
        write_text(page, predictions_page(result))
    return [path for path in (table, page) if path]


def check_places(*paths: Path | None) -> None:
    """Raises UsageError, before any work, for a file that could not be written."""
    for path in paths:
        if path and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}")


def predictions_csv(result: Predictions) -> str:
    """One row per input, refused ones too: input, status, prediction, p_<class>, frames, how, reason."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    if isinstance(result, FacePredictions):
        header, rows = answers_table(result)
        table.writerows([header, *rows])
        return out.getvalue()
    facts = ("onset", "apex", "apex_source", "align", "reader", "largest_motion_px", "warnings", "reason")
    table.writerow(["input", "status", "prediction", *(f"p_{c}" for c in result.classes), *facts])
    for a in result.answers:
        assert isinstance(a, Answer)
        values = [f"{a.probabilities[c]:.6f}" for c in result.classes]
        table.writerow([a.clip, "ok", a.prediction, *values, a.onset, a.apex, a.apex_source, a.align, a.reader,
                        f"{a.largest_motion:.3f}", "; ".join(a.warnings), ""])  # fmt: skip
    for r in result.refused:
        table.writerow([r.name, "refused", *[""] * (len(result.classes) + len(facts)), r.reason])
    return out.getvalue()
