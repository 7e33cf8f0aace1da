"""Keyed masks: a pure function of key and place, uniform, independent between rows, sites, passes and seeds."""

import numpy as np
import pytest
import torch
from scipy import stats
from splitmix import splitmix64

from uncertainty import pass_groups
from uncertainty.families import keyed

CPU = torch.device("cpu")


def keys(seed=0, examples=(1,), passes=(0,), site=7):
    return keyed.site_keys(keyed.row_keys(seed, list(examples), list(passes), CPU), site)


def test_the_mask_is_the_documented_function_of_key_and_place():
    pair = keys()
    keep = keyed.keep_attention(pair, heads=2, queries=range(5), length=7, rate=0.3)[0]
    first, second = int(pair.first_R[0]), int(pair.second_R[0])
    for head in range(2):
        for query in range(5):
            for key in range(7):
                draw = splitmix64((head << 40) | (query << 20) | (key // 4), first, second)
                lane = (draw >> (16 * (key % 4))) & 0xFFFF
                signed = lane - 65536 if lane >= 32768 else lane
                assert bool(keep[head, query, key]) == (signed >= pass_groups.threshold(0.3) - 32768)


def test_iid_masks_are_those_of_the_first_release():
    """Numbers written down from the version before balanced masks: runs made then can be repeated to the bit."""
    pair = keys(passes=(3,))
    assert (int(pair.first_R), int(pair.second_R)) == (-589552750692722738, -491309329270831676)
    dropped = (~keyed.keep_features(pair, 1, 60, 0.3)[0, 0]).nonzero().flatten().tolist()
    assert dropped == [2, 5, 15, 21, 25, 26, 27, 29, 31, 40, 41, 44, 45, 47, 50, 53, 56, 58]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_dropped_elements_is_the_rate(rate):
    rows = keys(examples=range(20), passes=[0] * 20)
    dropped = 1 - keyed.keep_features(rows, 100, 250, rate).double()
    expected = pass_groups.exact_rate(rate)
    assert abs(expected - rate) <= 0.5 / 65536
    z = (dropped.mean() - expected) / (expected * (1 - expected) / dropped.numel()) ** 0.5
    assert abs(z) < 4


def test_rows_of_a_batch_do_not_touch_each_other():
    many = keyed.keep_attention(keys(examples=[5, 6, 7], passes=[0, 1, 2]), 2, range(9), 9, 0.2)
    alone = keyed.keep_attention(keys(examples=[6], passes=[1]), 2, range(9), 9, 0.2)
    assert torch.equal(many[1], alone[0])


def test_a_longer_text_leaves_the_masks_of_earlier_places_unchanged():
    short = keyed.keep_attention(keys(), 3, range(10), 10, 0.2)
    long = keyed.keep_attention(keys(), 3, range(33), 33, 0.2)
    assert torch.equal(long[:, :, :10, :10], short)
    assert torch.equal(keyed.keep_features(keys(), 33, 8, 0.2)[:, :10], keyed.keep_features(keys(), 10, 8, 0.2))


def test_a_chunk_of_queries_is_a_part_of_the_whole():
    whole = keyed.keep_attention(keys(), 3, range(20), 20, 0.2)
    assert torch.equal(keyed.keep_attention(keys(), 3, range(8, 20), 20, 0.2), whole[:, :, 8:20])


def test_left_padding_shifts_the_mask_with_the_text():
    plain = keyed.keep_attention(keys(examples=[1, 2], passes=[0, 0]), 2, range(6), 6, 0.3)
    padded = keyed.keep_attention(
        keys(examples=[1, 2], passes=[0, 0]), 2, range(9), 9, 0.3, starts_R=torch.tensor([3, 0])
    )
    assert torch.equal(padded[0, :, 3:, 3:], plain[0])
    assert torch.equal(padded[1, :, :6, :6], plain[1])


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"examples": (2,)}, {"passes": (1,)}, {"site": 8}],
    ids=["seed", "example", "pass", "site"],
)
def test_masks_under_different_keys_are_uncorrelated(other):
    a = keyed.keep_features(keys(), 300, 300, 0.5).double().flatten()
    b = keyed.keep_features(keys(**other), 300, 300, 0.5).double().flatten()
    assert abs(np.corrcoef(a, b)[0, 1]) * len(a) ** 0.5 < 4


def test_keys_of_ten_thousand_rows_and_sites_are_all_different():
    passes = list(range(100)) * 10
    examples = [i for i in range(10) for _ in range(100)]
    rows = keyed.row_keys(0, examples, passes, CPU)
    found = {
        (int(a), int(b))
        for site in range(10)
        for a, b in zip(*keyed.site_keys(rows, keyed.name_key(f"layer {site}")), strict=True)
    }
    assert len(found) == 10_000


def test_neighbouring_lanes_and_positions_are_independent():
    keep = keyed.keep_features(keys(examples=range(8), passes=[0] * 8), 256, 256, 0.5).double() - 0.5
    for shift, dim in [(1, 2), (2, 2), (4, 2), (1, 1), (64, 2)]:
        product = keep * torch.roll(keep, shift, dim)
        assert abs(float(product.mean())) * 4 * keep.numel() ** 0.5 < 4.5


def test_sixteen_bit_lanes_are_uniform_by_chi_square():
    draws = keyed._mix(torch.arange(1 << 16), *(k[0] for k in keys()))
    lanes = draws.view(torch.int16).numpy().astype(np.int64) + 32768
    counts = np.bincount(lanes >> 8, minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_number_of_drops_of_a_unit_over_passes_is_binomial():
    rows = keys(examples=[3] * 100, passes=range(100))
    dropped = (~keyed.keep_features(rows, 50, 200, 0.1)).sum(0).flatten().numpy()
    expected = stats.binom(100, pass_groups.exact_rate(0.1))
    edges = [*range(4, 18)]
    observed = [
        int((dropped <= 4).sum()),
        *(int((dropped == k).sum()) for k in edges[1:-1]),
        int((dropped >= 17).sum()),
    ]
    wanted = [expected.cdf(4), *(expected.pmf(k) for k in edges[1:-1]), expected.sf(16)]
    assert stats.chisquare(observed, np.array(wanted) * len(dropped) / sum(wanted)).pvalue > 1e-4


def test_names_have_the_same_key_on_every_machine():
    assert keyed.name_key("gsm8k-0") == 1396804456909773925
    assert keyed.name_key("a") != keyed.name_key("b")


def test_dimensions_beyond_the_counter_are_refused():
    with pytest.raises(ValueError, match="wider than the generator"):
        keyed.keep_features(keys(), 1, keyed.MAX_COORDINATE + 1, 0.1)
