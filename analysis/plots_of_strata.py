"""The plots of the kinds of tokens of one run: each draws on an Axes and returns it. No pyplot state is touched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.measure_names import COLOURS, axis_label
from analysis.plot_style import GRID, INK, MUTED


def stratum_bars(ax: Axes, table: pd.DataFrame, measure: str) -> Axes:
    """The mean of a measure in each stratum, with its interval by example.

    Args:
        ax: where to draw.
        table: ``strata.stratum_table(...)``.
        measure: one of its measures.
    """
    means = table[f"mean_{measure}"].to_numpy(dtype=np.float64)
    low, high = (table[f"{end}_{measure}"].to_numpy(dtype=np.float64) for end in ("low", "high"))
    places = np.arange(len(table))
    ax.barh(places, means, height=0.7, color=COLOURS[measure], alpha=0.75)
    known = np.isfinite(low)
    ax.hlines(places[known], np.maximum(low[known], 0), high[known], color=INK, linewidth=1.0)
    ax.set_xlim(left=0)
    _stratum_axis(ax, table)
    ax.set_xlabel(f"mean {axis_label(measure)}")
    return ax


def stratum_picks(ax: Axes, table: pd.DataFrame, sets: Sequence[str] = ("loss", "epistemic")) -> Axes:
    """How over-represented each stratum is in the top set of two measures; 1 is what chance gives.

    Where the two marks lie apart, selecting by one measure takes other kinds of tokens than selecting by the other.

    Args:
        ax: where to draw.
        table: ``strata.stratum_table(...)`` with these sets.
        sets: names of two measures whose top sets are in the table.
    """
    places = np.arange(len(table))
    columns = [table[f"enrichment_{name}"].to_numpy(dtype=np.float64) for name in sets]
    ax.hlines(places, np.minimum(*columns), np.maximum(*columns), color=GRID, linewidth=2.5)
    for name, values, marker in zip(sets, columns, ("s", "o"), strict=True):
        ax.plot(values, places, marker, color=COLOURS[name], markersize=4.5, linestyle="none", label=f"by {name}")
    ax.axvline(1, color=MUTED, linewidth=0.8)
    ax.set_xlim(0, 1.06 * max(1.2, float(np.nanmax(columns))))
    _stratum_axis(ax, table)
    ax.set_xlabel("times as many as by chance in the top 25 %")
    return ax


def _stratum_axis(ax: Axes, table: pd.DataFrame) -> None:
    ax.set_yticks(range(len(table)), [str(name) for name in table["stratum"]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.spines["left"].set_visible(False)
