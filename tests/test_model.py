"""``readout(final_hidden(...))`` is the model's own logits in every family, and loading refuses what it must."""

import shutil

import pytest
import torch
from conftest import TINY

from uncertainty.errors import InputError
from uncertainty.model import (
    adopt_model,
    check_finite,
    check_readout,
    context_length,
    final_hidden,
    is_local,
    load_model,
    readout,
    resolve_device,
    resolve_dtype,
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


def test_a_tokenizer_wider_than_the_embedding_is_refused(tiny_folder, tmp_path):
    folder = tiny_folder("llama", tmp_path / "model")
    loaded = load_model(folder, device="cpu")
    loaded.tokenizer.add_tokens([f"new{i}" for i in range(4000)])
    with pytest.raises(InputError, match="do not belong together"):
        adopt_model(loaded.model, loaded.tokenizer)


def test_bad_model_names_say_what_is_wrong_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    cases = {
        str(tmp_path / "empty"): "holds no config.json",
        str(tmp_path / "file.txt"): "is a file",
        str(tmp_path / "nowhere"): "there is no model folder",
        "./nowhere": "there is no model folder",
        "a/b/c/d": "there is no model folder",
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
    monkeypatch.setattr("uncertainty.model._reachable", lambda endpoint: False)
    with pytest.raises(InputError, match="cannot be reached"):
        load_model("nobody/no-such-model-for-this-test")


def test_devices_that_are_not_here_are_refused():
    with pytest.raises(InputError, match="--device nonsense"):
        resolve_device("nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda"):
            resolve_device("cuda")
        assert resolve_device("auto").type == "cpu"


def test_the_context_is_read_from_the_configuration(tiny_model):
    assert context_length(tiny_model("llama").config) == 64
    assert context_length(tiny_model("gpt2").config) == 64
    assert not is_local("org/name")


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
