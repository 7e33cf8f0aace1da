import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncertainty import selection
from uncertainty.selection import top_fraction

# Few different numbers, so that ties are the rule.
VALUES = st.lists(st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 0.5000001, 7.0, math.inf]), max_size=40)
FRACTIONS = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 1000).map(lambda step: step / 1000))


def brute_force(values, fraction):
    """The definition written out: sort by value from high to low, then by place, and take the first k."""
    if not values or fraction == 0:
        return [False] * len(values)
    exact = fraction * len(values)
    count = max(1, int(exact) + (exact - int(exact) >= 0.5))
    order = sorted(range(len(values)), key=lambda place: (-values[place], place))
    return [place in order[:count] for place in range(len(values))]


def test_doctests():
    assert doctest.testmod(selection).failed == 0


def test_a_case_worked_by_hand():
    values_N = torch.tensor([0.1, 3.0, 0.2, 3.0, 2.0, 0.0])
    assert top_fraction(values_N, 0.25).tolist() == [False, True, False, True, False, False]  # 1.5 rounds up to 2
    assert top_fraction(values_N, 0.2).tolist() == [False, True, False, False, False, False]  # 1.2 to 1
    assert top_fraction(values_N, 0.5).tolist() == [False, True, False, True, True, False]


@given(VALUES, FRACTIONS)
def test_it_is_the_definition(values, fraction):
    values_N = torch.tensor(values, dtype=torch.float32)
    assert top_fraction(values_N, fraction).tolist() == brute_force(values_N.tolist(), fraction)


@given(VALUES.filter(len), FRACTIONS, FRACTIONS)
def test_a_larger_fraction_selects_the_same_tokens_and_more(values, first, second):
    small_N, large_N = (top_fraction(torch.tensor(values), fraction) for fraction in sorted([first, second]))
    assert not (small_N & ~large_N).any()


def test_the_earlier_of_equal_tokens_is_selected():
    assert top_fraction(torch.ones(1000), 0.3).nonzero().flatten().tolist() == list(range(300))
    assert top_fraction(torch.tensor([-0.0, 0.0, -0.0, 0.0]), 0.5).tolist() == [True, True, False, False]


def test_no_fraction_selects_none_any_selects_at_least_one_and_all_selects_all():
    values_N = torch.linspace(0, 1, 7)
    assert top_fraction(values_N, 0).sum() == 0
    assert top_fraction(values_N, 1e-9).tolist() == [False] * 6 + [True]
    assert top_fraction(values_N, 1).all()
    assert top_fraction(torch.empty(0), 0.5).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_any_floating_dtype_is_taken(dtype):
    assert top_fraction(torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=dtype), 0.5).tolist() == [False, True, False, True]


def test_no_gradient_flows_and_the_values_stay_as_they_were():
    values_N = torch.tensor([1.0, -0.0, 2.0], requires_grad=True)
    selected_N = top_fraction(values_N, 0.5)
    assert not selected_N.requires_grad
    assert np.signbit(values_N.detach().numpy()).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("values_N", "fraction", "message"),
    [
        (torch.zeros(2, 3), 0.5, r"shape \[N\], got torch.float32 of shape \[2, 3\]"),
        (torch.zeros(3, dtype=torch.int64), 0.5, "floating point of shape"),
        (torch.zeros(3), 1.5, "between 0 and 1, got 1.5"),
        (torch.zeros(3), math.nan, "between 0 and 1, got nan"),
        (torch.tensor([0.0, math.nan, math.nan]), 0.5, "2 of 3 values are NaN"),
    ],
)
def test_what_cannot_be_selected_from_is_refused(values_N, fraction, message):
    with pytest.raises(ValueError, match=message):
        top_fraction(values_N, fraction)
