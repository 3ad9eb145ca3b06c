"""What is odd about a prepared clip, so that a person looks at it first.

Each check is one figure against one bound; a clip's rank is how far beyond its bounds it is.  An outlier is no error:
it is where wrong crops and wrong flow are found, if there are any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from mepipe.report.lengths import px
from mepipe.report.packing import Measures

ENLARGED = 2.0  # crop px per source px: the face is smaller than half the crop, and every pixel of it is doubled
HEAD = 1.0  # px of the crop: the whole face goes as far as an expression moves a part of it
STILL = 0.1  # px: with sensor noise alone TV-L1 finds about as much (mepipe predict warns below it too)
FAR = 20.0  # px: no expression moves a face that far between onset and apex
EDGE = 1.0  # border over inside: what moves most lies along the edge, which is background or a wrong crop
LOUD = 0.5  # px: motion of the border below this is noise, whatever the inside does
ODD_SIZE = 1.6  # a face so much wider or narrower than its subject's usual one: perhaps another face
ENOUGH = 4  # clips of a subject needed before "usual" means anything
LOW_SCORE = 0.1  # of the HOG detector, which knows nothing below 0 and gives frontal faces 0.5 to 3

CHECKS = {
    "refused": "no crop, no flow: the reason is in its row",
    "tiny face": f"its crop enlarges the source more than {ENLARGED:g} times",
    "odd face size": f"the box is {ODD_SIZE:g} times wider or narrower than this subject's median",
    "low score": f"the detector scores it below {LOW_SCORE:g}",
    "zero flow": f"99.5 % of the crop moves less than {STILL:g} px",
    "far motion": f"something moves more than {FAR:g} px",
    "head motion": f"the median motion of the crop is more than {HEAD:g} px",
    "border motion": f"the outermost 8 px move more than the inside, and more than {LOUD:g} px",
}


@dataclass(frozen=True)
class Flag:
    """One check that a clip does not pass. weight: how far beyond its bound, 1 at the bound."""

    name: str
    text: str
    weight: float


def flags(
    measures: Measures, *, status: str, score: float | None, detector: str, width: float | None, usual: float | None
) -> list[Flag]:
    """The checks that a clip fails, worst first. width: of its face box; usual: its subject's median width."""
    found = [*_of_face(measures, score, detector, width, usual), *_of_motion(measures)]
    if status == "refused":
        found.append(Flag("refused", "refused", 100.0))  # before all others: it is missing from every result
    return sorted(found, key=lambda f: -f.weight)


def _of_face(
    m: Measures, score: float | None, detector: str, width: float | None, usual: float | None
) -> Iterator[Flag]:
    if m.scale is not None and m.scale > ENLARGED:
        yield Flag("tiny face", f"the crop enlarges the source {m.scale:.1f} times", m.scale / ENLARGED)
    if width and usual and not 1 / ODD_SIZE <= width / usual <= ODD_SIZE:
        ratio = max(width / usual, usual / width)
        yield Flag("odd face size", f"box {width:.0f} px wide, usually {usual:.0f} px", ratio / ODD_SIZE)
    if score is not None and score < LOW_SCORE and detector.startswith("dlib"):
        yield Flag("low score", f"detector score {score:.2f}", 1 + LOW_SCORE - score)


def _of_motion(m: Measures) -> Iterator[Flag]:
    if m.length is None or m.head is None or m.border is None or m.inner is None:
        return
    if m.length < STILL:
        yield Flag("zero flow", f"99.5 % moves less than {m.length:.2f} px", STILL / max(m.length, STILL / 10))
    if m.length > FAR:
        yield Flag("far motion", f"{px(m.length)} px", m.length / FAR)
    if m.head > HEAD:
        yield Flag("head motion", f"the whole face moves {px(m.head)} px", m.head / HEAD)
    if m.border > LOUD and m.border > EDGE * m.inner:
        yield Flag("border motion", f"border {px(m.border)} px, inside {px(m.inner)} px", m.border / m.inner)


def usual_widths(boxes: list[tuple[str, float]]) -> dict[str, float]:
    """Median box width by subject, from (subject, width), for subjects with enough clips."""
    by_subject: dict[str, list[float]] = {}
    for subject, width in boxes:
        by_subject.setdefault(subject, []).append(width)
    return {s: median(w) for s, w in by_subject.items() if len(w) >= ENOUGH}
