"""Nothing is scored before the model and the family have proved themselves on one example."""

import pytest
import torch
from conftest import TINY
from random_examples import examples

from uncertainty.data.batches import collate
from uncertainty.errors import InputError
from uncertainty.families.dropout import McDropout
from uncertainty.preflight import check_family, probe_batch


def test_a_family_whose_members_agree_is_refused(tiny_model):
    model = TINY["llama"]()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()  # dropout acts, and reaches nothing
    with pytest.raises(InputError, match="eight members of LlamaForCausalLM are equal"):
        check_family(model, collate(examples(model, 1)), McDropout(rate=0.2))


def test_a_planned_site_that_does_not_act_is_refused(tiny_model):
    model = TINY["llama"]()
    layer = model.model.layers[1]
    layer.forward = lambda hidden_states, **kwargs: hidden_states  # a layer that never calls its attention
    with pytest.raises(InputError, match=r"1 of 2 planned sites .* did not act \(first: model.layers.1.self_attn\)"):
        check_family(model, collate(examples(model, 1)), McDropout(rate=0.2))


def test_randomness_outside_the_planned_sites_is_refused(tiny_model):
    model = TINY["llama"]()
    model.model.norm.register_forward_hook(lambda module, args, output: output + torch.rand_like(output))
    with pytest.raises(InputError, match="something else than the planned sites is random"):
        check_family(model, collate(examples(model, 1)), McDropout(rate=0.2))


def test_rate_zero_passes_the_check_as_a_control(tiny_model):
    report = check_family(tiny_model("llama"), collate(examples(tiny_model("llama"), 1)), McDropout(rate=0.0))
    assert report["rate"] == 0.0


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sound_16_bit_model_passes_the_check(name, dtype):
    model = TINY[name]().to(dtype)
    report = check_family(model, collate(examples(model, 1)), McDropout(rate=0.2))
    assert report["sites"]


def test_an_overflowing_example_is_not_what_the_checks_run_on():
    model = TINY["llama"]()
    rows = examples(model, 3)
    order = sorted(rows, key=lambda row: len(row.input_ids))
    order[1].input_ids[0] = 2
    model.get_input_embeddings().weight.data[2] = float("inf")
    for row in (order[0], order[2]):
        row.input_ids[:] = [max(3, i) for i in row.input_ids]
    assert probe_batch(model, rows).ids == (order[0].id,)
    order[0].input_ids[0] = 2
    with pytest.raises(InputError, match="gives results that are not finite in float32; try --dtype bfloat16"):
        probe_batch(model, rows)
