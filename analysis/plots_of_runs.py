"""The plots of several runs side by side: each draws on Axes and returns them. No pyplot state is touched."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.colours import text_colour
from analysis.measure_names import COLOURS
from analysis.plot_style import MUTED, PAPER, SERIES
from uncertainty.token_classes import CLASSES

_PANELS = (("epistemic", "loss"), ("epistemic", "entropy"), ("aleatoric", "loss"), ("aleatoric", "entropy"))


def correlations_by_run(figure: Figure, names: Sequence[str], tables: Sequence[pd.DataFrame]) -> np.ndarray:
    """Spearman correlations of both kinds of uncertainty with both signals: a panel each, a row per run.

    Args:
        figure: where to draw.
        names: of the runs.
        tables: ``correlation.correlate(...).table`` of each.

    Returns:
        The four Axes.
    """
    axes = np.atleast_1d(figure.subplots(1, len(_PANELS), sharey=True, sharex=True))
    for ax, (x, y) in zip(axes, _PANELS, strict=True):
        for place, table in enumerate(tables):
            use = (table["kind"] == "correlation") & (table["method"] == "spearman") & ~table["corrected"].astype(bool)
            found = table[use & (table["x"] == x) & (table["y"] == y)]
            for _, row in found.iterrows():
                if np.isfinite(row["low"]):
                    ax.plot([row["low"], row["high"]], [place, place], color=COLOURS[x], linewidth=1.6)
                ax.plot([row["estimate"]], [place], "o", color=COLOURS[x], markersize=4.5)
        ax.axvline(0, color=MUTED, linewidth=0.8)
        ax.set_title(f"ρ({x}, {y})", fontsize=7.5)
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    axes[0].set_yticks(range(len(names)), list(names))
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    return axes


def audit_by_run(ax: Axes, names: Sequence[str], tables: Sequence[pd.DataFrame], fraction: float = 0.25) -> Axes:
    """Precision of each signal for the most uncertain tokens, a row per run; the line is what a random choice reaches.

    Args:
        ax: where to draw.
        names: of the runs.
        tables: ``proxy.audit_proxies(...).table`` of each.
        fraction: of the tokens, that are the target and are selected.
    """
    signals = ("loss", "entropy", "rho", "ceiling")
    for place, table in enumerate(tables):
        found = table[(table["metric"] == "precision") & (table["fraction"] == fraction)].set_index("signal")
        for offset, (signal, colour) in enumerate(zip(signals, _SIGNAL_COLOURS, strict=True)):
            if signal not in found.index:
                continue
            row, y = found.loc[signal], place + 0.16 * (offset - 1)
            if np.isfinite(row["low"]):
                ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            label = "perfect proxy" if signal == "ceiling" else f"by {signal}"
            ax.plot([row["estimate"]], [y], "o", color=colour, markersize=4, label=label if place == 0 else None)
    ax.axvline(fraction, color=MUTED, linewidth=0.8)
    ax.set_xlim(0, 1)
    ax.set_yticks(range(len(names)), list(names))
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"share that is in the top {100 * fraction:.0f} % by epistemic")
    return ax


def class_bars(ax: Axes, shares: pd.DataFrame) -> Axes:
    """What each run's high set holds: one bar per run, a part per kind of token, and all tokens for comparison.

    Args:
        ax: where to draw.
        shares: ``curriculum.class_shares(...)`` of one measure.
    """
    runs = list(dict.fromkeys(shares["run"]))
    names = ["all tokens", *runs]
    table = shares.pivot(index="run", columns="class", values="share_of_high_set").reindex(runs)
    of_all = shares.drop_duplicates("class").set_index("class")["share_of_tokens"]
    left = np.zeros(len(names))
    for colour, name in zip(SERIES, CLASSES, strict=False):
        if name not in table:
            continue
        widths = np.array([of_all[name], *table[name].fillna(0.0)])
        ax.barh(names, widths, left=left, height=0.7, color=colour, label=name, edgecolor=PAPER, linewidth=0.5)
        left += widths
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    measure = shares["measure"].iloc[0]
    ax.set_title(f"top 25 % by {measure}: kinds of tokens")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, handlelength=1, columnspacing=1)
    return ax


def overlap_matrix(ax: Axes, overlaps: pd.DataFrame) -> Axes:
    """Jaccard overlap of the high sets of every two runs, as a matrix; the diagonal is 1.

    Args:
        ax: where to draw.
        overlaps: ``curriculum.overlaps(...)`` of one measure.
    """
    names = list(dict.fromkeys([*overlaps["run_a"], *overlaps["run_b"]]))
    matrix = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for _, row in overlaps.iterrows():
        matrix.loc[row["run_a"], row["run_b"]] = matrix.loc[row["run_b"], row["run_a"]] = row["jaccard"]
    colour_map, scale = matplotlib.colormaps["Blues"], Normalize(0, 1)
    for y, row_name in enumerate(names):
        for x, column_name in enumerate(names):
            value = float(matrix.loc[row_name, column_name])
            red, green, blue = colour_map(scale(value))[:3]
            cell = (float(red), float(green), float(blue))
            ax.add_patch(matplotlib.patches.Rectangle((x, y), 1, 1, facecolor=cell, edgecolor=PAPER, linewidth=1.5))
            ink = "black" if text_colour(cell) == (0.0, 0.0, 0.0) else "#fefefe"
            ax.text(x + 0.5, y + 0.5, f"{value:.2f}", ha="center", va="center", color=ink)
    ax.set_xlim(0, len(names))
    ax.set_ylim(len(names), 0)
    ticks = np.arange(len(names)) + 0.5
    ax.set_xticks(ticks, names, rotation=30, ha="right")
    ax.set_yticks(ticks, names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"Jaccard overlap (chance {overlaps['chance'].iloc[0]:.2f})")
    return ax


_SIGNAL_COLOURS = (COLOURS["loss"], COLOURS["entropy"], COLOURS["mc_loss"], MUTED)
