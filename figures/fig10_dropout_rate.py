"""Figure 10 of the paper: epistemic uncertainty (BALD) by dropout rate, model by model.

Takes the folders of sweeps, as unc-sweep writes them.
"""

from __future__ import annotations

import sys

from analysis.sweep import distribution_table, step_table, trend_table
from analysis.sweep_plots import sweep_figure
from analysis.sweep_runs import find_runs, read_series
from analysis.sweep_sites import site_table
from analysis.sweep_text import sweep_text
from figures.runs import FigureOptions, own_sweeps, save_picture
from uncertainty.cli.options import command

TITLE = "Epistemic uncertainty by dropout rate (figure 10)"


def draw(options: FigureOptions) -> None:
    """A row for each model: the distribution by rate, single tokens, and the mean by sites."""
    runs = [run for folder in options.runs or own_sweeps() for run in find_runs(folder)[0]]
    series = read_series(runs)
    print(sweep_text(distribution_table(series), step_table(series), trend_table(series), site_table(series)))
    save_picture(sweep_figure(series, dpi=130), __file__, options.out, TITLE, [run.path for run in runs])


def main(argv: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return command(draw, FigureOptions, argv, prog="fig10_dropout_rate", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
