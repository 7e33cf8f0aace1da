"""What the measures find of the truly reducible error, KL(oracle || model), as the demo model learns.

At stages of its training: aleatoric uncertainty against the known entropy; epistemic uncertainty, loss, entropy and RHO
against the error that is left to learn, token by token; and the share of it that the top 25 % of the tokens by each
captures. RHO is the loss minus that of the last stage, which stands for a reference trained on the same data. Makes
its checkpoints in about 12 minutes of one core and scores each in about one, once; ``--checkpoints-from`` reuses yours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from analysis.measure_names import COLOURS
from analysis.plot_style import INK, MUTED, SERIES, STYLE
from figures.oracle_checkpoints import OWN, stages
from figures.oracle_statistics import ALL, ERROR, SIGNALS, SPREAD, TRUE_ENTROPY, rows_of, summary, validation_table
from figures.runs import save_picture
from uncertainty.cli.options import command, option
from uncertainty.errors import InputError

TITLE = "Measures against the truly reducible error, over training"
STEPS = (100, 300, 600, 1000, 1500, 2500, 3500, 5000)
LABELS = {
    "rho": "RHO (loss − loss at the last stage)",
    "ideal": "ideal: the error itself",
    ERROR: "KL(oracle ‖ model)",
    TRUE_ENTROPY: "true entropy",
}
OWN_COLOURS = {"rho": SERIES[3], "ideal": MUTED, ERROR: INK, TRUE_ENTROPY: MUTED}
TO_BE_LEARNT = ("copy", "arithmetic", "fact")  # the classes whose error falls most: entropy 0, known by no grammar


@dataclass(frozen=True)
class ValidationOptions:
    """The options of this script."""

    checkpoints_from: Path | None = option(
        None, "folder with step-000300 and so on, of python -m uncertainty.demo.train --checkpoints", metavar="DIR"
    )
    steps: tuple[int, ...] = option(STEPS, "stages of training; the last is RHO's reference", unit="optimizer steps")
    passes: int = option(100, "Monte Carlo passes of each run", unit="passes")
    limit: int | None = option(None, "only so many of the 128 conversations", unit="conversations")
    fraction: float = option(0.25, "share of the tokens that is selected")
    runs: Path = option(OWN, "where the runs are kept", metavar="DIR")
    table: Path = option(OWN / "oracle_validation.csv", "the table, a .csv", metavar="FILE")
    out: Path | None = option(None, "the picture, a .png (default: beside the script)", metavar="FILE")


def draw(options: ValidationOptions) -> None:
    """The table to a file, its heart to the screen, and the picture."""
    if len(options.steps) < 2 or sorted(set(options.steps)) != list(options.steps):
        raise InputError("--steps takes at least two stages in ascending order; e.g. --steps 300,1000,5000")
    done = stages(options.steps, options.checkpoints_from, options.runs, passes=options.passes, limit=options.limit)
    table = validation_table(done, options.fraction)
    options.table.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.table, index=False)
    print(summary(table, options.fraction))
    print(f"{options.table}: {len(table):,} statistics")
    with matplotlib.rc_context(STYLE):
        figure = picture(table, options.fraction)
        save_picture(figure, __file__, options.out, TITLE, [stage.run for stage in done])


def picture(table: pd.DataFrame, fraction: float) -> Figure:
    """Above the amounts and both correlations; below the shares captured, and how much of the error epistemic shows."""
    figure = Figure(figsize=(8.8, 5.2), layout="constrained", dpi=180)
    (amounts, spearman, pearson), (captured, of_spread, blind) = figure.subplots(2, 3)
    lines(amounts, rows_of(table, ALL, "mean", ""), (ERROR, "epistemic", "aleatoric", TRUE_ENTROPY))
    amounts.set_title("Mean over tokens")
    amounts.set_ylabel("nats a token")
    amounts.set_ylim(bottom=1e-3)
    amounts.legend(fontsize=6.5, loc="lower left", ncols=2)
    for ax, statistic in ((spearman, "spearman"), (pearson, "pearson")):
        lines(ax, rows_of(table, ALL, statistic), SIGNALS)
        lines(ax, rows_of(table, ALL, statistic, TRUE_ENTROPY), ("aleatoric",), linestyle="--")
        ax.set_title(f"{statistic.capitalize()}: with the error")
        ax.axhline(0, color=MUTED, linewidth=0.5)
        ax.set_ylim(top=1.03)
        ax.set_ylabel("correlation over tokens")
    for ax, title, group in ((captured, "all tokens", ALL), (of_spread, "true entropy > 0", SPREAD)):
        lines(ax, rows_of(table, group, "captured"), (*SIGNALS, "ideal"))
        ax.axhline(fraction, color=MUTED, linewidth=0.8, linestyle=":")
        ax.annotate("random", (1, fraction), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6.5)
        ax.set_ylim(0, 1.03)
        ax.set_ylabel("share of the error")
        ax.set_title(f"In the top {fraction:.0%}: {title}")
    _shown_share(blind, table)
    ticks = _few(table["step"].unique().tolist())
    for ax in figure.axes:
        ax.set_xscale("log")
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("optimizer steps")
        ax.grid(axis="y")
    for ax in (amounts, blind):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    handles, labels = captured.get_legend_handles_labels()
    (dashed,) = (line for line in spearman.get_lines() if line.get_linestyle() == "--" and line.get_marker() == "o")
    told = "aleatoric, with the true entropy"
    figure.legend([*handles, dashed], [*labels, told], loc="outside lower center", ncols=len(handles) + 1)
    return figure


def lines(ax: Axes, rows: pd.DataFrame, names: Sequence[str], *, linestyle: str = "-") -> None:
    """One line for each name over the stages, with its interval as a band."""
    for name in names:
        at = rows[rows["x"] == name]
        colour = OWN_COLOURS.get(name) or COLOURS[name]
        _line(ax, at["step"], at["estimate"], colour, LABELS.get(name, name), linestyle)
        ax.fill_between(at["step"], at["low"], at["high"], color=colour, alpha=0.15, linewidth=0)


def _shown_share(ax: Axes, table: pd.DataFrame) -> None:
    """Mean epistemic over mean error, for the classes that have most to learn."""
    for name, colour in zip(TO_BE_LEARNT, SERIES, strict=False):
        means = rows_of(table, name, "mean", "").pivot(index="step", columns="x", values="estimate")
        if not means.empty:
            _line(ax, means.index, means["epistemic"] / means[ERROR], colour, name, "-")
    ax.set_title("Mean epistemic ÷ mean error")
    ax.legend(fontsize=6.5)
    ax.set_ylabel("ratio of means")


def _line(ax: Axes, x: Sequence[float], y: Sequence[float], colour: str, label: str, linestyle: str) -> None:
    ax.plot(x, y, color=colour, marker="o", markersize=2.5, linewidth=1.3, linestyle=linestyle, label=label)


def _few(steps: list[int]) -> list[int]:
    """The steps that have room on a logarithmic axis: each at least 1.6 times the one before."""
    kept: list[int] = []
    for step in steps:
        if not kept or step >= 1.6 * kept[-1]:
            kept.append(step)
    return kept


def main(argv: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return command(draw, ValidationOptions, argv, prog="oracle_validation", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
