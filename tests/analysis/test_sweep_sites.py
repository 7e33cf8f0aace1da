import math

import numpy as np
import pytest
from scipy import stats
from sweep_toys import random_series, series

from analysis.sweep_sites import SITE_COLUMNS, site_table
from uncertainty.errors import InputError


def test_sites_are_held_against_the_set_with_the_most_of_them():
    rng = np.random.default_rng(8)
    whole = rng.gamma(0.5, size=160)
    example = np.repeat(np.arange(40), 4)
    same = series({0.1: whole / 4, 0.2: whole / 2}, example, sites="attention")
    other = series({0.1: rng.permutation(whole)}, example, sites="mlp")
    both = series({0.1: whole, 0.2: whole}, example, sites="attention+mlp", n_sites=4)
    table = site_table([same, other, both]).set_index(["sites", "rate"])
    assert set(table["reference"]) == {"attention+mlp"}
    assert table.loc[("attention", 0.1), "ratio"] == pytest.approx(0.25)
    assert table.loc[("attention", 0.2), "ratio"] == pytest.approx(0.5)
    assert table.loc[("attention", 0.1), "rank_agreement"] == pytest.approx(1)
    assert table.loc[("mlp", 0.1), "rank_agreement"] == pytest.approx(
        stats.spearmanr(other.epistemic[0.1], whole).statistic, abs=1e-9
    )
    assert table.loc[("mlp", 0.1), "ratio"] == pytest.approx(1)
    assert table.loc[("attention+mlp", 0.1), "rank_agreement"] == 1
    assert len(table) == 5


def test_one_set_of_sites_has_nothing_to_be_compared_with():
    table = site_table([series({0.1: [1.0, 2.0]}), series({0.1: [1.0, 2.0]}, model="another")])
    assert len(table) == 0
    assert tuple(table.columns) == SITE_COLUMNS


def test_sites_scored_on_other_tokens_are_refused():
    part, whole = series({0.1: [1.0] * 4}), series({0.1: [1.0] * 8}, sites="mlp", n_sites=3)
    with pytest.raises(InputError, match="were not scored on the same tokens"):
        site_table([part, whole])


def test_a_rate_that_the_reference_lacks_is_told_without_a_comparison():
    part = random_series(0, 12, 5, (0.1, 0.2), 1.0)
    whole = random_series(1, 12, 5, (0.1,), 1.0, sites="attention+mlp", n_sites=4)
    row = site_table([part, whole]).set_index(["sites", "rate"]).loc[("attention", 0.2)]
    assert row["mean"] == pytest.approx(part.epistemic[0.2].mean())
    assert math.isnan(row["ratio"])
    assert math.isnan(row["rank_agreement"])
