import doctest
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uncertainty import selection
from uncertainty.selection import Rule, select, select_part, top_fraction

# Few different numbers, so that ties are the rule.
VALUES = st.lists(st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 0.5000001, 7.0, math.inf]), max_size=40)
FRACTIONS = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 1000).map(lambda step: step / 1000))


def brute_force(values, fraction):
    """The definition written out: sort by value from high to low, then by place, and take the first k."""
    if not values or fraction == 0:
        return [False] * len(values)
    exact = fraction * len(values)
    count = max(1, int(exact) + (exact - int(exact) >= 0.5))
    order = sorted(range(len(values)), key=lambda place: (-values[place], place))
    return [place in order[:count] for place in range(len(values))]


def test_doctests():
    assert doctest.testmod(selection).failed == 0


def test_a_case_worked_by_hand():
    values_N = torch.tensor([0.1, 3.0, 0.2, 3.0, 2.0, 0.0])
    assert top_fraction(values_N, 0.25).tolist() == [False, True, False, True, False, False]  # 1.5 rounds up to 2
    assert top_fraction(values_N, 0.2).tolist() == [False, True, False, False, False, False]  # 1.2 to 1
    assert top_fraction(values_N, 0.5).tolist() == [False, True, False, True, True, False]


@given(VALUES, FRACTIONS)
def test_it_is_the_definition(values, fraction):
    values_N = torch.tensor(values, dtype=torch.float32)
    assert top_fraction(values_N, fraction).tolist() == brute_force(values_N.tolist(), fraction)


@given(VALUES.filter(len), FRACTIONS, FRACTIONS)
def test_a_larger_fraction_selects_the_same_tokens_and_more(values, first, second):
    small_N, large_N = (top_fraction(torch.tensor(values), fraction) for fraction in sorted([first, second]))
    assert not (small_N & ~large_N).any()


def test_the_earlier_of_equal_tokens_is_selected():
    assert top_fraction(torch.ones(1000), 0.3).nonzero().flatten().tolist() == list(range(300))
    assert top_fraction(torch.tensor([-0.0, 0.0, -0.0, 0.0]), 0.5).tolist() == [True, True, False, False]


def test_no_fraction_selects_none_any_selects_at_least_one_and_all_selects_all():
    values_N = torch.linspace(0, 1, 7)
    assert top_fraction(values_N, 0).sum() == 0
    assert top_fraction(values_N, 1e-9).tolist() == [False] * 6 + [True]
    assert top_fraction(values_N, 1).all()
    assert top_fraction(torch.empty(0), 0.5).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_any_floating_dtype_is_taken(dtype):
    assert top_fraction(torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=dtype), 0.5).tolist() == [False, True, False, True]


def test_no_gradient_flows_and_the_values_stay_as_they_were():
    values_N = torch.tensor([1.0, -0.0, 2.0], requires_grad=True)
    selected_N = top_fraction(values_N, 0.5)
    assert not selected_N.requires_grad
    assert np.signbit(values_N.detach().numpy()).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("values_N", "fraction", "message"),
    [
        (torch.zeros(2, 3), 0.5, r"shape \[N\], got torch.float32 of shape \[2, 3\]"),
        (torch.zeros(3, dtype=torch.int64), 0.5, "floating point of shape"),
        (torch.zeros(3), 1.5, "between 0 and 1, got 1.5"),
        (torch.zeros(3), math.nan, "between 0 and 1, got nan"),
        (torch.tensor([0.0, math.nan, math.nan]), 0.5, "2 of 3 values are NaN"),
    ],
)
def test_what_cannot_be_selected_from_is_refused(values_N, fraction, message):
    with pytest.raises(ValueError, match=message):
        top_fraction(values_N, fraction)


# --- select ---

PLACES = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 12)), unique=True, max_size=40)
SAMPLE = Rule(keep="sampled")
RULES = [
    Rule(),
    Rule(keep="bottom"),
    Rule(keep="band", band=(0.3, 0.6)),
    Rule(keep="threshold", threshold=0.5),
    SAMPLE,
    Rule(level="document"),
    Rule(level="document", keep="bottom"),
    Rule(level="document", keep="band", band=(0.3, 0.6)),
    Rule(level="document", keep="threshold", threshold=0.5),
    Rule(level="document", keep="sampled"),
]


