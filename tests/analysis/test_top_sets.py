"""Metrics of top sets against brute force, scipy and enumeration of ties; their influence against simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from analysis.ranks import rank
from analysis.top_sets import METRICS, TopSet, chance, find


def values_of(target: np.ndarray, signal: np.ndarray, fraction: float) -> dict[str, float]:
    return {name: found.value for name, found in find(TopSet(rank(target), fraction), rank(signal)).items()}


def pair(n_tokens: int, seed: int = 0, *, tied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target, own = rng.standard_normal((2, n_tokens))
    signal = 0.7 * target + 0.7 * own
    return target, np.round(signal) if tied else signal


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_auroc_is_the_mann_whitney_statistic(fraction: float, tied: bool) -> None:
    target, signal = pair(200, tied=tied)
    inside = target >= np.sort(target)[-round(200 * fraction)]
    statistic = stats.mannwhitneyu(signal[inside], signal[~inside]).statistic
    found = values_of(target, signal, fraction)["auroc"]
    assert found == pytest.approx(statistic / inside.sum() / (~inside).sum(), abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_average_precision_is_the_loop_over_thresholds(tied: bool) -> None:
    target, signal = pair(200, tied=tied)
    inside = target >= np.sort(target)[-50]
    expected, recall_before = 0.0, 0.0
    for threshold in np.unique(signal)[::-1]:
        selected = signal >= threshold
        recall = (selected & inside).sum() / inside.sum()
        expected += (recall - recall_before) * (selected & inside).sum() / selected.sum()
        recall_before = recall
    assert values_of(target, signal, 0.25)["average_precision"] == pytest.approx(expected, abs=1e-12)


def test_precision_and_jaccard_are_those_of_the_sets() -> None:
    target, signal = pair(200)
    first, second = (set(np.argsort(values)[-50:]) for values in (target, signal))
    found = values_of(target, signal, 0.25)
    assert found["precision"] == pytest.approx(len(first & second) / 50)
    assert found["jaccard"] == pytest.approx(len(first & second) / len(first | second))


def test_a_tie_at_the_edge_counts_as_the_mean_over_all_ways_to_break_it() -> None:
    target, signal = np.array([5.0, 4, 3, 2, 1, 0]), np.array([9.0, 7, 7, 7, 1, 8])
    always, tied = {0, 5}, (1, 2, 3)
    shares = [len({0, 1, 2} & (always | {one})) / 3 for one in tied]
    assert values_of(target, signal, 0.5)["precision"] == pytest.approx(np.mean(shares))


def test_ties_in_the_target_count_as_the_mean_over_all_ways_to_break_them() -> None:
    target, signal = np.array([2.0, 1, 1, 1, 1, 0]), np.array([6.0, 5, 1, 4, 2, 3])
    aurocs, precisions = [], []
    for chosen in itertools.combinations((1, 2, 3, 4), 2):
        inside = np.isin(np.arange(6), (0, *chosen))
        aurocs.append(np.mean(signal[inside][:, None] > signal[~inside][None, :]))
        precisions.append(inside[np.argsort(signal)[-3:]].mean())
    found = values_of(target, signal, 0.5)
    assert found["precision"] == pytest.approx(np.mean(precisions))
    # Half of the tied weigh in and half out, so pairs among them count half on either side.
    assert found["auroc"] == pytest.approx(np.mean(aurocs), abs=0.04)
    assert TopSet(rank(target), 0.5).tied_share == pytest.approx(4 / 6)


def test_weights_add_up_to_a_whole_number_whatever_the_ties() -> None:
    rng = np.random.default_rng(0)
    for fraction in (0.1, 0.25, 1 / 3, 0.5):
        for values in (rng.standard_normal(101), rng.integers(0, 4, 101), np.zeros(101)):
            weights = TopSet(rank(values), fraction).weights
            assert weights.sum() == pytest.approx(round(fraction * 101))
            assert weights.min() >= 0
            assert weights.max() <= 1


@pytest.mark.parametrize(("fraction", "n_inside"), [(0.01, 1), (0.25, 2), (0.3, 3), (0.99, 8)])
def test_a_set_is_neither_empty_nor_everything(fraction: float, n_inside: int) -> None:
    top = TopSet(rank(np.arange(9.0)), fraction)
    assert (top.n_inside, top.weights.sum()) == (n_inside, n_inside)
    assert top.fraction == pytest.approx(n_inside / 9)


def test_the_target_itself_is_perfect_and_its_opposite_finds_nothing() -> None:
    target, _ = pair(203)
    assert list(values_of(target, target, 0.25).values()) == pytest.approx([1, 1, 1, 1])
    opposite = values_of(target, -target, 0.25)
    assert (opposite["auroc"], opposite["precision"], opposite["jaccard"]) == pytest.approx((0, 0, 0))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_constant_signal_reaches_what_chance_reaches(fraction: float) -> None:
    target, _ = pair(1000)
    assert values_of(target, np.zeros(1000), fraction) == pytest.approx(chance(fraction))


def test_a_signal_that_knows_nothing_reaches_what_chance_reaches() -> None:
    rng = np.random.default_rng(0)
    mean = np.mean([list(values_of(*rng.standard_normal((2, 2000)), 0.25).values()) for _ in range(60)], axis=0)
    assert dict(zip(METRICS, mean, strict=True)) == pytest.approx(chance(0.25), abs=0.01)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("fraction", [0.1, 0.25])
def test_standard_errors_from_influences_are_those_of_repeated_draws(fraction: float, tied: bool) -> None:
    """Edges taken as known instead would be off: the set of the target and that of the signal are estimated."""
    estimates, errors = [], []
    for seed in range(300):
        target, signal = pair(500, seed, tied=tied)
        found = find(TopSet(rank(target), fraction), rank(signal))
        estimates.append([found[name].value for name in METRICS])
        errors.append([np.sqrt(np.mean(found[name].influence_N ** 2) / 500) for name in METRICS])
    # The spread of 300 draws is itself uncertain by 4 %.
    assert np.mean(errors, axis=0) == pytest.approx(np.std(estimates, axis=0), rel=0.12)


def test_nothing_depends_on_the_order_of_tokens() -> None:
    target, signal = (np.round(values, 1) for values in pair(300))
    order = np.random.default_rng(1).permutation(300)
    found, other = (
        find(TopSet(rank(one), 0.25), rank(two)) for one, two in ((target, signal), (target[order], signal[order]))
    )
    for name in METRICS:
        assert other[name].value == pytest.approx(found[name].value, abs=1e-12)
        assert other[name].influence_N == pytest.approx(found[name].influence_N[order], abs=1e-12)
