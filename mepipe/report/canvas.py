"""Figures without pyplot: no global state, no window, safe in threads. Sizes are in pixels of the result."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 72  # one point is one pixel, so font sizes and line widths are in pixels too


@dataclass(frozen=True)
class Theme:
    """Colours of a plot; the ground is transparent unless a picture must stand alone."""

    ink: str  # text and axes
    faint: str  # grid, ticks
    accent: str
    warn: str
    scale: tuple[str, str]  # from nothing to much, for counts


LIGHT = Theme(ink="#1f2430", faint="#8a919e", accent="#2457c5", warn="#b3461f", scale=("#f3f6fc", "#2457c5"))
DARK = Theme(ink="#e4e7ee", faint="#7d8594", accent="#86aaff", warn="#ff9a6b", scale=("#1c212c", "#5b86ec"))
ANY = Theme(ink="#7b7f88", faint="#7b7f88", accent="#7b7f88", warn="#7b7f88", scale=("#888888", "#888888"))  # on both


def figure(width: float, height: float, ground: str | None = None) -> Figure:
    """An empty figure of ``width`` x ``height`` px; ``ground`` None is transparent."""
    fig = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(fig)
    fig.patch.set(facecolor=ground or "none", alpha=1.0 if ground else 0.0)
    return fig


def axes(fig: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in px from the upper left corner."""
    w, h = fig.get_size_inches() * DPI
    ax = fig.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))
    ax.set_facecolor("none")
    return ax


def bare(ax: Axes) -> Axes:
    """Axes without ticks and frame, one unit per px, y down: for pictures and legends."""
    ax.set_axis_off()
    w, h = ax.get_window_extent().size
    ax.set(xlim=(0, w), ylim=(h, 0))
    return ax


def plain(text: object) -> str:
    """``text`` as matplotlib prints it literally: a $ in a clip's name is not mathematics."""
    return str(text).replace("$", r"\$")


def png(fig: Figure, scale: float = 1.0) -> bytes:
    """The figure as PNG bytes; ``scale`` 2 has twice the pixels."""
    out = io.BytesIO()
    fig.set_dpi(DPI * scale)
    canvas = fig.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.print_png(out, metadata={"Software": None})  # not savefig: it lays everything out twice
    return out.getvalue()


def jpeg(image: np.ndarray, quality: int = 85) -> bytes:
    """A crop, (H, W, 3) BGR or (H, W) grey uint8, as JPEG bytes."""
    import cv2

    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok, f"cannot encode an image of shape {image.shape}, {image.dtype}"
    return data.tobytes()


def to_rgb(image: np.ndarray) -> np.ndarray:
    """A crop, (H, W, 3) BGR or (H, W) grey uint8, as (H, W, 3) RGB."""
    return image[..., ::-1] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
