import doctest

import numpy as np
import pandas as pd
import pytest

from analysis import number_text
from analysis.number_text import fixed, number, percent, with_interval


def test_doctests_hold():
    assert doctest.testmod(number_text).failed == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.28, "0.280"),
        (9.999, "10.0"),
        (123456, "123,000"),
        (6.53e-11, "6.53e−11"),
        (None, "–"),
    ],
)
def test_nats_have_three_significant_digits(value, expected):
    assert number(value) == expected


def test_a_correlation_that_rounds_to_zero_has_no_sign():
    assert fixed(-0.001) == "0.00"


@pytest.mark.parametrize("how", [fixed, percent, number])
def test_without_an_interval_the_estimate_stands_alone(how):
    row = pd.Series({"estimate": 0.5, "low": np.nan, "high": np.nan})
    assert with_interval(row, how) == how(0.5)


def test_the_ends_of_a_narrow_interval_can_be_told_apart():
    row = pd.Series({"estimate": 0.976, "low": 0.975, "high": 0.978})
    assert with_interval(row) == "0.976 [0.975, 0.978]"
