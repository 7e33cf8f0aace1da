"""What the measures find of the truly reducible error, KL(oracle || model), as the demo model learns.

At stages of training: aleatoric uncertainty against the known entropy; epistemic uncertainty, loss, entropy and RHO
against the error that is left to learn, token by token; and the share of it that the top 25 % of the tokens by each
captures. RHO is the loss minus that of the last stage, which stands for a reference trained on the same data. Makes
its checkpoints in about 12 minutes of one core and scores each in one more, once; ``--checkpoints-from`` reuses yours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.by_example import t_interval, usable_tokens
from analysis.captured import captured_shares
from analysis.correlation import CorrelationSettings, correlate
from analysis.measure_names import COLOURS
from analysis.plot_style import INK, MUTED, STYLE
from figures.oracle_checkpoints import OWN, Stage, stages
from figures.runs import save_picture
from uncertainty.cli.options import command, option
from uncertainty.demo.facts import NEVER_TOLD
from uncertainty.demo.language import TOKEN_CLASSES
from uncertainty.errors import InputError

TITLE = "Measures against the truly reducible error, over training"
SIGNALS = ("loss", "entropy", "epistemic", "rho")
ERROR, TRUE_ENTROPY = "oracle_kl", "true_entropy"
PAIRS = (*((signal, ERROR) for signal in SIGNALS), ("aleatoric", ERROR), ("aleatoric", TRUE_ENTROPY))
DIFFERENCES = tuple(((signal, ERROR), ("loss", ERROR)) for signal in SIGNALS if signal != "loss")
MEANS = (ERROR, "loss", "true_loss", "entropy", TRUE_ENTROPY, "aleatoric", "epistemic")
SETTINGS = CorrelationSettings(methods=("spearman", "pearson"), replicates=0)
FEWEST_TOKENS = 10
ALL, LEARNABLE = "all", "all but facts never told"
COLUMNS = (
    "step",  # optimizer steps
    "group",  # "all", "all but facts never told", a token class, or facts by how often they were told so far
    "statistic",  # "mean", "spearman", "pearson", "captured"
    "x",
    "y",  # of a correlation, and of "captured" the amount; else ""
    "minus",  # a difference: the signal in the place of x that is subtracted; else ""
    "corrected",  # bool: epistemic's Monte Carlo noise is taken out
    "estimate",
    "low",  # 95 %, by example
    "high",
    "n_tokens",
    "n_examples",
    "warning",
)
SHOWN = {"loss": "loss", "entropy": "entropy", "epistemic": "epistemic", "rho": "RHO"}
OWN_COLOURS = {"rho": "#a45fa8", ERROR: INK, TRUE_ENTROPY: "#6a727d"}


@dataclass(frozen=True)
class ValidationOptions:
    """The options of this script."""

    checkpoints_from: Path | None = option(
        None, "folder with step-000300 and so on, of python -m uncertainty.demo.train --checkpoints", metavar="DIR"
    )
    steps: tuple[int, ...] = option(
        (100, 300, 600, 1000, 1500, 2500, 3500, 5000), "stages of training; the last is RHO's reference", unit="steps"
    )
    passes: int = option(100, "Monte Carlo passes of each run", unit="passes")
    limit: int | None = option(None, "only so many of the 128 conversations", unit="conversations")
    fraction: float = option(0.25, "share of the tokens that is selected")
    runs: Path = option(OWN, "where the runs are kept", metavar="DIR")
    table: Path = option(OWN / "oracle_validation.csv", "the table, a .csv", metavar="FILE")
    out: Path | None = option(None, "the picture, a .png (default: beside the script)", metavar="FILE")


def validation_table(done: Sequence[Stage], fraction: float) -> pd.DataFrame:
    """Every statistic of every stage and group of tokens; columns ``COLUMNS``, intervals by example."""
    rows = [
        {"step": stage.step, "group": name} | row
        for stage in done
        for name, tokens in groups(stage.tokens).items()
        for row in (*_means(tokens), *_correlations(tokens), *_captured(tokens, fraction))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).fillna({"y": "", "minus": "", "corrected": False, "warning": ""})


def groups(tokens: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All tokens, all that could be learnt, and the classes and kinds of facts with enough tokens."""
    found = {ALL: tokens, LEARNABLE: tokens[~tokens["fact"].isin(NEVER_TOLD)]}
    found |= {name: tokens[tokens["token_class"] == name] for name in TOKEN_CLASSES}
    facts = tokens["fact_group"].dropna().unique()
    by_count = sorted(facts, key=lambda name: int(name.split()[2].split("-")[0].rstrip("+")))
    found |= {name: tokens[tokens["fact_group"] == name] for name in by_count}
    return {name: part for name, part in found.items() if len(part) >= FEWEST_TOKENS}


