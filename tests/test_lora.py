"""Adapters: the same at every call, in float32, on every family, and no backward pass with the wrong one active."""

import json
import warnings

import pytest
import torch
from conftest import TINY, gemma2, gpt2, llama

from uncertainty.batch_hidden import predicting_hidden
from uncertainty.data.batches import collate
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.lora import LoraSettings, adapter_layers, attach_lora, check_student, target_names

SMALL = LoraSettings(rank=4, alpha=8)


def batch():
    rows = [[5, 9, 11, 30, 8], [7, 3, 2]]
    return collate([Example(str(i), row, [True] * len(row), [], False, []) for i, row in enumerate(rows)])


def adapter(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("name", TINY)
def test_a_fresh_adapter_changes_nothing_and_gets_gradients_on_every_family(name):
    model = TINY[name]()
    with torch.no_grad():
        before = predicting_hidden(model, batch())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # GPT-2's transposed layers make peft complain unless they are announced
        wrapped = attach_lora(model, SMALL)
    hidden_ND = predicting_hidden(wrapped, batch())
    assert torch.equal(hidden_ND, before)
    hidden_ND.sin().sum().backward()
    check_student(wrapped)
    for key, parameter in wrapped.named_parameters():
        assert parameter.requires_grad == ("lora_" in key)
        if "lora_B" in key:
            assert parameter.grad.abs().sum() > 0, key
    head = wrapped.get_output_embeddings()
    assert head not in adapter_layers(wrapped)
    assert not head.weight.requires_grad


def test_gpt2_has_an_adapter_on_its_transposed_layers_and_the_update_is_that_of_the_formula():
    model = attach_lora(gpt2(), SMALL)
    layer = model.base_model.model.transformer.h[0].mlp.c_fc
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(generator=torch.Generator().manual_seed(0))
        x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
        a_RD, b_DR = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected = x @ layer.base_layer.weight + layer.base_layer.bias + (8 / 4) * x @ a_RD.T @ b_DR.T
        torch.testing.assert_close(layer(x), expected)


def test_the_adapter_is_a_function_of_the_seed_and_random_numbers_go_on_as_if_nothing_had_been():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = adapter(attach_lora(llama(), SMALL, seed=1))
    assert torch.equal(torch.rand(3), expected)
    same, other = (adapter(attach_lora(llama(), SMALL, seed=seed)) for seed in (1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_adapter_weights_are_float32_whatever_the_base(dtype):
    wrapped = attach_lora(llama().to(dtype), SMALL)
    assert {p.dtype for p in adapter(wrapped).values()} == {torch.float32}
    assert wrapped.get_output_embeddings().weight.dtype == dtype
    assert predicting_hidden(wrapped, batch()).dtype == dtype


def test_a_saved_adapter_names_its_layers_in_order_and_its_base_by_an_absolute_path(tiny_folder, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    folder = tiny_folder("llama", tmp_path)
    monkeypatch.chdir(tmp_path)
    wrapped = attach_lora(AutoModelForCausalLM.from_pretrained(folder.name), SMALL)
    wrapped.save_pretrained(tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(folder.resolve())
    assert saved["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.mark.parametrize("name", TINY)
def test_all_linear_is_every_linear_layer_but_the_head(name, tiny_model):
    model = tiny_model(name)
    names = target_names(model, "all-linear")
    from transformers.pytorch_utils import Conv1D

    linear = [n for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D))]
    assert [n for n in linear if n not in names] == [
        n for n in linear if model.get_submodule(n) is model.get_output_embeddings()
    ]


def test_targets_are_ends_of_names_or_one_expression():
    names = [f"model.layers.{i}.self_attn.{part}_proj" for i in (0, 1) for part in ("q", "v")]
    assert target_names(llama(), ("q_proj", "v_proj")) == names
    assert target_names(llama(), r".*layers\.1.*\.[qv]_proj") == names[2:]
    model = attach_lora(llama(), LoraSettings(rank=2, targets=r".*layers\.1.*\.[qv]_proj"))
    assert len(adapter_layers(model)) == 2
    # the last parts of the names alone would mean layer 0 too
    assert model.peft_config["default"].target_modules == names[2:]


@pytest.mark.parametrize(
    ("build", "targets", "words"),
    [
        (llama, ("lm_head",), "include lm_head, the vocabulary head"),
        (gemma2, ("q_proj", "embed_tokens"), r"include model.embed_tokens, the vocabulary head \(or the embedding"),
        (llama, ("c_fc",), "has no module c_fc; its linear layers are called down_proj, gate_proj"),
        (llama, ("input_layernorm",), "no adapter can be put on"),
    ],
)
def test_targets_that_cannot_be_trained_here_are_refused(build, targets, words):
    with pytest.raises(InputError, match=words) as caught:
        attach_lora(build(), LoraSettings(targets=targets))
    assert "\n" not in str(caught.value)


def test_a_model_without_linear_layers_beside_its_head_is_refused():
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5)

        def get_output_embeddings(self):
            return self.head

    with pytest.raises(InputError, match="Bare has no linear layer beside its head"):
        attach_lora(Bare(), SMALL)


def test_a_second_wrapping_is_refused():
    with pytest.raises(InputError, match="carries an adapter already"):
        attach_lora(attach_lora(llama(), SMALL), SMALL)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 0}, "rank of an adapter is 0"),
        ({"alpha": 0}, "alpha of an adapter is 0"),
        ({"alpha": float("nan")}, "alpha of an adapter is nan"),
        ({"dropout": 1.0}, "dropout of an adapter is 1.0"),
        ({"targets": ()}, "without target modules"),
    ],
)
def test_settings_out_of_range_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        LoraSettings(**change)


