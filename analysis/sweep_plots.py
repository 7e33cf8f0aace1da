"""The plots of a dropout sweep (the paper's figure 10): each a function that draws on an Axes and returns it.

They take the tables of ``sweep``. Wrap them in ``matplotlib.rc_context(plot_style.STYLE)``; ``sweep_figure`` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.measure_names import COLOURS, axis_label
from analysis.plot_axes import log_axis
from analysis.plot_style import DENSITY, INK, PAPER, SERIES, STYLE
from analysis.sweep import distribution_table, trend_table
from analysis.sweep_runs import RateSeries

_SMALLEST = 1e-10  # nats: less is not worth a decade of the axis
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


def rate_distribution(ax: Axes, table: pd.DataFrame, colour: str = COLOURS["epistemic"]) -> Axes:
    """Epistemic uncertainty over tokens at each rate of one series, both axes logarithmic.

    Thin line: the middle 90 % of the tokens. Thick line: the middle 50 %. White dot: the median. Diamonds, joined: the
    mean, with its interval by example.

    Args:
        ax: where to draw.
        table: rows of ``sweep.distribution_table`` of one series.
        colour: of the lines.
    """
    rates = table["rate"].to_numpy(dtype=np.float64)
    floor = max(_SMALLEST, float(table["q05"].min()))
    quantiles = {name: np.maximum(table[name].to_numpy(), floor) for name in ("q05", "q25", "q50", "q75", "q95")}
    ax.vlines(rates, quantiles["q05"], quantiles["q95"], color=colour, linewidth=1.0)
    ax.vlines(rates, quantiles["q25"], quantiles["q75"], color=colour, linewidth=6.0, alpha=0.55)
    ax.plot(rates, quantiles["q50"], "o", color=PAPER, markeredgecolor=colour, markersize=4.5, label="median")
    _mean_line(ax, table, INK, "D", "mean")
    top = float(max(table["q95"].max(), table["mean"].max()))
    _log_value_axis(ax, floor, top)
    _rate_axis(ax, rates)
    return ax


def rate_means(ax: Axes, table: pd.DataFrame) -> Axes:
    """Mean epistemic uncertainty by rate, one line per set of sites, both axes logarithmic; intervals by example.

    Args:
        ax: where to draw.
        table: rows of ``sweep.distribution_table`` of one model and data set.
    """
    sets = list(dict.fromkeys(table["sites"]))
    for place, sites in enumerate(sets):
        _mean_line(ax, table[table["sites"] == sites], SERIES[place % 8], _MARKERS[place % 8], _short(sites, sets))
    _log_value_axis(ax, float(table["mean"].min()), float(table["mean"].max()))
    _rate_axis(ax, np.unique(table["rate"].to_numpy(dtype=np.float64)))
    ax.legend(loc="lower right", handlelength=1.4, borderaxespad=0.2)
    return ax


def token_lines(ax: Axes, one: RateSeries, n_lines: int = 40) -> Axes:
    """Epistemic uncertainty of single tokens by rate, both axes logarithmic, dark where uncertain.

    The tokens are not chosen by how they look: they stand at equal distances in the order of their mean logarithm.

    Args:
        ax: where to draw.
        one: the series.
        n_lines: tokens drawn, at most.
    """
    values = np.maximum(one.epistemic.to_numpy(), _SMALLEST)
    order = np.argsort(np.log(values).mean(axis=1), kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(n_lines, len(order))).round().astype(int))]
    rates = one.epistemic.columns.to_numpy(dtype=np.float64)
    colour_map = matplotlib.colormaps[DENSITY].reversed()
    marker = "-" if len(rates) > 1 else "."
    for place, token in enumerate(chosen):
        ax.plot(rates, values[token], marker, color=colour_map(0.1 + 0.9 * place / len(chosen)), linewidth=0.7)
    _log_value_axis(ax, float(values[chosen].min()), float(values[chosen].max()))
    _rate_axis(ax, rates)
    return ax


def sweep_figure(series: Sequence[RateSeries], width: float = 10.0, dpi: float = 200.0) -> Figure:
    """The figure of a sweep: a row for each model and data set.

    Left the distribution by rate for the first set of sites, in the middle single tokens of the same, right the mean
    for every set of sites, where there are several.

    Args:
        series: what ``sweep_runs.read_series`` gives.
        width: of a row of three panels, inches; with two panels it is two thirds of that.
        dpi: pixels per inch of a PNG.
    """
    distribution, trend = distribution_table(series), trend_table(series)
    models = list(dict.fromkeys((one.model, one.dataset) for one in series))
    n_columns = 3 if len(series) > len(models) else 2  # with one set of sites the means stand in the first panel
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width * n_columns / 3, 2.75 * len(models) + 0.1), layout="constrained", dpi=dpi)
        axes = figure.subplots(len(models), n_columns, squeeze=False)
        for row, (model, dataset) in zip(axes, models, strict=True):
            mine = [one for one in series if (one.model, one.dataset) == (model, dataset)]
            table, trends = _of(distribution, model, dataset), _of(trend, model, dataset)
            shown = table[table["sites"] == mine[0].sites]
            rate_distribution(row[0], shown)
            row[0].set_title(f"{_who(model, dataset)}\n{_where(shown)}")
            row[0].legend(loc="upper left", handlelength=1.4)
            token_lines(row[1], mine[0])
            row[1].set_title(f"single tokens\n{trends['share_monotone'].iloc[0]:.1%} rise at every step")
            if n_columns == 3:
                rate_means(row[2], table)
                row[2].set_title("mean by sites\n")
    return figure


def _mean_line(ax: Axes, table: pd.DataFrame, colour: str, marker: str, label: str) -> None:
    rates, means = (table[name].to_numpy(dtype=np.float64) for name in ("rate", "mean"))
    low, high = (table[name].to_numpy(dtype=np.float64) for name in ("low", "high"))
    known = np.isfinite(low) & (low > 0)
    ax.vlines(rates[known], low[known], high[known], color=colour, linewidth=1.0)
    ax.plot(rates, means, marker + "-", color=colour, markersize=3.5, linewidth=1.0, label=label)


def _log_value_axis(ax: Axes, low: float, high: float) -> None:
    low, high = 10 ** np.floor(np.log10(max(low, _SMALLEST))), 10 ** np.ceil(np.log10(max(high, 10 * _SMALLEST)))
    log_axis(ax, "y", float(low), float(high))
    ax.set_ylim(low, high)
    ax.grid(axis="y")
    ax.set_ylabel(axis_label("epistemic"))


def _rate_axis(ax: Axes, rates: np.ndarray) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(rates)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.set_xlim(rates.min() / 1.35, rates.max() * 1.35)
    ax.set_xlabel("dropout rate")


def _of(table: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    return table[(table["model"] == model) & (table["dataset"] == dataset)]


def _who(model: str, dataset: str) -> str:
    return model if model == dataset else f"{model} on {dataset}"


def _where(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    return f"{first['n_sites']} {first['kinds'].replace('+', ' + ')} sites"


def _short(sites: str, sets: Sequence[str]) -> str:
    """The name of a set in a legend: a set that joins all the others' kinds is "all together"."""
    kinds = set(sites.split("+"))
    others = {kind for one in sets if one != sites for kind in one.split("+")}
    return "all together" if len(kinds) > 2 and others and others <= kinds else sites.replace("+", " + ")
