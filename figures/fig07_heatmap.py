"""Figure 7 of the paper: heatmaps of a second model, every measure of an answer below each other.

Shows the example with the median mean loss of the last run, so that the picture is neither the best nor the worst.
"""

from __future__ import annotations

import sys
from pathlib import Path

from analysis.heatmap import load_heatmap
from analysis.heatmap_figure import heatmap_figure
from analysis.look import Look, Page
from figures.runs import FigureOptions, own_runs, save_picture
from uncertainty.cli.options import command
from uncertainty.scores import read_examples

TITLE = "One example of a pretrained model, five measures (figure 7)"
MEASURES = ("loss", "entropy", "total", "aleatoric", "epistemic")


def draw(options: FigureOptions) -> None:
    """Draw the middle example of the last run."""
    run = (options.runs or own_runs())[-1]
    heatmap = load_heatmap(run, middle_example(run), Look(measures=MEASURES, prompt_characters=300))
    save_picture(
        heatmap_figure(heatmap, Page(dpi=110, type_size=7)), __file__, options.out, TITLE, [run], n_colours=None
    )


def middle_example(run: Path) -> str:
    """The id of the example whose mean loss is the median of the run; of an even number the lower of the two."""
    examples = read_examples(run, columns=["id", "mean_loss"]).dropna().sort_values("mean_loss", kind="stable")
    return str(examples["id"].iloc[(len(examples) - 1) // 2])


def main(argv: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return command(draw, FigureOptions, argv, prog="fig07_heatmap", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
