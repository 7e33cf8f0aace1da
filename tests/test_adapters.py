"""An adapter folder finds its base, fits it, and is added to it, or one line says why not."""

import json
import shutil

import pytest
import torch
from adapter_folders import SMALL, bare_model, save_adapter, trained_looking
from safetensors.torch import load_file, save_file

from uncertainty.adapters import CONFIG, WEIGHTS, is_adapter, merge_adapter, read_adapter
from uncertainty.errors import InputError
from uncertainty.lora import LoraSettings, adapter_layers
from uncertainty.model import final_hidden

IDS = torch.tensor([[5, 9, 11, 30, 8, 7]])


@pytest.fixture
def base(tiny_folder, tmp_path):
    return tiny_folder("llama", tmp_path)


@pytest.fixture
def folder(base, tmp_path):
    return save_adapter(base, tmp_path / "adapter")


def rewrite(folder, **changes):
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "phi3"])
def test_merged_hidden_states_equal_those_of_the_unmerged_adapter(name, tiny_folder, tmp_path):
    base = tiny_folder(name, tmp_path)
    unmerged = trained_looking(base)
    unmerged.save_pretrained(tmp_path / "adapter")
    merged = merge_adapter(bare_model(base), read_adapter(tmp_path / "adapter"))
    assert not adapter_layers(merged)
    with torch.no_grad():
        ours, own, bare = (final_hidden(m, IDS) for m in (merged, unmerged, bare_model(base)))
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)
    assert (own - bare).norm() > 0.05 * bare.norm()  # the adapter does something


def test_a_16_bit_base_is_rounded_once_after_a_float32_sum(base, folder):
    merged = merge_adapter(bare_model(base, torch.bfloat16), read_adapter(folder))
    start = bare_model(base, torch.bfloat16)
    saved = load_file(folder / WEIGHTS)
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        a_RD, b_DR = (saved[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        exact = start.get_submodule(name).weight.double() + 2 * b_DR.double() @ a_RD.double()
        weight = merged.get_submodule(name).weight
        assert weight.dtype == torch.bfloat16
        assert (weight != exact.bfloat16()).double().mean() < 0.001  # but for ties in the sum's last digit
        in_16_bit = start.get_submodule(name).weight + (2 * b_DR @ a_RD).bfloat16()
        assert (in_16_bit != exact.bfloat16()).double().mean() > 0.02  # what two roundings would have done
    assert merged.get_input_embeddings().weight.dtype == torch.bfloat16


def test_random_numbers_go_on_as_if_nothing_had_been_merged(base, folder):
    model = bare_model(base)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    merge_adapter(model, read_adapter(folder))
    assert torch.equal(torch.rand(2), expected)


def test_a_folder_is_an_adapter_if_it_says_so(base, folder, tmp_path):
    assert is_adapter(folder)
    assert is_adapter(str(folder))
    assert not is_adapter(base)
    assert not is_adapter(tmp_path / "nowhere")
    assert not is_adapter("org/name")


def test_a_relative_base_is_looked_for_beside_the_adapter_and_then_from_here(base, folder, tmp_path, monkeypatch):
    rewrite(folder, base_model_name_or_path=f"../{base.name}")
    assert (tmp_path / "adapter" / read_adapter(folder).base).resolve() == base.resolve()
    other = tmp_path / "deep" / "er"
    shutil.copytree(folder, other / "adapter")
    rewrite(other / "adapter", base_model_name_or_path=base.name)
    monkeypatch.chdir(tmp_path)
    assert read_adapter(other / "adapter").base == base.name
    rewrite(folder, base_model_name_or_path="some-org/some-model", revision="abc")
    found = read_adapter(folder)
    assert (found.base, found.revision) == ("some-org/some-model", "abc")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model_name_or_path": "/nowhere/base"}, r"belongs to the base /nowhere/base, which is not here; put"),
        ({"base_model_name_or_path": "../nowhere"}, "belongs to the base ../nowhere, which is not here"),
        ({"base_model_name_or_path": None}, "does not name the adapter's base"),
        ({"base_model_name_or_path": "."}, "is itself an adapter"),
    ],
)
def test_a_base_that_cannot_be_found_gives_one_line(folder, changes, words):
    with pytest.raises(InputError, match=words) as caught:
        read_adapter(rewrite(folder, **changes))
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files_give_one_line(base, folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:500])
    with pytest.raises(InputError, match=r"broken/adapter_model.safetensors cannot be read"):
        merge_adapter(bare_model(base), read_adapter(broken))
    (broken / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"broken holds no adapter_model.safetensors; give"):
        read_adapter(broken)
    torch.save(load_file(folder / WEIGHTS), broken / "adapter_model.bin")
    with pytest.raises(InputError, match="--allow-pickle"):
        read_adapter(broken)
    merge_adapter(bare_model(base), read_adapter(broken, allow_pickle=True))
    (broken / CONFIG).write_text("{")
    with pytest.raises(InputError, match=r"broken/adapter_config.json cannot be read"):
        read_adapter(broken)
    with pytest.raises(InputError, match="is not understood"):
        merge_adapter(bare_model(base), read_adapter(rewrite(folder, peft_type="NO_SUCH_KIND")))


