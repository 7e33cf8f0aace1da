import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import plots_of_strata as plots
from analysis.plot_style import STYLE
from analysis.strata import stratum_table
from uncertainty.scores import MEASURE_COLUMNS


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(0)
    n = 800
    values = {name: rng.gamma(0.5, size=n) for name in MEASURE_COLUMNS}
    frame = pd.DataFrame({"example": np.arange(n) // 20} | values)
    frame["epistemic"] = frame["loss"] * rng.gamma(2.0, 0.1, size=n)
    frame["epistemic_se"] = frame["epistemic"] / 10
    frame["label_prob"] = np.exp(-frame["loss"])
    frame.loc[:9, list(MEASURE_COLUMNS)] = np.nan
    return frame


@pytest.fixture
def ax():
    return Figure(figsize=(4, 3)).subplots()


def drawn(ax):
    """Draw for good: what a plot gets wrong often shows here only."""
    with matplotlib.rc_context(STYLE):
        ax.figure.savefig(io.BytesIO(), format="svg")
    return {text.get_text() for text in ax.texts}


@pytest.fixture(scope="module")
def strata(tokens):
    kind = pd.Categorical.from_codes(np.arange(len(tokens)) % 3, categories=["a", "b", "$c$"])
    return stratum_table(tokens, kind)


def test_bars_are_the_means_of_the_strata(ax, strata):
    assert plots.stratum_bars(ax, strata, "epistemic") is ax
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(strata["mean_epistemic"].tolist())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "$c$"]
    drawn(ax)


def test_picks_stand_at_the_enrichment_of_each_set(ax, strata):
    assert plots.stratum_picks(ax, strata) is ax
    marks = [line for line in ax.lines if line.get_marker() in ("s", "o")]
    assert marks[0].get_xdata() == pytest.approx(strata["enrichment_loss"].to_numpy())
    assert marks[1].get_xdata() == pytest.approx(strata["enrichment_epistemic"].to_numpy())
