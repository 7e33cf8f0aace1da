"""The measures against other toolkits on the same probabilities; needs the extra ``peers``.

Dimensions: K members, N tokens, V vocabulary.
"""

import numpy as np
import pytest
import torch
from scipy import special

from uncertainty.measures import bald, entropy, expected_entropy, predictive_entropy
from uncertainty.probability_measures import prob_variance


@pytest.fixture(scope="module")
def log_probs_KNV():
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(12, 50, 9, generator=generator, dtype=torch.float64)).log_softmax(-1)


def test_baal_finds_the_same_bald_and_variance(log_probs_KNV):
    heuristics = pytest.importorskip("baal.active.heuristics", reason="needs the extra peers: baal")
    p_NVK = log_probs_KNV.permute(1, 2, 0).exp().numpy()
    np.testing.assert_allclose(heuristics.BALD().compute_score(p_NVK), bald(log_probs_KNV), atol=1e-9)
    np.testing.assert_allclose(heuristics.Entropy().compute_score(p_NVK), predictive_entropy(log_probs_KNV), atol=1e-9)
    variance_N = np.asarray(heuristics.Variance().compute_score(p_NVK)).reshape(50, -1).mean(-1)
    np.testing.assert_allclose(variance_N * 9 * 12 / 11, prob_variance(log_probs_KNV), atol=1e-9)


def test_batchbald_redux_finds_the_same_entropies(log_probs_KNV):
    peer = pytest.importorskip("batchbald_redux.batchbald", reason="needs the extra peers: batchbald-redux")
    log_probs_NKV = log_probs_KNV.transpose(0, 1).contiguous()
    total_N, conditional_N = peer.compute_entropy(log_probs_NKV), peer.compute_conditional_entropy(log_probs_NKV)
    np.testing.assert_allclose(conditional_N, expected_entropy(log_probs_KNV), atol=1e-9)
    np.testing.assert_allclose(total_N, predictive_entropy(log_probs_KNV), atol=1e-9)
    np.testing.assert_allclose(total_N - conditional_N, bald(log_probs_KNV), atol=1e-9)


def test_scipy_finds_the_same_entropy_and_divergence(log_probs_KNV):
    p_KNV = log_probs_KNV.exp().numpy()
    np.testing.assert_allclose(entropy(log_probs_KNV[0]), special.entr(p_KNV[0]).sum(-1), atol=1e-12)
    np.testing.assert_allclose(bald(log_probs_KNV), special.rel_entr(p_KNV, p_KNV.mean(0)).sum(-1).mean(0), atol=1e-12)
