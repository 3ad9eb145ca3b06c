"""Several pictures in one: what ``mepipe predict`` draws of a clip, and the overview of some clips.

Both stand alone, on white, and show every limit in px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from mepipe.report.canvas import LIGHT, axes, bare, figure, plain, png
from mepipe.report.colours import flow_limit
from mepipe.report.flowpictures import PANEL, STRIP, draw_arrows, draw_colours, draw_crop, draw_magnitude

SIDE = 224  # px of a panel before ``SCALE``
LEGEND = round(STRIP * SIDE / PANEL)
GAP, MARGIN = 12, 18
SCALE = 1.5
GROUND = "#ffffff"


@dataclass(frozen=True)
class FlowClip:
    """A clip to show. Crops are (H, W[, 3]) uint8 BGR, ``flow`` is (2 or 3, H, W) in px."""

    onset: np.ndarray
    apex: np.ndarray
    flow: np.ndarray
    title: str


def prediction_picture(
    onset_crop: np.ndarray,
    apex_crop: np.ndarray,
    flow: np.ndarray,
    classes: Sequence[str],
    probabilities: Sequence[float],
    title: str,
) -> bytes:
    """One clip and what the model thinks of it.

    Parameters
    ----------
    onset_crop, apex_crop
        (H, W[, 3]) uint8 BGR.
    flow
        (2 or 3, H, W) in px.
    classes
        Their names.
    probabilities
        One in [0, 1] per class.
    title
        The line above.

    Returns
    -------
    bytes
        A PNG.

    Raises
    ------
    ValueError
        Classes and probabilities differ in number.
    """
    if len(classes) != len(probabilities):
        raise ValueError(f"{len(classes)} classes and {len(probabilities)} probabilities")
    head, bars = 48, 300
    fig = figure(2 * MARGIN + 5 * SIDE + 4 * GAP + bars, head + 22 + SIDE + LEGEND + MARGIN, GROUND)
    text = bare(axes(fig, MARGIN, 8, 5 * SIDE, 32))
    text.text(0, 16, plain(title), fontsize=18, weight="bold", color=LIGHT.ink, va="center")
    _row(fig, head + 22, MARGIN, FlowClip(onset_crop, apex_crop, flow, title), titles=True, arrows=True)
    _bars(fig, MARGIN + 5 * (SIDE + GAP), head, bars, classes, probabilities)
    return png(fig, SCALE)


def _bars(
    fig: Figure, left: float, top: float, width: float, classes: Sequence[str], probabilities: Sequence[float]
) -> None:
    """Probabilities as horizontal bars, the largest in the accent colour."""
    name = 92
    ax = axes(fig, left + name, top + 22, width - name - 44, SIDE)
    best = int(np.argmax(probabilities))
    colours = [LIGHT.accent if i == best else "#c3cad8" for i in range(len(classes))]
    ax.barh(range(len(classes)), probabilities, color=colours, height=0.55)
    for i, p in enumerate(probabilities):
        ax.text(p + 0.02, i, f"{p:.2f}", va="center", fontsize=13, color=LIGHT.ink)
    ax.set(xlim=(0, 1), ylim=(len(classes) - 0.4, -0.6), xticks=[0, 0.5, 1])
    ax.set_yticks(range(len(classes)), [plain(c) for c in classes])
    ax.get_yticklabels()[best].set_fontweight("bold")
    ax.tick_params(length=0, labelsize=13, colors=LIGHT.ink)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.set_title("probability", fontsize=13, color=LIGHT.faint, loc="left")


def overview_picture(clips: Sequence[FlowClip], *, arrows: bool = False, scale: float = SCALE) -> bytes:
    """Some clips below each other: onset, apex, flow in colours, arrows if wanted, magnitude.

    Parameters
    ----------
    clips
        What to draw.
    arrows
        Draw arrows too.
    scale
        Pixels of the picture per crop pixel.

    Returns
    -------
    bytes
        A PNG.

    Raises
    ------
    ValueError
        No clips.
    """
    if not clips:
        raise ValueError("no clips to show")
    panels = 5 if arrows else 4
    row, label = SIDE + LEGEND + 10, 30
    fig = figure(2 * MARGIN + label + panels * (SIDE + GAP) - GAP, MARGIN + 26 + len(clips) * row, GROUND)
    for n, clip in enumerate(clips):
        top = 14 + 26 + n * row
        side = bare(axes(fig, MARGIN, top, label, SIDE))
        side.text(10, SIDE / 2, plain(clip.title), rotation=90, fontsize=14, color=LIGHT.ink, va="center", ha="center")
        _row(fig, top, MARGIN + label, clip, titles=n == 0, arrows=arrows)
    return png(fig, scale)


def _row(fig: Figure, top: float, left: float, clip: FlowClip, *, titles: bool, arrows: bool) -> None:
    limit = flow_limit(clip.flow)
    draw = {
        "onset": lambda ax, strip: draw_crop(ax, clip.onset),
        "apex": lambda ax, strip: draw_crop(ax, clip.apex),
        "flow, onset to apex": lambda ax, strip: draw_colours(ax, strip, clip.flow, limit, LIGHT),
        "flow as arrows": lambda ax, strip: draw_arrows(ax, strip, clip.onset, clip.flow, limit, LIGHT),
        "magnitude": lambda ax, strip: draw_magnitude(ax, strip, clip.flow, limit, LIGHT),
    }
    if not arrows:
        del draw["flow as arrows"]
    for n, (name, panel) in enumerate(draw.items()):
        at = left + n * (SIDE + GAP)
        ax = axes(fig, at, top, SIDE, SIDE)
        panel(ax, bare(axes(fig, at, top + SIDE, SIDE, LEGEND)))
        if titles:
            ax.set_title(name, fontsize=14, color=LIGHT.ink, loc="left", pad=6)
