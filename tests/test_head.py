"""The head's steps and their slopes: derivatives against autograd, widening slice by slice, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from conftest import TINY

from uncertainty import head
from uncertainty.errors import InputError
from uncertainty.head import POST_PROCESSING, SLOPES, Head, head_of, logits_of, project_back, slope_of
from uncertainty.model import readout


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_every_step_has_a_slope():
    assert list(SLOPES) == list(POST_PROCESSING)


@pytest.mark.parametrize("steps", [{}, *({name: 1.7} for name in POST_PROCESSING), dict.fromkeys(POST_PROCESSING, 1.7)])
def test_the_slope_is_the_derivative_of_the_steps(steps):
    raw_NV = draw(4, 6)
    one = Head(torch.eye(6, dtype=torch.float64), None, steps)
    logits_NV = logits_of(one, raw_NV)
    step = 1e-6
    change_NV = (logits_of(one, raw_NV + step) - logits_of(one, raw_NV - step)) / (2 * step)
    before = logits_NV.clone()
    constant, bend_NV = slope_of(one, logits_NV)
    slope_NV = torch.full_like(raw_NV, constant) if bend_NV is None else constant * bend_NV
    torch.testing.assert_close(slope_NV, change_NV, rtol=1e-8, atol=1e-8)
    assert torch.equal(logits_NV, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_are_widened_slice_by_slice_without_rounding(dtype, monkeypatch):
    weight_VD, hidden_ND, gradient_NV = draw(50, 8, dtype=dtype), draw(5, 8, seed=1, dtype=dtype), draw(5, 50, seed=2)
    whole = Head(weight_VD, draw(50, seed=3, dtype=dtype), {})
    expected_NV = hidden_ND.double() @ weight_VD.double().T + whole.bias_V.double()
    expected_ND = gradient_NV @ weight_VD.double()
    for widened_bytes in (1, 7 * 2 * 8, 10**6):  # a row at a time, seven, all
        monkeypatch.setattr(head, "WIDENED_BYTES", widened_bytes)
        logits_NV = logits_of(whole, hidden_ND)
        assert logits_NV.dtype == torch.float32
        torch.testing.assert_close(logits_NV.double(), expected_NV, rtol=1e-5, atol=1e-5)
        back_ND = project_back(gradient_NV.float(), weight_VD)
        torch.testing.assert_close(back_ND.double(), expected_ND, rtol=1e-5, atol=1e-5)


def test_a_wider_hidden_state_is_not_rounded_to_the_weights():
    weight_VD, hidden_ND = draw(50, 8, dtype=torch.bfloat16), draw(5, 8, seed=1, dtype=torch.float32)
    logits_NV = logits_of(Head(weight_VD, None, {}), hidden_ND)
    torch.testing.assert_close(logits_NV.double(), hidden_ND.double() @ weight_VD.double().T, rtol=1e-5, atol=1e-5)


def test_logits_go_where_they_are_asked_to():
    model = TINY["gemma2"]()
    hidden = draw(2, 3, 32, dtype=torch.float32)
    memory = torch.empty(2, 3, 112)
    with torch.no_grad():
        found = readout(model, hidden, out=memory)
        assert found.data_ptr() == memory.data_ptr()
        assert torch.equal(memory, readout(model, hidden))


def test_a_cut_head_keeps_the_first_rows_and_shares_their_memory():
    model = TINY["llama"]()
    whole, cut = head_of(model), head_of(model, 100)
    assert cut.weight_VD.shape == (100, 32)
    assert cut.weight_VD.data_ptr() == whole.weight_VD.data_ptr()


def test_heads_that_cannot_be_read_are_refused():
    model = TINY["llama"]()
    with pytest.raises(InputError, match="113 tokens asked of a vocabulary head that has 112"):
        head_of(model, 113)
    quantised = SimpleNamespace(weight=torch.zeros(4, 2, dtype=torch.int8))
    with pytest.raises(InputError, match=r"stored as torch\.int8"):
        head_of(SimpleNamespace(get_output_embeddings=lambda: quantised))
