"""Every measure against a case worked by hand, its bounds, an independent oracle, and planted bugs.

Dimensions: K members, N tokens, V vocabulary.
"""

from __future__ import annotations

import doctest
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from uncertainty import divergence_measures, estimators, measures, member_terms, probability_measures
from uncertainty.measures import (
    MEASURES,
    Decomposition,
    bald,
    bald_standard_error,
    decompose,
    entropy,
    expected_entropy,
    label_prob,
    label_rank,
    mc_loss,
    predictive_entropy,
    token_loss,
)

INF = math.inf


def log(probabilities: object) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def members(K: int, N: int, V: int, *, noise: float = 0.3, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random members that share a peaked prediction and differ by ``noise`` in every logit."""
    generator = torch.Generator().manual_seed(seed)
    shared_NV = 4 * torch.randn(N, V, generator=generator, dtype=torch.float64)
    own_KNV = noise * torch.randn(K, N, V, generator=generator, dtype=torch.float64)
    return (shared_NV + own_KNV).to(dtype).log_softmax(-1)


def first(N: int) -> Tensor:
    return torch.zeros(N, dtype=torch.int64)


def brute_force(log_probs_KNV: Tensor, label_N: Tensor) -> Decomposition:
    """The definitions, one float64 number at a time, with plain Python's correctly rounded sums."""
    p = log_probs_KNV.double().exp().tolist()
    log_p = log_probs_KNV.double().tolist()
    K, N, V = log_probs_KNV.shape
    rows = []
    for n in range(N):
        mean = [math.fsum(p[k][n][v] for k in range(K)) / K for v in range(V)]
        entropies = [-math.fsum(p[k][n][v] * log_p[k][n][v] for v in range(V) if p[k][n][v]) for k in range(K)]
        kls = [
            # Divergences of rows that are normalised only to float32: their defect is part of the definition.
            math.fsum(p[k][n][v] * (log_p[k][n][v] - math.log(mean[v])) for v in range(V) if p[k][n][v])
            + math.fsum(mean) - math.fsum(p[k][n])
            for k in range(K)
        ]  # fmt: skip
        aleatoric, epistemic = math.fsum(entropies) / K, math.fsum(kls) / K
        error = jackknife_error([p[k][n] for k in range(K)], [log_p[k][n] for k in range(K)])
        losses = [-log_p[k][n][label_N[n]] for k in range(K)]
        least = min(losses)  # taken out, so that e^-10000 is not zero
        loss = least if least == INF else least - math.log(math.fsum(math.exp(least - x) for x in losses) / K)
        total = -math.fsum(q * math.log(q) for q in mean if q)
        rows.append((total, aleatoric, epistemic, error, loss))
    return Decomposition(*torch.tensor(rows, dtype=torch.float64).T)


def plug_in(p: list[list[float]], log_p: list[list[float]]) -> float:
    """Mean divergence of some members from their mean."""
    mean = [math.fsum(column) / len(p) for column in zip(*p, strict=True)]
    terms = (a * (b - math.log(m)) - a + m for q, log_q in zip(p, log_p, strict=True)
             for a, b, m in zip(q, log_q, mean, strict=True) if m and a)  # fmt: skip
    empty = (m for q in p for a, m in zip(q, mean, strict=True) if not a)
    return math.fsum([*terms, *empty]) / len(p)


def jackknife_error(p: list[list[float]], log_p: list[list[float]]) -> float:
    """Leave out a tenth of the members (or one, where ten does not divide them) and compute everything anew."""
    K = len(p)
    if K < 3:
        return math.nan
    G = 10 if K % 10 == 0 else K
    size = K // G
    without = [
        plug_in(p[: g * size] + p[(g + 1) * size :], log_p[: g * size] + log_p[(g + 1) * size :]) for g in range(G)
    ]
    middle = math.fsum(without) / G
    return math.sqrt((G - 1) / G * math.fsum((x - middle) ** 2 for x in without))


def assert_same(mine: Decomposition, other: Decomposition, rtol: float, atol: float = 0.0) -> None:
    """Compare all measures; a standard error, as a deviation, is known to the precision of its epistemic value."""
    for name, mine_N, other_N in zip(Decomposition._fields, mine, other, strict=True):
        slack_N = rtol * (other.epistemic_N if name == "epistemic_se_N" else other_N.abs()) + atol
        close_N = (mine_N == other_N) | ((mine_N - other_N).abs() <= slack_N) | (mine_N.isnan() & other_N.isnan())
        assert bool(close_N.all()), f"{name}: {mine_N.tolist()} against {other_N.tolist()}"


# Worked by hand.


def test_two_members_worked_by_hand() -> None:
    # p1 = (1/2, 1/2), p2 = (3/4, 1/4): mean (5/8, 3/8).
    scores = decompose(log([[[1 / 2, 1 / 2]], [[3 / 4, 1 / 4]]]), torch.tensor([1]))
    h1, h2 = math.log(2), 2 * math.log(2) - 3 / 4 * math.log(3)
    total = 3 * math.log(2) - 5 / 8 * math.log(5) - 3 / 8 * math.log(3)
    kl1 = 1 / 2 * math.log(4 / 5) + 1 / 2 * math.log(4 / 3)
    kl2 = 3 / 4 * math.log(6 / 5) + 1 / 4 * math.log(2 / 3)
    assert scores.total_N.item() == pytest.approx(total, rel=1e-14)
    assert scores.aleatoric_N.item() == pytest.approx((h1 + h2) / 2, rel=1e-14)
    assert scores.epistemic_N.item() == pytest.approx((kl1 + kl2) / 2, rel=1e-12)
    assert math.isnan(scores.epistemic_se_N.item())  # without one of two nothing disagrees
    assert scores.mc_loss_N.item() == pytest.approx(math.log(8 / 3), rel=1e-14)


def test_deterministic_measures_worked_by_hand() -> None:
    log_probs_NV, label_N = log([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.2, 0.2, 0.6]]), torch.tensor([1, 0, 0])
    assert token_loss(log_probs_NV, label_N).tolist() == pytest.approx([math.log(4), 0.0, math.log(5)])
    assert label_prob(log_probs_NV, label_N).tolist() == pytest.approx([0.25, 1.0, 0.2])
    assert label_rank(log_probs_NV, label_N).tolist() == [1, 0, 1]
    assert entropy(log_probs_NV).tolist() == pytest.approx([1.5 * math.log(2), 0.0, 0.950270539233235])


