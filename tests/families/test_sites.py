"""Dropout sites are found where each architecture has them; what it lacks is injected or refused with a reason."""

from collections import Counter

import pytest
import torch
from conftest import TINY

from uncertainty.errors import InputError
from uncertainty.families.sites import INJECTORS, KINDS, native_sites, plan_sites

# (attention, residual, embedding) native sites of the two-layer models of conftest, counted in transformers' code.
NATIVE = {
    "llama": (2, 0, 0),
    "mistral": (2, 0, 0),
    "qwen2": (2, 0, 0),
    "qwen3": (2, 0, 0),
    "gemma": (2, 0, 0),
    "gemma2": (2, 0, 0),
    "gemma3": (2, 0, 0),
    "phi3": (2, 4, 0),
    "gpt2": (2, 4, 1),
    "gpt_neox": (2, 4, 1),
    "cohere": (2, 0, 0),
    "opt": (2, 4, 0),
}


def kinds(sites):
    count = Counter(site.kind for site in sites)
    return count["attention"], count["residual"], count["embedding"]


@pytest.mark.parametrize("name", TINY)
def test_native_sites_of_every_family_are_those_of_its_code(name, tiny_model):
    sites = plan_sites(tiny_model(name), "native")
    assert kinds(sites) == NATIVE[name]
    assert all(site.origin == "native" and site.native_rate is not None for site in sites)
    assert len({site.name for site in sites}) == len(sites)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_site_can_be_had_in_every_family(name, kind, tiny_model):
    sites = plan_sites(tiny_model(name), kind)
    assert sites
    assert {site.kind for site in sites} == {kind}
    native = [site.name for site in native_sites(tiny_model(name)) if site.kind == kind]
    assert {site.origin for site in sites} == ({"native"} if native else {"injected"})


def test_several_kinds_are_joined_without_doubles(tiny_model):
    sites = plan_sites(tiny_model("gpt2"), "native,attention, mlp")
    assert kinds(sites) == (2, 4, 1)
    assert sum(site.kind == "mlp" and site.origin == "injected" for site in sites) == 2


def test_gemma2_residual_dropout_acts_on_the_norms_after_the_branches(tiny_model):
    names = [site.name for site in plan_sites(tiny_model("gemma2"), "residual")]
    assert names[0] == "model.layers.0.post_attention_layernorm:out"
    assert names[1] == "model.layers.0.post_feedforward_layernorm:out"


def test_llama_residual_dropout_acts_on_attention_and_mlp(tiny_model):
    names = [site.name for site in plan_sites(tiny_model("llama"), "residual")]
    assert names[:2] == ["model.layers.0.self_attn:out", "model.layers.0.mlp:out"]


@pytest.mark.parametrize("wanted", ["attn", "", "native,dropout", ","])
def test_unknown_site_names_are_refused_with_the_choices(wanted, tiny_model):
    with pytest.raises(InputError, match="choose native, or one or several of attention, residual, embedding, mlp"):
        plan_sites(tiny_model("llama"), wanted)


def test_a_model_without_any_site_is_refused_with_what_was_looked_for(tiny_model):
    model = TINY["llama"]()
    for layer in model.model.layers:
        del layer.self_attn.attention_dropout
    with pytest.raises(InputError, match=r"no dropout site \(looked for attention modules"):
        plan_sites(model, "native")
    with pytest.raises(InputError, match="no attention module with a dropout rate"):
        plan_sites(model, "attention")


def test_injection_into_an_unknown_layer_says_what_it_has():
    model = TINY["llama"]()
    layer = model.model.layers[0]
    layer.odd = layer.mlp
    del layer.mlp
    with pytest.raises(InputError, match=r"cannot be injected into LlamaDecoderLayer.*it has .*odd"):
        INJECTORS["residual"](model)


def test_dropout_of_a_lora_adapter_is_its_own_kind():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=2, lora_dropout=0.1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(TINY["llama"](), config)
    sites = plan_sites(model, "native")
    assert Counter(site.kind for site in sites) == {"attention": 2, "adapter": 2}


def test_looking_for_sites_leaves_no_hook_behind(tiny_model):
    model = TINY["opt"]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan_sites(model, "native")
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
