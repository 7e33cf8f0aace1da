"""What every stochastic family must keep, whatever it draws: a new family is tested here on arrival."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from family_members import CASES, PASSES, SEEDED, family_named, save_members
from random_examples import examples
from scipy import special

from uncertainty import engine
from uncertainty.budget import Budget
from uncertainty.data.batches import collate, plan_batches
from uncertainty.engine import Rows, score
from uncertainty.loading import load_model
from uncertainty.model import final_hidden, vocabulary_size
from uncertainty.preflight import check_family
from uncertainty.settings import FAMILY_NAMES

WIDE = Budget(1 << 20, 1 << 30)
TWO = (PASSES - 1, 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_members(tmp_path_factory.mktemp("members"))


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, device="cpu").model


@pytest.fixture(scope="module", params=CASES)
def family(request, base):
    return family_named(request.param, base)


def rows_of(model):
    return [row for row in examples(model) if max(row.input_ids) < vocabulary_size(model)][:3]


def run(model, family, rows, *, budget=WIDE, side="right", seed=0):
    groups = plan_batches([len(e.input_ids) for e in rows], tokens_per_batch=budget.tokens_per_batch, passes=1)
    found = {}
    batches = [collate([rows[i] for i in group], side=side) for group in groups]
    for block in score(model, batches, family, passes=PASSES, seed=seed, budget=budget):
        for n, name in enumerate(block.ids):
            found[name] = {key: column[block.example_N == n] for key, column in block.measures.items()}
    return found


def agree(ours, others, tolerance):
    assert ours.keys() == others.keys()
    for name, table in ours.items():
        for key, column in table.items():
            np.testing.assert_allclose(column, others[name][key], rtol=0, atol=tolerance, err_msg=f"{name} {key}")


def snapshot(model):
    """Everything of a model that a family may touch; ids are of objects that the model itself keeps alive."""
    modules = [
        (name, id(module), sorted(vars(module)), module.training, *hooks(module), parameters(module))
        for name, module in model.named_modules()
    ]
    configs = [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]
    return modules, configs, {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()


def hooks(module):
    return len(module._forward_hooks), len(module._forward_pre_hooks)


def parameters(module):
    return [(name, id(value), value.requires_grad) for name, value in module.named_parameters(recurse=False)]


def assert_same(before, after):
    assert before[:2] == after[:2]
    assert before[2].keys() == after[2].keys()
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])
    assert torch.equal(before[3], after[3])


def state(model, members, ids, passes, names=("a",), **how):
    with members.draw(Rows(names, passes, total=PASSES, **how)) as drawn:
        return final_hidden(model if drawn is None else drawn, ids)


def tokens(model, rows=1):
    return torch.randint(3, 100, (rows, 11), generator=torch.Generator().manual_seed(3))


def test_every_family_that_can_be_chosen_is_tested_here():
    assert {case.partition(",")[0].removesuffix(" everywhere") for case in CASES} == set(FAMILY_NAMES)


def test_members_differ_repeat_in_any_order_and_leave_the_model_between_them(model, family):
    ids = tokens(model)
    with torch.inference_mode():
        own_BTD = final_hidden(model, ids)
        with family.active(model, seed=1) as members:
            first = [state(model, members, ids, (k,)) for k in range(PASSES)]
            off = final_hidden(model, ids)
            again = [state(model, members, ids, (k,)) for k in reversed(range(PASSES))][::-1]
            assert members.silent_sites() == []
            assert len(members.groups(PASSES)) == PASSES
        left = final_hidden(model, ids)
    for k in range(PASSES):
        assert torch.equal(first[k], again[k])
        assert not torch.allclose(first[k], own_BTD)
        assert not torch.allclose(first[k], first[k - 1])
    assert torch.equal(left, own_BTD)
    if not family.shares_forward:  # the keyed attention of dropout is another order of the same sums
        assert torch.equal(off, own_BTD)


def test_the_seed_decides_the_members_of_families_that_draw_numbers(model, base):
    for name, family in SEEDED.items():
        states = []
        for seed in (1, 2):
            with family.active(model, seed=seed) as members, torch.inference_mode():
                states.append(state(model, members, tokens(model), (0,)))
        assert not torch.allclose(*states), name


def test_a_row_is_the_same_whatever_shares_its_batch(model, family):
    both, pass_ = tokens(model, rows=2), 1
    pad = torch.zeros(1, 3, dtype=torch.int64)
    with family.active(model) as members, torch.inference_mode():
        together = state(model, members, both, (pass_, pass_), ("a", "b"))
        alone = state(model, members, both[1:], (pass_,), ("b",))
        shorter = state(model, members, both[1:, :7], (pass_,), ("b",))
        mask = torch.cat([pad, torch.ones_like(both[1:])], 1)
        with members.draw(Rows(("b",), (pass_,), starts=(3,), total=PASSES)) as drawn:
            left = final_hidden(model if drawn is None else drawn, torch.cat([pad, both[1:]], 1), mask)
    torch.testing.assert_close(alone, together[1:], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(shorter, together[1:, :7], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(left[:, 3:], together[1:], rtol=1e-5, atol=2e-5)


def test_members_of_one_forward_are_those_drawn_one_at_a_time_or_refused(model, family):
    ids = tokens(model).repeat(2, 1)
    with family.active(model) as members, torch.inference_mode():
        if not family.shares_forward:
            with pytest.raises(ValueError, match=r"passes \[0, 2\]; members of this family run one at a time"):
                state(model, members, ids, TWO, ("a", "a"))
            return
        both = state(model, members, ids, TWO, ("a", "a"))
        each = torch.cat([state(model, members, ids[:1], (k,)) for k in TWO])
    torch.testing.assert_close(both, each, rtol=1e-5, atol=2e-5)


def naive(model, family, rows):
    """Total, aleatoric and epistemic of each row in float64, from each member's own logits."""
    logits = {row.id: [] for row in rows}
    with family.active(model) as members, torch.inference_mode():
        for k in range(PASSES):
            for row in rows:
                ids = torch.tensor([row.input_ids])
                with members.draw(Rows((row.id,), (k,), total=PASSES)) as drawn:
                    own = (model if drawn is None else drawn)(input_ids=ids).logits[0]
                logits[row.id].append(own.double().numpy())
    for row in rows:
        at = [p - 1 for p, inside in enumerate(row.completion) if inside]
        p_KNV = special.softmax(np.stack(logits[row.id]), -1)[:, at]
        total, aleatoric = special.entr(p_KNV.mean(0)).sum(-1), special.entr(p_KNV).sum(-1).mean(0)
        yield row.id, {"total": total, "aleatoric": aleatoric, "epistemic": total - aleatoric}


