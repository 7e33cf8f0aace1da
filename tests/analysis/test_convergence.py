"""The curve over the number of passes, against scipy, brute force, and noise whose size is known."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from pass_curves import PASSES, curve
from scipy import stats

from analysis.by_example import number_examples
from analysis.convergence import ESTIMATES, MEASURED, TRENDS, PassCurve, agreement, convergence_table, overlap


@pytest.fixture(scope="module")
def table():
    return convergence_table(curve()).set_index(["estimate", "passes"])


def test_agreement_is_spearmans_correlation_over_the_pairs():
    values_SN = np.random.default_rng(0).normal(size=(4, 50)).round(1)
    pairs = [stats.spearmanr(a, b)[0] for a, b in combinations(values_SN, 2)]
    assert agreement(values_SN) == pytest.approx(np.mean(pairs))
    assert math.isnan(agreement(np.array([[1.0, 1.0], [1.0, 2.0]])))


def test_overlap_is_the_common_part_of_the_top_sets_over_the_pairs():
    values_SN = np.random.default_rng(1).normal(size=(4, 40))
    sets = [set(np.argsort(row)[-10:].tolist()) for row in values_SN]
    assert overlap(values_SN, 0.25) == pytest.approx(np.mean([len(a & b) / 10 for a, b in combinations(sets, 2)]))


def test_tokens_that_tie_at_the_edge_are_shared():
    tied, clear = np.array([0.0, 0.0, 0.0, 1.0]), np.array([3.0, 2.0, 0.0, 4.0])
    assert overlap(np.stack([tied, clear]), 0.5) == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize("count", [5, 20, 50, 100])
def test_agreement_of_two_blocks_is_the_reliability_that_was_built_in(table, count):
    """Normal truth of variance 1, noise of variance 16 / k: Pearson 1 / (1 + 16 / k), Spearman by the normal's rule."""
    row = table.loc[(ESTIMATES[0], count)]
    built_in = 6 / math.pi * math.asin(1 / (1 + 16 / count) / 2)
    assert row["how"] == MEASURED
    assert row["agreement_low"] < row["agreement"] < row["agreement_high"]
    assert row["agreement"] == pytest.approx(built_in, abs=0.02)


def test_agreement_of_two_whole_runs_is_predicted_without_drawing_the_second(table):
    row = table.loc[(ESTIMATES[0], PASSES)]
    other = curve(seed=1).values[ESTIMATES[0]][PASSES][0]
    mine = curve().values[ESTIMATES[0]][PASSES][0]
    assert (row["how"], row["from_passes"], row["runs"]) == ("predicted", 100, 1)
    assert row["agreement"] == pytest.approx(agreement(np.stack([mine, other])), abs=0.02)
    assert row["overlap"] == pytest.approx(overlap(np.stack([mine, other]), 0.25), abs=0.03)
    assert row["agreement_power"] == pytest.approx(1.0, abs=0.1)
    assert row["overlap_power"] == pytest.approx(0.5, abs=0.15)


def test_the_first_passes_agree_too_well_with_the_run_that_holds_them(table):
    for count in (20, 50, 100):
        row = table.loc[(ESTIMATES[0], count)]
        assert row["agreement_with_all"] > row["agreement"] + 0.02
        assert row["overlap_with_all"] > row["overlap"]
    assert table.loc[(ESTIMATES[0], PASSES), "agreement_with_all"] == pytest.approx(1.0)


def test_bias_and_noise_of_the_mean_are_those_built_in(table):
    for count in (5, 20, 100):
        plain, corrected = (table.loc[(estimate, count)] for estimate in ESTIMATES)
        assert plain["bias"] == pytest.approx(-1 / count, abs=1e-9)
        assert corrected["bias"] == pytest.approx(0.0, abs=1e-9)
    # sd of the mean of 1000 tokens, each with noise 4 / sqrt(k), over their mean of 4; five seeds know it to an eighth
    spread = [convergence_table(curve(10, seed=s)).set_index(["estimate", "passes"])["noise"] for s in range(5)]
    expected = 4 / math.sqrt(250 * 20) / curve(10).values[ESTIMATES[1]][PASSES].mean()
    assert np.mean([one[(ESTIMATES[1], 20)] for one in spread]) == pytest.approx(expected, rel=0.25)