def test_an_adapter_of_another_shape_or_with_other_tensors_is_refused(base, folder, tiny_folder, tmp_path):
    gpt2 = tiny_folder("gpt2", tmp_path)
    with pytest.raises(InputError, match="does not fit the model it is to be put on"):
        merge_adapter(bare_model(gpt2), read_adapter(folder))
    saved = load_file(folder / WEIGHTS)
    first = sorted(saved)[0]
    save_file({k: v for k, v in saved.items() if k != first}, folder / WEIGHTS)
    with pytest.raises(InputError, match="lacks 1 of the tensors that are needed, first base_model"):
        merge_adapter(bare_model(base), read_adapter(folder))
    save_file(saved | {"base_model.model.model.embed_tokens.weight": torch.zeros(2, 2)}, folder / WEIGHTS)
    with pytest.raises(InputError, match=r"holds 1 tensors that have no place, first base_model.model.model.embed"):
        merge_adapter(bare_model(base), read_adapter(folder))
    save_file(saved | {first: torch.zeros(4, 7)}, folder / WEIGHTS)
    with pytest.raises(InputError, match="size mismatch"):
        merge_adapter(bare_model(base), read_adapter(folder))


def test_learnt_prompts_and_adapters_on_a_tied_embedding_are_refused(base, tiny_folder, tmp_path):
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(bare_model(base), prompts).save_pretrained(tmp_path / "prompts")
    with pytest.raises(InputError, match="of type PROMPT_TUNING, learnt prompts"):
        merge_adapter(bare_model(base), read_adapter(tmp_path / "prompts"))
    tied = tiny_folder("gemma2", tmp_path)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["embed_tokens"])
    get_peft_model(bare_model(tied), config).save_pretrained(tmp_path / "tied", save_embedding_layers=False)
    with pytest.raises(InputError, match="sits on the token embedding, which is also the vocabulary head"):
        merge_adapter(bare_model(tied), read_adapter(tmp_path / "tied"))


def test_an_update_that_is_not_finite_is_refused(base, folder):
    saved = load_file(folder / WEIGHTS)
    saved[sorted(saved)[0]][0, 0] = float("nan")
    save_file(saved, folder / WEIGHTS)
    with pytest.raises(InputError, match="cannot be merged"):
        merge_adapter(bare_model(base), read_adapter(folder))


def test_hashes_name_what_decides_and_change_with_it(base, folder):
    hashes = read_adapter(folder).hashes()
    assert set(hashes) == {CONFIG, WEIGHTS}
    (folder / "trainer_state.json").write_text("{}")
    assert read_adapter(folder).hashes() == hashes
    trained_looking(base, seed=1, settings=LoraSettings(rank=SMALL.rank, alpha=SMALL.alpha)).save_pretrained(folder)
    assert read_adapter(folder).hashes()[WEIGHTS] != hashes[WEIGHTS]
