"""The measures against other toolkits on the same probabilities, to 1e-9 in float64.

``pip install -e ".[peers]"`` installs the peers; without them their tests are skipped. pip's resolver puts baal 2.1.0
and batchbald-redux 2.0.5 beside torch 2.13.0, transformers 5.23.0 and numpy 2.4.6, with torchvision, which
batchbald-redux asks for. Beside a CPU build of torch, pip may choose a CUDA build of torchvision, and importing baal
then fails with "operator torchvision::nms does not exist", for torchmetrics imports torchvision wherever it is. Take
torchvision from the index that torch came from, or uninstall it: nothing that is called here needs it.

Neither peer adds an epsilon or changes the base of the logarithm. Both compute in the dtype they are given, ours always
in float64: given float32 they agree to 1e-6 or so only, so the comparison is made in float64.

Dimensions: K members, N tokens, V vocabulary.
"""

import importlib

import numpy as np
import pytest
import torch
from scipy import special

from uncertainty.measures import bald, entropy, expected_entropy, margin, predictive_entropy
from uncertainty.probability_measures import mean_prob_sd, prob_variance, zero_one_epistemic


def ensemble(kind):
    """Members that differ as ``kind`` says, ``[K, N, V]``, log-probabilities in float64."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if kind == "close":  # epistemic uncertainty of 6e-6 to 5e-5 nats
        logits_KNV = 2 * normal(1, 50, 9) + 0.01 * normal(12, 50, 9)
    elif kind == "sure":  # of different tokens
        logits_KNV = 30 * normal(12, 50, 9)
    elif kind == "wide":
        logits_KNV = 2 * normal(12, 10, 5000)
    else:
        logits_KNV = 2 * normal(12, 50, 9)
    if kind == "impossible":  # one token for every member, one for some of them
        logits_KNV[:, :, 3] = logits_KNV[::2, :, 5] = -torch.inf
    return logits_KNV.log_softmax(-1)


KINDS = ("apart", "close", "sure", "wide", "impossible")


@pytest.fixture(scope="module", params=KINDS)
def log_probs_KNV(request):
    return ensemble(request.param)


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "impossible"])
def possible_KNV(request):
    """Without "impossible": batchbald_redux multiplies p log p, so a probability of zero is NaN there."""
    return ensemble(request.param)


def peer(name):
    """The other toolkit's module, or a skip that says which package is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        pytest.skip(f"{name} needs the extra peers: there is no module {missing.name}")


def assert_same(theirs, ours, atol=1e-9):
    """Equal to ``atol``, absolutely: numpy's own relative 1e-7 would be the looser of the two."""
    np.testing.assert_allclose(np.asarray(theirs), np.asarray(ours), rtol=0, atol=atol, strict=True)


def test_baal_finds_the_same_entropies_and_mutual_information(log_probs_KNV):
    baal = peer("baal.active.heuristics")
    p_NVK = log_probs_KNV.permute(1, 2, 0).exp().numpy()
    entropy_KN = np.stack([baal.Entropy().compute_score(p_NV) for p_NV in np.moveaxis(p_NVK, -1, 0)])
    assert_same(entropy_KN[0], entropy(log_probs_KNV[0]))
    assert_same(entropy_KN.mean(0), expected_entropy(log_probs_KNV))
    # Given all members, baal's Entropy averages their probabilities first.
    assert_same(baal.Entropy().compute_score(p_NVK), predictive_entropy(log_probs_KNV))
    assert_same(baal.BALD().compute_score(p_NVK), bald(log_probs_KNV))


def test_baal_finds_the_same_mutual_information_in_whole_sequences(log_probs_KNV):
    baal = peer("baal.active.heuristics")
    n_members, n_tokens, n_vocabulary = log_probs_KNV.shape
    # [sequence, vocabulary, position, member]: baal takes any axes between the second and the last.
    p_BVTK = log_probs_KNV.reshape(n_members, n_tokens // 5, 5, n_vocabulary).permute(1, 3, 2, 0).exp().numpy()
    bald_BT = bald(log_probs_KNV).reshape(-1, 5)
    assert_same(baal.BALD().get_uncertainties(p_BVTK), bald_BT)
    assert_same(baal.BALD(reduction="mean").get_uncertainties(p_BVTK), bald_BT.mean(1))


def test_baal_finds_the_same_variance(log_probs_KNV):
    baal = peer("baal.active.heuristics")
    n_members, _, n_vocabulary = log_probs_KNV.shape
    p_NVK = log_probs_KNV.permute(1, 2, 0).exp().numpy()
    # baal divides by K where we divide by K - 1, and takes the mean over the vocabulary where we sum.
    unbiased_NV = baal.Variance().compute_score(p_NVK) * n_members / (n_members - 1)
    mean_N = baal.Variance().get_uncertainties(p_NVK) * n_members / (n_members - 1)
    assert_same(unbiased_NV.sum(-1), prob_variance(log_probs_KNV))
    assert_same(n_vocabulary * mean_N, prob_variance(log_probs_KNV))
    assert_same(np.sqrt(unbiased_NV).mean(-1), mean_prob_sd(log_probs_KNV))


def test_baal_finds_the_same_margin_and_certainty(log_probs_KNV):
    baal = peer("baal.active.heuristics")
    p_NVK = log_probs_KNV.permute(1, 2, 0).exp().numpy()
    assert_same(baal.Margin().compute_score(p_NVK[..., 0]), margin(log_probs_KNV[0]))
    certainty_KN = np.stack([baal.Certainty().compute_score(p_NV) for p_NV in np.moveaxis(p_NVK, -1, 0)])
    assert_same(certainty_KN.mean(0) - baal.Certainty().compute_score(p_NVK), zero_one_epistemic(log_probs_KNV))


def test_batchbald_redux_finds_the_same_entropies_and_mutual_information(possible_KNV):
    redux = peer("batchbald_redux.batchbald")
    log_probs_NKV = possible_KNV.transpose(0, 1).contiguous()
    total_N, conditional_N = redux.compute_entropy(log_probs_NKV), redux.compute_conditional_entropy(log_probs_NKV)
    assert_same(conditional_N, expected_entropy(possible_KNV))
    assert_same(total_N, predictive_entropy(possible_KNV))
    assert_same(total_N - conditional_N, bald(possible_KNV))


def test_batchbald_redux_picks_the_same_tokens():
    redux = peer("batchbald_redux.batchbald")
    log_probs_KNV = ensemble("apart")
    picked = redux.get_bald_batch(log_probs_KNV.transpose(0, 1).contiguous(), batch_size=5)
    ours = bald(log_probs_KNV).topk(5)
    assert picked.indices == ours.indices.tolist()
    assert_same(picked.scores, ours.values)


def test_scipy_finds_the_same_entropy_and_divergence(log_probs_KNV):
    p_KNV = log_probs_KNV.exp().numpy()
    assert_same(special.entr(p_KNV[0]).sum(-1), entropy(log_probs_KNV[0]), atol=1e-12)
    divergence_N = special.rel_entr(p_KNV, p_KNV.mean(0)).sum(-1).mean(0)
    assert_same(divergence_N, bald(log_probs_KNV), atol=1e-12)
