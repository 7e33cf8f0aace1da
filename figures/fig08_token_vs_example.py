"""Figure 8 of the paper: loss token by token against the one value of the example, in two examples of a run.

The two stand at the 10th and at the 90th percentile of the examples' mean loss, in the last run. Dark: the tokens that
token-level selection of the top 25 % of the run takes. The paper's document-level selection takes whole examples.
"""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.levels import example_means
from analysis.measure_names import COLOURS, axis_label
from analysis.plot_style import INK, MUTED, STYLE
from analysis.ranks import rank
from analysis.report_data import load_runs
from analysis.run_title import run_title
from analysis.top_sets import TopSet, find
from figures.runs import FigureOptions, own_runs, save_picture
from uncertainty.cli.options import command

TITLE = "Loss of tokens against loss of their example (figure 8)"
FRACTION = 0.25
PERCENTILES = (10, 90)


def draw(options: FigureOptions) -> None:
    """Two examples of the last run below each other."""
    run = load_runs((options.runs or own_runs())[-1:])[0]
    tokens = run.tokens.dropna(subset="loss")
    means = example_means(tokens, ("loss",)).set_index("example")["loss"]
    per_token = means.loc[tokens["example"]].to_numpy()
    selected = TopSet(rank(tokens["loss"].to_numpy()), FRACTION)
    both = find(selected, rank(per_token))["precision"].value
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 4.4), layout="constrained", dpi=150)
        axes = figure.subplots(2, 1, sharey=True)
        for ax, percentile in zip(axes, PERCENTILES, strict=True):
            example = means.sort_values(kind="stable").index[round((len(means) - 1) * percentile / 100)]
            inside = (tokens["example"] == example).to_numpy()
            token_losses(ax, tokens[inside], selected.weights[inside] > 0.5, means[example])
            share = np.mean(selected.weights[inside])
            place = f"example {run.ids[example]}, {percentile}th percentile of the means"
            ax.set_title(f"{place}: {share:.0%} of its tokens are selected")
        axes[0].set_ylim(top=1.15 * axes[0].get_ylim()[1])
        axes[0].legend(ncols=3, loc="upper right")
        figure.suptitle(run_title(run.info), x=0.01, ha="left", fontsize=9, fontweight="bold")
        axes[1].set_xlabel("token of the completion")
    top = f"top {FRACTION:.0%}"
    print(
        f"{run_title(run.info)}: of the {top} of tokens by loss, {both:.0%} are in the {top} of tokens by the mean "
        f"loss of their example ({FRACTION:.0%} by chance)"
    )
    save_picture(figure, __file__, options.out, TITLE, [run.path])


def token_losses(ax: Axes, tokens: pd.DataFrame, is_selected: np.ndarray, mean: float) -> Axes:
    """The loss of each token of an example, the selected ones dark, and the example's mean as a line."""
    places = tokens["index_in_completion"].to_numpy()
    losses = tokens["loss"].to_numpy()
    for chosen, colour, label in (
        (is_selected, COLOURS["loss"], f"top {FRACTION:.0%} of the run's tokens"),
        (~is_selected, "#cfc8dc", "other tokens"),
    ):
        ax.bar(places[chosen], losses[chosen], width=0.85, color=colour, label=label)
    ax.axhline(mean, color=INK, linewidth=1.0, label="mean of the example")
    ax.text(1.005, mean, f"{mean:.2f}", transform=ax.get_yaxis_transform(), va="center", fontsize=7.5)
    ax.set_xlim(-1, len(places))
    ax.grid(axis="y")
    ax.spines["left"].set_color(MUTED)
    ax.set_ylabel(axis_label("loss"))
    return ax


def main(argv: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return command(draw, FigureOptions, argv, prog="fig08_token_vs_example", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
