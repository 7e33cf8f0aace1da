"""The plots of one run: each a function that draws on an Axes and returns it. No pyplot state is touched.

They take values or the tables of ``levels``, ``correlation``, ``claims`` and ``proxy``, and compute nothing
but bins. Wrap them in ``matplotlib.rc_context(plot_style.STYLE)`` for the look of the report.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from analysis.colours import text_colour
from analysis.measure_names import COLOURS, NAMES, axis_label
from analysis.number_text import fixed, with_interval
from analysis.plot_axes import log_axis, log_limits, power_of_ten
from analysis.plot_style import DENSITY, DIVERGING, INK, MUTED, PAPER

N_BINS = 48


def distribution(ax: Axes, tokens: np.ndarray, examples: np.ndarray, measure: str) -> Axes:
    """Histograms of one measure over tokens (filled) and over the examples' means (line), each to its own height.

    Shares are on an axis from 0 to 1; nats on a logarithmic one, because they span many decades, and values below its
    left end, zeros included, are counted in the first bin. Where the fuller of the end bins would dwarf all others (of
    nats the first) it is cut, and its share written beside it.

    Args:
        ax: where to draw.
        tokens: a value per token; NaN are left out.
        examples: a mean per example, likewise.
        measure: column of the score table.
    """
    tokens, examples = _known(tokens), _known(examples)
    is_share = NAMES[measure].is_share
    low, high = (0.0, 1.0) if is_share else log_limits(tokens)
    edges = np.linspace(low, high, N_BINS + 1) if is_share else np.geomspace(low, high, N_BINS + 1)
    if len(tokens):
        share = np.histogram(np.clip(tokens, low, high), edges)[0] / len(tokens)
        edge = -1 if is_share and share[-1] > share[0] else 0
        highest = float(np.delete(share, edge).max()) or 1.0
        ax.stairs(np.minimum(share / highest, 1.0), edges, fill=True, color=COLOURS[measure], alpha=0.5, label="tokens")
        if share[edge] > highest:
            note = f"{'last' if edge else 'first'} bin {100 * share[edge]:.0f} %"
            ax.text(0.03, 0.72, note, transform=ax.transAxes, va="center", fontsize=6.5, color=INK)
    if len(examples):
        share = np.histogram(np.clip(examples, low, high), edges)[0].astype(float)
        ax.stairs(share / share.max(), edges, color=INK, linewidth=1.0, label="examples (mean)")
    if not is_share:
        log_axis(ax, "x", low, high)
    ax.set_xlim(low, high)
    ax.set_ylim(0, 1.55)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(axis_label(measure))
    return ax


def correlation_heatmap(ax: Axes, table: pd.DataFrame, method: str, *, corrected: bool = False) -> Axes:
    """The correlations of {total, aleatoric, epistemic} with {loss, entropy}, each with its interval.

    Args:
        ax: where to draw.
        table: ``correlation.correlate(...).table``.
        method: "spearman", "pearson" or "kendall".
        corrected: the values with the Monte Carlo noise of epistemic taken out, where there are any.
    """
    rows, columns = ("total", "aleatoric", "epistemic"), ("loss", "entropy")
    found = _by_pair(table, "correlation", method, corrected=False)
    if corrected:
        found |= _by_pair(table, "correlation", method, corrected=True)
    colour_map, scale = matplotlib.colormaps[DIVERGING], Normalize(-1, 1)
    for y, kind in enumerate(rows):
        for x, signal in enumerate(columns):
            row = found.get((kind, signal))
            estimate = np.nan if row is None else float(row["estimate"])
            written = fixed(estimate) if row is None else with_interval(row).partition(" ")[0]
            cell = (0.9, 0.9, 0.9) if np.isnan(estimate) else colour_map(scale(estimate))[:3]
            ax.add_patch(matplotlib.patches.Rectangle((x, y), 1, 1, facecolor=cell, edgecolor=PAPER, linewidth=1.5))
            ink = "black" if text_colour(cell) == (0.0, 0.0, 0.0) else "#fefefe"
            ax.text(x + 0.5, y + 0.42, written, ha="center", va="center", color=ink, fontsize=11)
            ax.text(x + 0.5, y + 0.72, interval_text(row), ha="center", va="center", color=ink, fontsize=7)
    ax.set_xlim(0, len(columns))
    ax.set_ylim(len(rows), 0)
    ax.set_xticks([0.5, 1.5], columns)
    ax.set_yticks([0.5, 1.5, 2.5], rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(METHOD_NAMES[method])
    return ax


def claim_differences(ax: Axes, claims: pd.DataFrame) -> Axes:
    """The difference of correlations behind each reading of the paper's claim: right of the line, it holds.

    Args:
        ax: where to draw.
        claims: ``claims.judge_claims(...)``.
    """
    names: list[str] = []
    for y, (_, row) in enumerate(claims.iterrows()):
        colour = VERDICT_COLOURS[row["verdict"]]
        if np.isfinite(row["low"]):
            ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
        ax.plot([row["difference"]], [y], "o", color=colour, markersize=4.5)
        corrected = ", corrected" if row["corrected"] else ""
        names.append(f"{METHOD_NAMES[row['method']]}{corrected}: {row['verdict']}")
    ax.axvline(0, color=MUTED, linewidth=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    reach = max([0.1, *np.abs(ax.get_xlim())])
    ax.set_xlim(-reach, reach)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    ax.set_xlabel(str(claims["statement"].iloc[0]).replace("rho", "ρ").replace(" > ", " − "))
    return ax


def hexbin(
    ax: Axes, frame: pd.DataFrame, x: str, y: str, *, fraction: float | None = 0.25, colour_bar: bool = True
) -> Axes:
    """How often each combination of two measures occurs, on logarithmic axes; lines mark the top fraction of each.

    Args:
        ax: where to draw.
        frame: the two measures, one row per token (drawn as they are: subsample first where there are millions).
        x: measure across.
        y: measure up.
        fraction: of the tokens, above the lines; None draws none.
        colour_bar: draw the scale of the counts.
    """
    both = frame[[x, y]].dropna()
    columns = int(np.clip(3 * len(both) ** 0.3, 14, 50))
    x_values, y_values = both[x].to_numpy(dtype=np.float64), both[y].to_numpy(dtype=np.float64)
    (left, right), (bottom, top) = log_limits(x_values), log_limits(y_values)
    drawn = ax.hexbin(
        np.clip(x_values, left, right),
        np.clip(y_values, bottom, top),
        gridsize=(columns, int(0.62 * columns)),
        xscale="log",
        yscale="log",
        extent=(*np.log10((left, right)), *np.log10((bottom, top))),
        norm=LogNorm(vmin=1),
        cmap=DENSITY,
        mincnt=1,
        linewidths=0.2,
    )
    if fraction is not None and len(both):
        for values, line in ((x_values, ax.axvline), (y_values, ax.axhline)):
            line(float(np.quantile(values, 1 - fraction)), color=INK, linewidth=0.7, linestyle=(0, (4, 2)))
    log_axis(ax, "x", left, right)
    log_axis(ax, "y", bottom, top)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_xlabel(axis_label(x))
    ax.set_ylabel(axis_label(y))
    if colour_bar and ax.figure is not None:
        bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02, aspect=30, format=FuncFormatter(power_of_ten))
        bar.outline.set_visible(False)
        bar.minorticks_off()
        bar.set_label("tokens", labelpad=1)
    return ax


def audit_points(ax: Axes, table: pd.DataFrame, metric: str) -> Axes:
    """One metric of the proxy audit: a row per signal, a mark per target fraction, with intervals.

    Args:
        ax: where to draw.
        table: ``proxy.audit_proxies(...).table``.
        metric: "auroc", "average_precision", "precision" or "jaccard".
    """
    chosen = table[table["metric"] == metric]
    signals = list(dict.fromkeys(chosen["signal"]))
    fractions = sorted(chosen["fraction"].unique())
    for place, fraction in enumerate(fractions):
        part = chosen[chosen["fraction"] == fraction].set_index("signal")
        offset = (place - (len(fractions) - 1) / 2) * 0.22
        colour = FRACTION_COLOURS[place % len(FRACTION_COLOURS)]
        for y, signal in enumerate(signals):
            row = part.loc[signal]
            if np.isfinite(row["low"]):
                ax.plot([row["low"], row["high"]], [y + offset] * 2, color=colour, linewidth=1.4, solid_capstyle="butt")
            label = f"top {100 * fraction:.0f} %" if y == 0 else None
            marker = FRACTION_MARKERS[place % len(FRACTION_MARKERS)]
            ax.plot([row["estimate"]], [y + offset], marker, color=colour, markersize=4, linestyle="none", label=label)
    ax.set_yticks(range(len(signals)), [SIGNAL_NAMES.get(signal, signal) for signal in signals])
    ax.set_ylim(len(signals) - 0.5, -0.5)
    lowest = float(chosen["low"].fillna(chosen["estimate"]).min()) - 0.02
    ax.set_xlim(min(0.48, lowest) if metric == "auroc" else -0.02, 1.02)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(METRIC_NAMES[metric])
    return ax


def noise(ax: Axes, epistemic: np.ndarray, standard_error: np.ndarray, facts: Mapping[str, float]) -> Axes:
    """Relative Monte Carlo error of epistemic against its value: median, and the band that holds 80 % of the tokens.

    Args:
        ax: where to draw.
        epistemic: a value per token, nats; NaN and zeros are left out.
        standard_error: its Monte Carlo standard error, nats.
        facts: name -> reliability, for the title.
    """
    use = np.isfinite(epistemic) & np.isfinite(standard_error) & (epistemic > 0)
    values, relative = epistemic[use].astype(np.float64), standard_error[use] / epistemic[use]
    if len(values):
        low, high = log_limits(values)
        edges = np.geomspace(low, high, 25)
        place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        bands = pd.Series(relative).groupby(place).quantile(np.array([0.1, 0.5, 0.9])).unstack()
        enough = pd.Series(place).value_counts().reindex(bands.index) >= 10
        bands = bands[enough] if enough.any() else bands
        middle = np.sqrt(edges[:-1] * edges[1:])[bands.index]
        ax.fill_between(middle, bands[0.1], bands[0.9], color=COLOURS["epistemic"], alpha=0.25, linewidth=0)
        ax.plot(middle, bands[0.5], color=COLOURS["epistemic"], linewidth=1.4)
        log_axis(ax, "x", low, high)
        ax.set_xlim(low, high)
        ax.set_ylim(0, max(0.05, 1.1 * float(bands[0.9].max())))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if facts:
        ax.set_title("reliability: " + ", ".join(f"{name} {value:.3f}" for name, value in facts.items()))
    ax.grid(axis="y")
    ax.set_xlabel(axis_label("epistemic"))
    ax.set_ylabel("Monte Carlo standard error / value")
    return ax


def correlation_title(table: pd.DataFrame, x: str, y: str, method: str = "spearman") -> str:
    """One correlation with its interval, as a title: ``ρ(epistemic, loss) = 0.43 [0.39, 0.47]``."""
    row = _by_pair(table, "correlation", method, corrected=False).get((x, y))
    found = "not computed" if row is None else with_interval(row)
    return f"{METHOD_SIGNS[method]}({x}, {y}) = {found}"


def interval_text(row: pd.Series | None) -> str:
    """An interval as ``[0.41, 0.55]``, or why there is none."""
    if row is None or not np.isfinite(row["estimate"]):
        return "undefined"
    _, bracket, limits = with_interval(row).partition("[")
    return bracket + limits if bracket else "no interval"


def _known(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values[np.isfinite(values)]


def _by_pair(table: pd.DataFrame, kind: str, method: str, *, corrected: bool) -> dict[tuple[str, str], pd.Series]:
    use = (table["kind"] == kind) & (table["method"] == method) & (table["corrected"] == corrected)
    return {(row["x"], row["y"]): row for _, row in table[use].iterrows()}


METHOD_NAMES = {"spearman": "Spearman", "pearson": "Pearson", "kendall": "Kendall"}
METHOD_SIGNS = {"spearman": "ρ", "pearson": "r", "kendall": "τ"}
METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "precision": "precision in the top fraction",
    "jaccard": "Jaccard overlap of the top fractions",
}
SIGNAL_NAMES = {
    "label_prob": "1 − p(token)",
    "margin": "margin, small first",
    "rho": "RHO (loss − reference)",
    "ceiling": "perfect proxy at this noise",
    "random": "random choice",
}
VERDICT_COLOURS = {"holds": "#0b8f6a", "fails": "#d55e00", "not resolved": "#8a8f98", "undefined": "#8a8f98"}
FRACTION_COLOURS = ("#d55e00", "#1f7fc0", "#0b8f6a", "#b8860b")
FRACTION_MARKERS = ("o", "s", "D", "^")
