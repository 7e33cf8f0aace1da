"""Figure 2B of the paper: correlation of epistemic and aleatoric uncertainty with loss and entropy, model by model.

The paper does not say which correlation it is; both Spearman and Pearson are shown, with intervals by example.
"""

from __future__ import annotations

import sys

import matplotlib
from matplotlib.figure import Figure

from analysis import plots
from analysis.claims import claims_paragraph, judge_claims
from analysis.correlation import CorrelationSettings, correlate
from analysis.plot_style import STYLE
from analysis.report_data import load_runs
from analysis.run_title import run_title
from figures.runs import FigureOptions, own_runs, save_picture
from uncertainty.cli.options import command

TITLE = "Uncertainty against loss and entropy (figure 2B)"
SETTINGS = CorrelationSettings(methods=("spearman", "pearson"), replicates=0)


def draw(options: FigureOptions) -> None:
    """A row for each run: two clouds of tokens, and the matrix under both correlations."""
    runs = load_runs(options.runs or own_runs())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 2.55 * len(runs)), layout="constrained", dpi=130)
        for part, run in zip(figure.subfigures(len(runs), 1, squeeze=False)[:, 0], runs, strict=True):
            table = correlate(run.tokens, partials=(), settings=SETTINGS).table
            part.suptitle(run_title(run.info), x=0.01, ha="left", fontweight="bold", fontsize=9)
            axes = part.subplots(1, 4, width_ratios=(1.15, 1.15, 1, 0.85))
            for ax, signal in zip(axes, ("loss", "entropy"), strict=False):
                plots.hexbin(ax, run.tokens, signal, "epistemic", fraction=None, colour_bar=signal == "entropy")
                ax.set_title(plots.correlation_title(table, "epistemic", signal), fontsize=7.5)
            plots.correlation_heatmap(axes[2], table, "spearman")
            plots.correlation_heatmap(axes[3], table, "pearson").set_yticks([])
            print(f"{run_title(run.info)}. {claims_paragraph(judge_claims(table))}")
    save_picture(figure, __file__, options.out, TITLE, [run.path for run in runs])


def main(argv: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return command(draw, FigureOptions, argv, prog="fig02b_correlation", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
