"""Figure 9 of the paper: the distribution of loss over tokens and over examples (their means), model by model."""

from __future__ import annotations

import sys

import matplotlib
from matplotlib.figure import Figure

from analysis import plots
from analysis.levels import example_means, level_quantiles, variance_split
from analysis.plot_style import INK, STYLE
from analysis.report_data import load_runs
from analysis.run_title import run_title
from figures.runs import FigureOptions, own_runs, save_picture
from uncertainty.cli.options import command

TITLE = "Loss over tokens and over examples (figure 9)"
MEASURE = ("loss",)
COLUMNS = 3
SHOWN = ["level", "n", "mean", "sd", "q05", "q50", "q95"]


def draw(options: FigureOptions) -> None:
    """A panel for each run."""
    runs = load_runs(options.runs or own_runs())
    with matplotlib.rc_context(STYLE):
        n_rows = -(-len(runs) // COLUMNS)
        figure = Figure(figsize=(9.0, 2.0 * n_rows + 0.3), layout="constrained", dpi=150)
        axes = figure.subplots(n_rows, COLUMNS).ravel()
        for ax in axes[len(runs) :]:
            ax.set_axis_off()
        for ax, run in zip(axes, runs, strict=False):
            means, split = example_means(run.tokens, MEASURE), variance_split(run.tokens, MEASURE).iloc[0]
            plots.distribution(ax, run.tokens["loss"].to_numpy(), means["loss"].to_numpy(), "loss")
            ax.set_title(run_title(run.info).replace(" on ", "\n"))
            share, icc = split["between_share"], f"{split['icc']:.2f} [{split['icc_low']:.2f}, {split['icc_high']:.2f}]"
            note = f"between examples: {share:.0%} of the variance,\nintraclass correlation {icc}"
            ax.text(0.03, 0.97, note, transform=ax.transAxes, fontsize=7, va="top", color=INK)
            print(f"{run_title(run.info)}: {' '.join(note.split())}")
            print(level_quantiles(run.tokens, MEASURE)[SHOWN].to_string(index=False))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    save_picture(figure, __file__, options.out, TITLE, [run.path for run in runs])


def main(argv: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return command(draw, FigureOptions, argv, prog="fig09_loss_distributions", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
