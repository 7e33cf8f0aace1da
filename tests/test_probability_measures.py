"""Variances, votes and gains against numpy and counting by hand."""

import numpy as np
import pytest
import torch

from uncertainty.probability_measures import (
    disagreement,
    label_prob_variance,
    mean_prob_sd,
    prob_variance,
    variation_ratio,
    zero_one_epistemic,
)


@pytest.fixture
def log_probs_KNV():
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(9, 40, 6, generator=generator, dtype=torch.float64)).log_softmax(-1)


def test_variances_are_numpys_with_divisor_k_less_one(log_probs_KNV):
    p = log_probs_KNV.exp().numpy()
    np.testing.assert_allclose(prob_variance(log_probs_KNV), p.var(0, ddof=1).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(mean_prob_sd(log_probs_KNV), p.std(0, ddof=1).mean(-1), rtol=1e-12)
    label_N = torch.arange(40) % 6
    expected = p[:, np.arange(40), label_N].var(0, ddof=1)
    np.testing.assert_allclose(label_prob_variance(log_probs_KNV, label_N), expected, rtol=1e-12)


def test_votes_are_counted(log_probs_KNV):
    votes = log_probs_KNV.argmax(-1).numpy()
    most = [np.bincount(column).max() for column in votes.T]
    different = [np.mean([a != b for i, a in enumerate(c) for j, b in enumerate(c) if i != j]) for c in votes.T]
    np.testing.assert_allclose(variation_ratio(log_probs_KNV), 1 - np.array(most) / 9, atol=1e-12)
    np.testing.assert_allclose(disagreement(log_probs_KNV), different, atol=1e-12)
    assert len(set(most)) > 2


def test_the_gain_of_a_right_guess_is_the_difference_of_two_chances(log_probs_KNV):
    p = log_probs_KNV.exp().numpy()
    np.testing.assert_allclose(zero_one_epistemic(log_probs_KNV), p.max(-1).mean(0) - p.mean(0).max(-1), atol=1e-12)


def test_sure_and_different_members_reach_the_ends_of_the_ranges():
    log_probs_KNV = torch.eye(4)[:, None].log()
    assert prob_variance(log_probs_KNV).item() == pytest.approx(1)
    assert variation_ratio(log_probs_KNV).item() == pytest.approx(3 / 4)
    assert disagreement(log_probs_KNV).item() == 1
    assert zero_one_epistemic(log_probs_KNV).item() == pytest.approx(3 / 4)
