import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotted_tokens import drawn, plotted_tokens

from analysis import plots_of_runs
from analysis.correlation import CorrelationSettings, correlate
from analysis.proxy import audit_proxies


@pytest.fixture(scope="module")
def tokens():
    return plotted_tokens()


@pytest.fixture(scope="module")
def correlations(tokens):
    return correlate(tokens, settings=CorrelationSettings(replicates=0)).table


@pytest.fixture
def ax():
    return Figure(figsize=(4, 3)).subplots()


def test_runs_stand_side_by_side_in_order(correlations):
    axes = plots_of_runs.correlations_by_run(Figure(), ["one", "two"], [correlations, correlations])
    assert all(isinstance(ax, Axes) for ax in axes)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["one", "two"]
    drawn(axes[0])


def test_a_run_with_a_reference_has_a_mark_for_rho(ax, tokens):
    table = audit_proxies(tokens.assign(rho=tokens["loss"] - 0.1)).table
    plots_of_runs.audit_by_run(ax, ["one"], [table])
    assert "by rho" in ax.get_legend_handles_labels()[1]
    drawn(ax)


def test_each_bar_of_the_curriculum_is_whole(ax):
    shares = pd.DataFrame(
        {
            "run": ["a", "a", "b", "b"],
            "measure": "loss",
            "class": ["number", "word start"] * 2,
            "share_of_tokens": [0.4, 0.6] * 2,
            "share_of_high_set": [0.1, 0.9, 0.7, 0.3],
        }
    )
    assert plots_of_runs.class_bars(ax, shares) is ax
    ends = {round(bar.get_y()): max(b.get_x() + b.get_width() for b in ax.patches) for bar in ax.patches}
    assert list(ends.values()) == pytest.approx([1.0] * len(ends))
    drawn(ax)


def test_the_overlap_matrix_is_symmetric(ax):
    overlaps = pd.DataFrame({"run_a": ["a"], "run_b": ["b"], "jaccard": [0.25], "chance": [1 / 7]})
    plots_of_runs.overlap_matrix(ax, overlaps)
    assert [text.get_text() for text in ax.texts] == ["1.00", "0.25", "0.25", "1.00"]
    drawn(ax)
