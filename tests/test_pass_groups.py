import doctest

import pytest

from uncertainty import pass_groups
from uncertainty.pass_groups import exact_rate, group_sizes, jackknife_sizes, threshold


def test_doctests_hold():
    assert doctest.testmod(pass_groups).failed == 0


def test_a_rate_is_used_in_steps_of_a_65536th():
    assert threshold(0.1) == 6554
    assert exact_rate(0.1) == 6554 / 65536
    assert exact_rate(0.5) == 0.5


@pytest.mark.parametrize(("members", "sizes"), [(100, (10,) * 10), (10, (1,) * 10), (50, (5,) * 10), (7, (1,) * 7)])
def test_an_error_leaves_out_ten_groups_where_ten_divides(members, sizes):
    assert jackknife_sizes(members) == sizes


@pytest.mark.parametrize("passes", [20, 75])
def test_passes_that_no_number_of_groups_divides_fairly_are_one_group(passes):
    assert group_sizes(passes, 0.1) == [passes]
