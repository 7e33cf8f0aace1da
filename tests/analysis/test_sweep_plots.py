import numpy as np
import pytest
from matplotlib.figure import Figure
from sweep_toys import random_series, series

from analysis.measure_names import axis_label
from analysis.sweep import distribution_table
from analysis.sweep_plots import rate_distribution, rate_means, sweep_figure, token_lines

RATES = (0.01, 0.05, 0.1, 0.3)


@pytest.fixture
def ax():
    return Figure().add_subplot()


def points(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line.get_xydata()


def test_a_distribution_shows_median_and_mean_of_every_rate(ax):
    table = distribution_table([random_series(0, 12, 5, RATES, 1.0)])
    assert rate_distribution(ax, table) is ax
    np.testing.assert_allclose(points(ax, "median"), table[["rate", "q50"]])
    np.testing.assert_allclose(points(ax, "mean"), table[["rate", "mean"]])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0.01", "0.05", "0.1", "0.3"]
    low, high = ax.get_ylim()
    assert low <= table["q05"].min() < table["q95"].max() <= high
    assert ax.get_ylabel() == axis_label("epistemic")


def test_the_thick_line_holds_half_of_the_tokens_and_the_thin_one_nine_tenths(ax):
    table = distribution_table([random_series(0, 12, 5, (0.1,), 1.0)])
    thin, thick, *_ = rate_distribution(ax, table).collections
    for drawn, names in ((thin, ["q05", "q95"]), (thick, ["q25", "q75"])):
        np.testing.assert_allclose(drawn.get_segments()[0][:, 1], table[names].iloc[0].astype(float))


def test_values_of_zero_are_drawn_at_the_foot_of_the_axis(ax):
    rate_distribution(ax, distribution_table([series({0.1: [0.0, 0.0, 0.0, 1e-3], 0.2: [0.0, 1e-3, 1e-2, 1e-1]})]))
    assert points(ax, "median")[0, 1] == ax.get_ylim()[0] == pytest.approx(1e-10)


def test_means_have_a_line_for_each_set_of_sites(ax):
    found = [random_series(n, 12, 5, RATES, 1.0, sites=sites) for n, sites in enumerate(("attention", "mlp"))]
    table = distribution_table(found)
    rate_means(ax, table)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["attention", "mlp"]
    np.testing.assert_allclose(points(ax, "mlp")[:, 1], table[table["sites"] == "mlp"]["mean"])


def test_the_set_that_joins_all_others_is_called_so(ax):
    sets = ("attention", "residual", "mlp", "attention+residual+mlp")
    rate_means(ax, distribution_table([random_series(0, 12, 5, RATES, 1.0, sites=sites) for sites in sets]))
    assert [text.get_text() for text in ax.get_legend().get_texts()][-1] == "all together"


def test_token_lines_are_spread_from_the_surest_token_to_the_least_sure(ax):
    values = np.geomspace(1e-6, 1, 100)
    order = np.random.default_rng(0).permutation(100)
    one = series({rate: rate * values[order] for rate in RATES})
    token_lines(ax, one, n_lines=5)
    heights = [line.get_ydata()[0] for line in ax.lines]
    np.testing.assert_allclose(heights, RATES[0] * values[[0, 25, 50, 74, 99]], rtol=1e-9)


def test_the_figure_has_a_row_for_each_model_and_a_panel_more_for_several_sites():
    one, two = random_series(0, 12, 5, RATES, 1.0), random_series(1, 12, 5, RATES, 1.0, model="other")
    assert len(sweep_figure([one]).axes) == 2
    assert len(sweep_figure([one, two]).axes) == 4
    joined = random_series(2, 12, 5, RATES, 1.0, sites="attention+mlp")
    figure = sweep_figure([one, joined])
    assert len(figure.axes) == 3
    assert figure.axes[0].get_title(loc="left") == "toy on rows\n2 attention sites"
    share = (np.diff(one.epistemic, axis=1) > 0).all(axis=1).mean()
    assert figure.axes[1].get_title(loc="left") == f"single tokens\n{share:.1%} rise at every step"
    figure.canvas.draw()


def test_a_sweep_of_one_rate_can_be_drawn():
    sweep_figure([random_series(0, 12, 5, (0.1,), 1.0)]).canvas.draw()


def test_a_dollar_in_a_name_is_a_dollar():
    figure = sweep_figure([random_series(0, 12, 5, RATES, 1.0, model="$x_1$ {")])
    figure.canvas.draw()
    assert figure.axes[0].get_title(loc="left").startswith("$x_1$ {")
