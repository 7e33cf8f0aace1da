"""Nothing is scored before the model and the family have proved themselves on one example."""

from contextlib import contextmanager

import pytest
import torch
from adapter_folders import SMALL, bare_model
from conftest import TINY, save_tiny
from random_examples import examples

from uncertainty.data.batches import collate
from uncertainty.errors import InputError
from uncertainty.families.adapter_ensemble import AdapterEnsemble, adapter_members
from uncertainty.families.dropout import McDropout
from uncertainty.families.weight_noise import WeightNoise
from uncertainty.lora import attach_lora
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


def test_adapters_that_do_nothing_are_refused(tmp_path):
    base = save_tiny("llama", tmp_path)
    for seed in range(2):
        attach_lora(bare_model(base), SMALL, seed=seed).save_pretrained(tmp_path / f"fresh-{seed}")
    family = AdapterEnsemble(adapter_members([str(tmp_path / f"fresh-{seed}") for seed in range(2)], str(base)))
    model = bare_model(base)
    with pytest.raises(InputError, match=r"2 members of LlamaForCausalLM are equal: .*give --members that differ"):
        check_family(model, collate(examples(model, 1)), family)


def test_a_family_that_leaves_the_model_changed_is_refused():
    class Careless(WeightNoise):
        @contextmanager
        def active(self, model, *, seed=0):
            with super().active(model, seed=seed) as members:
                yield members
            model.model.norm.weight.data.mul_(1.5)

    model = TINY["llama"]()
    with pytest.raises(InputError, match="is not as it was before its members were drawn"):
        check_family(model, collate(examples(model, 1)), Careless(0.1))


def test_a_member_that_is_another_when_drawn_again_is_refused():
    class Forgetful(WeightNoise):
        @contextmanager
        def active(self, model, *, seed=0):
            with super().active(model, seed=seed) as members:
                make = members._make
                members._make = lambda number: (setattr(members, "seed", members.seed + 1), make(number))
                yield members

    model = TINY["llama"]()
    with pytest.raises(InputError, match="two draws of one member differ by"):
        check_family(model, collate(examples(model, 1)), Forgetful(0.1))
