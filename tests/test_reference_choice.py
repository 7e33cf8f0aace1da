"""The name of a reference becomes the reference, or one line says why it does not belong to the student."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from adapter_folders import SMALL, save_adapter, trained_looking
from safetensors.torch import load_file, save_file

from uncertainty.adapters import CONFIG
from uncertainty.data.batches import collate
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.loading import load_model, load_tokenizer
from uncertainty.lora import attach_lora
from uncertainty.reference import AdapterReference, BaseReference, ModelReference
from uncertainty.reference_cache import CachedReference, build_cache
from uncertainty.reference_choice import choose_reference, vocabulary_sha256

EXAMPLES = [Example("one", [4, 9, 30, 7, 8], [False, True, True, True, True], [], False, [])]
BATCH = collate(EXAMPLES)


@pytest.fixture
def base(tiny_folder, tmp_path):
    return tiny_folder("llama", tmp_path)


@pytest.fixture
def student(base):
    loaded = load_model(base, device="cpu")
    return replace(loaded, model=attach_lora(loaded.model, SMALL))


@pytest.fixture
def whole(base):
    return load_model(base, device="cpu")


def test_base_is_the_students_own_with_an_adapter_and_a_second_model_without(base, student, whole):
    switched, second = choose_reference("base", student), choose_reference("base", whole)
    assert isinstance(switched, BaseReference)
    assert switched.model is student.model
    assert isinstance(second, ModelReference)
    assert second.model is not whole.model
    assert torch.equal(switched.hidden(BATCH), second.hidden(BATCH))
    assert switched.record["name"] == str(base)
    assert all(parameter.requires_grad for parameter in whole.model.parameters())


def test_an_adapter_is_a_second_adapter_or_a_merged_second_model(base, student, whole, tmp_path):
    folder = save_adapter(base, tmp_path / "reference", seed=3)
    shared, second = choose_reference(str(folder), student), choose_reference(str(folder), whole)
    assert isinstance(shared, AdapterReference)
    assert shared.model is student.model
    assert isinstance(second, ModelReference)
    torch.testing.assert_close(shared.hidden(BATCH), second.hidden(BATCH), rtol=1e-4, atol=1e-4)
    assert (shared.hidden(BATCH) - choose_reference("base", student).hidden(BATCH)).norm() > 0.1


def test_a_model_folder_is_a_second_model_in_the_students_dtype(base, tmp_path):
    loaded = load_model(base, device="cpu", dtype="bfloat16")
    other = shutil.copytree(base, tmp_path / "other")
    reference = choose_reference(str(other), replace(loaded, model=attach_lora(loaded.model, SMALL)))
    assert isinstance(reference, ModelReference)
    assert reference.model.dtype == torch.bfloat16
    assert reference.record["name"] == str(other)


def test_a_cache_is_read_if_it_holds_the_data_and_speaks_the_vocabulary(base, student, tmp_path):
    live = choose_reference("base", student)
    own = vocabulary_sha256(student.tokenizer)
    build_cache(tmp_path / "cache", live, EXAMPLES, vocabulary_sha256=own)
    cached = choose_reference(str(tmp_path / "cache"), student, examples=EXAMPLES)
    assert isinstance(cached, CachedReference)
    assert cached.model is student.model
    assert torch.equal(cached.hidden(BATCH), live.hidden(BATCH))
    with pytest.raises(InputError, match="does not hold example two"):
        choose_reference(str(tmp_path / "cache"), student, examples=[replace(EXAMPLES[0], id="two")])
    build_cache(tmp_path / "foreign", live, EXAMPLES, vocabulary_sha256="0")
    with pytest.raises(InputError, match="was made with another vocabulary than the student's"):
        choose_reference(str(tmp_path / "foreign"), student)


def test_a_copy_of_the_base_under_another_name_is_the_same_base(base, student, tmp_path):
    copy = shutil.copytree(base, tmp_path / "moved")
    folder = save_adapter(copy, tmp_path / "reference")
    assert isinstance(choose_reference(str(folder), student), AdapterReference)


def test_an_adapter_of_another_base_is_refused_with_both_names(base, student, whole, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] += 0.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    folder = save_adapter(other, tmp_path / "reference")
    for one in (student, whole):
        with pytest.raises(InputError, match=f"trained on the base {other}, and the student's base is {base}; give"):
            choose_reference(str(folder), one)
    config = json.loads((folder / CONFIG).read_text()) | {"base_model_name_or_path": "some-org/some-base"}
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match="trained on the base some-org/some-base, and"):
        choose_reference(str(folder), student)


def test_another_vocabulary_is_refused_with_the_first_difference(base, student, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    names = {number: token for token, number in vocabulary.items()}
    vocabulary[names[50]], vocabulary[names[51]] = 51, 50
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        InputError, match=r"another vocabulary than the student \(300 and 300 tokens; id 50 is"
    ) as caught:
        choose_reference(str(other), student)
    assert "\n" not in str(caught.value)
    folder = save_adapter(base, tmp_path / "adapter")
    load_tokenizer(other).save_pretrained(folder)
    with pytest.raises(InputError, match="another vocabulary"):
        choose_reference(str(folder), student)


def test_nothing_there_is_one_line(student, tmp_path):
    with pytest.raises(InputError, match="there is no model folder"):
        choose_reference(str(tmp_path / "nowhere"), student)


def test_a_hub_base_is_compared_by_its_name(base, student, tmp_path):
    folder = save_adapter(base, tmp_path / "reference")
    config = json.loads((folder / CONFIG).read_text()) | {"base_model_name_or_path": "some-org/some-base"}
    (folder / CONFIG).write_text(json.dumps(config))
    load_tokenizer(base).save_pretrained(folder)  # so that nothing is looked for on the hub
    record = {**student.record, "name": "some-org/some-base"}
    assert isinstance(choose_reference(str(folder), replace(student, record=record)), AdapterReference)


def test_a_student_that_was_trained_further_is_still_on_its_base(base, tmp_path):
    loaded = load_model(base, device="cpu")
    model = trained_looking(base, seed=5)
    reference = choose_reference("base", replace(loaded, model=model))
    assert torch.equal(reference.hidden(BATCH), ModelReference(loaded.model, loaded.record).hidden(BATCH))
