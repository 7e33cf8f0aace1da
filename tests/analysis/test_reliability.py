"""Reliability of epistemic from its standard errors, against two simulated scorings."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.by_example import Examples, number_examples
from analysis.ranks import rank
from analysis.reliability import noisy_copy, rank_reliability, value_reliability


def scorings(relative: float, n_tokens: int = 40_000) -> tuple[np.ndarray, np.ndarray, np.ndarray, Examples]:
    """Two scorings of the same tokens, gamma noise of a known relative size, and the standard error."""
    rng = np.random.default_rng(0)
    true = np.exp(rng.normal(-4, 1.0, n_tokens))
    first, second = true * rng.gamma(1 / relative**2, relative**2, (2, n_tokens))
    return first, second, relative * true, number_examples(pd.Series(np.arange(n_tokens) // 20))


@pytest.mark.parametrize(("relative", "tolerance"), [(0.1, 0.005), (0.25, 0.01), (0.4, 0.04)])
def test_reliability_is_the_correlation_of_two_scorings(relative: float, tolerance: float) -> None:
    first, second, se, examples = scorings(relative)
    by_rank = rank_reliability(first, se, rank(first), examples, 0)
    assert by_rank.value == pytest.approx(stats.spearmanr(first, second)[0], abs=tolerance)
    by_value = value_reliability(first, se)
    assert by_value.value == pytest.approx(np.corrcoef(first, second)[0, 1], abs=2 * tolerance)
    assert by_rank.attenuation == pytest.approx(math.sqrt(by_rank.value))


def test_without_noise_reliability_is_one() -> None:
    first, _, se, examples = scorings(0.2, 500)
    assert rank_reliability(first, 0 * se, rank(first), examples, 0).value == pytest.approx(1)
    assert value_reliability(first, 0 * se).value == 1


def test_constant_epistemic_has_no_reliability() -> None:
    zero, examples = np.zeros(20), number_examples(pd.Series(np.arange(20)))
    for found in (value_reliability(zero, zero), rank_reliability(zero, zero, rank(zero), examples, 0)):
        assert math.isnan(found.value)
        assert not found.is_correctable
        assert found.warning == "undefined: epistemic is constant"


@pytest.mark.parametrize(
    ("size", "is_correctable", "warning"),
    [
        (0.1, True, ""),
        (0.6, True, "corrected values are rough"),
        (0.95, False, "no correction; score with more passes"),
    ],
)
def test_much_noise_warns_and_too_much_forbids_the_correction(size: float, is_correctable: bool, warning: str) -> None:
    values = np.random.default_rng(0).standard_normal(10_000)
    found = value_reliability(values, np.full(10_000, size))
    assert found.value == pytest.approx(1 - size**2 / values.var())
    assert found.is_correctable == is_correctable
    assert warning in found.warning
    assert bool(found.warning) == bool(warning)


def test_a_noisy_copy_stays_positive_keeps_zeros_and_the_size_of_the_noise() -> None:
    first, _, _, examples = scorings(0.2)
    first[:100] = 0
    copy = noisy_copy(first, 0.3 * first, examples, 0)
    assert (copy[:100] == 0).all()
    assert (copy[100:] > 0).all()
    log_ratio = np.log(copy[100:] / first[100:])
    assert log_ratio.std() == pytest.approx(math.sqrt(math.log(1.09)), rel=0.02)
