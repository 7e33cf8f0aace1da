"""``readout(final_hidden(...))`` is the model's own logits in every family, and loading refuses what it must."""

import pytest
import torch
from conftest import TINY

from uncertainty.errors import InputError
from uncertainty.loading import load_model
from uncertainty.model import (
    adopt_model,
    check_finite,
    check_readout,
    context_length,
    final_hidden,
    is_local,
    readout,
    resolve_device,
    vocabulary_size,
)


def ids(model, rows=3, length=12, seed=0):
    return torch.randint(3, vocabulary_size(model), (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TINY)
def test_readout_of_the_final_hidden_state_equals_the_models_own_logits(name, tiny_model):
    model = tiny_model(name)
    with torch.inference_mode():
        own = model(input_ids=ids(model)).logits
        ours = readout(model, final_hidden(model, ids(model)))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_the_side_of_the_padding_does_not_change_the_logits_of_real_tokens(name, tiny_model):
    model = tiny_model(name)
    row = ids(model, rows=1)
    pad = torch.zeros(1, 5, dtype=torch.int64)
    ones, zeros = torch.ones_like(row), torch.zeros_like(pad)
    with torch.inference_mode():
        alone = readout(model, final_hidden(model, row))
        right = readout(model, final_hidden(model, torch.cat([row, pad], 1), torch.cat([ones, zeros], 1)))
        left = readout(model, final_hidden(model, torch.cat([pad, row], 1), torch.cat([zeros, ones], 1)))
    torch.testing.assert_close(right[:, :12], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(left[:, 5:], alone, rtol=1e-4, atol=1e-4)


def test_logits_of_a_bfloat16_model_are_not_rounded_to_bfloat16():
    model = TINY["llama"]().bfloat16()
    with torch.inference_mode():
        hidden = final_hidden(model, ids(model))
        logits = readout(model, hidden)
    exact = hidden.double() @ model.lm_head.weight.double().T
    assert logits.dtype == torch.float32
    assert (logits.double() - exact).abs().max() < 1e-5 * exact.abs().max()
    assert (logits.bfloat16().double() - exact).abs().max() > 1e-4 * exact.abs().max()  # what rounding would cost


@pytest.mark.parametrize("attribute", ["final_logit_softcapping", "logit_scale"])
def test_a_forgotten_soft_cap_or_scale_is_refused_at_load(attribute):
    model = TINY["gemma2" if attribute == "final_logit_softcapping" else "cohere"]()
    original = model.forward

    def doubled(*args, **kwargs):
        output = original(*args, **kwargs)
        output.logits = output.logits * 2  # what an unknown post-processing step would do
        return output

    check_readout(model)
    model.forward = doubled
    with pytest.raises(InputError, match="in a way that is not known"):
        check_readout(model)


def test_a_weight_that_is_not_finite_is_named():
    model = TINY["llama"]()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        check_finite(model)


def test_checking_leaves_training_flags_as_they_were(tiny_model):
    model = TINY["gpt2"]()
    model.train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    check_readout(model)
    assert [module.training for module in model.modules()] == before


def test_a_tokenizer_wider_than_the_embedding_is_refused(tiny_folder, tmp_path):
    folder = tiny_folder("llama", tmp_path / "model")
    loaded = load_model(folder, device="cpu")
    loaded.tokenizer.add_tokens([f"new{i}" for i in range(4000)])
    with pytest.raises(InputError, match="do not belong together"):
        adopt_model(loaded.model, loaded.tokenizer)


def test_devices_that_are_not_here_are_refused():
    with pytest.raises(InputError, match="--device nonsense"):
        resolve_device("nonsense")
    with pytest.raises(InputError, match="--device meta holds no numbers"):
        resolve_device("meta")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda"):
            resolve_device("cuda")
        assert resolve_device("auto").type == "cpu"


def test_the_context_is_read_from_the_configuration(tiny_model):
    assert context_length(tiny_model("llama").config) == 64
    assert context_length(tiny_model("gpt2").config) == 64
    assert not is_local("org/name")
