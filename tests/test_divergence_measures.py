"""The divergences against their definitions, pair by pair, and what ties them to BALD."""

import numpy as np
import pytest
import torch
from scipy import special

from uncertainty.divergence_measures import (
    expected_kl_to_deterministic,
    expected_pairwise_kl,
    reverse_mutual_information,
)
from uncertainty.measures import bald


def members(K, N, V, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(K, N, V, generator=generator, dtype=torch.float64).log_softmax(-1)


def kl(p, q):
    return special.rel_entr(p, q).sum(-1)


def test_pairwise_divergence_is_the_mean_over_all_different_pairs():
    log_probs_KNV = members(7, 5, 11)
    p = log_probs_KNV.exp().numpy()
    pairs = [kl(p[j], p[k]) for j in range(7) for k in range(7) if j != k]
    np.testing.assert_allclose(expected_pairwise_kl(log_probs_KNV), np.mean(pairs, axis=0), rtol=1e-11)
    assert expected_pairwise_kl(log_probs_KNV[:1]).isnan().all()


def test_pairwise_divergence_is_unbiased_at_two_members():
    # Every pair out of a population: their mean is what the whole population has, whatever its size.
    log_probs_KNV = members(30, 1, 6)
    pairs = [expected_pairwise_kl(log_probs_KNV[[j, k]]).item() for j in range(30) for k in range(j)]
    assert np.mean(pairs) == pytest.approx(expected_pairwise_kl(log_probs_KNV).item(), rel=1e-10)


def test_reverse_mutual_information_is_the_mean_divergence_of_the_average():
    log_probs_KNV = members(7, 5, 11)
    p = log_probs_KNV.exp().numpy()
    expected = np.mean([kl(p.mean(0), q) for q in p], axis=0)
    np.testing.assert_allclose(reverse_mutual_information(log_probs_KNV), expected, rtol=1e-11)


def test_divergence_from_the_deterministic_prediction_is_bald_and_that_of_the_average():
    log_probs_KNV, log_probs_NV = members(7, 5, 11), members(1, 5, 11, seed=3)[0]
    p, q = log_probs_KNV.exp().numpy(), log_probs_NV.exp().numpy()
    found = expected_kl_to_deterministic(log_probs_KNV, log_probs_NV)
    np.testing.assert_allclose(found, np.mean([kl(one, q) for one in p], axis=0), rtol=1e-11)
    np.testing.assert_allclose(found, bald(log_probs_KNV) + kl(p.mean(0), q), rtol=1e-10)
    with pytest.raises(ValueError, match="do not fit"):
        expected_kl_to_deterministic(log_probs_KNV, log_probs_NV[:3])
