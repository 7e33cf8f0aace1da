import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.figure import Figure
from plotted_tokens import drawn, plotted_tokens

from analysis import plots
from analysis.claims import judge_claims
from analysis.colours import contrast, luminance
from analysis.correlation import CorrelationSettings, correlate
from analysis.measure_names import COLOURS
from analysis.plot_style import THEME
from analysis.proxy import audit_proxies
from uncertainty.scores import MEASURE_COLUMNS


@pytest.fixture(scope="module")
def tokens():
    return plotted_tokens()


@pytest.fixture(scope="module")
def correlations(tokens):
    return correlate(tokens, settings=CorrelationSettings(replicates=0)).table


@pytest.fixture
def ax():
    return Figure(figsize=(4, 3)).subplots()


@pytest.mark.parametrize("measure", MEASURE_COLUMNS)
def test_a_distribution_counts_every_token_and_every_example(ax, tokens, measure):
    means = tokens.groupby("example")[measure].mean().to_numpy()
    assert plots.distribution(ax, tokens[measure].to_numpy(), means, measure) is ax
    filled, line = ax.patches
    edges = filled.get_data().edges
    cut = -1 if measure == "label_prob" else 0
    for stairs, values in ((filled, tokens[measure].dropna()), (line, means[np.isfinite(means)])):
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        assert counts.sum() == len(values)
        highest = np.delete(counts, cut).max() if stairs is filled else counts.max()
        assert stairs.get_data().values == pytest.approx(np.minimum(counts / highest, 1.0))
    drawn(ax)


def test_a_first_bin_that_would_dwarf_the_rest_is_cut_and_its_share_written(ax):
    plots.distribution(ax, np.r_[np.zeros(90), np.geomspace(0.02, 1, 10)], np.array([0.1]), "loss")
    assert "first bin 90 %" in drawn(ax)


def test_a_distribution_of_nothing_is_an_empty_plot(ax):
    plots.distribution(ax, np.array([np.nan]), np.array([]), "loss")
    drawn(ax)


def test_the_heatmap_writes_each_correlation_with_its_interval(ax, correlations):
    assert plots.correlation_heatmap(ax, correlations, "spearman") is ax
    row = correlations.query("method == 'spearman' and kind == 'correlation' and not corrected")
    row = row[(row["x"] == "epistemic") & (row["y"] == "loss")].iloc[0]
    assert {f"{row['estimate']:.2f}", f"[{row['low']:.2f}, {row['high']:.2f}]"} <= drawn(ax)
    assert len(ax.patches) == 6


def test_text_in_the_heatmap_can_be_read(ax, correlations):
    plots.correlation_heatmap(ax, correlations, "spearman")
    for patch, text in zip(ax.patches, ax.texts[::2], strict=True):
        assert contrast(patch.get_facecolor()[:3], matplotlib.colors.to_rgb(text.get_color())) >= 4.4


def test_a_constant_measure_leaves_its_cells_grey_and_says_so(ax, tokens):
    table = correlate(tokens.assign(epistemic=1.0), settings=CorrelationSettings(replicates=0)).table
    plots.correlation_heatmap(ax, table, "pearson")
    assert {"–", "undefined"} <= drawn(ax)


def test_differences_stand_right_of_the_line_where_the_claim_holds(ax, correlations):
    claims = judge_claims(correlations)
    part = claims[claims["claim"] == "over_entropy"]
    assert plots.claim_differences(ax, part) is ax
    points = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert points == pytest.approx(part["difference"].tolist())
    assert [label.get_text().split(": ")[1] for label in ax.get_yticklabels()] == part["verdict"].tolist()
    assert ax.get_xlabel() == "ρ(epistemic, loss) − ρ(epistemic, entropy)"
    drawn(ax)


def test_hexagons_hold_every_token_once(ax, tokens):
    assert plots.hexbin(ax, tokens, "loss", "epistemic") is ax
    assert ax.collections[0].get_array().sum() == 790
    drawn(ax)


def test_lines_mark_the_top_quarter(ax, tokens):
    plots.hexbin(ax, tokens, "loss", "epistemic", colour_bar=False)
    known = tokens.dropna()
    assert ax.lines[0].get_xdata()[0] == pytest.approx(known["loss"].quantile(0.75))
    assert ax.lines[1].get_ydata()[0] == pytest.approx(known["epistemic"].quantile(0.75))


def test_the_audit_shows_each_signal_at_each_fraction(ax, tokens):
    table = audit_proxies(tokens).table
    assert plots.audit_points(ax, table, "precision") is ax
    shown = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
    assert sorted(shown) == pytest.approx(sorted(table[table["metric"] == "precision"]["estimate"]))
    assert "random choice" in [label.get_text() for label in ax.get_yticklabels()]
    drawn(ax)


def test_noise_is_relative_to_the_value(ax, tokens):
    plots.noise(ax, tokens["epistemic"].to_numpy(), tokens["epistemic_se"].to_numpy(), {"of ranks": 0.987})
    assert ax.lines[0].get_ydata() == pytest.approx(0.1)
    assert ax.get_title() == "reliability: of ranks 0.987"
    drawn(ax)


def test_noise_of_a_run_without_dropout_is_an_empty_plot(ax):
    plots.noise(ax, np.zeros(5), np.zeros(5), {})
    drawn(ax)


def test_no_plot_touches_pyplot(ax, tokens):
    plots.hexbin(ax, tokens, "loss", "epistemic")
    assert matplotlib.pyplot.get_fignums() == []


def test_colours_of_measures_are_seen_on_white_and_in_the_dark():
    for name, colour in COLOURS.items():
        for paper in ((1, 1, 1), matplotlib.colors.to_rgb("#16191d")):
            assert contrast(matplotlib.colors.to_rgb(colour), paper) >= 3.0, name


def test_themed_colours_are_no_colours_of_data():
    assert not set(THEME) & set(COLOURS.values())
    assert luminance((1, 1, 1)) == pytest.approx(1.0)
