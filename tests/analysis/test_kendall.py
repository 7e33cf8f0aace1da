"""Kendall's tau-b against scipy and brute force over all pairs, ties of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.kendall import kendall
from analysis.ranks import rank

small = st.integers(-3, 3)


@given(st.lists(st.tuples(small, small), min_size=2, max_size=40))
def test_tau_agrees_with_scipy_and_influences_with_all_pairs(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    tau, influence = kendall(rank(x), rank(y))
    expected = stats.kendalltau(x, y)[0]
    assert tau == pytest.approx(expected, abs=1e-12, nan_ok=True)
    if np.isnan(expected):
        return
    sign_x, sign_y = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    n_others = len(x) - 1
    agree, untied_x, untied_y = (product.sum(axis=1) / n_others for product in (sign_x * sign_y, sign_x**2, sign_y**2))
    root = np.sqrt(untied_x.mean() * untied_y.mean())
    ties = untied_x / untied_x.mean() + untied_y / untied_y.mean() - 2
    assert influence == pytest.approx(2 * ((agree - agree.mean()) / root - tau / 2 * ties), abs=1e-9)


def test_a_constant_column_has_no_tau() -> None:
    tau, influence = kendall(rank(np.zeros(5)), rank(np.arange(5.0)))
    assert np.isnan(tau)
    assert not influence.any()


@pytest.mark.parametrize("n_tokens", [127, 128, 129, 1000])
def test_sizes_around_powers_of_two(n_tokens: int) -> None:
    rng = np.random.default_rng(n_tokens)
    x, own = rng.standard_normal((2, n_tokens))
    y = np.round(x + own, 1)
    assert kendall(rank(x), rank(y))[0] == pytest.approx(stats.kendalltau(x, y)[0], abs=1e-12)
