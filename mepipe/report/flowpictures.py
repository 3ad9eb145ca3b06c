"""Pictures of one clip's flow: colour wheel, arrows, magnitude; each carries its own legend in px.

Drawn as a square panel with a strip below that holds the legend.  The ground is transparent and the text
a grey that reads on white and on black, so a picture can be copied out of the page anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mepipe.report.canvas import ANY, Theme, axes, bare, figure, png, to_rgb
from mepipe.report.colours import flow_limit, flow_picture, magnitude, wheel
from mepipe.report.lengths import arrow_field, magnification, nice, px

PANEL, STRIP = 448, 60  # px: two pixels of the picture per pixel of a 224 crop, and the legend below
TEXT = 25  # px; half of it where the page shows a panel 224 px wide
QUIET = 0.08  # of the limit: shorter arrows are left out, they would be dots
ARROW = "#ff5b2e"
MAGNITUDE_MAP = "magma"


# --- pictures of their own -------------------------------------------------------------------------


def colour_picture(flow: np.ndarray, limit: float | None = None) -> bytes:
    """A flow in the colours of the wheel, with the wheel and its limit below.

    Parameters
    ----------
    flow
        (2 or 3, H, W) in px.
    limit
        Length in px of full colour; None is ``flow_limit(flow)``.

    Returns
    -------
    bytes
        A PNG.
    """
    fig, ax, strip = _panel()
    draw_colours(ax, strip, flow, limit or flow_limit(flow))
    return png(fig)


def arrows_picture(onset: np.ndarray, flow: np.ndarray, limit: float | None = None) -> bytes:
    """Arrows of a flow on the onset crop in grey.

    One arrow per 14 x 14 px, the mean flow there, magnified; factor and a key arrow are stated below.

    Parameters
    ----------
    onset
        (H, W[, 3]) uint8 BGR.
    flow
        (2 or 3, H, W) in px.
    limit
        Length in px that is drawn longest; None is ``flow_limit(flow)``.

    Returns
    -------
    bytes
        A PNG.
    """
    fig, ax, strip = _panel()
    draw_arrows(ax, strip, onset, flow, limit or flow_limit(flow))
    return png(fig)


def magnitude_picture(flow: np.ndarray, limit: float | None = None) -> bytes:
    """Length of a flow from dark to bright, with its colour bar below.

    Parameters
    ----------
    flow
        (2 or 3, H, W) in px.
    limit
        Length in px of the brightest; None is ``flow_limit(flow)``.

    Returns
    -------
    bytes
        A PNG.
    """
    fig, ax, strip = _panel()
    draw_magnitude(ax, strip, flow, limit or flow_limit(flow))
    return png(fig)


def flow_legend(limit: float | None = None, theme: Theme = ANY, size: int = 300) -> bytes:
    """The colour wheel with its directions.

    Parameters
    ----------
    limit
        Length in px of full colour; None labels in words.
    theme
        Colours of lines and text.
    size
        Side in px.

    Returns
    -------
    bytes
        A PNG.
    """
    fig = figure(size, size)
    margin = 0.2 * size
    ax = bare(axes(fig, 0, 0, size, size))
    ax.imshow(wheel(size), extent=(margin, size - margin, size - margin, margin), zorder=0)
    ax.set(xlim=(0, size), ylim=(size, 0))
    style: dict[str, Any] = {"color": theme.ink, "fontsize": size * 0.085, "ha": "center", "va": "center"}
    middle, edge = size / 2, margin * 0.5
    names = ("right", "down", "left", "up")
    words = names if limit is None else (f"u +{px(limit)}", f"v +{px(limit)}", f"u −{px(limit)}", f"v −{px(limit)}")
    places = ((size - edge, middle), (middle, size - edge), (edge, middle), (middle, edge))
    for (x, y), word, turn in zip(places, words, (-90, 0, 90, 0), strict=True):
        ax.text(x, y, word, rotation=turn, **style)
    ax.text(middle, middle, "0", **style | {"color": "#5b5f68"})
    return png(fig, 2.0)


def _panel() -> tuple[Figure, Axes, Axes]:
    fig = figure(PANEL, PANEL + STRIP)
    return fig, axes(fig, 0, 0, PANEL, PANEL), axes(fig, 0, PANEL, PANEL, STRIP)


# --- the same on axes of a larger figure -----------------------------------------------------------


def draw_crop(ax: Axes, image: np.ndarray) -> None:
    """A crop, (H, W[, 3]) uint8 BGR."""
    ax.imshow(to_rgb(image), interpolation="nearest")
    ax.set_axis_off()


def draw_colours(ax: Axes, strip: Axes, flow: np.ndarray, limit: float, theme: Theme = ANY) -> None:
    ax.imshow(flow_picture(flow, limit), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():  # where nothing moves the picture is white: show where it ends
        spine.set(color=theme.faint, alpha=0.5, linewidth=2)
    w, h, text = _strip(strip, theme)
    side = h - 6
    left = (w - side - 6.0 * text["fontsize"]) / 2
    strip.imshow(wheel(2 * int(side)), extent=(left, left + side, h - 2, 4), aspect="auto")
    strip.set(xlim=(0, w), ylim=(h, 0))
    strip.text(left + side + 0.6 * text["fontsize"], h / 2, f"rim {px(limit)} px", ha="left", **text)


def draw_magnitude(ax: Axes, strip: Axes, flow: np.ndarray, limit: float, theme: Theme = ANY) -> None:
    length = magnitude(flow)
    ax.imshow(length, cmap=MAGNITUDE_MAP, vmin=0, vmax=limit, interpolation="nearest")
    ax.set_axis_off()
    w, h, text = _strip(strip, theme)
    ramp = colormaps[MAGNITUDE_MAP](np.linspace(0, 1, 256))[None]
    strip.imshow(ramp, extent=(0.14 * w, 0.62 * w, 0.72 * h, 0.32 * h), aspect="auto")
    strip.set(xlim=(0, w), ylim=(h, 0))
    strip.text(0.11 * w, h / 2, "0", ha="right", **text)
    strip.text(0.65 * w, h / 2, f"{px(limit)} px", ha="left", **text)


def draw_arrows(ax: Axes, strip: Axes, onset: np.ndarray, flow: np.ndarray, limit: float, theme: Theme = ANY) -> None:
    grey = to_rgb(onset).mean(axis=2)
    ax.imshow(grey, cmap="gray", vmin=-60, vmax=255, interpolation="nearest")  # lifted blacks: arrows stand out
    ax.set_axis_off()
    x, y, u, v = arrow_field(flow)
    loud = np.hypot(u, v) >= QUIET * limit
    factor = magnification(limit)
    w, h, text = _strip(strip, theme)
    per_pixel = w / flow.shape[2]  # picture pixels per crop pixel
    style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "units": "dots"}
    style |= {"color": ARROW, "headwidth": 3.6, "headlength": 4.2}
    thick = max(1.2, 1.6 * per_pixel)
    ax.quiver(x[loud], y[loud], u[loud], v[loud], scale=1 / factor, width=thick, **style)
    key = nice(limit)
    length = key * factor * per_pixel
    left = (w - length - 9.2 * text["fontsize"]) / 2
    strip.quiver([left], [h / 2], [length], [0], scale=1, width=thick, **style)
    strip.text(left + length + 0.6 * text["fontsize"], h / 2, f"{px(key)} px (drawn ×{factor:g})", ha="left", **text)


def _strip(strip: Axes, theme: Theme) -> tuple[float, float, dict[str, Any]]:
    """Width and height of the legend's axes in px, and how its text looks."""
    bare(strip)
    w, h = strip.get_window_extent().size
    return float(w), float(h), {"color": theme.ink, "fontsize": TEXT * w / PANEL, "va": "center_baseline"}
