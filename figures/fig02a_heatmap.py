"""Figure 2A of the paper: one answer, each token coloured by loss, entropy, aleatoric and epistemic uncertainty.

Shows the example with the highest mean epistemic uncertainty of the (first) run.
"""

from __future__ import annotations

import sys

from analysis.heatmap import load_heatmap, top_example
from analysis.heatmap_figure import heatmap_figure
from analysis.look import Look, Page
from figures.runs import FigureOptions, own_runs, save_picture
from uncertainty.cli.options import command

TITLE = "One example, each token coloured by four measures (figure 2A)"


def draw(options: FigureOptions) -> None:
    """Draw the most uncertain example of the first run."""
    run = (options.runs or own_runs())[0]
    heatmap = load_heatmap(run, top_example(run, "epistemic"), Look())
    save_picture(heatmap_figure(heatmap, Page(dpi=150)), __file__, options.out, TITLE, [run], n_colours=None)


def main(argv: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return command(draw, FigureOptions, argv, prog="fig02a_heatmap", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
