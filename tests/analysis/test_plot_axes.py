import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.plot_axes import log_axis, log_limits, power_of_ten


def test_limits_are_a_power_of_ten_below_and_a_little_above():
    assert log_limits(np.array([0.0, 0.02, 0.5, 3.0])) == (0.01, pytest.approx(3.3))


def test_what_float32_cannot_tell_from_zero_is_left_out_of_the_axis():
    assert log_limits(np.array([1e-30, 1e-20, 1.0]))[0] == 1e-8


def test_values_that_are_all_tiny_or_all_zero_still_have_an_axis():
    low, high = log_limits(np.array([1e-12, 2e-12]))
    assert low <= 1e-12
    assert high > 2e-12
    assert log_limits(np.zeros(3)) == (1e-3, 1.0)


@pytest.mark.parametrize(
    ("value", "text"), [(1e-8, "10⁻⁸"), (0.01, "0.01"), (1, "1"), (100, "100"), (1e4, "10⁴"), (0, "")]
)
def test_ticks_read_as_powers_of_ten_without_tex(value, text):
    assert power_of_ten(value, None) == text


def test_an_axis_of_many_decades_has_few_ticks():
    ax = Figure().subplots()
    log_axis(ax, "x", 1e-8, 1.0)
    ax.set_xlim(1e-8, 1.0)
    assert ax.get_xscale() == "log"
    assert ax.get_yscale() == "linear"
    assert 3 <= sum(1e-8 <= tick <= 1 for tick in ax.get_xticks()) <= 6
