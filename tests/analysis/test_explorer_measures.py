import base64
import doctest

import numpy as np
import pytest
import torch

from analysis import explorer_measures
from analysis.explorer_measures import STEPS, packed, packed_measure, selected_counts
from uncertainty.selection import top_fraction

DTYPES = {"f4": "<f4", "f8": "<f8", "i4": "<i4", "u2": "<u2"}


def unpacked(text):
    return np.frombuffer(base64.b64decode(text[2:]), dtype=DTYPES[text[:2]])


def many_equal(size, seed=0):
    """Values with few digits, signed zeros and an infinity, some of them missing."""
    random = np.random.default_rng(seed)
    values = np.round(random.exponential(1, size), 1).astype(np.float32)
    values[random.random(size) < 0.1] = np.nan
    values[: size // 20] = -0.0
    values[size // 2] = np.inf
    return values


def test_doctests():
    assert doctest.testmod(explorer_measures).failed == 0


def test_an_array_comes_back_from_its_text():
    values = np.array([0.1, np.nan, -np.inf], dtype=np.float32)
    np.testing.assert_array_equal(unpacked(packed(values, "f4")), values)
    assert unpacked(packed(np.array([1, -2]), "i4")).tolist() == [1, -2]


@pytest.mark.parametrize("n_tokens", [0, 1, 2, 3, 7, 10, 199, 1000, 1333])
def test_the_counts_are_those_of_top_fraction(n_tokens):
    values_N = torch.arange(n_tokens, dtype=torch.float64)
    expected = [int(top_fraction(values_N, step / STEPS).sum()) for step in range(STEPS + 1)]
    assert selected_counts(n_tokens).tolist() == expected


def test_the_selected_tokens_and_their_threshold_are_those_of_top_fraction():
    values = many_equal(400)
    measure = packed_measure("loss", values, np.ones(400, dtype=bool))
    ranks, counts, thresholds = (unpacked(measure[name]) for name in ("ranks", "counts", "thresholds"))
    known = ~np.isnan(values)
    assert measure["predicted"] == known.sum()
    for step in range(0, STEPS + 1, 7):
        expected = np.zeros(400, dtype=bool)
        expected[known] = top_fraction(torch.from_numpy(values[known]), step / STEPS).numpy()
        np.testing.assert_array_equal((ranks >= 0) & (ranks < counts[step]), expected)
        assert np.isnan(thresholds[step]) if step == 0 else thresholds[step] == values[expected].min()


def test_a_part_of_a_run_keeps_the_ranks_and_the_scale_of_the_whole():
    values = many_equal(400)
    part = np.random.default_rng(1).random(400) < 0.3
    whole = packed_measure("entropy", values, np.ones(400, dtype=bool))
    some = packed_measure("entropy", values, part)
    for name in ("values", "percentiles", "ranks"):
        np.testing.assert_array_equal(unpacked(some[name]), unpacked(whole[name])[part])
    for name in ("upper", "legend", "counts", "thresholds"):
        assert some[name] == whole[name]


def test_percentiles_count_equals_half():
    measure = packed_measure("loss", np.array([0, 1, 1, 2], dtype=np.float32), np.ones(4, dtype=bool))
    assert (unpacked(measure["percentiles"]) / 65536).tolist() == [0.125, 0.5, 0.5, 0.875]


def test_one_infinite_value_does_not_stretch_the_scale():
    assert packed_measure("loss", np.array([1, 2, np.inf], dtype=np.float32), np.ones(3, dtype=bool))["upper"] == 2


def test_a_probability_ends_at_one_and_selects_nothing():
    measure = packed_measure("label_prob", np.array([0.1, 0.2], dtype=np.float32), np.ones(2, dtype=bool))
    assert (measure["upper"], measure["unit"]) == (1.0, "")
    assert "ranks" not in measure
