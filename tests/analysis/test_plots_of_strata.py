import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from plotted_tokens import drawn, plotted_tokens

from analysis import plots_of_strata as plots
from analysis.strata import stratum_table


@pytest.fixture(scope="module")
def tokens():
    return plotted_tokens()


@pytest.fixture
def ax():
    return Figure(figsize=(4, 3)).subplots()


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
