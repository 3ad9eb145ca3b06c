"""The page of a spotted video: what was found when, what was held back and why, each interval with its pictures.

One HTML file without a script: nothing is fetched, nothing runs, it prints.  Every text from data passes jinja2's
autoescape; curves and bars are SVG drawn from numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mepipe.report.canvas import jpeg
from mepipe.report.html import uri
from mepipe.spot.run import Curves, Spotting
from mepipe.spot.scoring import MICRO
from mepipe.workspace import versions

ROW = 60.0  # seconds of video in one strip, of a video that is longer
WIDTH, LEFT = 1160, 110  # px of a strip, of the names of its lanes
CURVE, LANE, AXIS = 90, 20, 22  # px: height of the curve, of a lane, of the axis
POINTS = 600  # of the curve in a strip; each the highest of its frames, so that no peak is lost
MARK = 3.0  # px: the least width of a bar


class Answered(Protocol):
    """What is shown of a classifier's answer."""

    @property
    def prediction(self) -> str: ...

    @property
    def probabilities(self) -> dict[str, float]: ...


STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1f2430; --faint: #6b7280; --line: #d7dce5;
        --micro: #2457c5; --bar: #d6e2fb; --blink: #8a6d1b; --held: #8b8f98; --true: #1a7f4b; --wrong: #b3461f; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171f; --ink: #e4e7ee; --faint: #9aa2b1; --line: #323846;
        --micro: #86aaff; --bar: #2a3a63; --blink: #e0bd5c; --held: #7d8594; --true: #6fd39d; --wrong: #ff9a6b; } }
body { margin: 2rem auto; max-width: 1180px; padding: 0 1rem; background: var(--ground); color: var(--ink);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.facts, .note { color: var(--faint); } .warning { color: var(--wrong); }
.strip { overflow-x: auto; } svg { display: block; min-width: 700px; width: 100%; height: auto; }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
svg a:focus rect, svg a:hover rect { stroke: var(--ink); stroke-width: 2; }
.curve { fill: none; stroke: var(--micro); stroke-width: 1.2; }
.level { stroke: var(--wrong); stroke-dasharray: 4 4; } .grid { stroke: var(--line); }
.micro { fill: var(--micro); } .blink { fill: var(--blink); } .held { fill: var(--held); } .true { fill: var(--true); }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; color: var(--faint); }
.wide { overflow-x: auto; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: middle; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } td.n { white-space: nowrap; }
td.name { overflow-wrap: anywhere; min-width: 8rem; }
.chance { display: flex; justify-content: space-between; gap: .6rem; min-width: 8rem; margin: 1px 0; padding: 0 .4rem;
          border-radius: 3px; font-size: .85rem; white-space: nowrap;
          background: linear-gradient(90deg, var(--bar) var(--part), transparent 0); }
tr:target { outline: 2px solid var(--micro); outline-offset: -2px; }
img { width: 112px; height: 112px; border-radius: 4px; vertical-align: middle; }
.found { color: var(--true); } .missed, .false { color: var(--wrong); }
.wheel { display: flex; gap: .8rem; align-items: center; } .wheel img { flex: none; }
@media print { body { margin: 0; max-width: none; font-size: 11px; } tr, svg { break-inside: avoid; }
  svg { min-width: 0; } img { width: 64px; height: 64px; } th, td { padding: .2rem .35rem; }
  .strip, .wide { overflow: visible; } .chance { min-width: 6rem; font-size: 10px; print-color-adjust: exact; } }
"""

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title><style>{{ style }}</style></head><body>
"""
FOOT = """<p class="facts">Made by mepipe {{ mepipe_version }}, {{ made }}.</p>
</body></html>
"""

