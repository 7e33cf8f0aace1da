"""Checkpoint ensembles: one member in memory at a time, each with its own head, and none of another vocabulary."""

import json
import shutil
import weakref

import pytest
import torch
from conftest import build, byte_level_tokenizer, save_tiny
from family_members import save_checkpoint

from uncertainty.engine import Rows
from uncertainty.errors import InputError
from uncertainty.families import checkpoint_ensemble
from uncertainty.families.checkpoint_ensemble import (
    Checkpoint,
    CheckpointEnsemble,
    check_tokenizers,
    checkpoint_members,
)
from uncertainty.head import head_of
from uncertainty.loading import load_model
from uncertainty.model import final_hidden

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = save_tiny("llama", tmp_path_factory.mktemp("checkpoints"))
    save_checkpoint(base, base.parent / "one", seed=1)
    save_checkpoint(base, base.parent / "two", seed=2, head=False)
    return base


@pytest.fixture
def model(base):
    return load_model(base, device="cpu").model


def ensemble(base, *names):
    return CheckpointEnsemble(checkpoint_members([str(base.parent / name) for name in names], str(base)))


def drawn(members, number):
    with members.draw(Rows(("a",), (number,))) as member:
        return member


def test_one_member_is_in_memory_at_a_time_and_the_last_is_not_loaded_again(base, model):
    with ensemble(base, "one", "two").active(model) as members:
        first = [weakref.ref(parameter) for parameter in drawn(members, 0).parameters()]
        assert all(one() is own for one, own in zip(first, drawn(members, 0).parameters(), strict=True))
        second = [weakref.ref(parameter) for parameter in drawn(members, 1).parameters()]
        assert [one() for one in first] == [None] * len(first)
        assert not any(one() is None for one in second)
    assert [one() for one in second] == [None] * len(second)


def test_members_are_the_saved_models_in_the_dtype_of_the_one_given(base):
    given = load_model(base, device="cpu", dtype="bfloat16").model
    with ensemble(base, "one", "two").active(given) as members, torch.inference_mode():
        member = drawn(members, 0)
        assert {(one.dtype, one.is_inference()) for one in member.parameters()} == {(torch.bfloat16, False)}
        alone = load_model(base.parent / "one", device="cpu", dtype="bfloat16").model
        assert torch.equal(final_hidden(member, IDS), final_hidden(alone, IDS))


def test_heads_are_kept_only_where_they_differ_from_the_models(base, model):
    with ensemble(base, "one", "two").active(model) as members:
        with pytest.raises(KeyError):
            members.heads(2)  # nobody was drawn
        drawn(members, 0), drawn(members, 1)
        own, (first, second) = head_of(model), members.heads(2)
        assert second.weight_VD is own.weight_VD
        assert first.weight_VD is not own.weight_VD
    expected = head_of(load_model(base.parent / "one", device="cpu").model)
    assert torch.equal(first.weight_VD, expected.weight_VD)


def test_members_with_the_models_own_head_need_none(base, model, tmp_path):
    save_checkpoint(base, tmp_path / "three", seed=3, head=False)
    members = checkpoint_members([str(base.parent / "two"), str(tmp_path / "three")], str(base))
    with CheckpointEnsemble(members).active(model) as state:
        drawn(state, 0), drawn(state, 1)
        assert state.heads(2) is None


def test_a_member_may_have_another_depth(base, model, tmp_path):
    config = load_model(base, device="cpu").model.config
    config.num_hidden_layers = 1
    build(config).save_pretrained(tmp_path / "shallow")  # without a tokenizer: the model's is used
    members = checkpoint_members([str(base.parent / "one"), str(tmp_path / "shallow")], str(base))
    tokenizer = load_model(base, device="cpu").tokenizer
    check_tokenizers(members, tokenizer)
    with CheckpointEnsemble(members, tokenizer).active(model) as state:
        assert drawn(state, 1).config.num_hidden_layers == 1


def test_members_of_another_vocabulary_width_or_tokenizer_are_refused(base, model, tmp_path):
    config = load_model(base, device="cpu").model.config
    one = str(base.parent / "one")
    for name, size, words in (
        ("vocab_size", 400, r"has 400 logits and the model \d+; members must share one vocabulary"),
        ("hidden_size", 64, r"are 64 wide and the model's 32; members must be of one width"),
    ):
        other = type(config)(**(config.to_dict() | {name: size}))
        build(other).save_pretrained(tmp_path / name)
        family = CheckpointEnsemble(checkpoint_members([one, str(tmp_path / name)], str(base)))
        with pytest.raises(InputError, match=words):
            with family.active(model):
                pass
    strange = tmp_path / "strange"
    shutil.copytree(base.parent / "one", strange)
    tokens = json.loads((strange / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (strange / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(
        InputError, match=r"strange has another vocabulary than the model: 'a' is \d+ there and \d+ here"
    ):
        check_tokenizers([Checkpoint(str(strange))], byte_level_tokenizer())
    check_tokenizers([Checkpoint(one)], byte_level_tokenizer())


def test_the_report_tells_members_by_their_files_and_refuses_twins(base, model, tmp_path):
    with ensemble(base, "one", "two").active(model) as members:
        first, second = members.report()["members"]
    assert first["files"].keys() >= {"model.safetensors", "config.json"}
    assert first["files"]["model.safetensors"] != second["files"]["model.safetensors"]
    shutil.copytree(base.parent / "one", tmp_path / "again")
    (tmp_path / "again" / "tokenizer_config.json").unlink()  # the same weights with fewer files beside them
    twins = checkpoint_members([str(base.parent / "one"), str(tmp_path / "again")], str(base))
    with CheckpointEnsemble(twins).active(model) as members:
        with pytest.raises(InputError, match=r"one and .*again hold the same files; give each member once"):
            members.report()


def test_adapters_may_be_members_and_are_told_apart_by_their_files(base, tmp_path):
    from adapter_folders import save_adapter

    for seed in (0, 1):
        save_adapter(base, tmp_path / f"adapter-{seed}", seed=seed)
    members = checkpoint_members([str(tmp_path / "adapter-0"), str(tmp_path / "adapter-1")], str(base))
    with CheckpointEnsemble(members).active(load_model(base, device="cpu").model) as state:
        reported = state.report()["members"]
        assert reported[0]["base"] == reported[1]["base"]
        assert reported[0]["files"] != reported[1]["files"]


def test_revisions_are_of_the_model_on_the_hub(base, monkeypatch):
    asked = []

    class Config:
        _commit_hash = "abc123"

    monkeypatch.setattr(
        checkpoint_ensemble, "load_config", lambda name, **options: asked.append((name, options["revision"])) or Config
    )
    members = checkpoint_members(["@step100", "@refs/pr/1"], "org/name")
    assert members == (Checkpoint("org/name", "step100"), Checkpoint("org/name", "refs/pr/1"))
    assert asked == [("org/name", "step100"), ("org/name", "refs/pr/1")]
    assert str(members[0]) == "org/name@step100"
    assert members[0].identity() == {"name": "org/name", "revision": "abc123"}


def test_members_that_are_not_there_are_refused(base, tmp_path):
    for name, words in (
        ("@main", r"--members @main: .* is a folder, which has no revisions; give folders"),
        ("nowhere", r"--members nowhere: there is no such folder; give model folders, or @REVISION"),
        (str(tmp_path), "holds no config.json; give the folder of a transformers model"),
    ):
        with pytest.raises(InputError, match=words):
            checkpoint_members([name], str(base))
    with pytest.raises(InputError, match="an ensemble of 1 checkpoints has no spread"):
        CheckpointEnsemble((Checkpoint(str(base)),))
