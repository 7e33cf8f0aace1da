"""Balanced masks: exact counts, exact rates, passes and units as good as independent, any pass to be had alone."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from splitmix import splitmix64

from uncertainty import pass_groups
from uncertainty.families import balanced, keyed

CPU = torch.device("cpu")
COUNTS = (1, 2, 3, 7, 20, 100)
RATES = (0.01, 0.05, 0.1, 0.3, 0.5, 0.93)


def keys(total, seed=0, example=1, passes=None, site=7, groups=1):
    passes = range(total) if passes is None else passes
    sizes = pass_groups.group_sizes(total, 0.1, groups)
    return balanced.row_keys(seed, [example] * len(passes), list(passes), sizes, CPU).at_site(site)


def dropped(total, rate, units=2000, **key):
    """Whether each pass drops each unit, ``[K, units]``."""
    return ~keyed.keep_features(keys(total, **key), 1, units, rate)[:, 0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("total", [*COUNTS, 1000])
def test_every_unit_is_dropped_in_rate_times_k_passes_up_to_rounding(total, rate):
    count_N = dropped(total, rate, units=400 if total == 1000 else 2000).sum(0)
    expected = pass_groups.exact_rate(rate) * total
    assert count_N.min() >= np.floor(expected)
    assert count_N.max() <= np.ceil(expected)
    # Where rate * K is no whole number some units have one more, as many as make the mean exact.
    spread = (expected % 1) * (1 - expected % 1)
    assert abs(float(count_N.double().mean()) - expected) <= 4 * (spread / len(count_N)) ** 0.5 + 1e-12


@pytest.mark.parametrize("total", COUNTS)
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
def test_every_single_pass_drops_at_exactly_the_rate(total, rate):
    share_K = dropped(total, rate, units=40_000).double().mean(1)
    expected = pass_groups.exact_rate(rate)
    assert float((share_K - expected).abs().max()) < 4.5 * (expected * (1 - expected) / 40_000) ** 0.5


@pytest.mark.parametrize(("total", "rate"), [(7, 0.3), (20, 0.1), (20, 0.3), (100, 0.1), (60, 0.05)])
def test_any_two_passes_are_as_independent_as_a_fixed_sum_allows(total, rate):
    """Joint drops of each pair of passes against those of a random choice of rate * K passes, by chi-square."""
    times = rate * total
    whole, rest = int(times + 1e-9), times % 1 if abs(times - round(times)) > 1e-9 else 0.0
    both = (whole * (whole - 1) + rest * 2 * whole) / (total * (total - 1))
    units = 8192
    drop_KN = dropped(total, rate, units=units).double()
    joint_KK = drop_KN @ drop_KN.T
    upper = torch.triu_indices(total, total, 1)
    z_P = (joint_KK[upper[0], upper[1]] - both * units) / (both * (1 - both) * units) ** 0.5
    # Sampling gives each z a mean square of 1; the finite table of permutations adds about a tenth.
    assert float(z_P.square().mean()) < 1 + 0.15 + 4 * (2 / len(z_P)) ** 0.5
    assert float(z_P.abs().max()) < stats.norm.isf(1e-4 / len(z_P))


def test_a_rotation_alone_would_fail_the_test_of_pairs(monkeypatch):
    """Neighbouring passes would be dropped together nine times in ten: what the random order is for."""
    step_S = torch.arange(20) * pass_groups.RESOLUTION // 20
    signed_S = torch.where(step_S >= 32768, step_S - 65536, step_S).to(torch.int16)
    words_SW = signed_S[:, None].expand(-1, 4).contiguous().view(torch.int64).expand(-1, balanced.WORDS).contiguous()
    monkeypatch.setattr(balanced, "step_table", lambda size: words_SW)
    with pytest.raises(AssertionError):
        test_any_two_passes_are_as_independent_as_a_fixed_sum_allows(20, 0.3)


def test_neighbouring_units_are_independent_within_a_pass_and_across_passes():
    """Lanes of one draw, next draws, next positions: in one pass, and in two different ones."""
    drop = ~keyed.keep_features(keys(20), 64, 512, 0.3)
    x_KTD = drop.double() - pass_groups.exact_rate(0.3)
    variance = 0.3 * 0.7
    for shift, dim in [(1, 2), (2, 2), (3, 2), (4, 2), (1, 1)]:
        moved_KTD = torch.roll(x_KTD, shift, dim)
        for gap in (0, 1, 7):
            product_KTD = x_KTD * torch.roll(moved_KTD, gap, 0)
            sum_TD = product_KTD.sum(0)  # units are independent: passes of one unit are not
            z = float(sum_TD.mean()) / float(sum_TD.std()) * sum_TD.numel() ** 0.5
            assert abs(z) < 4.5
            assert float(sum_TD.var()) == pytest.approx(20 * variance**2 * 20 / 19, rel=0.05)


def test_patterns_of_four_neighbours_in_one_pass_are_as_often_as_independent_ones():
    drop = dropped(20, 0.5, units=80_000, passes=[3])[0].view(-1, 4).long()
    counts = np.bincount((drop * torch.tensor([1, 2, 4, 8])).sum(1).numpy(), minlength=16)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_permutation_of_a_unit_is_independent_of_its_own_number():
    """The look-up comes from the same 64 bits as the four numbers: no number may tell which row it picks."""
    draws = keyed.draw(torch.arange(1 << 16), *(key_R[:1] for key_R in keys(1)[:2]))[0]
    index = ((draws * balanced._SPREAD) >> 54) & (balanced.WORDS - 1)
    for lane in draws.view(torch.int16).view(-1, 4).T:
        table = np.zeros((16, 16))
        np.add.at(table, (((lane.long() + 32768) >> 12).numpy(), (index >> 6).numpy()), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_every_row_of_the_table_holds_every_step_once(total):
    steps = balanced.step_table(total).unsqueeze(-1).view(torch.int16).view(total, -1).long() & 0xFFFF
    assert steps.shape == (total, 4 * balanced.WORDS)
    expected = torch.arange(total) * 65536 // total
    assert torch.equal(steps.sort(0).values, expected[:, None].expand_as(steps))


def test_the_mask_is_the_documented_function_of_key_place_and_pass():
    pair = keys(20)
    drop_KN = dropped(20, 0.3, units=24)
    table = balanced.step_table(20)
    for k, n in itertools.product(range(20), range(24)):
        draw = splitmix64(n // 4, int(pair.first_R[k]), int(pair.second_R[k]))
        index = (draw * (balanced._SPREAD % 2**64) % 2**64) >> 54
        step = (int(table[k, index]) >> (16 * (n % 4))) & 0xFFFF
        number = ((draw >> (16 * (n % 4))) + step + 32768) & 0xFFFF  # signed order: the lowest number is -32768
        assert bool(drop_KN[k, n]) == (number < pass_groups.threshold(0.3))


@pytest.mark.parametrize("groups", [1, 3])
def test_a_pass_alone_is_the_pass_among_all(groups):
    whole = keyed.keep_attention(keys(20, groups=groups), 2, range(9), 9, 0.2)
    for k in (0, 6, 7, 19):
        alone = keyed.keep_attention(keys(20, passes=[k], groups=groups), 2, range(9), 9, 0.2)
        assert torch.equal(alone[0], whole[k])
    some = keyed.keep_attention(keys(20, passes=[19, 3], groups=groups), 2, range(9), 9, 0.2)
    assert torch.equal(some, whole[[19, 3]])
    part = keyed.keep_attention(keys(20, groups=groups).part(slice(5, 8)), 2, range(9), 9, 0.2)
    assert torch.equal(part, whole[5:8])


def test_length_block_and_padding_leave_a_place_its_mask():
    whole = keyed.keep_attention(keys(7), 2, range(12), 12, 0.3)
    assert torch.equal(keyed.keep_attention(keys(7), 2, range(8), 8, 0.3), whole[:, :, :8, :8])
    assert torch.equal(keyed.keep_attention(keys(7), 2, range(5, 12), 12, 0.3), whole[:, :, 5:])
    starts_R = torch.tensor([3] * 7)
    padded = keyed.keep_attention(keys(7), 2, range(15), 15, 0.3, starts_R)
    assert torch.equal(padded[:, :, 3:, 3:], whole)


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"example": 2}, {"site": 8}, {"groups": 2}],
    ids=["seed", "example", "site", "groups"],
)
def test_masks_under_different_keys_are_uncorrelated(other):
    a, b = dropped(20, 0.5, units=5000), dropped(20, 0.5, units=5000, **other)
    assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) * a.numel() ** 0.5 < 4.5


def test_a_run_with_other_passes_and_iid_masks_draw_others():
    ten, twenty = dropped(10, 0.5, units=5000), dropped(20, 0.5, units=5000)
    iid = ~keyed.keep_features(keyed.row_keys(0, [1] * 10, range(10), CPU).at_site(7), 1, 5000, 0.5)[:, 0]
    for other in (twenty[:10], iid):
        assert abs(np.corrcoef(ten.flatten(), other.flatten())[0, 1]) * ten.numel() ** 0.5 < 4.5


def test_groups_are_balanced_each_and_independent_of_each_other():
    drop_GKN = dropped(20, 0.3, units=20_000, groups=2).view(2, 10, -1)
    assert torch.isin(drop_GKN.sum(1), torch.tensor([3, 4])).all()  # the rate is 0.300003
    assert float((drop_GKN.sum(1) == 3).double().mean()) > 0.999
    across_KK = drop_GKN[0].double() @ drop_GKN[1].double().T
    both = pass_groups.exact_rate(0.3) ** 2
    z_KK = (across_KK - both * 20_000) / (both * (1 - both) * 20_000) ** 0.5
    assert float(z_KK.abs().max()) < 4.5


@pytest.mark.parametrize("passes", [1, 2, 7, 19, 20, 57, 100, 101, 1000, 2500])
@pytest.mark.parametrize("groups", [None, 1, 2, 5, 10])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.33])
def test_groups_share_the_passes_evenly(passes, groups, rate):
    sizes = pass_groups.group_sizes(passes, rate, groups)
    assert sum(sizes) == passes
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= pass_groups.MAX_GROUP
    if groups is not None and passes <= pass_groups.MAX_GROUP:
        assert len(sizes) == min(groups, passes)


@pytest.mark.parametrize(
    ("passes", "rate", "groups"),
    [(100, 0.1, 10), (100, 0.05, 5), (100, 0.3, 10), (100, 0.15, 5), (50, 0.1, 5), (20, 0.1, 1), (100, 0.01, 1)],
)
def test_there_are_as_many_groups_as_cost_no_accuracy(passes, rate, groups):
    sizes = pass_groups.group_sizes(passes, rate)
    assert len(sizes) == groups
    count_N = dropped(passes, rate, groups=groups).sum(0).double()
    assert float(count_N.var()) <= 0.06 * passes * rate * (1 - rate)
    if groups < 10:  # ten groups would have cost more than that
        count_N = dropped(passes, rate, groups=10).sum(0).double()
        assert float(count_N.var()) > 0.06 * passes * rate * (1 - rate)
