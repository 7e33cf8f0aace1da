"""The figures of a report: plots put together on a page's width. Call inside ``matplotlib.rc_context(STYLE)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import plots, plots_of_costs, plots_of_runs, plots_of_strata
from analysis.correlation import Correlations
from analysis.measure_names import NAMES, Name, axis_label
from analysis.number_text import percent
from analysis.plot_style import INK
from uncertainty.scores import measures_among

WIDTH = 7.2  # inches: two columns of most paper styles


def distributions_figure(
    tokens: pd.DataFrame, means: pd.DataFrame, variance: pd.DataFrame, names: Mapping[str, Name] = NAMES
) -> Figure:
    """Every measure over tokens and over examples, with the share of its variance that lies between examples."""
    measures = measures_among(means.columns)
    n_columns = min((4, 5), key=lambda n: -len(measures) % n)  # the fewest empty places
    n_rows = -(-len(measures) // n_columns)
    figure = _figure(WIDTH, 1.65 * n_rows)
    axes = np.atleast_1d(figure.subplots(n_rows, n_columns)).ravel()
    for ax in axes[len(measures) :]:
        ax.set_axis_off()
    between = dict(zip(variance["measure"], variance["icc"], strict=True))
    for ax, measure in zip(axes, measures, strict=False):
        plots.distribution(ax, tokens[measure].to_numpy(), means[measure].to_numpy(), measure)
        ax.set_xlabel(axis_label(measure, names))
        if measure in between and np.isfinite(between[measure]):
            note = f"{percent(max(0.0, between[measure]))} of the variance\nlies between examples"
            ax.text(0.03, 0.99, note, transform=ax.transAxes, fontsize=6.5, va="top", color=INK)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return _laid_out(figure)


def density_figure(tokens: pd.DataFrame, correlations: Correlations) -> Figure:
    """Epistemic and aleatoric against loss and entropy, each with its rank correlation (figure 2B of the paper)."""
    figure = _figure(WIDTH, 5.6)
    axes = figure.subplots(2, 2)
    for row, kind in zip(axes, ("epistemic", "aleatoric"), strict=True):
        for ax, signal in zip(row, ("loss", "entropy"), strict=True):
            plots.hexbin(ax, tokens, signal, kind)
            ax.set_title(plots.correlation_title(correlations.table, kind, signal))
    return _laid_out(figure)


def lead_figure(tokens: pd.DataFrame, correlations: Correlations) -> Figure:
    """Epistemic against loss, alone, for the first screen."""
    figure = _figure(3.9, 3.4)
    ax = plots.hexbin(figure.subplots(), tokens, "loss", "epistemic")
    ax.set_title(plots.correlation_title(correlations.table, "epistemic", "loss"))
    return _laid_out(figure)


def correlations_figure(table: pd.DataFrame) -> Figure:
    """The matrix of correlations under each method."""
    methods = [method for method in plots.METHOD_NAMES if (table["method"] == method).any()]
    figure = _figure(2.4 * len(methods), 2.3)
    for ax, method in zip(np.atleast_1d(figure.subplots(1, len(methods))), methods, strict=True):
        plots.correlation_heatmap(ax, table, method)
        if ax is not figure.axes[0]:
            ax.set_yticks([])
    return _laid_out(figure)


def claims_figure(claims: pd.DataFrame) -> Figure:
    """The differences behind both readings of the claim."""
    readings = list(dict.fromkeys(claims["claim"]))
    per_reading = max((claims["claim"] == reading).sum() for reading in readings)
    figure = _figure(WIDTH, 0.75 + 0.24 * per_reading)
    for ax, reading in zip(np.atleast_1d(figure.subplots(1, len(readings))), readings, strict=True):
        part = claims[claims["claim"] == reading]
        plots.claim_differences(ax, part)
    return _laid_out(figure)


def noise_figure(tokens: pd.DataFrame, correlations: Correlations) -> Figure:
    """Monte Carlo error of epistemic against its value."""
    figure = _figure(3.9, 2.7)
    facts = {
        "of ranks" if row["method"] == "spearman" else "of nats": float(row["reliability"])
        for _, row in correlations.reliability.iterrows()
    }
    plots.noise(figure.subplots(), tokens["epistemic"].to_numpy(), tokens["epistemic_se"].to_numpy(), facts)
    return _laid_out(figure)


def cost_figure(tables: Mapping[str, pd.DataFrame], passes: Sequence[float]) -> Figure:
    """Relative error of epistemic against passes, a line per run."""
    figure = _figure(3.9, 2.7)
    plots_of_costs.error_by_passes(figure.subplots(), tables, passes)
    return _laid_out(figure)


def audit_figure(table: pd.DataFrame) -> Figure:
    """AUROC and precision of each signal for the tokens of highest epistemic uncertainty."""
    n_signals = table["signal"].nunique()
    figure = _figure(WIDTH, 0.9 + 0.33 * n_signals)
    left, right = figure.subplots(1, 2)
    plots.audit_points(left, table, "auroc")
    plots.audit_points(right, table, "precision")
    right.set_yticklabels([])
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return _laid_out(figure)


def strata_figure(strata: dict[str, pd.DataFrame]) -> Figure:
    """By each kind of stratum: mean epistemic, and which tokens loss and epistemic pick."""
    shown = {name: table for name, table in strata.items() if len(table) > 1}
    heights = [len(table) + 2.2 for table in shown.values()]
    figure = _figure(WIDTH, 0.3 + 0.19 * sum(heights))
    grid = figure.subplots(len(shown), 3, height_ratios=heights, squeeze=False)
    for row, (name, table) in zip(grid, shown.items(), strict=True):
        plots_of_strata.stratum_bars(row[0], table, "epistemic")
        plots_of_strata.stratum_bars(row[1], table, "loss")
        plots_of_strata.stratum_picks(row[2], table)
        titles = (f"mean epistemic by {name}", "mean loss", "top 25 %: times chance")
        for ax, title in zip(row, titles, strict=True):
            ax.set_title(title)
            ax.set_xlabel("")
        for ax in row[1:]:
            ax.set_yticklabels([])
    handles, labels = grid[0][2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return _laid_out(figure)


def runs_figure(names: Sequence[str], tables: Sequence[pd.DataFrame]) -> Figure:
    """Rank correlations of several runs, side by side."""
    figure = _figure(WIDTH, 0.9 + 0.3 * len(names))
    plots_of_runs.correlations_by_run(figure, names, tables)
    return _laid_out(figure)


def runs_lead_figure(names: Sequence[str], tables: Sequence[pd.DataFrame]) -> Figure:
    """How well loss finds the uncertain tokens in each run, for the first screen."""
    figure = _figure(3.9, 1.0 + 0.42 * len(names))
    ax = plots_of_runs.audit_by_run(figure.subplots(), names, tables)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return _laid_out(figure)


def curriculum_figure(shares: pd.DataFrame, overlaps: pd.DataFrame, measure: str = "loss") -> Figure:
    """What the high set holds in each run, and how much the sets of two runs overlap (after figure 4 of the paper)."""
    n_runs = shares["run"].nunique()
    figure = _figure(WIDTH, max(2.4, 1.2 + 0.34 * n_runs))
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    plots_of_runs.class_bars(left, shares[shares["measure"] == measure])
    plots_of_runs.overlap_matrix(right, overlaps[overlaps["measure"] == measure])
    return _laid_out(figure)


def _laid_out(figure: Figure) -> Figure:
    """Find the places of all parts once: left to it, matplotlib would do so anew for each of three files."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")
