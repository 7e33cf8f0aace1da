"""The loop: equal to the naive one, the same for every batch plan, and refusing to report nothing."""

import math

import numpy as np
import pytest
import torch
from conftest import TINY
from random_examples import examples
from scipy import special

from uncertainty import engine
from uncertainty.budget import Budget, predicted_peak
from uncertainty.data.batches import collate, plan_batches
from uncertainty.data.render import Example
from uncertainty.engine import Rows, score
from uncertainty.errors import InputError
from uncertainty.families.dropout import McDropout
from uncertainty.model import vocabulary_size
from uncertainty.scores import MEASURE_COLUMNS

WIDE = Budget(1 << 20, 1 << 30)


def run(model, rows, *, passes=5, budget=WIDE, family=None, side="right", seed=0, **options):
    family = family or McDropout(rate=0.2)
    groups = plan_batches([len(e.input_ids) for e in rows], tokens_per_batch=budget.tokens_per_batch, passes=passes)
    batches = (collate([rows[i] for i in group], side=side) for group in groups)
    found = {}
    for block in score(model, batches, family, passes=passes, budget=budget, seed=seed, **options):
        for n, name in enumerate(block.ids):
            mine = block.example_N == n
            found[name] = {key: column[mine] for key, column in block.measures.items()}
            found[name] |= {"position": block.position_N[mine], "token": block.token_id_N[mine]}
            found[name] |= {"rank": block.label_rank_N[mine], "passes": block.n_passes_N[mine]}
    return found


def agree(a, b, tolerance=1e-5):
    assert a.keys() == b.keys()
    for name in a:
        for key in a[name]:
            np.testing.assert_allclose(a[name][key], b[name][key], rtol=0, atol=tolerance, err_msg=f"{name} {key}")


def jackknife_error(p_KV):
    """Leave out one member at a time and compute everything anew (fewer than ten members: no groups)."""

    def information(rows):
        return special.entr(rows.mean(0)).sum() - special.entr(rows).sum(-1).mean()

    K = len(p_KV)
    without_K = np.array([information(np.delete(p_KV, k, axis=0)) for k in range(K)])
    return math.sqrt((K - 1) / K * ((without_K - without_K.mean()) ** 2).sum())


def naive(model, example, family, passes):
    """What the scores mean, written out in float64 with one plain forward pass per member and example."""
    ids = torch.tensor([example.input_ids])
    with family.active(model) as members, torch.inference_mode():
        off = model(input_ids=ids).logits[0].double().numpy()
        logits = []
        for k in range(passes):
            with members.draw(Rows((example.id,), (k,))):
                logits.append(model(input_ids=ids).logits[0].double().numpy())
    p_off, p = special.softmax(off, -1), special.softmax(np.stack(logits), -1)
    table = {name: [] for name in MEASURE_COLUMNS}
    for position, inside in enumerate(example.completion):
        if not inside:
            continue
        if position == 0:
            for column in table.values():
                column.append(np.nan)
            continue
        at, label = position - 1, example.input_ids[position]
        mean = p[:, at].mean(0)
        total, aleatoric = special.entr(mean).sum(), special.entr(p[:, at]).sum(-1).mean()
        row = {
            "loss": -math.log(p_off[at, label]),
            "entropy": special.entr(p_off[at]).sum(),
            "total": total,
            "aleatoric": aleatoric,
            "epistemic": total - aleatoric,
            "epistemic_se": jackknife_error(p[:, at]),
            "mc_loss": -math.log(mean[label]),
            "label_prob": p_off[at, label],
            "margin": np.sort(p_off[at])[-1] - np.sort(p_off[at])[-2],
        }
        for name, value in row.items():
            table[name].append(value)
    return {name: np.array(column) for name, column in table.items()}