def test_noise_that_few_blocks_cannot_tell_is_scaled_from_more(table):
    rows = table.loc[ESTIMATES[0]]
    assert rows["noise_from"].tolist() == [5, 10, 20, 20, 20, 20]
    assert rows.loc[PASSES, "noise"] == pytest.approx(rows.loc[20, "noise"] * math.sqrt(0.1))


def test_sizes_without_a_value_are_left_out_of_that_estimate():
    made = curve(12)
    values = {name: dict(by) for name, by in made.values.items()}
    values[ESTIMATES[1]][5] = np.full_like(values[ESTIMATES[1]][5], np.nan)
    table = convergence_table(PassCurve(made.owner, values))
    assert table[table["estimate"] == ESTIMATES[1]]["passes"].min() == 10
    assert table[table["estimate"] == ESTIMATES[0]]["passes"].min() == 5


def test_few_examples_give_no_interval():
    table = convergence_table(curve(5))
    assert table["agreement"].notna().all()
    assert table["agreement_low"].isna().all()


def test_intervals_hold_the_value_for_other_examples():
    """Over 40 draws of 30 examples, the 95 % interval of the agreement holds that of all examples about as often."""
    made = curve(1200)
    values_SN = made.values[ESTIMATES[0]][100]
    whole = agreement(values_SN)
    held = 0
    for draw in range(40):
        mine_N = made.owner.code_N // 30 == draw
        owner = number_examples(pd.Series(made.owner.code_N[mine_N], name="example"))
        part = {name: {100: by[100][:, mine_N], PASSES: by[PASSES][:, mine_N]} for name, by in made.values.items()}
        row = convergence_table(PassCurve(owner, part)).iloc[0]
        held += bool(row["agreement_low"] <= whole <= row["agreement_high"])
    assert held >= 34


@pytest.mark.parametrize("name", TRENDS)
def test_a_trend_goes_there_and_back(name):
    trend = TRENDS[name]
    for power in (0.2, trend.steepest):
        times = trend.times(0.7, 0.9, power)
        assert trend.after(0.7, times, power) == pytest.approx(0.9)
        known = {k: trend.after(0.3, k / 10, power) for k in (10, 20, 50, 100)}
        assert trend.power(known) == pytest.approx(power)
    assert trend.times(0.7, 0.9, 0.0) == math.inf
    assert math.isnan(trend.times(math.nan, 0.9, 0.3))
    assert trend.after(1.0, 2.0, 0.5) == 1.0


def test_the_trend_of_ranks_is_spearmans_and_browns_formula():
    assert TRENDS["agreement"].after(0.8, 3.0, 1.0) == pytest.approx(3 * 0.8 / (1 + 2 * 0.8))


def test_a_fitted_trend_foresees_what_rare_masks_do_to_the_ranking():
    """Odds that grow as k^0.37, as the demo's did: the fit is right where Spearman's and Brown's is too good."""
    odds = {k: k**0.37 for k in (10, 20, 50, 200)}
    trend = TRENDS["agreement"]
    known = {k: odds[k] / (1 + odds[k]) for k in (10, 20, 50)}
    right = odds[200] / (1 + odds[200])
    assert trend.after(known[50], 4, trend.power(known)) == pytest.approx(right)
    assert trend.after(known[50], 4, 1.0) > right + 0.05


def test_a_trend_is_never_steeper_than_that_of_independent_noise():
    assert TRENDS["agreement"].power({10: 0.5, 20: 0.9}) == 1.0
    assert TRENDS["agreement"].power({10: 0.9, 20: 0.5}) == 0.0
    assert TRENDS["overlap"].power({50: 0.8}) == 0.5
