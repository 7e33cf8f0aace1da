"""When an example has had enough passes: the target as users write it, the rule, and when one looks."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncertainty import pass_groups
from uncertainty.errors import InputError
from uncertainty.stopping import GROWTH, LEAST, TargetError, is_enough, parse_target, round_ends


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.01", TargetError(0.01)),
        (0.01, TargetError(0.01)),
        (" 5% ", TargetError(0.05, relative=True)),
        ("2.5 %", TargetError(0.025, relative=True)),
        ("1e-3", TargetError(0.001)),
    ],
)
def test_a_target_is_nats_or_a_share(text, expected):
    assert parse_target(text) == expected


@pytest.mark.parametrize("text", ["", "%", "five", "0", "-1%", "nan", "inf", "5%%"])
def test_what_is_no_target_is_refused_with_an_example_of_one(text):
    with pytest.raises(InputError, match=r"^--target-se .*give nats, as in 0\.01, or a share of the value, as in 5%$"):
        parse_target(text)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, pd.Series])
def test_the_rule_is_the_same_on_arrays_tensors_and_columns(kind):
    epistemic, error = kind([0.2, 0.2, 1e-6, 1e-6, 0.2]), kind([0.0099, 0.011, 4e-5, 6e-5, math.nan])
    relative = TargetError(0.05, relative=True).reached(epistemic, error)
    assert [bool(one) for one in relative] == [True, False, True, False, False]
    absolute = TargetError(0.01).reached(epistemic, error)
    assert [bool(one) for one in absolute] == [True, False, True, True, False]


def test_below_a_thousandth_of_a_nat_a_share_is_one_of_that_thousandth():
    target = TargetError(0.1, relative=True)
    assert target.reached(np.array([0.0, 5e-4, 1e-3]), np.array([1e-4, 1e-4, 1e-4])).all()
    assert not target.reached(np.array([0.0, 5e-4, 1e-3]), np.array([1.01e-4] * 3)).any()


@pytest.mark.parametrize(("n_tokens", "least"), [(1, 1), (19, 19), (20, 19), (100, 95), (101, 96)])
def test_19_of_20_tokens_are_enough(n_tokens, least):
    assert is_enough(least, n_tokens)
    assert not is_enough(least - 1, n_tokens)


@given(st.integers(1, 5000))
def test_looks_are_few_begin_late_and_end_with_the_last_pass(passes):
    ends = round_ends(passes)
    assert ends[-1] == passes
    assert all(end >= LEAST and end % 10 == 0 for end in ends[:-1])
    assert all(b >= GROWTH * a for a, b in pairwise(ends[:-1]))
    assert sum(ends[:-1]) <= 3.5 * passes
    assert passes <= LEAST or ends[0] == LEAST


@given(st.integers(1, 1000), st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.5]))
def test_passes_drawn_together_stay_together(passes, rate):
    sizes = pass_groups.group_sizes(passes, rate, pass_groups.most_groups(passes, rate))
    edges = np.cumsum(sizes).tolist()
    ends = round_ends(passes, sizes)
    assert set(ends) <= set(edges)
    assert ends[-1] == passes
    assert all(edges.index(end) >= 4 for end in ends[:-1])


def test_the_smallest_groups_that_cost_nothing_are_taken():
    assert [pass_groups.most_groups(k, 0.1) for k in (1000, 100, 20, 15)] == [100, 10, 2, 1]
    assert pass_groups.group_sizes(300, 0.05, pass_groups.most_groups(300, 0.05)) == [20] * 15
