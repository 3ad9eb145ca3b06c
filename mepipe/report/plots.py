"""Plots of a run: the confusion matrix and the learning curves, as PNG bytes in a theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from mepipe.report.canvas import LIGHT, Theme, axes, figure, plain, png

CELL, NAMES = 86, 96  # px of a cell of the confusion matrix, and of the room for class names
MANY = 12  # folds: above this single folds are drawn fainter
Log = Mapping[str, Sequence[float]]  # the columns of one fold's log.csv
CURVES = {"loss": "training loss", "accuracy": "training accuracy", "inner_UF1": "inner UF1"}


def confusion_picture(matrix: np.ndarray, classes: Sequence[str], theme: Theme = LIGHT) -> bytes:
    """A confusion matrix; each cell has its count and its share of the row, which also colours it.

    Parameters
    ----------
    matrix
        (C, C) counts, rows the truth.
    classes
        Their names.
    theme
        Colours.

    Returns
    -------
    bytes
        The picture.
    """
    counts = np.asarray(matrix)
    rows = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(rows, 1)
    side = CELL * len(classes)
    fig = figure(NAMES + side + 8, side + 58)
    ax = axes(fig, NAMES, 4, side, side)
    colours = LinearSegmentedColormap.from_list("counts", theme.scale)
    ax.imshow(share, cmap=colours, vmin=0, vmax=1)
    dark_ground = theme is not LIGHT
    for (i, j), n in np.ndenumerate(counts):
        strong = share[i, j] > 0.5
        ink = "#ffffff" if strong or dark_ground else theme.ink
        weight = "bold" if i == j else "normal"
        ax.text(j, i - 0.08, f"{n}", ha="center", va="center", color=ink, fontsize=19, weight=weight)
        ax.text(j, i + 0.24, f"{share[i, j]:.0%}", ha="center", va="center", color=ink, fontsize=12, alpha=0.85)
    _frame_cells(ax, len(classes), theme)
    totals = [f"{plain(c)}\n({n})" for c, n in zip(classes, rows[:, 0], strict=True)]
    ax.set_yticks(range(len(classes)), totals)
    ax.set_xticks(range(len(classes)), [plain(c) for c in classes])
    ax.tick_params(length=0, labelsize=13, colors=theme.ink)
    ax.set_xlabel("predicted (rows: truth)", color=theme.ink, fontsize=13, labelpad=8)
    return png(fig, 2.0)


def _frame_cells(ax: Axes, n: int, theme: Theme) -> None:
    ax.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    ax.grid(which="minor", color=theme.faint, linewidth=1, alpha=0.5)
    ax.tick_params(which="minor", length=0)
    ax.spines[:].set_visible(False)


def curves_picture(logs: Mapping[str, Log], theme: Theme = LIGHT, width: int = 1040) -> bytes:
    """Loss, accuracy while training and, where it was looked at, inner UF1 over the epochs; learning rate below.

    Folds are thin, their mean over the folds that reached an epoch is thick.

    Parameters
    ----------
    logs
        Fold -> columns ``epoch``, ``lr``, ``loss``, ``accuracy`` and perhaps ``inner_UF1``.
    theme
        Colours.
    width
        In px.

    Returns
    -------
    bytes
        The picture.

    Raises
    ------
    ValueError
        No logs.
    """
    if not logs:
        raise ValueError("no logs to draw")
    shown = [c for c in CURVES if any(c in log for log in logs.values())]
    left, gap, high, low = 52, 64, 210, 64
    each = (width - left - 8 - gap * (len(shown) - 1)) / len(shown)
    fig = figure(width, high + low + 92)
    for n, column in enumerate(shown):
        at = left + n * (each + gap)
        ax, rate = axes(fig, at, 28, each, high), axes(fig, at, 28 + high + 16, each, low)
        ax.sharex(rate)
        _curves(ax, logs, column, theme)
        _rate(rate, logs, theme)
        ax.set_title(CURVES[column], color=theme.ink, fontsize=14, loc="left")
        ax.tick_params(labelbottom=False)
        rate.set_xlabel("epoch", color=theme.ink, fontsize=12)
    return png(fig, 1.6)


def _curves(ax: Axes, logs: Mapping[str, Log], column: str, theme: Theme) -> None:
    _style(ax, theme)
    alpha = 0.45 if len(logs) <= MANY else 0.18
    _folds(ax, logs, column, colors=theme.accent, alpha=alpha, linewidths=0.9)
    epochs, mean = mean_curve([log for log in logs.values() if column in log], column)
    label = f"thick: mean of {len(logs)} folds" if len(logs) > 1 else "the only fold"
    marker = "o" if len(epochs) == 1 else None
    ax.plot(epochs, mean, color=theme.warn, linewidth=2.4, marker=marker)
    ax.set_title(label, color=theme.warn, fontsize=11, loc="right")
    if column == "loss":
        ax.set_ylim(bottom=0)
    else:
        ax.set_ylim(-0.02, 1.02)


def _rate(ax: Axes, logs: Mapping[str, Log], theme: Theme) -> None:
    """The learning rate at the start of each epoch; folds of unequal size differ a little."""
    _style(ax, theme)
    _folds(ax, logs, "lr", colors=theme.faint, linewidths=1.2)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(2))
    ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    ax.yaxis.get_offset_text().set(color=theme.ink, fontsize=10)
    ax.text(0.99, 0.86, "learning rate", transform=ax.transAxes, ha="right", va="top", color=theme.ink, fontsize=11)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _folds(ax: Axes, logs: Mapping[str, Log], column: str, **style: Any) -> None:
    """One line per fold, as one artist: 68 single ones take seconds."""
    lines = [np.column_stack((log["epoch"], log[column])) for log in logs.values() if column in log]
    ax.add_collection(LineCollection(lines, **style))
    ax.autoscale_view()


def _style(ax: Axes, theme: Theme) -> None:
    ax.grid(color=theme.faint, alpha=0.25, linewidth=0.8)
    ax.tick_params(colors=theme.ink, labelsize=11, color=theme.faint)
    ax.spines[:].set_color(theme.faint)
    ax.spines[["top", "right"]].set_visible(False)


def mean_curve(logs: Sequence[Log], column: str) -> tuple[list[float], list[float]]:
    """Epochs, and the mean of ``column`` over the folds that reached each (early stopping ends some sooner)."""
    values: dict[float, list[float]] = {}
    for log in logs:
        for epoch, value in zip(log["epoch"], log[column], strict=True):
            values.setdefault(epoch, []).append(value)
    epochs = sorted(values)
    return epochs, [float(np.mean(values[e])) for e in epochs]
