"""Weights in 4 bit: the function they stand for, its gradient, and one line where they cannot be had."""

import pytest
import torch
import transformers.utils
from adapter_folders import SMALL
from conftest import TINY, save_tiny
from random_examples import examples as random_examples
from torch import nn

from uncertainty import four_bit
from uncertainty.batch_hidden import evaluation, predicting_hidden
from uncertainty.data.batches import collate
from uncertainty.errors import InputError
from uncertainty.four_bit import check_four_bit, four_bit_layers, four_bit_options, keep_differentiable
from uncertainty.loading import load_model
from uncertainty.lora import attach_lora, check_student

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("bitsandbytes")


@pytest.fixture
def quantised(package, tmp_path):
    """``quantised(name)``: a tiny model in 4 bit whose products are in float32."""

    def load(name, **options):
        return load_model(save_tiny(name, tmp_path), device="cpu", four_bit=True, **{"dtype": "float32"} | options)

    return load


def widened(model, package):
    """The same model with the weights that its 4 bits stand for, in ordinary layers."""
    for name, module in list(model.named_modules()):
        if module in four_bit_layers(model):
            weight = package.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            layer = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            layer.weight, layer.bias = nn.Parameter(weight), module.bias
            model.set_submodule(name, layer)
    return model


def random_adapter(model):
    wrapped = attach_lora(model, SMALL)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=drawn)
    return wrapped


def hidden_and_gradients(wrapped):
    """Of the adapter, after a pass without gradient, as in a training step that ranks its tokens first."""
    batch = collate(random_examples(wrapped, 3))
    with evaluation(wrapped):
        before_ND = predicting_hidden(wrapped, batch)
    hidden_ND = predicting_hidden(wrapped, batch)
    torch.testing.assert_close(hidden_ND.detach(), before_ND)
    hidden_ND.sin().sum().backward()
    return hidden_ND.detach(), {n: p.grad for n, p in wrapped.named_parameters() if "lora_" in n}


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_hidden_states_and_gradients_are_those_of_the_weights_that_the_4_bits_stand_for(name, quantised, package):
    wrapped = random_adapter(quantised(name).model)
    check_student(wrapped)
    hidden_ND, gradients = hidden_and_gradients(wrapped)
    plain_ND, plain = hidden_and_gradients(random_adapter(widened(quantised(name).model, package)))
    torch.testing.assert_close(hidden_ND, plain_ND, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == plain.keys()
    for key, gradient in gradients.items():
        assert float((gradient - plain[key]).norm()) <= 1e-4 * float(plain[key].norm()), key


def test_linear_layers_are_in_4_bit_and_the_record_counts_them(quantised, package):
    loaded = quantised("llama")
    layers = four_bit_layers(loaded.model)
    assert [layer.weight.dtype for layer in layers] == [torch.uint8] * 14
    weights = {name: (p.dtype, p.requires_grad) for name, p in attach_lora(loaded.model, SMALL).named_parameters()}
    frozen = {dtype for name, (dtype, trained) in weights.items() if not trained and "base_layer" not in name}
    assert frozen == {torch.float32}  # embedding, norms, head
    assert not any(trained for dtype, trained in weights.values() if dtype == torch.uint8)
    config = loaded.model.config
    # hidden 32, of it 16 for keys and for values, 64 inside the MLP; two layers
    in_4_bit = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    rest = 2 * config.vocab_size * 32 + 5 * 32
    assert loaded.record["parameters_in_4_bit"] == in_4_bit
    assert loaded.record["parameters"] == in_4_bit + rest
    held = in_4_bit / 2 + 4 * rest
    # A block of 64 has a scale of one byte; the rest is a table or two of each layer.
    assert held + in_4_bit / 64 < loaded.record["weight_bytes"] < held + in_4_bit / 64 + 14 * 200
    assert loaded.record["quantisation"] == "nf4, double quantisation"


def test_the_other_weights_have_the_dtype_of_the_products(quantised, package):
    loaded = quantised("llama", dtype="auto")
    wrapped = attach_lora(loaded.model, SMALL)
    dtypes = {p.dtype for name, p in wrapped.named_parameters() if "base_layer" not in name and "lora_" not in name}
    assert dtypes == {torch.bfloat16}
    assert wrapped.get_output_embeddings().weight.dtype == torch.bfloat16
    assert {p.dtype for name, p in wrapped.named_parameters() if "lora_" in name} == {torch.float32}
    assert predicting_hidden(wrapped, collate(random_examples(wrapped, 2))).dtype == torch.bfloat16


def test_layers_that_pass_no_gradient_are_refused(package, monkeypatch):
    class Cut(nn.Linear):
        compute_dtype = torch.float32

        def forward(self, inputs):
            return super().forward(inputs.detach())

    monkeypatch.setattr(four_bit, "four_bit_layers", lambda model: [Cut(4, 4)])
    with pytest.raises(InputError, match="passes no gradient through its 4-bit weights on cpu; use --tuning lora"):
        keep_differentiable(None)


def test_a_model_without_a_layer_in_4_bit_is_refused(package):
    with pytest.raises(InputError, match="LlamaForCausalLM has no linear layer to hold in 4 bit"):
        keep_differentiable(TINY["llama"]())


def test_the_options_are_those_of_the_method(package):
    options = four_bit_options(torch.bfloat16, CPU)
    assert options["device_map"] == {"": CPU}
    told = options["quantization_config"]
    assert (told.load_in_4bit, told.bnb_4bit_quant_type, told.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert told.bnb_4bit_compute_dtype == torch.bfloat16


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(transformers.utils, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(InputError, match=r"4-bit weights \(--tuning qlora\) need a recent bitsandbytes, which is not"):
        check_four_bit(CPU)
    with pytest.raises(InputError, match="use --tuning lora"):
        four_bit_options(torch.bfloat16, CPU)


def test_a_device_that_cannot_quantise_is_refused_with_the_reason(package, monkeypatch):
    def nothing(*given, **options):
        raise NotImplementedError("no kernel\nfor this device")

    monkeypatch.setattr(package.functional, "quantize_4bit", nothing)
    with pytest.raises(InputError, match=r"no 4-bit weights on the device cpu \(no kernel for this device\); use"):
        check_four_bit(CPU)
