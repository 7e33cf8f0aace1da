"""Adaptive passes: each example's values are those of a run of just its passes, whoever it runs with."""

import math

import numpy as np
import pytest
import torch
from random_examples import examples
from scipy import special
from test_engine import agree, run

from uncertainty import engine
from uncertainty.adaptive import some_of
from uncertainty.budget import Budget
from uncertainty.data.batches import collate, targets
from uncertainty.engine import Rows, look_ends
from uncertainty.errors import InputError
from uncertainty.families.dropout import McDropout
from uncertainty.stopping import TargetError, round_ends

MOST = 100
NARROW = Budget(700, 1 << 14)  # a few rows per forward, a few tokens per slice


@pytest.fixture(scope="module")
def rows(tiny_model):
    return examples(tiny_model("llama"), 6)


@pytest.fixture(scope="module")
def fixed(tiny_model, rows):
    """The scores of each example after each look, from runs of so many passes."""
    return {end: run(tiny_model("llama"), rows, passes=end) for end in round_ends(MOST)}


def middling(fixed):
    """A target that some examples reach early and some late: the median over examples of the errors at 50 passes."""
    return TargetError(float(np.median([np.quantile(t["epistemic_se"], 0.95) for t in fixed[50].values()])))


def expected_stop(fixed, name, target):
    """By the rule as it is written, from the fixed runs."""
    for end, tables in fixed.items():
        error = tables[name]["epistemic_se"]
        if sum(error <= target.value) >= math.ceil(0.95 * len(error)):
            return end
    return MOST


def test_an_example_that_stops_has_the_scores_of_a_run_of_its_passes(tiny_model, rows, fixed):
    target = middling(fixed)
    found = run(tiny_model("llama"), rows, passes=MOST, target=target)
    stops = {name: int(table["passes"][0]) for name, table in found.items()}
    assert stops == {name: expected_stop(fixed, name, target) for name in stops}
    assert len(set(stops.values())) > 2
    for name, end in stops.items():
        assert (found[name]["passes"] == end).all()
        agree({name: found[name]}, {name: fixed[end][name]}, 1e-6)


def test_scores_and_passes_do_not_depend_on_batch_size_order_or_company(tiny_model, rows, fixed):
    model, target = tiny_model("llama"), middling(fixed)
    whole = run(model, rows, passes=MOST, target=target)
    agree(run(model, rows[::-1], passes=MOST, target=target, budget=NARROW), whole)
    agree(run(model, rows, passes=MOST, target=target, side="left"), whole)
    agree({e.id: run(model, [e], passes=MOST, target=target)[e.id] for e in rows}, whole)


def test_what_a_run_adds_is_measured_on_the_same_passes(tiny_model, rows, fixed):
    model, target, names = tiny_model("llama"), middling(fixed), ("epistemic_corrected", "variation_ratio")
    found = run(model, rows, passes=MOST, target=target, measures=names, budget=NARROW)
    assert len({int(table["passes"][0]) for table in found.values()}) > 2
    for example in rows:
        passes = int(found[example.id]["passes"][0])
        agree({0: found[example.id]}, {0: run(model, [example], passes=passes, measures=names)[example.id]})


def test_a_target_out_of_reach_gives_all_passes_and_one_within_reach_the_least(tiny_model, rows, fixed):
    model = tiny_model("llama")
    agree(run(model, rows, passes=MOST, target=TargetError(1e-12)), fixed[MOST], 1e-6)
    agree(run(model, rows, passes=MOST, target=TargetError(100.0)), fixed[20], 1e-6)


def test_stopped_examples_are_not_drawn_any_more(tiny_model, rows, fixed, monkeypatch):
    model, target = tiny_model("llama"), middling(fixed)
    drawn = []
    forward = engine.final_hidden

    def counting(model, ids, mask=None):
        drawn.append(len(ids))
        return forward(model, ids, mask)

    monkeypatch.setattr(engine, "final_hidden", counting)
    found = run(model, rows, passes=MOST, target=target)
    assert sum(drawn) == sum(int(table["passes"][0]) + 1 for table in found.values())


def test_balanced_masks_stop_after_whole_groups_with_the_values_of_these_groups(tiny_model, rows):
    """Against float64 written out: mean KL to the mean, and the jackknife over the independent groups of ten."""
    model, family = tiny_model("llama"), McDropout(rate=0.1, masks="balanced")
    example = rows[0]
    found = run(model, [example], passes=MOST, family=family, target=TargetError(100.0))[example.id]
    assert (found["passes"] == 50).all()
    ids = torch.tensor([example.input_ids])
    with family.active(model) as members, torch.inference_mode():
        logits = []
        for k in range(50):
            with members.draw(Rows((example.id,), (k,), total=MOST)):
                logits.append(model(input_ids=ids).logits[0].double().numpy())
    p = special.softmax(np.stack(logits), -1)[:, [n - 1 for n, inside in enumerate(example.completion) if inside]]

    def information(p_KNV):
        return special.entr(p_KNV.mean(0)).sum(-1) - special.entr(p_KNV).sum(-1).mean(0)

    without = np.stack([information(np.delete(p, range(g, g + 10), axis=0)) for g in range(0, 50, 10)])
    error = np.sqrt(4 / 5 * ((without - without.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(found["epistemic"], information(p), atol=2e-5)
    np.testing.assert_allclose(found["epistemic_se"], error, atol=2e-5)


def test_the_first_token_of_a_text_has_no_passes_and_asks_for_none(tiny_model):
    model = tiny_model("llama")
    for table in run(model, examples(model, 2, text=True), passes=MOST, target=TargetError(100.0)).values():
        assert table["passes"][0] == 0
        assert (table["passes"][1:] == 20).all()


@pytest.mark.parametrize(
    ("family", "passes", "message"),
    [
        (McDropout(rate=0.1, rng="kernel"), 100, "give --rng keyed, or leave --target-se out"),
        (McDropout(rate=0.1), 20, "with --passes 20 the first look comes after the last pass; give more --passes"),
        (McDropout(rate=0.05, masks="balanced"), 100, "with --passes 100 the first look comes after the last pass"),
    ],
)
def test_what_cannot_stop_early_is_refused(tiny_model, family, passes, message):
    with pytest.raises(InputError, match=message):
        look_ends(tiny_model("llama"), family, passes)
    with pytest.raises(InputError, match=message):
        run(
            tiny_model("llama"), examples(tiny_model("llama"), 1), family=family, passes=passes, target=TargetError(1.0)
        )


def test_some_of_a_batch_are_the_same_examples(tiny_model):
    rows = examples(tiny_model("llama"), 4)
    for side in ("left", "right"):
        batch = collate(rows, side=side)
        part = some_of(batch, [1, 3])
        assert part.ids == (rows[1].id, rows[3].id)
        mine = torch.isin(targets(batch).example_N, torch.tensor([1, 3]))
        assert torch.equal(targets(part).label_N, targets(batch).label_N[mine])
        assert torch.equal(targets(part).position_N, targets(batch).position_N[mine])
        assert torch.equal(part.attention_mask_BT, batch.attention_mask_BT[[1, 3]])
