"""The picture of convergence shows the table's numbers."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from pass_curves import curve

from analysis.convergence import ESTIMATES, convergence_table
from analysis.convergence_needs import purposes
from analysis.convergence_plots import agreement_plot, convergence_figure, level_plot, overlap_plot

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def table():
    return convergence_table(curve())


def lines(ax):
    return {line.get_label(): np.array(line.get_data()) for line in ax.lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize(("draw", "name"), [(agreement_plot, "agreement"), (overlap_plot, "overlap")])
def test_measured_predicted_and_shared_are_different_lines(table, draw, name):
    drawn = lines(draw(Figure().subplots(), table, 0.9))
    plain = table[table["estimate"] == ESTIMATES[0]]
    np.testing.assert_array_equal(drawn["two independent runs"], plain[["passes", name]].to_numpy()[:-1].T)
    np.testing.assert_array_equal(drawn["the same, predicted"], plain[["passes", name]].to_numpy()[-1:].T)
    shared = plain[["passes", f"{name}_with_all"]].to_numpy()[:-1].T
    np.testing.assert_array_equal(drawn["first passes with all (shared)"], shared)


def test_the_level_is_drawn_for_both_estimates_on_an_axis_from_zero(table):
    ax = level_plot(Figure().subplots(), table, 0.02)
    means = [container.lines[0].get_ydata() for container in ax.containers]
    for mean, estimate in zip(means, ESTIMATES, strict=True):
        np.testing.assert_array_equal(mean, table[table["estimate"] == estimate]["mean"])
    assert ax.get_ylim()[0] == 0
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["5", "10", "20", "50", "100", "200"]


def test_the_figure_has_three_panels_and_can_be_drawn_without_two_runs(table):
    figure = convergence_figure(table, purposes(), top=0.25, title="demo $x$")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["mean level (band: 2 %)", "ranking", "top 25 %"]
    figure.canvas.draw()
    made = curve(12)
    only = convergence_table(type(made)(made.owner, {name: {200: by[200]} for name, by in made.values.items()}))
    convergence_figure(only, purposes(), top=0.25, title="one").canvas.draw()