PAGE = (
    HEAD
    + """<main>
<h1>{{ title }}</h1>
<p class="facts">{{ facts }}</p>
{% for warning in warnings %}<p class="warning">{{ warning }}</p>
{% endfor %}
{% if score %}<p><strong>{{ score }}</strong></p>
{% endif %}
<h2>Timeline</h2>
<p class="note">The curve is how much the strongest fifth of the face moves and comes back, over its noise; the dashed
line is the threshold, the scale logarithmic. Bars lead to their rows below.</p>
{% for strip in strips %}<div class="strip">{{ strip }}</div>
{% endfor %}
<h2>Micro-expressions</h2>
{% if rows %}<div class="wide"><table>
<thead><tr><th class="n">#</th><th class="n">at</th><th class="n">onset</th><th class="n">apex</th>
<th class="n">offset</th><th class="n">lasts</th><th>where</th><th class="n">score</th>
{% if classes %}<th>class</th>{% endif %}
{% if score %}<th>truth</th>{% endif %}<th>onset, apex</th></tr></thead><tbody>
{% for r in rows %}<tr id="i{{ r.number }}"><td class="n">{{ r.number }}</td><td class="n">{{ r.at }}</td>
<td class="n">{{ r.onset }}</td><td class="n">{{ r.apex }}</td><td class="n">{{ r.offset }}</td>
<td class="n">{{ r.lasts }}</td><td>{{ r.part }}</td><td class="n">{{ r.score }}</td>
{% if classes %}<td><strong>{{ r.prediction }}</strong>{{ r.chances }}</td>{% endif %}
{% if score %}<td class="{{ r.truth }}">{{ r.truth }}</td>{% endif %}
<td>{% for p in r.pictures %}<img src="{{ p }}" alt="{{ loop.cycle('onset', 'apex') }} of number {{ r.number }}"
loading="lazy"> {% endfor %}</td></tr>
{% endfor %}</tbody></table></div>
{% else %}<p>None was found.</p>
{% endif %}
{% if missed %}<h2>Missed</h2>
<div class="wide"><table><thead><tr><th class="n">onset</th><th class="n">offset</th><th>label</th></tr></thead><tbody>
{% for t in missed %}<tr class="missed"><td class="n">{{ t.onset }}</td><td class="n">{{ t.offset }}</td>
<td>{{ t.label }}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}
<h2>Held back</h2>
{% if held %}<details><summary>{{ counted }} held back, and why</summary>
<div class="wide"><table><thead><tr><th class="n">at</th><th class="n">onset</th><th class="n">apex</th>
<th class="n">offset</th><th>why</th><th>where</th><th class="n">score</th></tr></thead><tbody>
{% for r in held %}<tr><td class="n">{{ r.at }}</td><td class="n">{{ r.onset }}</td><td class="n">{{ r.apex }}</td>
<td class="n">{{ r.offset }}</td><td>{{ r.verdict }}</td><td>{{ r.part }}</td><td class="n">{{ r.score }}</td></tr>
{% endfor %}</tbody></table></div></details>
<p class="note">step: it does not come back within reach; head: it went along with the head; blink: no more than the
rest of one; too long, too short: outside {{ shortest }} to {{ longest }} s.</p>
{% else %}<p>Nothing was.</p>
{% endif %}
</main>
"""
    + FOOT
)


def timeline_page(spotting: Spotting, answers: Sequence[Answered | None] = ()) -> str:
    """The page as HTML text. answers: of a classifier, one for each interval, or none."""
    s = spotting
    true_of = dict(s.scored.pairs) if s.scored else {}
    known = [t for t in s.truth if t.kind == MICRO]
    speed = f"{s.seconds / s.took:.1f} times real time" if s.took else ""
    return render(
        PAGE,
        title=f"Micro-expressions in {Path(s.video).name}",
        facts=f"{s.frames} frames, {s.seconds:.1f} s at {s.fps:g} fps, read by {s.reader}; {len(s.intervals)} found, "
        f"{_count(s.blinks, 'blink')}, {_count(s.suppressed, 'candidate')} held back; {s.took:.1f} s of work, {speed}",
        warnings=s.warnings,
        score=str(s.scored) if s.scored else "",
        strips=[Markup(strip(s, at)) for at in np.arange(0, max(s.seconds, 1e-3), row_of(s))],  # noqa: S704 - numbers of ours
        classes=any(a is not None for a in answers),
        rows=[_row(s, i, answers, true_of) for i in range(len(s.intervals))],
        missed=[t for j, t in enumerate(known) if s.scored and j not in true_of.values()],
        counted=_count(s.suppressed, "candidate"),
        held=[_facts(one, s.fps) for one in s.suppressed],
        shortest=s.config.min_duration,
        longest=s.config.max_duration,
    )


def render(template: str, **values: Any) -> str:
    """``template`` as a page with our style; values are escaped."""
    templates = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made = {"made": time.strftime("%F %T"), "mepipe_version": versions()["mepipe"]}
    style = Markup(STYLE)  # noqa: S704 - a constant
    return templates.from_string(template).render(style=style, **made, **values)