def test_disjoint_members_are_epistemic_only() -> None:
    for dtype in (torch.float32, torch.float64):
        scores = decompose(log([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]).to(dtype), torch.tensor([2]))
        assert scores.epistemic_N.item() == pytest.approx(math.log(2), rel=1e-7)
        assert 0 <= scores.aleatoric_N.item() < 1e-30
        assert scores.mc_loss_N.item() == INF


def test_k_disjoint_members_reach_log_k() -> None:
    assert bald(torch.eye(100)[:, None, :].log()).item() == pytest.approx(math.log(100), rel=1e-6)


def test_a_label_that_is_impossible_has_infinite_loss_and_probability_zero() -> None:
    log_probs_NV = torch.tensor([[0.0, -INF]])
    assert token_loss(log_probs_NV, torch.tensor([1])).tolist() == [INF]
    assert label_prob(log_probs_NV, torch.tensor([1])).tolist() == [0.0]
    assert label_rank(log_probs_NV, torch.tensor([1])).tolist() == [1]


def test_mc_loss_averages_probabilities_not_losses() -> None:
    # Losses 0 and inf: their mean is inf, the loss of the mean is log 2.
    assert mc_loss(log([[[1.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([0])).item() == pytest.approx(math.log(2))


def test_ties_with_the_label_do_not_lower_its_rank() -> None:
    assert label_rank(log([[0.25, 0.25, 0.25, 0.25]]), torch.tensor([3])).tolist() == [0]


# Invariants.

LOGITS = st.one_of(
    st.floats(-8, 8, width=32),
    st.sampled_from([0.0, -INF, 88.0, -88.0, -104.0, 1e4, -1e4, -3e38, 3e38, 1e-30]),
)


@st.composite
def log_probs(draw: st.DrawFn, min_members: int = 1) -> Tensor:
    """Members of every kind: ordinary, one-hot, flat, with impossible tokens, at the ends of float32."""
    K, N, V = draw(st.integers(min_members, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 8))
    logits_KNV = draw(hnp.arrays(np.float32, (K, N, V), elements=LOGITS))
    logits_KNV[..., 0] = np.where(np.isneginf(logits_KNV).all(-1), 0.0, logits_KNV[..., 0])
    return torch.from_numpy(logits_KNV).log_softmax(-1)


@given(log_probs())
@settings(max_examples=80)
def test_bounds_hold_for_any_members(log_probs_KNV: Tensor) -> None:
    K, N, V = log_probs_KNV.shape
    scores = decompose(log_probs_KNV, first(N))
    finite = [scores.total_N, scores.aleatoric_N, scores.epistemic_N]
    assert all(bool(torch.isfinite(x_N).all()) for x_N in finite)
    assert bool((scores.epistemic_N >= 0).all())
    assert bool((scores.aleatoric_N >= 0).all())
    assert torch.equal(scores.total_N, scores.aleatoric_N + scores.epistemic_N)
    # float32 log-probabilities are normalised to about 1e-7, and a bound can be passed by as much.
    assert bool((scores.total_N <= math.log(V) + 1e-6).all())
    assert bool((scores.epistemic_N <= math.log(min(K, V)) + 1e-6).all())
    assert bool((scores.mc_loss_N >= 0).all())
    assert bool(torch.isnan(scores.epistemic_se_N).all()) if K < 3 else bool((scores.epistemic_se_N >= 0).all())
    # (G - 1) / G * sum_g (I_without_g - mean)^2 with values in [0, log K] and at most six groups.
    if K > 2:
        assert bool((scores.epistemic_se_N <= math.log(K) * math.sqrt(K - 1) / 2 + 1e-6).all())


@given(log_probs())
@settings(max_examples=25)
def test_float32_agrees_with_the_definitions_in_float64(log_probs_KNV: Tensor) -> None:
    label_N = first(log_probs_KNV.shape[1])
    assert_same(decompose(log_probs_KNV, label_N), brute_force(log_probs_KNV, label_N), rtol=1e-5, atol=3e-7)


@given(log_probs(), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_order_of_members_and_of_vocabulary_does_not_matter(log_probs_KNV: Tensor, random: object) -> None:
    K, N, V = log_probs_KNV.shape
    passes = torch.tensor(random.sample(range(K), K))  # type: ignore[attr-defined]
    words = torch.tensor(random.sample(range(V), V))  # type: ignore[attr-defined]
    label_N = first(N)
    moved_N = (words == 0).nonzero()[0].expand(N)
    plain = decompose(log_probs_KNV, label_N)
    shuffled = decompose(log_probs_KNV[passes][:, :, words], moved_N)
    assert_same(plain, shuffled, rtol=1e-5, atol=1e-6)


@given(log_probs(), st.integers(2, 5))
@settings(max_examples=25)
def test_counting_every_pass_several_times_changes_no_mean(log_probs_KNV: Tensor, times: int) -> None:
    label_N = first(log_probs_KNV.shape[1])
    once, often = decompose(log_probs_KNV, label_N), decompose(log_probs_KNV.repeat(times, 1, 1), label_N)
    for name in ("total_N", "aleatoric_N", "epistemic_N", "mc_loss_N"):
        torch.testing.assert_close(getattr(once, name), getattr(often, name), rtol=1e-5, atol=1e-6)


@given(log_probs(), st.integers(1, 40))
@settings(max_examples=25)
def test_tiles_of_any_size_give_the_whole(log_probs_KNV: Tensor, tile: int) -> None:
    label_N = first(log_probs_KNV.shape[1])
    whole, tiled = decompose(log_probs_KNV, label_N), decompose(log_probs_KNV, label_N, tile=tile)
    assert_same(whole, tiled, rtol=1e-6, atol=1e-7)


@given(log_probs())
@settings(max_examples=25)
def test_one_member_has_no_epistemic_uncertainty(log_probs_KNV: Tensor) -> None:
    label_N = first(log_probs_KNV.shape[1])
    scores = decompose(log_probs_KNV[:1], label_N)
    assert scores.epistemic_N.tolist() == [0.0] * len(label_N)
    torch.testing.assert_close(scores.aleatoric_N, entropy(log_probs_KNV[0]), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(scores.mc_loss_N, token_loss(log_probs_KNV[0], label_N).double())


@pytest.mark.parametrize("K", [2, 3, 7, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bald_is_exactly_zero_when_members_agree(K: int, dtype: torch.dtype) -> None:
    scores = decompose(members(1, 20, 50, dtype=dtype).expand(K, 20, 50), first(20))
    assert scores.epistemic_N.tolist() == [0.0] * 20
    assert scores.epistemic_se_N.tolist() == [0.0] * 20 if K > 2 else scores.epistemic_se_N.isnan().all()
    assert torch.equal(scores.total_N, scores.aleatoric_N)


def test_a_constant_added_to_the_logits_of_one_member_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    logits_KNV = torch.randn(5, 8, 30, generator=generator)
    shift_KN1 = 4 * torch.randn(5, 8, 1, generator=generator)
    plain = decompose(logits_KNV.log_softmax(-1), first(8))
    shifted = decompose((logits_KNV + shift_KN1).log_softmax(-1), first(8))
    assert_same(plain, shifted, rtol=2e-5, atol=1e-6)


def test_a_token_scores_the_same_alone_and_in_company() -> None:
    log_probs_KNV = members(10, 37, 60)
    label_N = torch.arange(37)
    together = decompose(log_probs_KNV, label_N)
    for n in range(37):
        alone = decompose(log_probs_KNV[:, n : n + 1], label_N[n : n + 1])
        assert_same(alone, Decomposition(*(value_N[n : n + 1] for value_N in together)), rtol=1e-6)


def test_memory_layout_and_the_input_itself_are_left_alone() -> None:
    log_probs_KNV = members(6, 9, 40)
    before = log_probs_KNV.clone()
    expected = decompose(log_probs_KNV, first(9))
    token_major_KNV = log_probs_KNV.transpose(0, 1).contiguous().transpose(0, 1)
    assert all(torch.equal(a, b) for a, b in zip(decompose(token_major_KNV, first(9)), expected, strict=True))
    assert torch.equal(log_probs_KNV, before)


def test_columns_without_any_probability_change_nothing() -> None:
    log_probs_KNV = members(6, 9, 40)
    wider_KNV = torch.cat([log_probs_KNV, torch.full((6, 9, 24), -INF)], dim=-1)
    assert_same(decompose(log_probs_KNV, first(9)), decompose(wider_KNV, first(9)), rtol=1e-6)


def test_nan_is_passed_on_and_stays_in_its_token() -> None:
    log_probs_KNV = members(4, 3, 10)
    log_probs_KNV[2, 1, 5] = math.nan
    scores = decompose(log_probs_KNV, first(3))
    assert torch.isnan(scores.epistemic_N).tolist() == [False, True, False]
    assert torch.isnan(scores.total_N).tolist() == [False, True, False]


# Independent oracles.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("K", "V", "noise"), [(2, 5, 1.0), (3, 40, 0.1), (20, 17, 3.0), (100, 30, 0.3)])
def test_decomposition_equals_the_definitions(K: int, V: int, noise: float, dtype: torch.dtype) -> None:
    log_probs_KNV, label_N = members(K, 6, V, noise=noise, dtype=dtype), torch.arange(6) % V
    rtol, atol = (5e-6, 0.0) if dtype == torch.float32 else (1e-12, 1e-16)
    assert_same(decompose(log_probs_KNV, label_N), brute_force(log_probs_KNV, label_N), rtol, atol)


@pytest.mark.parametrize("K", [2, 3, 10, 100])
@pytest.mark.parametrize("V", [2, 16, 1000])
def test_bald_is_exact_to_1e_5_from_1e_8_nats_up_in_float32(K: int, V: int) -> None:
    seen, N = 0, 40 if V < 1000 else 5
    for noise in (1e-3, 1e-2, 0.05, 0.1, 0.2, 0.5, 2.0, 10.0):
        log_probs_KNV = members(K, N, V, noise=noise)
        log_mean_NV = log_probs_KNV.double().logsumexp(0) - math.log(K)
        x_KNV = log_probs_KNV.double() - log_mean_NV
        truth_N = (log_mean_NV.exp() * (x_KNV * x_KNV.expm1() + (x_KNV - x_KNV.expm1()))).sum(-1).mean(0)
        counted_N = truth_N >= 1e-8
        error_N = (bald(log_probs_KNV) - truth_N).abs() / truth_N
        assert bool((error_N[counted_N] <= 1e-5).all()), f"noise {noise}"
        seen += int(counted_N.sum())
    assert seen >= 5 * N


def test_a_difference_of_entropies_agrees_in_float64_and_fails_in_float32() -> None:
    exact_KNV = members(100, 20, 200, noise=3e-3, dtype=torch.float64)

    def difference(log_probs_KNV: Tensor) -> Tensor:
        p_KNV = log_probs_KNV.exp()
        mean_NV = p_KNV.mean(0)
        return -(mean_NV * mean_NV.log()).sum(-1) + (p_KNV * log_probs_KNV).sum(-1).mean(0)

    torch.testing.assert_close(bald(exact_KNV), difference(exact_KNV), rtol=1e-8, atol=0)
    float32_KNV = exact_KNV.float()
    truth_N = bald(float32_KNV.double())
    ours = ((bald(float32_KNV) - truth_N).abs() / truth_N).max().item()
    theirs = ((difference(float32_KNV).double() - truth_N).abs() / truth_N).max().item()
    assert ours < 1e-6
    assert theirs > 1e-3  # the reason why bald is not written as a difference


def test_entropies_agree_with_scipy() -> None:
    log_probs_KNV = members(7, 11, 50, dtype=torch.float64)
    p_KNV = log_probs_KNV.exp().numpy()
    np.testing.assert_allclose(entropy(log_probs_KNV[0]), scipy.stats.entropy(p_KNV[0], axis=-1), rtol=1e-12)
    np.testing.assert_allclose(
        predictive_entropy(log_probs_KNV), scipy.stats.entropy(p_KNV.mean(0), axis=-1), rtol=1e-12
    )
    np.testing.assert_allclose(expected_entropy(log_probs_KNV), scipy.stats.entropy(p_KNV, axis=-1).mean(0), rtol=1e-12)
    kl_KN = scipy.stats.entropy(p_KNV, p_KNV.mean(0, keepdims=True), axis=-1)
    np.testing.assert_allclose(bald(log_probs_KNV), kl_KN.mean(0), rtol=1e-11)


def test_dirichlet_members_approach_the_closed_form() -> None:
    # Members p ~ Dirichlet(alpha): E H[p] and H[E p] are known, K = 20,000 draws.
    alpha_V = np.array([8.0, 4.0, 2.0, 1.0, 0.5])
    draws_KV = np.random.default_rng(0).dirichlet(alpha_V, size=20_000)
    scores = decompose(torch.from_numpy(draws_KV).log()[:, None], torch.tensor([1]))
    mean_V, total_weight = alpha_V / alpha_V.sum(), alpha_V.sum()
    aleatoric = scipy.special.digamma(total_weight + 1) - (mean_V * scipy.special.digamma(alpha_V + 1)).sum()
    total = scipy.stats.entropy(mean_V)
    # Four standard errors of this many draws; the bias of epistemic is 1e-5 here.
    error = 4 * scores.epistemic_se_N.item()
    assert 0.0005 < error < 0.01
    assert scores.epistemic_N.item() == pytest.approx(total - aleatoric, abs=error)
    assert scores.aleatoric_N.item() == pytest.approx(aleatoric, abs=0.01)
    assert scores.total_N.item() == pytest.approx(total, abs=0.01)
    assert scores.mc_loss_N.item() == pytest.approx(-math.log(mean_V[1]), abs=0.02)


def test_all_masks_of_a_three_unit_net_weigh_what_they_weigh() -> None:
    # Dropout rate 1/4 on 3 units: 8 masks; a mask that drops j units has weight (1/4)^j (3/4)^(3-j), so in 64
    # members it stands 3^(3-j) times. Over these members a Monte Carlo mean is the exact expectation.
    generator = torch.Generator().manual_seed(3)
    hidden_3, weight_V3 = torch.randn(3, generator=generator), torch.randn(6, 3, generator=generator)
    masks = [mask for mask in itertools.product([0.0, 1.0], repeat=3) for _ in range(3 ** int(sum(mask)))]
    mask_K3 = torch.tensor(masks, dtype=torch.float64)
    assert len(masks) == 64
    logits_KV = (mask_K3 / 0.75 * hidden_3.double()) @ weight_V3.double().T
    scores = decompose(logits_KV.log_softmax(-1).float()[:, None], torch.tensor([4]))

    mean_V, conditional, p_of_mask = np.zeros(6), 0.0, []
    for mask in itertools.product([0, 1], repeat=3):
        weight = math.prod(0.75 if kept else 0.25 for kept in mask)
        z_V = weight_V3.double().numpy() @ (np.array(mask) / 0.75 * hidden_3.double().numpy())
        p_V = scipy.special.softmax(z_V)
        mean_V, conditional = mean_V + weight * p_V, conditional + weight * scipy.stats.entropy(p_V)
        p_of_mask.append((weight, p_V))
    information = sum(weight * scipy.stats.entropy(p_V, mean_V) for weight, p_V in p_of_mask)
    assert scores.total_N.item() == pytest.approx(scipy.stats.entropy(mean_V), rel=1e-6)
    assert scores.aleatoric_N.item() == pytest.approx(conditional, rel=1e-6)
    assert scores.epistemic_N.item() == pytest.approx(information, rel=1e-6)
    assert scores.mc_loss_N.item() == pytest.approx(-math.log(mean_V[4]), rel=1e-6)


def test_standard_error_is_the_spread_of_repeated_estimates() -> None:
    # 400 independent estimates of 100 members each: their deviation is what one estimate says it is.
    log_probs_KNV = members(40_000, 1, 12, noise=0.5, dtype=torch.float64)
    estimates = [decompose(block, first(1)) for block in log_probs_KNV.split(100)]
    spread = torch.cat([scores.epistemic_N for scores in estimates]).std().item()
    claimed = torch.cat([scores.epistemic_se_N for scores in estimates]).mean().item()
    assert claimed == pytest.approx(spread, rel=0.12)  # 400 estimates: the spread itself is known to 3.5 %


def test_label_rank_counts_by_sorting() -> None:
    log_probs_NV, label_N = members(1, 50, 30)[0], torch.arange(50) % 30
    order = np.argsort(-log_probs_NV.numpy(), axis=-1)
    assert label_rank(log_probs_NV, label_N).tolist() == [list(order[n]).index(n % 30) for n in range(50)]


# Contracts of the table.


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("N", [0, 1, 7])
def test_every_measure_gives_one_value_per_token(name: str, dtype: torch.dtype, N: int) -> None:
    given = {"log_probs_KNV": members(5, N, 9, dtype=dtype), "label_N": torch.arange(N) % 9}
    given["log_probs_NV"] = given["log_probs_KNV"][0]
    measure = MEASURES[name]
    value_N = measure.function(*(given[reads] for reads in measure.reads))
    assert value_N.shape == (N,)
    assert bool((value_N >= 0).all())
    again_N = measure.function(*(given[reads] for reads in measure.reads))
    assert torch.equal(value_N, again_N)
    assert measure.unit in ("nats", "fraction", "fraction^2", "0 or 1", "tokens")
    assert measure.meaning


def test_one_sweep_gives_what_the_single_measures_give() -> None:
    log_probs_KNV, label_N = members(12, 10, 33), torch.arange(10)
    scores = decompose(log_probs_KNV, label_N)
    singles = {
        "total_N": predictive_entropy(log_probs_KNV),
        "aleatoric_N": expected_entropy(log_probs_KNV),
        "epistemic_N": bald(log_probs_KNV),
        "epistemic_se_N": bald_standard_error(log_probs_KNV),
        "mc_loss_N": mc_loss(log_probs_KNV, label_N),
    }
    assert set(singles) == set(Decomposition._fields)
    for name, value_N in singles.items():
        assert torch.equal(getattr(scores, name), value_N), name
        assert value_N.dtype == torch.float64


def test_the_sweep_holds_only_its_tiles_beyond_the_input() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() * (not_input(tensor)))
            return out

    log_probs_KNV, tile = members(10, 50, 600), 1000
    storage = log_probs_KNV.untyped_storage().data_ptr()

    def not_input(tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() != storage

    with Largest():
        decompose(log_probs_KNV, first(50), tile=tile)
    assert largest == 4 * tile * 4  # four float32 tiles; the input is 75 times one of them


@pytest.mark.slow
def test_the_sweep_is_one_graph_to_a_compiler() -> None:
    log_probs_KNV = members(4, 3, 10)
    compiled = torch.compile(decompose, fullgraph=True, backend="eager")
    for one_N, other_N in zip(compiled(log_probs_KNV, first(3)), decompose(log_probs_KNV, first(3)), strict=True):
        assert torch.equal(one_N, other_N)


def test_members_that_carry_a_gradient_are_scored_without_it() -> None:
    log_probs_KNV = members(4, 3, 10).requires_grad_()
    assert not any(value_N.requires_grad for value_N in decompose(log_probs_KNV, first(3)))


def test_examples_in_the_docstrings_are_true() -> None:
    modules = (measures, estimators, divergence_measures, probability_measures, member_terms)
    results = [doctest.testmod(module, extraglobs={"torch": torch}) for module in modules]
    assert sum(result.attempted for result in results) >= len(MEASURES)
    assert not any(result.failed for result in results)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "NV for KNV": (lambda: bald(torch.zeros(3, 4)), r"\[K, N, V\].*got shape \[3, 4\]"),
    "KNV for NV": (lambda: entropy(torch.zeros(2, 3, 4)), r"\[N, V\].*got shape \[2, 3, 4\]"),
    "no members": (lambda: bald(torch.zeros(0, 3, 4)), r"K, V >= 1, got shape \[0, 3, 4\]"),
    "no vocabulary": (lambda: entropy(torch.zeros(3, 0)), r"got shape \[3, 0\]"),
    "labels of other length": (lambda: mc_loss(torch.zeros(2, 3, 4), first(2)), r"shape \[3\].*got .* shape \[2\]"),
    "labels not integer": (lambda: token_loss(torch.zeros(3, 4), torch.zeros(3)), r"int64.*got torch.float32"),
    "bfloat16": (lambda: bald(torch.zeros(2, 3, 4, dtype=torch.bfloat16)), r"float32 or float64, got torch.bfloat16"),
    "float16": (lambda: entropy(torch.zeros(3, 4, dtype=torch.float16)), r"float32 or float64, got torch.float16"),
    "empty tile": (lambda: decompose(torch.zeros(2, 3, 4), first(3), tile=0), r"at least 1 element, got 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_with_its_shape(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call()


# Planted bugs: each must be caught by the check named beside it, and the right formula must pass all of them.

Formula = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]


def right(log_probs_KNV: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(decompose(log_probs_KNV, label_N))  # type: ignore[return-value]


def _with(**changed: Callable[[Decomposition, Tensor, Tensor], Tensor]) -> Formula:
    def formula(log_probs_KNV: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        good = decompose(log_probs_KNV, label_N)
        return tuple(  # type: ignore[return-value]
            changed[name](good, log_probs_KNV, label_N) if name in changed else value
            for name, value in good._asdict().items()
        )

    return formula


def _difference(log_probs_KNV: Tensor) -> Tensor:
    p_KNV = log_probs_KNV.exp()
    mean_NV = p_KNV.mean(0)
    return (p_KNV * log_probs_KNV).sum(-1).mean(0).double() - (mean_NV * mean_NV.log()).sum(-1).double()


def _reverse_kl(log_probs_KNV: Tensor) -> Tensor:
    log_mean_NV = log_probs_KNV.logsumexp(0) - math.log(len(log_probs_KNV))
    return (log_mean_NV.exp() * (log_mean_NV - log_probs_KNV)).sum(-1).mean(0).double()


def _mean_of_logits(log_probs_KNV: Tensor) -> Tensor:
    return entropy(log_probs_KNV.mean(0).log_softmax(-1))


MUTANTS: dict[str, tuple[str, Formula]] = {
    "logarithm to base 2": (
        "hand",
        _with(
            total_N=lambda d, p, y: d.total_N / math.log(2),
            aleatoric_N=lambda d, p, y: d.aleatoric_N / math.log(2),
            epistemic_N=lambda d, p, y: d.epistemic_N / math.log(2),
            epistemic_se_N=lambda d, p, y: d.epistemic_se_N / math.log(2),
            mc_loss_N=lambda d, p, y: d.mc_loss_N / math.log(2),
        ),
    ),
    "mean over K - 1": ("hand", _with(epistemic_N=lambda d, p, y: d.epistemic_N * len(p) / (len(p) - 1))),
    "standard deviation over K": (
        "hand",
        _with(epistemic_se_N=lambda d, p, y: d.epistemic_se_N * math.sqrt((len(p) - 1) / len(p))),
    ),
    "standard deviation not divided by root K": (
        "hand",
        _with(epistemic_se_N=lambda d, p, y: d.epistemic_se_N * math.sqrt(len(p))),
    ),
    "total and aleatoric swapped": (
        "bounds",
        _with(total_N=lambda d, p, y: d.aleatoric_N, aleatoric_N=lambda d, p, y: d.total_N),
    ),
    "sign of epistemic": ("bounds", _with(epistemic_N=lambda d, p, y: -d.epistemic_N)),
    "divergence the other way round": ("hand", _with(epistemic_N=lambda d, p, y: _reverse_kl(p))),
    "mean of logits instead of probabilities": ("hand", _with(total_N=lambda d, p, y: _mean_of_logits(p))),
    "first pass dropped": ("hand", lambda p, y: right(p[1:], y)),
    "last token of the vocabulary dropped": ("hand", lambda p, y: right(p[..., :-1], y)),
    "mean of losses instead of loss of the mean": (
        "hand",
        _with(mc_loss_N=lambda d, p, y: torch.stack([token_loss(q, y) for q in p]).mean(0).double()),
    ),
    "label shifted by one": ("hand", _with(mc_loss_N=lambda d, p, y: mc_loss(p, (y + 1) % p.shape[-1]))),
    "difference of entropies in float32": ("small", _with(epistemic_N=lambda d, p, y: _difference(p))),
    "difference of entropies, cut off at zero": (
        "small",
        _with(epistemic_N=lambda d, p, y: _difference(p).clamp(min=0)),
    ),
    "1e-10 inside the logarithm": (
        "small",
        _with(
            epistemic_N=lambda d, p, y: (
                (p.double().exp() * ((p.double().exp() + 1e-10).log() - (p.double().exp().mean(0) + 1e-5).log()))
                .sum(-1)
                .mean(0)
            )
        ),
    ),
    "members rounded to bfloat16": ("small", lambda p, y: right(p.bfloat16().to(p.dtype), y)),
    "0 log 0 is NaN": (
        "impossible tokens",
        _with(aleatoric_N=lambda d, p, y: -(p.exp() * p).sum(-1).mean(0).double()),
    ),
}


def _close(formula: Formula, log_probs_KNV: Tensor, label_N: Tensor, rtol: float) -> bool:
    truth = brute_force(log_probs_KNV, label_N)
    return all(
        bool(torch.isclose(mine_N, true_N, rtol=rtol, atol=1e-30).all())
        for mine_N, true_N in zip(formula(log_probs_KNV, label_N), truth, strict=True)
    )


def _bounded(formula: Formula) -> bool:
    total_N, aleatoric_N, epistemic_N, error_N, loss_N = formula(members(8, 30, 20), first(30))
    return all(
        bool(condition_N.all())
        for condition_N in (epistemic_N >= 0, aleatoric_N <= total_N, epistemic_N <= total_N, error_N > 0, loss_N >= 0)
    )


CHECKS: dict[str, Callable[[Formula], bool]] = {
    "hand": lambda formula: _close(
        formula, log([[[0.5, 0.3, 0.2]], [[0.7, 0.1, 0.2]], [[0.2, 0.2, 0.6]]]), first(1), 1e-9
    ),
    "bounds": _bounded,
    "small": lambda formula: _close(formula, members(20, 10, 30, noise=1e-2), first(10), 1e-5),
    "impossible tokens": lambda formula: _close(
        formula, log([[[0.5, 0.5, 0]], [[1.0, 0, 0]], [[0.2, 0.8, 0]]]).float(), first(1), 1e-5
    ),
}


@pytest.mark.parametrize("bug", MUTANTS)
def test_planted_bug_is_caught_by_its_check(bug: str) -> None:
    check, formula = MUTANTS[bug]
    assert not CHECKS[check](formula)


@pytest.mark.parametrize("check", CHECKS)
def test_the_measures_pass_every_check(check: str) -> None:
    assert CHECKS[check](right)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_values() -> None:
    log_probs_KNV, label_N = members(100, 9, 5000), torch.arange(9)
    there = decompose(log_probs_KNV.cuda(), label_N.cuda())
    assert_same(decompose(log_probs_KNV, label_N), Decomposition(*(x_N.cpu() for x_N in there)), rtol=2e-6)