def test_scores_equal_the_naive_loop_over_members(model, family):
    rows = rows_of(model)
    found = run(model, family, rows)
    for name, expected in naive(model, family, rows):
        for measure, values in expected.items():
            np.testing.assert_allclose(found[name][measure], values, atol=2e-5, err_msg=measure)


@pytest.mark.slow
def test_scores_do_not_depend_on_batches_order_padding_slices_or_windows(model, family):
    rows = rows_of(model)[: 3 if family.shares_forward else 2]
    whole = run(model, family, rows)
    agree(run(model, family, rows), whole, 0)  # bit for bit
    agree(run(model, family, rows[::-1], budget=Budget(60, 1, 1)), whole, 1e-5)
    agree(run(model, family, rows, side="left", budget=Budget(400, 1 << 30)), whole, 1e-5)


def test_the_model_is_exactly_as_before_also_after_an_exception(model, family):
    flags = [(module, module.training) for module in model.modules()]
    next(model.children()).training = True  # a mixed state must come back too
    model.lm_head.weight.requires_grad_(False)
    before = snapshot(model)

    def interrupted():
        with family.active(model) as members, members.draw(Rows(("a",), (0,), total=PASSES)) as drawn:
            final_hidden(model if drawn is None else drawn, tokens(model))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_same(before, snapshot(model))
    for module, flag in flags:
        module.training = flag
    model.lm_head.weight.requires_grad_(True)


def test_the_checks_before_a_run_pass_and_give_the_same_plain_report_every_time(model, family):
    batch = collate(rows_of(model)[:1])
    report = check_family(model, batch, family)
    assert report["family"] in FAMILY_NAMES
    assert json.loads(json.dumps(report)) == check_family(model, batch, family)


@pytest.mark.slow
def test_members_that_are_dear_to_draw_run_over_all_batches_of_a_window(model, family, monkeypatch):
    if family.shares_forward:
        pytest.skip("many members share a forward")
    rows, drawn = rows_of(model), []
    rows_of_member = engine.member_rows
    monkeypatch.setattr(engine, "member_rows", lambda b, k, *a: drawn.append(k) or rows_of_member(b, k, *a))
    rows = rows[:2]
    run(model, family, rows, budget=Budget(1, 1 << 30))  # a batch for each example
    assert drawn == [(k,) for k in range(PASSES) for _ in rows]
    drawn.clear()
    run(model, family, rows, budget=Budget(1, 1 << 30, 1))  # no room for more than one batch
    assert drawn == [(k,) for _ in rows for k in range(PASSES)]


def test_bytes_held_beside_the_model_are_said(model, family):
    size = family.member_bytes(model)
    whole = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert (size == 0) == family.shares_forward
    assert size <= whole + PASSES * model.lm_head.weight.numel() * 4
