import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sweep_toys import random_series, series

from analysis.sweep import (
    DISTRIBUTION_COLUMNS,
    STEP_COLUMNS,
    TREND_COLUMNS,
    distribution_table,
    monotone_range,
    page_test,
    step_table,
    token_trend,
    trend_table,
)

RATES = (0.01, 0.05, 0.1, 0.3, 0.5)


def t_limits(values_D):
    """The t interval of a mean of independent values, written out."""
    half = stats.t.ppf(0.975, len(values_D) - 1) * np.std(values_D, ddof=1) / math.sqrt(len(values_D))
    return np.mean(values_D) - half, np.mean(values_D) + half


def test_a_distribution_has_the_mean_and_quantiles_of_its_tokens():
    one = random_series(0, 12, 5, RATES, 0.7, standard_error=0.01)
    table = distribution_table([one])
    assert list(table["rate"]) == list(RATES)
    for _, row in table.iterrows():
        values = one.epistemic[row["rate"]]
        assert row["mean"] == pytest.approx(values.mean(), rel=1e-12)
        assert row["q05"] == pytest.approx(np.quantile(values, 0.05), rel=1e-12)
        assert row["q50"] == pytest.approx(np.median(values), rel=1e-12)
        assert row["relative_se"] == pytest.approx(np.median(0.01 / values), rel=1e-12)
        # Examples of equal length: the mean over tokens is the mean of independent example means.
        assert (row["low"], row["high"]) == pytest.approx(t_limits(values.groupby(level=0).mean()), rel=1e-9)
        assert (row["n_tokens"], row["n_examples"], row["passes"], row["n_sites"]) == (60, 12, 20, 2)
        assert len(row["fingerprint"]) == 64
    assert set(table["warning"]) != {""}  # twelve examples are few


def test_values_of_zero_have_no_relative_error_and_break_nothing():
    table = distribution_table([series({0.1: [0.0, 0.0, 1.0], 0.2: [0.0, 0.0, 0.0]}, standard_error=0.5)])
    assert table["relative_se"].iloc[0] == 0.5
    assert math.isnan(table["relative_se"].iloc[1])


def test_a_step_is_the_paired_difference_of_two_rates():
    one = random_series(1, 12, 5, RATES, 0.7)
    table = step_table([one])
    assert list(zip(table["rate"], table["next_rate"], strict=True)) == list(pairwise(RATES))
    for _, row in table.iterrows():
        change = one.epistemic[row["next_rate"]] - one.epistemic[row["rate"]]
        assert row["change"] == pytest.approx(change.mean(), rel=1e-9)
        assert (row["low"], row["high"]) == pytest.approx(t_limits(change.groupby(level=0).mean()), rel=1e-9)
        assert row["share_rising"] == pytest.approx((change > 0).mean())


def test_a_step_rises_falls_or_is_not_resolved():
    base = np.tile([1.0, 2.0], 20)
    wobble = np.tile([0.5, 0.5, -0.5, -0.5], 10)
    one = series({0.1: base, 0.2: base + 1, 0.3: base + 1 + wobble, 0.4: base}, np.repeat(np.arange(20), 2))
    assert list(step_table([one])["verdict"]) == ["rises", "not resolved", "falls"]


def test_what_is_proportional_to_the_rate_has_slope_one():
    values = np.random.default_rng(0).gamma(0.3, size=40)
    table = step_table([series({rate: rate * values for rate in RATES})])
    np.testing.assert_allclose(table["slope"], 1, rtol=1e-9)
    assert math.isnan(step_table([series({0.1: [0.0] * 4, 0.2: [1.0] * 4})])["slope"].iloc[0])


def test_only_falls_beyond_two_standard_errors_count():
    # Noise of the difference: 0.3 * sqrt(2) = 0.424; twice that is 0.849.
    one = series({0.1: [1.0, 1.0, 1.0, 1.0], 0.2: [0.1, 0.2, 0.0, 2.0]}, standard_error=0.3)
    row = step_table([one]).iloc[0]
    assert row["share_rising"] == 0.25
    assert row["share_falling_beyond_noise"] == 0.5


def test_a_tokens_trend_is_kendalls_tau_with_the_rate():
    rng = np.random.default_rng(3)
    values = rng.integers(0, 4, size=(200, 5)).astype(float)  # few values: many ties
    found = token_trend(pd.DataFrame(values, columns=RATES))
    expected = [stats.kendalltau(RATES, row).statistic for row in values]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_tokens_trend_is_one_where_it_rises_at_every_step():
    found = token_trend(pd.DataFrame([[1, 2, 3], [3, 2, 1], [1, 1, 1], [1, 3, 2]], columns=[0.1, 0.2, 0.3]))
    np.testing.assert_allclose(found, [1, -1, np.nan, 1 / 3])


def test_pages_test_is_scipys_on_the_mean_ranks_of_the_examples():
    one = random_series(4, 15, 6, RATES, 0.4)
    ranks = [
        np.mean([stats.rankdata(token) for token in part.to_numpy()], axis=0)
        for _, part in one.epistemic.groupby(level=0)
    ]
    expected = stats.page_trend_test(np.round(ranks, 9))
    assert page_test(one.epistemic) == (expected.statistic, expected.pvalue)