def _count(things: Sequence[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _facts(one: Any, fps: float) -> dict[str, Any]:
    return {
        "at": f"{one.onset / fps:.2f} s", "onset": one.onset, "apex": one.apex, "offset": one.offset,
        "lasts": f"{(one.offset - one.onset) / fps:.2f} s", "part": one.part, "score": f"{one.score:.0f}",
        "verdict": one.verdict,
    }  # fmt: skip


def _row(s: Spotting, i: int, answers: Sequence[Answered | None], true_of: dict[int, int]) -> dict[str, Any]:
    answer = answers[i] if answers else None
    return {
        "number": i + 1,
        **_facts(s.intervals[i], s.fps),
        "prediction": answer.prediction if answer else "",
        "chances": chances(answer) if answer else "",
        "truth": "found" if i in true_of else "false",
        "pictures": [uri(jpeg(picture), "jpeg") for picture in s.intervals[i].thumbnails],
    }


CHANCE = Markup('<span class="chance" style="--part: {:.0f}%"><span>{}</span> <span>{:.0f} %</span></span>')


def chances(answer: Answered) -> Markup:
    """The probabilities of the classes, the likeliest first, as bars; names are escaped."""
    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    return Markup("").join(CHANCE.format(100 * p, name, 100 * p) for name, p in ranked)


# --- strips ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """first, last: frames.  row: of the interval in the table, 0 without."""

    first: int
    last: int
    kind: str
    words: str
    row: int = 0


def lanes(s: Spotting) -> dict[str, list[Bar]]:
    """Name of a lane -> its bars."""
    out = {"found": [Bar(x.onset, x.offset, "micro", f"number {i}, {x.part}", i) for i, x in enumerate(s.intervals, 1)]}
    if s.truth:
        out["truth"] = [Bar(t.onset, t.offset, "true", "known") for t in s.truth if t.kind == MICRO]
    out["held back"] = [Bar(x.onset, x.offset, "held", x.verdict) for x in s.suppressed]
    out["blinks"] = [Bar(a, b, "blink", "blink") for a, b in s.blinks]
    return out


def strip(s: Spotting, start: float) -> str:
    """A strip from ``start`` on as SVG text: curve, lanes, axis.  Nothing in it is text from outside."""
    bars = lanes(s)
    height = CURVE + LANE * len(bars) + AXIS
    row = row_of(s)
    words = f"score and events from {start:.0f} to {min(start + row, s.seconds):.0f} s"
    out = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{words}">', *_axis(s, start, height)]
    out += [f'<text x="0" y="{CURVE / 2:.0f}">score</text>', *_curve(s, start)]
    for n, (name, lane) in enumerate(bars.items()):
        top = CURVE + n * LANE
        out.append(f'<text x="0" y="{top + 14}">{name}</text>')
        out += [
            _bar(s, bar, start, top) for bar in lane if start * s.fps <= bar.last and bar.first < (start + row) * s.fps
        ]
    return "".join([*out, "</svg>"])


def row_of(s: Spotting) -> float:
    """Seconds in a strip: a short video fills one."""
    return min(ROW, max(s.seconds, 1.0))


def _x(seconds: float, start: float, row: float) -> float:
    return LEFT + (WIDTH - LEFT) * min(max((seconds - start) / row, 0.0), 1.0)


def _axis(s: Spotting, start: float, height: int) -> list[str]:
    out, row = [], row_of(s)
    for second in np.arange(start, min(start + row, s.seconds) + 0.01, 5 if row > 20 else 1):
        x = _x(second, start, row)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - AXIS}"/>')
        anchor = "end" if x > WIDTH - 30 else "middle"
        out.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}">{second:.0f} s</text>')
    return out


def _curve(s: Spotting, start: float) -> list[str]:
    """The score, on a scale of its logarithm, broken where there is no face; and the threshold."""
    row = row_of(s)
    top = np.log1p(max(float(s.curves.score.max(initial=0.0)), 4 * s.config.threshold))
    y = CURVE - 6 - (CURVE - 12) * float(np.log1p(s.config.threshold)) / top
    out = [f'<line class="level" x1="{LEFT}" x2="{_x(s.seconds, start, row):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>']
    for numbers, values in _binned(s.curves, s.fps, start, row):
        points = (
            f"{_x(number / s.fps, start, row):.1f},{CURVE - 6 - (CURVE - 12) * np.log1p(value) / top:.1f}"
            for number, value in zip(numbers, values, strict=True)
        )
        out.append(f'<polyline class="curve" points="{" ".join(points)}"/>')
    return out


def _binned(curves: Curves, fps: float, start: float, row: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pieces of the curve without gaps: middle frame and highest score of each bin."""
    inside = (curves.numbers >= start * fps) & (curves.numbers < (start + row) * fps)
    numbers, values = curves.numbers[inside], curves.score[inside]
    if not len(numbers):
        return []
    bins = ((numbers / fps - start) / row * POINTS).astype(int)
    used, first = np.unique(bins, return_index=True)
    highest = np.maximum.reduceat(values, first)
    cuts = np.flatnonzero(np.diff(used) > max(4, POINTS / (row * fps) * 4)) + 1
    middles = start * fps + (used + 0.5) * row * fps / POINTS
    return list(zip(np.split(middles, cuts), np.split(highest, cuts), strict=True))


def _bar(s: Spotting, bar: Bar, start: float, top: int) -> str:
    x0, x1 = (_x(frame / s.fps, start, row_of(s)) for frame in (bar.first, bar.last + 1))
    words = f"{bar.words}, frames {bar.first} to {bar.last}, {bar.first / s.fps:.2f} s"
    rect = (f'<rect class="{bar.kind}" x="{x0:.1f}" y="{top + 3}" width="{max(x1 - x0, MARK):.1f}" '
            f'height="{LANE - 6}" rx="2"><title>{words}</title></rect>')  # fmt: skip
    return f'<a href="#i{bar.row}" aria-label="{words}">{rect}</a>' if bar.row else rect