def draw(options: ValidationOptions) -> None:
    """Table to a file and its heart to the screen; the picture in two rows of three panels."""
    if len(options.steps) < 2 or sorted(set(options.steps)) != list(options.steps):
        raise InputError("--steps takes at least two stages in ascending order; e.g. --steps 300,1000,5000")
    done = stages(
        options.steps, options.checkpoints_from, options.runs, passes=options.passes, limit=options.limit
    )
    table = validation_table(done, options.fraction)
    options.table.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.table, index=False)
    print(summary(table, options.fraction))
    with matplotlib.rc_context(STYLE):
        figure = picture(table, options.fraction)
    print(f"{options.table}: {len(table):,} statistics")
    save_picture(figure, __file__, options.out, TITLE, [stage.run for stage in done])


def summary(table: pd.DataFrame, fraction: float) -> str:
    """The numbers that matter, as lines of text: by stage, a correlation or share of each signal with its interval."""
    lines = []
    for group in (ALL, LEARNABLE):
        for statistic in ("spearman", "pearson", "captured"):
            what = f"share of KL captured by the top {fraction:.0%}" if statistic == "captured" else f"{statistic} with KL"
            lines.append(f"{group}: {what}")
            for step in table["step"].unique():
                at = _rows(table, group, statistic).query("step == @step and y == @ERROR").set_index("x")
                shown = [f"{name} {_text(at.loc[name])}" for name in (*SIGNALS, "ideal") if name in at.index]
                lines.append(f"  step {step}: " + ", ".join(shown))
    lines.append("aleatoric with the true entropy, spearman and pearson")
    for step in table["step"].unique():
        pair = [
            _text(_rows(table, ALL, statistic).query("step == @step and y == @TRUE_ENTROPY").iloc[0])
            for statistic in ("spearman", "pearson")
        ]
        lines.append(f"  step {step}: " + ", ".join(pair))
    lines.append("mean over all tokens, nats")
    for step in table["step"].unique():
        at = _rows(table, ALL, "mean").query("step == @step").set_index("x")["estimate"]
        lines.append(f"  step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in at.items()))
    return "\n".join(lines)


def picture(table: pd.DataFrame, fraction: float) -> Figure:
    """Above: amounts, and both correlations; below: shares captured, and how much of the error epistemic shows."""
    figure = Figure(figsize=(8.6, 5.0), layout="constrained", dpi=180)
    (amounts, spearman, pearson), (captured, learnable, blind) = figure.subplots(2, 3)
    _mean_lines(amounts, table)
    for ax, statistic in ((spearman, "spearman"), (pearson, "pearson")):
        lines(ax, table, ALL, statistic, SIGNALS, ERROR)
        lines(ax, table, ALL, statistic, ("aleatoric",), TRUE_ENTROPY, linestyle="--")
        ax.set_title(f"{statistic.capitalize()} correlation over tokens")
        ax.axhline(0, color=MUTED, linewidth=0.5)
        ax.set_ylim(top=1.03)
    for ax, group in ((captured, ALL), (learnable, LEARNABLE)):
        lines(ax, table, group, "captured", (*SIGNALS, "ideal"), ERROR)
        ax.axhline(fraction, color=MUTED, linewidth=0.8, linestyle=":")
        ax.set_ylim(0, 1.03)
        ax.set_title(f"KL captured by the top {fraction:.0%}: {group}")
    _ratio_lines(blind, table)
    for ax in figure.axes:
        ax.set_xscale("log")
        ax.set_xlabel("optimizer steps")
        ax.grid(axis="y")
    handles, labels = captured.get_legend_handles_labels()
    more = [line for line in spearman.get_lines() if line.get_linestyle() == "--"]
    figure.legend(
        [*handles, *more],
        [*labels, "aleatoric, with the true entropy"],
        loc="outside lower center",
        ncols=len(handles) + 1,
    )
    return figure


def lines(
    ax: Axes,
    table: pd.DataFrame,
    group: str,
    statistic: str,
    names: Sequence[str],
    against: str,
    linestyle: str = "-",
) -> None:
    """One line per name over the stages, its interval as a band."""
    rows = _rows(table, group, statistic)
    for name in names:
        at = rows[(rows["x"] == name) & (rows["y"] == against) & ~rows["warning"].str.contains("constant")]
        colour = MUTED if name == "ideal" else OWN_COLOURS.get(name) or COLOURS[name]
        ax.plot(at["step"], at["estimate"], color=colour, marker="o", markersize=2.5, linewidth=1.3,
                linestyle=linestyle, label="ideal" if name == "ideal" else SHOWN.get(name, name))  # fmt: skip
        ax.fill_between(at["step"], at["low"], at["high"], color=colour, alpha=0.15, linewidth=0)


def _mean_lines(ax: Axes, table: pd.DataFrame) -> None:
    means = _rows(table, ALL, "mean")
    for name, label in ((ERROR, "KL(oracle ‖ model)"), ("epistemic", "epistemic"), ("aleatoric", "aleatoric"),
                        (TRUE_ENTROPY, "true entropy")):  # fmt: skip
        at = means[means["x"] == name]
        colour = OWN_COLOURS.get(name) or COLOURS[name]
        ax.plot(at["step"], at["estimate"], color=colour, marker="o", markersize=2.5, linewidth=1.3, label=label)
        ax.fill_between(at["step"], at["low"], at["high"], color=colour, alpha=0.15, linewidth=0)
    ax.set_yscale("log")
    ax.set_ylabel("nats a token")
    ax.set_title("Mean over tokens")
    ax.legend(loc="best", fontsize=6.5)


def _ratio_lines(ax: Axes, table: pd.DataFrame) -> None:
    means = table[table["statistic"] == "mean"]
    for name, colour in zip(("copy", "arithmetic", "fact"), ("#1f7fc0", "#d55e00", "#0b8f6a"), strict=True):
        at = means[means["group"] == name].pivot(index="step", columns="x", values="estimate")
        ax.plot(at.index, at["epistemic"] / at[ERROR], color=colour, marker="o", markersize=2.5, label=name)
    ax.set_yscale("log")
    ax.set_title("Mean epistemic / mean KL, by class")
    ax.legend(loc="best", fontsize=6.5)


def _rows(table: pd.DataFrame, group: str, statistic: str) -> pd.DataFrame:
    is_asked = (table["group"] == group) & (table["statistic"] == statistic)
    return table[is_asked & (table["minus"] == "") & ~table["corrected"]]


def _text(row: pd.Series) -> str:
    if np.isnan(row["estimate"]) or "constant" in row["warning"]:
        return "undefined"
    limits = "" if np.isnan(row["low"]) else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['estimate']:.2f}{limits}"


