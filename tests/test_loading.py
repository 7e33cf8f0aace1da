"""Models come from folders and hub ids whole, or not at all and with one line that says why."""

import shutil

import pytest
import torch
from adapter_folders import save_adapter, trained_looking

from uncertainty.errors import InputError
from uncertainty.loading import load_config, load_model, load_tokenizer
from uncertainty.model import final_hidden, readout, resolve_dtype


def test_a_saved_folder_loads_with_its_file_hashes(tiny_folder, tmp_path):
    folder = tiny_folder("llama", tmp_path / "model")
    loaded = load_model(folder, device="cpu")
    assert loaded.record["architecture"] == "LlamaForCausalLM"
    assert len(loaded.record["files"]["model.safetensors"]) == 64
    assert loaded.record["dtype"] == "float32"
    assert not loaded.model.training


def test_dtype_is_taken_from_the_checkpoint_or_the_caller(tiny_folder, tmp_path):
    folder = tiny_folder("llama", tmp_path / "model")
    assert load_model(folder, device="cpu", dtype="bfloat16").record["dtype"] == "bfloat16"
    with pytest.raises(InputError, match="--dtype int8 is not known"):
        resolve_dtype("int8")


def test_gemma2_is_loaded_with_eager_attention_since_sdpa_drops_its_soft_cap(tiny_folder, tmp_path):
    folder = tiny_folder("gemma2", tmp_path / "model")
    assert load_model(folder, device="cpu").record["attention"] == "eager"


def test_pickled_weights_are_refused_unless_asked_for(tiny_folder, tmp_path):
    folder = tiny_folder("llama", tmp_path / "model")
    model = load_model(folder, device="cpu").model
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="--allow-pickle"):
        load_model(folder, device="cpu")
    assert load_model(folder, device="cpu", allow_pickle=True).record["parameters"] > 0


def test_bad_model_names_say_what_is_wrong_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    cases = {
        str(tmp_path / "empty"): "holds no config.json",
        str(tmp_path / "file.txt"): "is a file",
        str(tmp_path / "nowhere"): "there is no model folder",
        "./nowhere": "there is no model folder",
        "a/b/c/d": "there is no model folder",
        str(tmp_path / "emptyy"): "there is no model folder",
        "not a hub id!": "neither a folder here nor a hub id",
    }
    for name, words in cases.items():
        with pytest.raises(InputError, match=words) as caught:
            load_model(name)
        assert "\n" not in str(caught.value)


def test_a_hub_id_that_cannot_be_had_fails_at_once(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="not in the hub cache, and HF_HUB_OFFLINE is set"):
        load_model("nobody/no-such-model-for-this-test")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("uncertainty.loading.reachable", lambda endpoint: False)
    with pytest.raises(InputError, match="cannot be reached"):
        load_model("nobody/no-such-model-for-this-test")


def test_a_folder_with_damaged_weights_gives_one_line(tiny_folder, tmp_path):
    folder = tiny_folder("llama", tmp_path / "model")
    broken = shutil.copytree(folder, tmp_path / "broken")
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot load"):
        load_model(broken, device="cpu")


def test_a_checkpoint_that_lacks_a_tensor_is_refused_rather_than_filled_with_noise(tiny_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_folder("llama", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 tensors of LlamaForCausalLM \(first: model\.layers\.1\.mlp"):
        load_model(folder, device="cpu")


def test_a_mistyped_path_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "models" / "llama-chat").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no model folder models/llama-chatt; did you mean models/llama-chat"):
        load_model("models/llama-chatt")


def test_an_adapter_folder_loads_as_its_base_with_the_adapter_merged(tiny_folder, tmp_path):
    base = tiny_folder("llama", tmp_path)
    unmerged = trained_looking(base)
    unmerged.save_pretrained(tmp_path / "adapter")
    loaded = load_model(tmp_path / "adapter", device="cpu")
    ids = torch.tensor([[5, 9, 11, 30, 8, 7]])
    with torch.no_grad():
        ours, own = readout(loaded.model, final_hidden(loaded.model, ids)), unmerged(input_ids=ids).logits
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert not loaded.model.training
    assert load_config(tmp_path / "adapter").model_type == "llama"


def test_the_record_of_an_adapter_names_it_and_its_base_with_their_files(tiny_folder, tmp_path):
    base = tiny_folder("llama", tmp_path)
    record = load_model(save_adapter(base, tmp_path / "one"), device="cpu").record
    assert record["name"] == str(tmp_path / "one")
    assert record["base"]["name"] == str(base.resolve())
    assert record["base"]["files"] == load_model(base, device="cpu").record["files"]
    assert record["files"]["base/model.safetensors"] == record["base"]["files"]["model.safetensors"]
    other = load_model(save_adapter(base, tmp_path / "two", seed=1), device="cpu").record
    assert {k for k in record["files"] if record["files"][k] != other["files"][k]} == {"adapter_model.safetensors"}


def test_the_tokenizer_of_an_adapter_is_its_own_or_the_bases(tiny_folder, tmp_path):
    base = tiny_folder("llama", tmp_path)
    folder = save_adapter(base, tmp_path / "adapter")
    assert load_tokenizer(folder).get_vocab() == load_tokenizer(base).get_vocab()
    own = load_tokenizer(base)
    own.chat_template = "mine"
    own.save_pretrained(folder)
    assert load_tokenizer(folder).chat_template == "mine"
    assert load_model(folder, device="cpu").tokenizer.chat_template == "mine"


def test_an_adapter_is_not_loaded_in_four_bit(tiny_folder, tmp_path):
    base = tiny_folder("llama", tmp_path)
    with pytest.raises(InputError, match="is an adapter, and weights in 4 bit are too coarse"):
        load_model(save_adapter(base, tmp_path / "adapter"), device="cpu", four_bit=True)