@pytest.mark.parametrize("name", TINY)
def test_scores_equal_the_naive_loop_in_every_family(name, tiny_model):
    model, family = tiny_model(name), McDropout(rate=0.2)
    rows = examples(model, 3)
    found = run(model, rows, family=family, passes=6)
    for example in rows:
        expected = naive(model, example, family, 6)
        for measure in MEASURE_COLUMNS:
            np.testing.assert_allclose(found[example.id][measure], expected[measure], atol=2e-5, err_msg=measure)
        assert found[example.id]["position"].tolist() == [p for p, c in enumerate(example.completion) if c]
        assert (found[example.id]["passes"] == 6).all()


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3", "gpt2"])
def test_scores_do_not_depend_on_batch_size_order_padding_side_or_slices(name, tiny_model):
    model = tiny_model(name)
    rows = examples(model)
    whole = run(model, rows)
    agree(run(model, rows, budget=Budget(40, 1 << 30)), whole)  # a few rows per forward
    agree(run(model, rows, budget=Budget(1 << 20, 1)), whole)  # one token per read-out slice
    agree(run(model, rows[::-1], budget=Budget(700, 1 << 14)), whole)
    agree(run(model, rows, side="left"), whole)
    agree({e.id: run(model, [e])[e.id] for e in rows}, whole)


def test_another_seed_draws_other_members(tiny_model):
    model = tiny_model("llama")
    rows = examples(model, 2)
    one, two = run(model, rows), run(model, rows, seed=1)
    assert not np.allclose(one["example-0"]["epistemic"], two["example-0"]["epistemic"])
    np.testing.assert_array_equal(one["example-0"]["loss"], two["example-0"]["loss"])


def test_text_appended_after_the_completion_changes_no_score_before_it(tiny_model):
    model = tiny_model("llama")
    row = examples(model, 1)[0]
    more = [7, 8, 9, 10, 11]
    longer = Example(row.id, row.input_ids + more, row.completion + [False] * 5, row.turn + [-1] * 5, False, [])
    agree(run(model, [longer]), run(model, [row]))


def test_invariants_of_the_decomposition(tiny_model):
    model = tiny_model("qwen3")
    for table in run(model, examples(model), passes=8).values():
        assert (table["epistemic"] >= 0).all()
        assert (table["epistemic"] <= table["total"] + 1e-12).all()
        assert (table["epistemic"] <= math.log(min(8, vocabulary_size(model)))).all()
        np.testing.assert_allclose(table["total"], table["aleatoric"] + table["epistemic"], atol=1e-12)


def test_one_pass_has_no_epistemic_uncertainty_and_no_standard_error(tiny_model):
    model = tiny_model("llama")
    for table in run(model, examples(model, 2), passes=1).values():
        assert (table["epistemic"] == 0).all()
        assert np.isnan(table["epistemic_se"]).all()


def test_rate_zero_has_no_epistemic_uncertainty_and_aleatoric_is_the_entropy(tiny_model):
    model = tiny_model("phi3")
    for table in run(model, examples(model, 2), family=McDropout(rate=0.0)).values():
        assert (table["epistemic"] == 0).all()
        np.testing.assert_allclose(table["aleatoric"], table["entropy"], atol=1e-6)
        np.testing.assert_allclose(table["mc_loss"], table["loss"], atol=1e-6)


def test_the_first_token_of_a_text_is_a_row_without_a_prediction(tiny_model):
    model = tiny_model("gpt2")
    for table in run(model, examples(model, 2, text=True)).values():
        assert table["position"][0] == 0
        assert np.isnan(table["loss"][0])
        assert (table["rank"][0], table["passes"][0]) == (-1, 0)
        assert not np.isnan(table["loss"][1:]).any()


def test_rank_counts_the_tokens_that_are_more_probable(tiny_model):
    model = tiny_model("llama")
    row = examples(model, 1)[0]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0]
    expected = [int((logits[p - 1] > logits[p - 1, row.input_ids[p]]).sum()) for p, c in enumerate(row.completion) if c]
    assert run(model, [row])[row.id]["rank"].tolist() == expected


def test_padded_vocabulary_rows_can_be_left_out(tiny_model):
    model = tiny_model("llama")
    rows = [e for e in examples(model) if max(e.input_ids) < 90][:1] or [
        Example("small", [5, 6, 7, 8, 9], [False, True, True, True, True], [-1, 0, 0, 0, 0], False, [])
    ]
    narrow = run(model, rows, vocabulary=90)[rows[0].id]
    wide = run(model, rows)[rows[0].id]
    assert (narrow["loss"] < wide["loss"]).all()
    assert (narrow["entropy"] <= math.log(90)).all()