def _means(tokens: pd.DataFrame) -> list[dict[str, object]]:
    columns, examples, _ = usable_tokens(tokens, MEANS)
    rows: list[dict[str, object]] = []
    for name, values_N in columns.items():
        mean = float(values_N.mean(dtype=np.float64))
        interval = t_interval(mean, examples.sums(values_N - mean), examples, SETTINGS.confidence, "plain")
        row = {"statistic": "mean", "x": name, "estimate": mean, "low": interval.low, "high": interval.high}
        rows.append(row | examples.counts() | {"warning": interval.warning})
    return rows


def _correlations(tokens: pd.DataFrame) -> list[dict[str, object]]:
    table = correlate(tokens, pairs=PAIRS, partials=(), differences=DIFFERENCES, settings=SETTINGS).table
    table = table.assign(statistic=table["method"], minus=table["minus_x"])
    return table[[name for name in COLUMNS if name in table]].to_dict("records")


def _captured(tokens: pd.DataFrame, fraction: float) -> list[dict[str, object]]:
    table = captured_shares(tokens, ERROR, SIGNALS, fraction=fraction, minus="loss")
    table = table.rename(columns={"signal": "x"}).assign(statistic="captured", y=ERROR)
    return table[[name for name in COLUMNS if name in table]].to_dict("records")


def main(argv: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return command(draw, ValidationOptions, argv, prog="oracle_validation", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
