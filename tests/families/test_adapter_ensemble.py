"""Adapter ensembles: a member is what merging its adapter would give, and adapters that cannot share are refused."""

import shutil

import pytest
import torch
from adapter_folders import SMALL, save_adapter, trained_looking
from conftest import TINY, save_tiny

from uncertainty.adapters import read_adapter
from uncertainty.engine import Rows
from uncertainty.errors import InputError
from uncertainty.families.adapter_ensemble import AdapterEnsemble, adapter_members
from uncertainty.loading import load_model
from uncertainty.lora import LoraSettings, attach_lora
from uncertainty.model import final_hidden

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("adapters")
    base = save_tiny("llama", home)
    for seed in range(2):
        save_adapter(base, home / f"adapter-{seed}", seed=seed)
    return home


@pytest.fixture(scope="module")
def base(home):
    return home / "llama-chat"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3", "gpt2", "opt"])
def test_a_member_is_the_model_that_merging_its_adapter_gives(name, tmp_path):
    base = save_tiny(name, tmp_path)
    folders = [str(save_adapter(base, tmp_path / f"adapter-{seed}", seed=seed)) for seed in range(2)]
    model = load_model(base, device="cpu").model
    states = []
    with AdapterEnsemble(adapter_members(folders, str(base))).active(model) as members, torch.inference_mode():
        for number in range(2):
            with members.draw(Rows(("a",), (number,))):
                states.append(final_hidden(model, IDS))
    for state, folder in zip(states, folders, strict=True):
        with torch.inference_mode():
            merged = final_hidden(load_model(folder, device="cpu").model, IDS)
        torch.testing.assert_close(state, merged, rtol=1e-5, atol=1e-4)


def test_the_folder_of_a_training_run_stands_for_its_adapter(home, base, tmp_path):
    shutil.copytree(home / "adapter-0", tmp_path / "run" / "adapter")
    (found,) = adapter_members([str(tmp_path / "run")], str(base))
    assert found.path == tmp_path / "run" / "adapter"


def test_a_base_that_was_moved_is_known_by_its_weights(home, base, tmp_path):
    copy = shutil.copytree(base, tmp_path / "copy")
    assert len(adapter_members([str(home / "adapter-0")], str(copy))) == 1


def test_the_report_says_the_files_of_each_member_and_not_where_they_are(home, base, tmp_path):
    moved = [str(shutil.copytree(home / f"adapter-{k}", tmp_path / f"moved-{k}")) for k in range(2)]
    reports = []
    for names in ([str(home / f"adapter-{k}") for k in range(2)], moved):
        with AdapterEnsemble(adapter_members(names, str(base))).active(load_model(base, device="cpu").model) as members:
            reports.append(members.report())
    assert reports[0] == reports[1]
    assert [set(one["files"]) for one in reports[0]["members"]] == [
        {"adapter_config.json", "adapter_model.safetensors"}
    ] * 2
    first, second = (one["files"]["adapter_model.safetensors"] for one in reports[0]["members"])
    assert first != second


def test_the_same_member_twice_is_refused(home, base, tmp_path):
    twin = shutil.copytree(home / "adapter-0", tmp_path / "twin")
    family = AdapterEnsemble(adapter_members([str(home / "adapter-0"), str(twin)], str(base)))
    with family.active(load_model(base, device="cpu").model) as members:
        with pytest.raises(InputError, match=r"adapter-0 and .*twin hold the same files; give each member once"):
            members.report()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["nowhere"], r"--members nowhere: the folder does not exist \(looked for adapter_config\.json"),
        (["BASE"], r"llama-chat: the folder holds no adapter \(looked for adapter_config\.json, also in adapter/\)"),
    ],
)
def test_folders_without_an_adapter_are_refused(names, words, base):
    with pytest.raises(InputError, match=words):
        adapter_members([str(base) if name == "BASE" else name for name in names], str(base))


def test_adapters_of_another_base_or_on_an_adapter_are_refused(home, base, tmp_path):
    other = save_tiny("qwen2", tmp_path)
    with pytest.raises(InputError, match=r"adapter-0 was trained on .*llama-chat, and the model given is .*qwen2-chat"):
        adapter_members([str(home / "adapter-0")], str(other))
    with pytest.raises(InputError, match=r"the model given is org/name"):
        adapter_members([str(home / "adapter-0")], "org/name")
    with pytest.raises(InputError, match=r"adapter-0 is itself an adapter; give the base of the --members"):
        adapter_members([str(home / "adapter-1")], str(home / "adapter-0"))


def test_one_adapter_is_no_ensemble(home):
    with pytest.raises(InputError, match="an ensemble of 1 adapters has no spread"):
        AdapterEnsemble((read_adapter(home / "adapter-0"),))


def test_a_model_that_carries_adapters_is_refused(home, base):
    family = AdapterEnsemble(adapter_members([str(home / f"adapter-{k}") for k in range(2)], str(base)))
    model = attach_lora(load_model(base, device="cpu").model, SMALL)
    with pytest.raises(InputError, match="carries adapters already; give the bare base"):
        with family.active(model):
            pass


def test_an_adapter_that_does_not_fit_leaves_the_model_as_it_was(home, base):
    family = AdapterEnsemble(tuple(read_adapter(home / f"adapter-{k}") for k in range(2)))
    model = TINY["gpt2"]()
    before = [(name, id(module), sorted(vars(module))) for name, module in model.named_modules()]
    with pytest.raises(InputError, match="does not fit the model"):
        with family.active(model):
            pass
    assert before == [(name, id(module), sorted(vars(module))) for name, module in model.named_modules()]


def test_a_member_with_layers_of_its_own_or_on_the_head_is_refused(home, base, tmp_path):
    from peft import LoraConfig, get_peft_model

    for name, options, words in (
        ("whole", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "whole layers or biases of its own"),
        ("head", {"target_modules": ["q_proj", "lm_head"]}, "acts on the vocabulary head, which all share"),
    ):
        model = get_peft_model(load_model(base, device="cpu").model, LoraConfig(task_type="CAUSAL_LM", r=2, **options))
        model.save_pretrained(tmp_path / name)
        family = AdapterEnsemble((read_adapter(home / "adapter-0"), read_adapter(tmp_path / name)))
        bare = load_model(base, device="cpu").model
        with pytest.raises(InputError, match=words):
            with family.active(bare):
                pass
        assert not any("lora" in name for name, _ in bare.named_modules())


def test_adapters_of_different_ranks_and_targets_are_members_of_one_ensemble(home, base, tmp_path):
    small = LoraSettings(rank=2, alpha=4, targets=("q_proj", "v_proj"))
    trained_looking(base, seed=7, settings=small).save_pretrained(tmp_path / "small")
    model = load_model(base, device="cpu").model
    names = [str(home / "adapter-0"), str(tmp_path / "small")]
    with AdapterEnsemble(adapter_members(names, str(base))).active(model) as members, torch.inference_mode():
        with members.draw(Rows(("a",), (1,))):
            state = final_hidden(model, IDS)
    with torch.inference_mode():
        merged = final_hidden(load_model(tmp_path / "small", device="cpu").model, IDS)
    torch.testing.assert_close(state, merged, rtol=1e-5, atol=1e-4)
