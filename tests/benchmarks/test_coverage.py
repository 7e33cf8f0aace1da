"""Bias and coverage of the estimates, on few replicates: what docs/estimators.md says holds."""

import pytest

from benchmarks.coverage import dirichlet, dropout, gaussian, measure, switch, table

REPLICATES = 500  # a coverage of 95 % is then known to 1 %


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: gaussian(0.1), lambda: gaussian(1.5), lambda: dirichlet(100)])
def test_intervals_cover_and_the_correction_leaves_no_bias(make):
    row = measure(make(), 100, REPLICATES)
    assert 0.91 <= row.interval <= 0.98
    assert abs(row.bias_corrected) <= 0.005 + 3 * row.bias_error
    assert row.bias < row.bias_corrected
    assert row.plug_in <= row.grouped + 0.03 <= row.interval + 0.03


@pytest.mark.slow
def test_the_correction_is_within_half_a_percent_where_members_differ_little():
    row = measure(dirichlet(1000), 100, REPLICATES)
    assert row.bias_error < 0.001
    assert abs(row.bias_corrected) <= 0.005
    assert row.bias < -0.005


@pytest.mark.slow
def test_switches_are_resolved_until_they_are_rarer_than_three_in_k():
    often, rarely = measure(switch(0.1), 100, REPLICATES), measure(switch(0.01), 100, REPLICATES)
    assert 0.93 <= often.interval <= 0.99
    assert 0.55 <= rarely.interval <= 0.72  # 1 - 0.99^100 = 0.63: the others never saw one


@pytest.mark.slow
def test_real_dropout_is_covered_unless_rare_masks_carry_the_disagreement():
    # At most tokens of the demo a few masks in a thousand do: docs/estimators.md says so, with its figures.
    for one in dropout(depth=1500):
        row = measure(one, 100, REPLICATES)
        assert row.interval >= 0.90 or (row.sd > 0.3 and row.unresolved > 0.25), row


def test_a_table_has_a_line_for_each_row():
    row = measure(dirichlet(100, vocabulary=5), 20, 10)
    lines = table([row, row], 20, 10).splitlines()
    assert lines[0].startswith("K = 20, 10 replicates")
    assert len(lines) == 6
    assert {line.count("|") for line in lines[2:]} == {12}