def rule_name(rule):
    return f"{rule.keep}-{rule.level}"


def triples(places, values):
    example_N, position_N = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return torch.tensor(values, dtype=torch.float32), example_N, position_N


@st.composite
def tokens(draw, values=(-1.0, -0.0, 0.0, 0.5, 0.5000001, 7.0, math.inf)):
    places = draw(PLACES)
    return triples(places, draw(st.lists(st.sampled_from(values), min_size=len(places), max_size=len(places))))


def chosen(selected_N, example_N, position_N):
    return {
        place
        for place, is_in in zip(
            zip(example_N.tolist(), position_N.tolist(), strict=True), selected_N.tolist(), strict=True
        )
        if is_in
    }


def oracle(values_N, example_N, position_N, rule, fraction):
    """The rule written out on Python's lists: the units, sorted by value and by place, and the counts."""
    items = list(zip(values_N.tolist(), example_N.tolist(), position_N.tolist(), strict=True))
    units = {(example, position): value for value, example, position in items}
    if rule.level == "document":
        by_example = {example: [v for v, e, _ in items if e == example] for example in example_N.tolist()}
        units = {
            (example, 0): float(np.float32(math.fsum(v) / len(v))) if math.inf not in v else math.inf
            for example, v in by_example.items()
        }
    n = len(units)
    count = 0 if n == 0 else max(1, int(fraction * n + 0.5))
    from_top = sorted(units, key=lambda unit: (-units[unit], unit))
    if rule.keep == "top":
        kept = from_top[:count]
    elif rule.keep == "bottom":
        kept = sorted(units, key=lambda unit: (units[unit], unit))[:count]
    elif rule.keep == "threshold":
        kept = [unit for unit in units if units[unit] >= rule.threshold]
    else:
        low, high = rule.band
        kept = from_top[int((1 - high) * n + 0.5) : int((1 - low) * n + 0.5)]
        kept = kept or from_top[min(int((1 - high) * n + 0.5), n - 1) :][:1]
    inside = {unit[0] for unit in kept} if rule.level == "document" else set(kept)
    return {(e, p) for _, e, p in items if (e if rule.level == "document" else (e, p)) in inside}


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.keep != "sampled"], ids=rule_name)
@settings(max_examples=30)
@given(data=tokens(), fraction=st.sampled_from([0.01, 0.25, 0.5, 0.73, 1.0]))
def test_a_selection_is_what_its_rule_says(rule, data, fraction):
    selected_N = select(*data, rule, fraction=fraction, seed=0, step=0)
    assert chosen(selected_N, *data[1:]) == oracle(*data, rule, fraction)


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
@settings(max_examples=30)
@given(data=tokens(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_tokens_does_not_matter(rule, data, order):
    shuffled = list(range(len(data[0])))
    order.shuffle(shuffled)
    whole_N = select(*data, rule, fraction=0.4, seed=3, step=5)
    assert (
        select(*(x[shuffled] for x in data), rule, fraction=0.4, seed=3, step=5).tolist() == whole_N[shuffled].tolist()
    )


def split(data, counts):
    """Cut the tokens into the parts of so many processes."""
    bounds = np.cumsum([0, *counts])
    return [tuple(x[low:high] for x in data) for low, high in pairwise(bounds)]


def in_processes(parts, rule, **facts):
    """Call ``select_part`` once per process; ``gather`` waits, in threads, for what all of them give."""
    meeting, given_by_rank = threading.Barrier(len(parts)), [None] * len(parts)

    def one(rank):
        def gather(tensor):
            given_by_rank[rank] = tensor
            meeting.wait()
            assert len({(x.shape, x.dtype) for x in given_by_rank}) == 1, "a collective takes tensors of one shape"
            whole = torch.cat(given_by_rank)
            meeting.wait()
            return whole

        return select_part(*parts[rank], rule, gather=gather, rank=rank, **facts)

    with ThreadPoolExecutor(len(parts)) as pool:
        return torch.cat(list(pool.map(one, range(len(parts)))))


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
@pytest.mark.parametrize("counts", [(40,), (10, 30), (0, 40), (13, 0, 26, 1), (40, 0)], ids=str)
def test_any_split_over_processes_selects_the_same_tokens(rule, counts):
    generator = torch.Generator().manual_seed(1)
    places = [(example, position) for example in range(8) for position in range(1, 6)]
    order = torch.randperm(40, generator=generator).tolist()
    data = triples([places[i] for i in order], (torch.rand(40, generator=generator) * 8).round().tolist())
    facts = {"fraction": 0.3, "seed": 2, "step": 9}
    assert in_processes(split(data, counts), rule, **facts).tolist() == select(*data, rule, **facts).tolist()


def test_processes_without_any_token_select_none():
    assert in_processes([triples([], [])] * 3, Rule(), fraction=0.5, seed=0, step=0).shape == (0,)


def test_a_selection_per_part_is_another_one():
    """What the exact scope is for: parts by themselves choose differently."""
    data = triples([(0, 1), (0, 2), (1, 1), (1, 2)], [1.0, 2.0, 3.0, 4.0])
    parts = [select(*part, Rule(), fraction=0.5, seed=0, step=0) for part in split(data, (2, 2))]
    assert torch.cat(parts).tolist() == [False, True, False, True]
    assert in_processes(split(data, (2, 2)), Rule(), fraction=0.5, seed=0, step=0).tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_prompt_padding_and_packing_never_come_in():
    """Whatever the layout of the rows, the completion tokens give the same triples, and so the same selection."""
    nll = {(4, 3): 0.1, (4, 4): 2.0, (9, 1): 2.0, (9, 2): 0.3, (9, 3): 5.0}
    layouts = [[(4, 3), (4, 4), (9, 1), (9, 2), (9, 3)], [(9, 3), (9, 2), (9, 1), (4, 4), (4, 3)]]
    found = [
        chosen(select(*data, Rule(), fraction=0.4, seed=0, step=0), *data[1:])
        for data in (triples(places, [nll[place] for place in places]) for places in layouts)
    ]
    assert found == [{(9, 3), (4, 4)}] * 2


def test_ties_are_broken_by_example_and_then_by_position():
    data = triples([(2, 1), (1, 9), (1, 3), (2, 0), (0, 7)], [1.0] * 5)
    for count, places in ((1, {(0, 7)}), (3, {(0, 7), (1, 3), (1, 9)}), (4, {(0, 7), (1, 3), (1, 9), (2, 0)})):
        for keep in ("top", "bottom"):
            selected_N = select(*data, Rule(keep=keep), fraction=count / 5, seed=0, step=0)
            assert chosen(selected_N, *data[1:]) == places


def test_documents_by_hand():
    """Means 2, 3 and 0.5: one of three is the second one, though the highest token is in the first."""
    places = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (2, 5)]
    data = triples(places, [8.0, 0.0, 0.0, 0.0, 2.5, 3.5, 0.5])
    for keep, fraction, examples in (
        ("top", 0.25, {1}),
        ("top", 0.5, {0, 1}),
        ("bottom", 0.3, {2}),
        ("top", 0.001, {1}),
    ):
        selected_N = select(*data, Rule(keep=keep, level="document"), fraction=fraction, seed=0, step=0)
        assert selected_N.tolist() == [example in examples for example, _ in places]


def test_a_band_from_a_quantile_to_the_top_is_the_top():
    data = triples([(0, i) for i in range(10)], torch.rand(10, generator=torch.Generator().manual_seed(0)).tolist())
    for n in range(1, 11):
        part = tuple(x[:n] for x in data)
        band_N = select(*part, Rule(keep="band", band=(0.75, 1.0)), fraction=0.25, seed=0, step=0)
        assert band_N.tolist() == select(*part, Rule(), fraction=0.25, seed=0, step=0).tolist()


# --- drawn at random ---


def test_one_draw_is_in_proportion_to_the_value():
    value = [1.0, 2.0, 3.0, 4.0, 0.0, -5.0]
    data = triples([(3, i) for i in range(6)], value)
    n = 1000
    counts = sum(select(*data, SAMPLE, fraction=1 / 6, seed=1, step=step).long() for step in range(n))
    expected = torch.tensor(value).clamp_min(0) / 10
    assert counts[expected == 0].sum() == 0
    chi2 = ((counts - n * expected)[expected > 0] ** 2 / (n * expected[expected > 0])).sum()
    assert chi2 < 16.3  # 3 degrees of freedom: exceeded by chance in one of a thousand


def test_two_draws_are_in_proportion_to_what_is_left():
    """P({a, b}) = p_a p_b / (1 - p_a) + p_b p_a / (1 - p_b), of all three pairs."""
    p = [0.5, 0.3, 0.2]
    data = triples([(0, 1), (0, 2), (8, 1)], [5.0, 3.0, 2.0])
    n = 800
    left_out = [int((~select(*data, SAMPLE, fraction=2 / 3, seed=7, step=step)).nonzero()) for step in range(n)]
    chi2 = 0.0
    for absent in range(3):
        a, b = (p[i] for i in range(3) if i != absent)
        expected = n * (a * b / (1 - a) + a * b / (1 - b))
        chi2 += (left_out.count(absent) - expected) ** 2 / expected
    assert chi2 < 13.8  # 2 degrees of freedom, one of a thousand


def test_an_infinite_value_is_drawn_first():
    data = triples([(0, i) for i in range(50)], [1000.0] * 30 + [math.inf] + [1000.0] * 19)
    assert all(select(*data, SAMPLE, fraction=0.02, seed=0, step=step)[30] for step in range(50))


def test_draws_depend_on_seed_step_example_and_position_alone():
    data = triples([(e, i) for e in range(10) for i in range(10)], [1.0] * 100)
    facts = {"fraction": 0.3, "seed": 0, "step": 0}
    first = select(*data, SAMPLE, **facts).tolist()
    assert select(*data, SAMPLE, **facts).tolist() == first
    assert select(*data, SAMPLE, **{**facts, "seed": 1}).tolist() != first
    assert select(*data, SAMPLE, **{**facts, "step": 1}).tolist() != first
    state = torch.get_rng_state()
    select(*data, SAMPLE, **facts)
    assert torch.equal(torch.get_rng_state(), state)


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values_N": torch.zeros(2, dtype=torch.int64)}, "floating point of shape"),
        ({"example_N": torch.zeros(3, dtype=torch.int64)}, r"example must be int64 of shape \[2\]"),
        ({"position_N": torch.zeros(2)}, r"position must be int64 of shape \[2\], got torch.float32"),
        ({"values_N": torch.tensor([0.0, math.nan])}, r"1 of 2 values are NaN, in the examples \[5\]"),
        ({"fraction": 0.0}, "above 0 and at most 1, got 0.0"),
        ({"fraction": 1.1}, "above 0 and at most 1, got 1.1"),
        ({"fraction": math.nan}, "above 0 and at most 1, got nan"),
    ],
)
@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_triples_that_cannot_be_selected_from_are_refused(rule, arguments, message):
    good = {"values_N": torch.zeros(2), "example_N": torch.tensor([4, 5]), "position_N": torch.ones(2).long()}
    with pytest.raises(ValueError, match=message):
        select(**{**good, "rule": rule, "fraction": 0.5, "seed": 0, "step": 0, **arguments})


def test_a_document_of_opposite_infinities_is_refused():
    data = triples([(4, 1), (4, 2), (5, 1)], [math.inf, -math.inf, 0.0])
    with pytest.raises(ValueError, match=r"NaN \(inf and -inf\) in the examples \[4\]"):
        select(*data, Rule(level="document"), fraction=0.5, seed=0, step=0)


def test_no_gradient_flows_through_a_selection():
    values_N, example_N, position_N = triples([(0, 1), (0, 2)], [1.0, 2.0])
    for rule in RULES:
        selected_N = select(values_N.requires_grad_(), example_N, position_N, rule, fraction=0.5, seed=0, step=0)
        assert not selected_N.requires_grad
