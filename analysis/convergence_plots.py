"""The picture of convergence: mean, ranking and top tokens by the number of passes, each a function on an Axes.

They take ``convergence.convergence_table``. Wrap them in ``matplotlib.rc_context(plot_style.STYLE)``;
``convergence_figure`` does.
"""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.convergence import ESTIMATES, MEASURED
from analysis.convergence_needs import Purpose
from analysis.plot_style import INK, MUTED, SERIES, STYLE

_LABELS = dict(zip(ESTIMATES, ("epistemic (plug-in)", "corrected"), strict=True))


def level_plot(ax: Axes, table: pd.DataFrame, within: float) -> Axes:
    """Mean over tokens by passes; the bars are two standard deviations of one run's mean.

    Args:
        ax: where to draw.
        table: of one run.
        within: half the height of the band around the corrected mean of all passes, as a share of it.
    """
    for estimate, colour, marker in zip(ESTIMATES, SERIES[:2], "os", strict=True):
        rows = table[table["estimate"] == estimate]
        passes, mean = _numbers(rows, "passes"), _numbers(rows, "mean")
        ax.errorbar(
            passes, mean, 2 * _numbers(rows, "noise") * mean, fmt=marker + "-", color=colour, markersize=3.5,
            linewidth=1.0, elinewidth=0.8, label=_LABELS[estimate],
        )  # fmt: skip
    corrected = table[table["estimate"] == ESTIMATES[1]]
    if len(corrected):
        level = float(corrected["mean"].iloc[-1])
        ax.axhspan(level * (1 - within), level * (1 + within), color=MUTED, alpha=0.15, linewidth=0)
    ax.set_ylabel("mean epistemic, nats")
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower right", handlelength=1.4)
    return _pass_axis(ax, table)


def agreement_plot(ax: Axes, table: pd.DataFrame, threshold: float) -> Axes:
    """Rank correlation by passes: of two independent runs, and of the first passes with all."""
    return _common(ax, table, "agreement", threshold, "Spearman's correlation")


def overlap_plot(ax: Axes, table: pd.DataFrame, threshold: float) -> Axes:
    """Common top tokens by passes: of two independent runs, and of the first passes with all."""
    return _common(ax, table, "overlap", threshold, "share of the top tokens in common")


def convergence_figure(
    table: pd.DataFrame, what: tuple[Purpose, ...], *, top: float, title: str, width: float = 10.0, dpi: float = 200.0
) -> Figure:
    """The three panels side by side.

    Args:
        table: ``convergence.convergence_table(...)``.
        what: the purposes, whose thresholds are drawn.
        top: fraction of the tokens that a selection takes.
        title: of the figure.
        width: inches.
        dpi: pixels per inch of a PNG.
    """
    thresholds = {purpose.name: purpose.threshold for purpose in what}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 3.1), layout="constrained", dpi=dpi)
        axes = figure.subplots(1, 3)
        level_plot(axes[0], table, thresholds["level"])
        axes[0].set_title(f"mean level (band: {100 * thresholds['level']:g} %)")
        agreement_plot(axes[1], table, thresholds["ranking"]).legend(loc="lower right", handlelength=1.8)
        axes[1].set_title("ranking")
        overlap_plot(axes[2], table, thresholds["selection"])
        axes[2].set_title(f"top {100 * top:g} %")
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    return figure


def _common(ax: Axes, table: pd.DataFrame, name: str, threshold: float, label: str) -> Axes:
    rows = table[table["estimate"] == ESTIMATES[0]]
    measured, predicted = rows[rows["how"] == MEASURED], rows[rows["how"] != MEASURED]
    colour = SERIES[0]
    passes, value = _numbers(measured, "passes"), _numbers(measured, name)
    low, high = _numbers(measured, f"{name}_low"), _numbers(measured, f"{name}_high")
    known = np.isfinite(low)
    ax.vlines(passes[known], low[known], high[known], color=colour, linewidth=1.0)
    ax.plot(passes, value, "o-", color=colour, markersize=3.5, linewidth=1.0, label="two independent runs")
    if len(predicted) and len(measured):
        line = pd.concat([measured.tail(1), predicted])
        ax.plot(_numbers(line, "passes"), _numbers(line, name), "--", color=colour, linewidth=0.8)
        ax.plot(_numbers(predicted, "passes"), _numbers(predicted, name), "o", markerfacecolor="none",
                color=colour, markersize=3.5, label="the same, predicted")  # fmt: skip
    part = rows[rows["passes"] < rows["passes"].max()]
    ax.plot(_numbers(part, "passes"), _numbers(part, f"{name}_with_all"), ":", color=MUTED, linewidth=1.2,
            label="first passes with all (shared)")  # fmt: skip
    ax.axhline(threshold, color=INK, linewidth=0.6, linestyle=(0, (1, 2)))
    ax.set_ylim(top=1.0)
    ax.set_ylabel(label)
    return _pass_axis(ax, table)


def _pass_axis(ax: Axes, table: pd.DataFrame) -> Axes:
    passes = np.unique(_numbers(table, "passes"))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(passes)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(passes, [f"{count:g}" for count in passes])
    ax.set_xlim(passes.min() / 1.2, passes.max() * 1.2)
    ax.set_xlabel("passes")
    ax.grid(axis="y")
    return ax


def _numbers(rows: pd.DataFrame, name: str) -> np.ndarray:
    return rows[name].to_numpy(dtype=np.float64)
