"""The jackknife against leaving out by hand, its groups, and closed forms.

Dimensions: K members, N tokens, V vocabulary.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special

from uncertainty.estimators import (
    epistemic_bound,
    epistemic_corrected,
    epistemic_high,
    epistemic_low,
    group_jackknife,
    unresolved,
)
from uncertainty.measures import MEASURES, bald, bald_standard_error, measure_all


def members(K, N, V, noise=0.5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shared_NV = 3 * torch.randn(N, V, generator=generator, dtype=torch.float64)
    own_KNV = noise * torch.randn(K, N, V, generator=generator, dtype=torch.float64)
    return (shared_NV + own_KNV).log_softmax(-1).to(dtype)


def information(p_KV):
    return special.entr(p_KV.mean(0)).sum() - special.entr(p_KV).sum(-1).mean()


def by_hand(log_probs_KV, sizes):
    """Value and error of leaving out groups of these sizes (Busing et al. 1999), everything computed anew."""
    p_KV, K, G = log_probs_KV.exp().numpy(), len(log_probs_KV), len(sizes)
    ends = np.cumsum(sizes)
    without_G = np.array([information(np.delete(p_KV, range(e - m, e), 0)) for e, m in zip(ends, sizes, strict=True)])
    h_G, whole = K / np.array(sizes), information(p_KV)
    value = G * whole - ((1 - 1 / h_G) * without_G).sum()
    pseudo_G = h_G * whole - (h_G - 1) * without_G
    return value, math.sqrt(((pseudo_G - value) ** 2 / (h_G - 1)).sum() / G)


@pytest.mark.parametrize("sizes", [(1,) * 12, (3,) * 4, (6, 6), (5, 4, 3), (10, 1, 1)])
@pytest.mark.parametrize("noise", [0.03, 0.5, 4.0])
def test_leaving_out_groups_equals_computing_everything_anew(sizes, noise):
    log_probs_KNV = members(12, 3, 20, noise)
    found = group_jackknife(log_probs_KNV, sizes)
    for n in range(3):
        value, error = by_hand(log_probs_KNV[:, n], sizes)
        assert found.corrected_N[n].item() == pytest.approx(value, rel=1e-7)
        assert found.error_N[n].item() == pytest.approx(error, rel=1e-6)
    assert found.degrees == len(sizes) - 1
    torch.testing.assert_close(bald_standard_error(log_probs_KNV, sizes), found.error_N, rtol=1e-9, atol=0)
    torch.testing.assert_close(epistemic_corrected(log_probs_KNV, sizes), found.corrected_N, rtol=1e-12, atol=0)


def test_groups_of_equal_size_are_said_by_their_number():
    log_probs_KNV = members(12, 2, 9)
    for mine, theirs in zip(group_jackknife(log_probs_KNV, 4), group_jackknife(log_probs_KNV, (3,) * 4), strict=True):
        assert (mine == theirs) if isinstance(mine, int) else torch.equal(mine, theirs)


@pytest.mark.parametrize("groups", [5, 0, (4, 4), (12, 0)])
def test_groups_that_do_not_make_up_the_members_are_refused(groups):
    with pytest.raises(ValueError, match="12 members cannot be cut"):
        group_jackknife(members(12, 2, 9), groups)


def test_nothing_is_lost_where_members_differ_by_next_to_nothing():
    log_probs_KNV = members(100, 5, 30, noise=1e-5)
    ratio_N = epistemic_corrected(log_probs_KNV) / bald(log_probs_KNV)
    assert bald(log_probs_KNV).max() < 1e-9
    # K / (K - 1), to first order: a difference of entropies would have no digit left here.
    torch.testing.assert_close(ratio_N, torch.full((5,), 100 / 99, dtype=torch.float64), rtol=2e-5, atol=0)


def test_the_interval_holds_the_value_and_the_bounds_hold_each_other():
    log_probs_KNV = members(20, 40, 15, noise=1.0)
    value_N, low_N, high_N = (f(log_probs_KNV) for f in (epistemic_corrected, epistemic_low, epistemic_high))
    assert ((low_N <= value_N) & (value_N <= high_N) & (low_N >= 0)).all()
    half_N = special.stdtrit(9, 0.975) * bald_standard_error(log_probs_KNV)
    torch.testing.assert_close(low_N, (value_N - half_N).clamp(min=0))
    torch.testing.assert_close((high_N / value_N).log(), half_N / value_N)
    plug_in_N, bound_N = bald(log_probs_KNV), epistemic_bound(log_probs_KNV)
    assert ((plug_in_N <= value_N) & (plug_in_N <= bound_N)).all()


def test_the_bound_is_the_mean_divergence_from_the_others():
    p_KNV = members(6, 4, 9).exp().numpy()
    expected_N = np.mean([special.rel_entr(p_KNV[k], np.delete(p_KNV, k, 0).mean(0)).sum(-1) for k in range(6)], axis=0)
    np.testing.assert_allclose(epistemic_bound(torch.from_numpy(p_KNV).log()), expected_N, rtol=1e-10)


def test_too_few_members_have_no_value_and_are_unresolved():
    one, two = members(1, 3, 5), members(2, 3, 5)
    assert epistemic_corrected(one).isnan().all()
    assert epistemic_bound(one).isnan().all()
    torch.testing.assert_close(epistemic_corrected(two), 2 * bald(two))
    for function in (epistemic_low, epistemic_high, bald_standard_error):
        assert function(two).isnan().all()
    assert unresolved(one).tolist() == unresolved(two).tolist() == [1.0] * 3
    assert group_jackknife(members(6, 3, 5), 1).error_N.isnan().all()


def test_what_is_unresolved():
    same_KNV = members(1, 4, 9).expand(20, 4, 9)
    assert unresolved(same_KNV).tolist() == [0.0] * 4
    assert unresolved(members(100, 4, 40, noise=0.3)).tolist() == [0.0] * 4
    rare_KNV = same_KNV.clone()
    rare_KNV[7] = same_KNV[7].flip(-1)  # one member in twenty carries everything
    assert unresolved(rare_KNV).tolist() == [1.0] * 4
    assert unresolved(torch.eye(30)[:, None].log()).tolist() == [1.0]  # log K: all that 30 members can show


def test_all_at_once_is_each_by_itself_in_tiles_of_any_size():
    names = [name for name, one in MEASURES.items() if "log_probs_KNV" in one.reads and name not in _OF_EVERY_RUN]
    given = {"log_probs_KNV": members(10, 6, 33, dtype=torch.float32), "label_N": torch.arange(6)}
    given["log_probs_NV"] = members(1, 6, 33, seed=1, dtype=torch.float32)[0]
    assert len(names) >= 13
    for tile in (None, 1, 47, 10**6):
        found = measure_all(names, **given, tile=tile)
        for name in names:
            alone_N = MEASURES[name].function(*(given[reads] for reads in MEASURES[name].reads))
            torch.testing.assert_close(found[name], alone_N, rtol=1e-9, atol=1e-14)
            assert found[name].dtype == torch.float64


_OF_EVERY_RUN = ("total", "aleatoric", "epistemic", "epistemic_se", "mc_loss")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impossible_tokens_leave_every_value_finite(dtype):
    log_probs_KNV = torch.tensor([[[1, 0, 0]], [[0, 1, 0]], [[0.5, 0.5, 0]]], dtype=dtype).log()
    given = {"log_probs_KNV": log_probs_KNV, "log_probs_NV": log_probs_KNV[0], "label_N": torch.tensor([2])}
    for name, measure in MEASURES.items():
        if name not in ("loss", "mc_loss"):  # the label's own probability is zero
            assert measure.function(*(given[reads] for reads in measure.reads)).isfinite().all(), name


# Closed forms.


def test_two_disjoint_members_are_log_two_and_what_leaving_out_makes_of_it():
    log_probs_KNV = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).log()
    assert bald(log_probs_KNV).item() == pytest.approx(math.log(2), rel=1e-7)
    assert epistemic_corrected(log_probs_KNV).item() == pytest.approx(2 * math.log(2), rel=1e-7)


def test_dirichlet_members_have_their_closed_form_after_the_correction_and_not_before():
    weight, V, K, N = 100.0, 40, 20, 4000
    mean_V = 1 / np.arange(1, V + 1) / (1 / np.arange(1, V + 1)).sum()
    conditional = special.digamma(weight + 1) - (mean_V * special.digamma(weight * mean_V + 1)).sum()
    truth = special.entr(mean_V).sum() - conditional
    draws = np.random.default_rng(0).dirichlet(weight * mean_V, size=(K, N)).clip(1e-300)
    log_probs_KNV = torch.from_numpy(np.log(draws))
    plug_in, corrected_N = bald(log_probs_KNV).mean().item(), epistemic_corrected(log_probs_KNV)
    noise = corrected_N.std().item() / math.sqrt(N)
    assert abs(corrected_N.mean().item() - truth) < 4 * noise + 0.005 * truth
    assert plug_in < 0.96 * truth


def test_all_masks_of_eight_hidden_units_give_the_truth_that_few_passes_estimate():
    rng = np.random.default_rng(1)
    hidden_8, weight_V8, rate = rng.standard_normal(8), rng.standard_normal((12, 8)), 0.1
    masks = np.array(list(itertools.product([0, 1], repeat=8)))
    weight_M = (1 - rate) ** masks.sum(1) * rate ** (8 - masks.sum(1))
    p_MV = special.softmax(masks / (1 - rate) * hidden_8 @ weight_V8.T, axis=-1)
    mean_V = weight_M @ p_MV
    truth = weight_M @ special.rel_entr(p_MV, mean_V).sum(-1)
    assert len(masks) == 256
    assert weight_M.sum() == pytest.approx(1)
    K, N = 100, 1500
    log_probs_KNV = torch.from_numpy(np.log(p_MV[rng.choice(256, size=(K, N), p=weight_M)]))
    corrected_N = epistemic_corrected(log_probs_KNV)
    noise = corrected_N.std().item() / math.sqrt(N)
    assert abs(corrected_N.mean().item() - truth) < 4 * noise
    assert noise < 0.006 * truth
    low_N, high_N = epistemic_low(log_probs_KNV), epistemic_high(log_probs_KNV)
    assert 0.90 <= ((low_N <= truth) & (truth <= high_N)).double().mean().item() <= 0.98