def test_out_of_memory_halves_the_rows_and_changes_no_score(tiny_model, monkeypatch):
    model = tiny_model("llama")
    rows = examples(model)
    whole = run(model, rows, passes=8)
    sizes = []
    forward = engine.final_hidden

    def small(model, ids, mask=None):
        sizes.append(ids.shape[0])
        if ids.shape[0] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward(model, ids, mask)

    monkeypatch.setattr(engine, "final_hidden", small)
    agree(run(model, rows, passes=8, budget=Budget(150, 1 << 30)), whole)
    assert max(sizes) > 3
    monkeypatch.setattr(engine, "final_hidden", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(InputError, match="out of memory on a single pass of 1 example"):
        run(model, rows[:1], passes=4)


def test_members_that_depend_on_the_batch_are_not_drawn_again_after_running_out_of_memory(tiny_model, monkeypatch):
    model = tiny_model("llama")

    def full(*args):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(engine, "final_hidden", full)
    loop = engine.Loop(model, None, keyed=False, budget=WIDE, vocabulary=None)
    with pytest.raises(InputError, match="start again with --tokens-per-batch"):
        loop._shrink(RuntimeError("can't allocate memory"), collate(examples(model, 1)), rows=4)
    with pytest.raises(RuntimeError, match="another matter"):
        loop._shrink(RuntimeError("another matter"), collate(examples(model, 1)), rows=4)


def test_an_example_with_logits_that_are_not_finite_is_set_aside_and_named(tiny_model):
    model = TINY["llama"]()
    rows = examples(model, 3)
    rows[1].input_ids[0] = 2
    model.get_input_embeddings().weight.data[2] = float("nan")
    for row in (rows[0], rows[2]):
        assert 2 not in row.input_ids
    blocks = list(score(model, [collate(rows)], McDropout(rate=0.2), passes=3))
    assert list(blocks[0].unusable) == ["example-1"]
    assert "not finite at position" in blocks[0].unusable["example-1"]
    assert set(blocks[0].example_N) == {0, 2}


def test_too_few_passes_are_refused(tiny_model):
    with pytest.raises(InputError, match="--passes 0 is too few"):
        list(score(tiny_model("llama"), [], McDropout(), passes=0))


def test_the_model_is_as_before_when_the_loop_is_abandoned(tiny_model):
    model = tiny_model("llama")
    before = model.config._attn_implementation
    loop = score(model, [collate(examples(model, 1))] * 2, McDropout(), passes=2)
    next(loop)
    assert not torch.is_inference_mode_enabled()
    loop.close()
    assert model.config._attn_implementation == before


def test_the_prediction_of_memory_does_not_grow_with_tokens_times_vocabulary(tiny_model):
    model = tiny_model("llama")
    few = predicted_peak(model, [(1, 20, 10)], passes=100, budget=Budget(2000, 1 << 20))
    many = predicted_peak(model, [(1, 20, 20)], passes=100, budget=Budget(2000, 1 << 20))
    assert many["read-out"] == few["read-out"]
    assert many["hidden states"] == 2 * few["hidden states"] == 101 * 20 * 32 * 4


def test_an_ensemble_is_asked_for_each_member_once_and_cannot_stop_early(tiny_model):
    class Ensemble(McDropout):
        n_members = 3

    model = tiny_model("llama")
    with pytest.raises(InputError, match="--passes 4 is not the number of members, 3; each is drawn once"):
        list(score(model, [], Ensemble(), passes=4))
    with pytest.raises(InputError, match="--target-se cannot stop early: an ensemble has as many members as it has"):
        engine.look_ends(model, Ensemble(), 3)


def test_the_window_of_members_that_are_drawn_one_at_a_time_is_bounded_and_predicted(tiny_model):
    model = tiny_model("llama")
    budget = Budget(2000, 1 << 20, hidden_bytes=11 * 32 * 4 * 50)
    assert budget.window_tokens(model, passes=10) == 50
    peak = predicted_peak(model, [(1, 20, 10)], passes=10, budget=budget, window_tokens=50, member_bytes=7)
    assert peak["hidden states"] == budget.hidden_bytes
    assert peak["members"] == 7