def test_pages_test_worked_by_hand():
    # Three examples of one token, in order, in order, and the last two rates swapped: L = 14 + 14 + 13.
    one = series({0.1: [1.0, 1.0, 1.0], 0.2: [2.0, 2.0, 3.0], 0.3: [3.0, 3.0, 2.0]}, [0, 1, 2])
    statistic, p = page_test(one.epistemic)
    assert statistic == 41
    # Of 6^3 orders, those with L >= 41: all in order (1), one of three with a neighbour swap (3 * 2).
    assert p == pytest.approx(7 / 216, rel=1e-12)


def test_tokens_that_say_the_same_do_not_make_the_test_surer():
    one = random_series(5, 12, 3, RATES, 0.1)
    tenfold = pd.concat([one.epistemic] * 10)
    assert page_test(tenfold) == page_test(one.epistemic)


def test_pages_test_needs_three_rates_and_two_examples():
    one = random_series(6, 4, 3, RATES, 0.4)
    assert all(math.isnan(value) for value in page_test(one.epistemic[[0.01, 0.05]]))
    assert all(math.isnan(value) for value in page_test(one.epistemic.loc[[0]]))


@pytest.mark.slow
def test_without_a_trend_the_test_and_the_interval_are_rarely_sure():
    # Tokens of an example share most of their noise: a test over tokens would be sure in about half of these.
    n_runs = 150
    sure, outside = 0, 0
    for seed in range(n_runs):
        one = random_series(100 + seed, 20, 10, RATES, 0.0)
        sure += page_test(one.epistemic)[1] < 0.05
        row = trend_table([one]).iloc[0]
        outside += not row["low"] <= 0 <= row["high"]
    # Binomial with p = 0.05 and 150 runs: 15 or more has probability 0.8 %.
    assert sure < 15
    assert outside < 15


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([1, 1, 1], (0.1, 0.4)),
        ([-1, 1, 1], (0.2, 0.4)),
        ([1, -1, 1], (0.1, 0.2)),
        ([1, 1, 0], (0.1, 0.3)),
        ([-1, -1, -1], (math.nan, math.nan)),
    ],
)
def test_the_monotone_range_is_the_longest_that_rises(changes, expected):
    steps = pd.DataFrame({"rate": [0.1, 0.2, 0.3], "next_rate": [0.2, 0.3, 0.4], "change": changes})
    steps["verdict"] = "not resolved"
    found = monotone_range(steps)
    np.testing.assert_equal((found["monotone_from"], found["monotone_to"]), expected)
    assert found["monotone_resolved"] is False


def test_a_trend_says_where_it_is_monotone_and_how_many_tokens_follow():
    one = random_series(7, 40, 5, RATES, 2.0)
    falling = one.epistemic.copy()
    falling[0.5] = falling[0.3] / 10
    row = trend_table([series({rate: falling[rate] for rate in RATES}, falling.index)]).iloc[0]
    assert (row["monotone_from"], row["monotone_to"], row["peak_rate"]) == (0.01, 0.3, 0.3)
    assert row["monotone_resolved"]
    assert row["share_monotone"] == 0  # the last step falls for every token
    whole = trend_table([one]).iloc[0]
    assert (whole["monotone_from"], whole["monotone_to"]) == (0.01, 0.5)
    assert whole["share_monotone"] == np.mean((np.diff(one.epistemic, axis=1) > 0).all(axis=1)) > 0.3
    assert whole["page_p"] < 1e-20
    assert whole["tau"] == pytest.approx(np.mean(token_trend(one.epistemic)))


def test_tokens_without_any_difference_are_left_out_of_the_trend():
    row = trend_table([series({0.1: [0.0, 1.0], 0.2: [0.0, 2.0], 0.3: [0.0, 3.0]}, [0, 1])]).iloc[0]
    assert (row["tau"], row["share_monotone"]) == (1, 1)
    flat = trend_table([series({0.1: [1.0, 1.0], 0.2: [1.0, 1.0]})]).iloc[0]
    assert math.isnan(flat["tau"])
    assert math.isnan(flat["share_monotone"])


def test_one_rate_alone_has_a_distribution_and_no_trend():
    one = series({0.1: [1.0, 2.0, 3.0, 4.0]})
    assert len(step_table([one])) == 0
    row = trend_table([one]).iloc[0]
    assert math.isnan(row["monotone_from"])
    assert math.isnan(row["page_p"])
    assert len(distribution_table([one])) == 1


def test_tables_have_their_columns_even_without_rows():
    one = series({0.1: [1.0, 2.0]})
    assert tuple(distribution_table([one]).columns) == DISTRIBUTION_COLUMNS
    assert tuple(step_table([one]).columns) == STEP_COLUMNS
    assert tuple(trend_table([one]).columns) == TREND_COLUMNS
    for table in (distribution_table, trend_table):
        assert not set(table([random_series(0, 12, 5, RATES, 1.0)]).isna().all().pipe(lambda empty: empty[empty].index))


def test_the_order_of_the_tokens_changes_nothing():
    one = random_series(9, 12, 5, RATES, 0.5, standard_error=0.2)
    order = np.random.default_rng(0).permutation(len(one.epistemic))
    shuffled = one.epistemic.iloc[order]
    two = series({rate: shuffled[rate] for rate in RATES}, shuffled.index, standard_error=0.2)
    for table in (distribution_table, step_table, trend_table):
        pd.testing.assert_frame_equal(table([one]), table([two]), rtol=1e-12)