def wrapped_with_reference():
    from peft import LoraConfig

    model = attach_lora(llama(), SMALL)
    model.add_adapter("reference", LoraConfig(r=2, target_modules=["q_proj"], inference_mode=True))
    return model


def only_the_layers_with_a_reference(model):
    return [layer for layer in adapter_layers(model) if "reference" in layer.lora_A]


def test_a_reference_left_active_is_refused_where_the_student_would_silently_get_no_gradient():
    model = wrapped_with_reference()
    check_student(model)
    model.set_adapter("reference", inference_mode=True)
    predicting_hidden(model, batch())  # runs without complaint: this is the trap
    with pytest.raises(InputError, match="no parameter of the model is trainable"):
        check_student(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name and ".default." in name)
    with pytest.raises(InputError, match=r"adapter reference is active where the student 'default' should be; .* call"):
        check_student(model)
    model.set_adapter("default")
    check_student(model)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: m.base_model.disable_adapter_layers(), "no parameter of the model is trainable"),
        (lambda m: [setattr(x, "_disable_adapters", True) for x in adapter_layers(m)], "adapters are switched off"),
        (lambda m: m.merge_adapter(), "adapters are merged"),
        (
            lambda m: next(p for n, p in m.named_parameters() if "lora_A.default" in n).requires_grad_(False),
            "1 tensors of",
        ),
        (lambda m: m.get_input_embeddings().weight.requires_grad_(True), "beside the student's adapter would be"),
        (
            lambda m: only_the_layers_with_a_reference(m)[0].lora_B["reference"].weight.requires_grad_(True),
            r"1 tensors beside .*lora_B\.reference",
        ),
    ],
)
def test_a_student_that_would_not_learn_as_meant_is_refused(spoil, words):
    model = wrapped_with_reference()
    spoil(model)
    with pytest.raises(InputError, match=words):
        check_student(model)


def test_a_model_trained_whole_is_its_own_student():
    model = llama()
    check_student(model)
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter of the model is trainable"):
        check_student(model)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_adapter_trained_on_4_bits_merges_into_the_base_that_they_were_made_from(name, tiny_folder, tmp_path):
    pytest.importorskip("bitsandbytes")
    from uncertainty.loading import load_model

    base = tiny_folder(name, tmp_path / "base")
    wrapped = attach_lora(load_model(base, device="cpu", dtype="float32", four_bit=True).model, SMALL)
    plain = attach_lora(load_model(base, device="cpu").model, SMALL)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for (_, one), (_, two) in zip(sorted(adapters_of(wrapped)), sorted(adapters_of(plain)), strict=True):
            two.copy_(one.normal_(std=0.1, generator=drawn))
    wrapped.save_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # GPT-2 again: its layers are not transposed while they are in 4 bit
        merged = load_model(tmp_path / "adapter", device="cpu", dtype="float32").model
    torch.testing.assert_close(predicting_hidden(merged, batch()), predicting_hidden(plain.eval(), batch()))


def adapters_of(model):
    return [(name, parameter) for name, parameter in model.named_parameters() if "lora_" in name]
