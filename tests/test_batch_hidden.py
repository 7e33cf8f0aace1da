"""A packed example has the hidden states it has alone, or the model is refused."""

import pytest
import torch
from conftest import TINY, gemma2

from uncertainty.batch_hidden import check_packing, evaluation, predicting_hidden
from uncertainty.data.batches import collate, predictors, targets
from uncertainty.data.packing import pack
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.model import final_hidden

NOT_PACKABLE = {"opt"}  # its causal mask does not look at positions


def examples(lengths, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, 100, (n,), generator=drawn).tolist() for n in lengths]
    return [Example(str(i), row, [j > 1 for j in range(len(row))], [], False, []) for i, row in enumerate(rows)]


@pytest.mark.parametrize("name", TINY)
def test_every_family_packs_or_is_refused(name, tiny_model):
    model = tiny_model(name)
    if name in NOT_PACKABLE:
        with pytest.raises(InputError, match=r"OPTForCausalLM with attention 'sdpa' cannot be packed: hidden states"):
            check_packing(model)
    else:
        assert check_packing(model) < 1e-5


@pytest.mark.parametrize("name", sorted(set(TINY) - NOT_PACKABLE))
def test_packed_hidden_states_and_gradients_equal_the_padded_ones(name, tiny_model):
    model = tiny_model(name)
    rows = examples([20, 9, 14, 3, 17])  # longer than the sliding windows of the tiny models
    weight = model.get_input_embeddings().weight
    found = []
    for batch in (collate(rows), pack(rows, width=40)):
        hidden_ND = predicting_hidden(model, batch)
        (gradient,) = torch.autograd.grad(hidden_ND.sin().sum(), weight)
        found.append((hidden_ND.detach(), gradient))
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=2e-4, atol=2e-4)


def test_a_change_in_one_packed_example_leaves_its_neighbour_bit_for_bit(tiny_model):
    model = tiny_model("llama")
    rows = examples([6, 8])
    other = [examples([6], seed=1)[0], rows[1]]
    with torch.no_grad():
        before, after = (predicting_hidden(model, pack(one, width=14)) for one in (rows, other))
    assert not torch.equal(before[:4], after[:4])
    assert torch.equal(before[4:], after[4:])


def test_hidden_states_are_those_before_each_target(tiny_model):
    model = tiny_model("llama")
    batch = collate(examples([6, 4]))
    with torch.no_grad():
        hidden_BTD = final_hidden(model, batch.input_ids_BT, batch.attention_mask_BT)
        row_N, column_N = predictors(batch, targets(batch))
        assert torch.equal(predicting_hidden(model, batch), hidden_BTD[row_N, column_N])


def test_packed_positions_and_an_attention_mask_exclude_each_other(tiny_model):
    batch = pack(examples([6, 4]), width=10)
    with pytest.raises(ValueError, match="take no attention_mask_BT"):
        final_hidden(
            tiny_model("llama"), batch.input_ids_BT, torch.ones_like(batch.input_ids_BT), batch.position_ids_BT
        )


def test_the_check_leaves_each_modules_mode_as_it_was():
    model = gemma2()
    model.model.layers[1].train()
    modes = [module.training for module in model.modules()]
    check_packing(model)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ZeroDivisionError), evaluation(model):
        _ = 1 / (any(module.training for module in model.modules()) or torch.is_grad_enabled())  # neither: raises
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
