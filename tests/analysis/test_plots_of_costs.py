import matplotlib
import numpy as np
import pytest
from mask_runs import info, tokens
from matplotlib.figure import Figure

from analysis.pass_costs import cost_table, pass_errors
from analysis.plot_style import STYLE
from analysis.plots_of_costs import error_by_passes


def test_each_run_is_a_line_of_slope_minus_a_half_through_its_dot():
    tables = {masks: cost_table(pass_errors(tokens(masks), info(masks)), 0.95) for masks in ("iid", "balanced")}
    with matplotlib.rc_context(STYLE):
        ax = error_by_passes(Figure().subplots(), tables, [100, 100])
        ax.figure.draw_without_rendering()
    for (line, dot), table in zip(np.reshape(ax.lines[:4], (2, 2)), tables.values(), strict=True):
        x, y = np.log(line.get_data())
        assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(-0.5)
        ((passes,), (error,)) = dot.get_data()
        assert passes == 100
        assert error == pytest.approx(0.1 * np.sqrt(table["passes"].iloc[1] / 100))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["iid", "balanced"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["20%", "10%", "5%"]
