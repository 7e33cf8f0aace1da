"""A token table to plot, and drawing for good: shared by the tests of the plots."""

import io

import matplotlib
import numpy as np
import pandas as pd

from analysis.plot_style import STYLE
from uncertainty.scores import MEASURE_COLUMNS


def plotted_tokens():
    """800 tokens of 40 examples; the first ten have no prediction."""
    rng = np.random.default_rng(0)
    n = 800
    values = {name: rng.gamma(0.5, size=n) for name in MEASURE_COLUMNS if name != "margin"}
    frame = pd.DataFrame({"example": np.arange(n) // 20} | values)
    frame["epistemic"] = frame["loss"] * rng.gamma(2.0, 0.1, size=n)
    frame["epistemic_se"] = frame["epistemic"] / 10
    frame["label_prob"] = np.exp(-frame["loss"])
    frame["margin"] = np.exp(-3 * frame["loss"])
    frame.loc[:9, list(MEASURE_COLUMNS)] = np.nan
    return frame


def drawn(ax):
    """Draw for good: what a plot gets wrong often shows here only."""
    with matplotlib.rc_context(STYLE):
        ax.figure.savefig(io.BytesIO(), format="svg")
    return {text.get_text() for text in ax.texts}
