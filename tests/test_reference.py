"""References: the same hidden states whatever surrounds them, and a student that is left exactly as it was."""

import copy
import os

import pytest
import torch
from adapter_folders import SMALL, bare_model, save_adapter, trained_looking

from uncertainty.adapters import merge_adapter, read_adapter
from uncertainty.batch_hidden import predicting_hidden
from uncertainty.data.batches import collate, targets
from uncertainty.data.packing import pack
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.lora import LoraSettings, adapter_layers, attach_lora, check_student
from uncertainty.reference import (
    AdapterReference,
    BaseReference,
    ModelReference,
    check_reference,
    identical_to_student,
)

EXAMPLES = [
    Example(str(i), [(7 * i + 3 * j) % 90 + 4 for j in range(n)], [j > 1 for j in range(n)], [], False, [])
    for i, n in enumerate([9, 5, 12])
]
BATCH = collate(EXAMPLES)
DROPPING = LoraSettings(rank=4, alpha=8, dropout=0.3)


@pytest.fixture
def base(tiny_folder, tmp_path):
    return tiny_folder("llama", tmp_path)


@pytest.fixture
def folder(base, tmp_path):
    return save_adapter(base, tmp_path / "reference", seed=7, settings=DROPPING)


def student_of(base, settings=DROPPING):
    return trained_looking(base, seed=1, settings=settings).train()


def state_of(model):
    return (
        {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        {name: module.training for name, module in model.named_modules()},
        [(layer._active_adapter, layer._disable_adapters) for layer in adapter_layers(model)],
    )


def expected_hidden(base, folder):
    """The oracle: the base with the reference's adapter, loaded by peft alone."""
    from peft import PeftModel

    with torch.no_grad():
        return predicting_hidden(PeftModel.from_pretrained(bare_model(base), folder).eval(), BATCH)


def test_the_adapter_reference_is_the_base_with_that_adapter_and_leaves_the_student_as_it_was(base, folder):
    model = student_of(base)
    before = state_of(model)
    reference = AdapterReference(model, read_adapter(folder))
    kept = state_of(model)
    assert {name: kept[0][name] for name in before[0]} == before[0]
    assert {name: kept[1][name] for name in before[1]} == before[1]
    assert kept[2] == before[2]
    assert not any(kept[0][name] for name in kept[0] if name not in before[0])
    assert torch.equal(reference.hidden(BATCH), expected_hidden(base, folder))
    assert state_of(model) == kept
    check_student(model)
    assert reference.record["files"]["adapter_model.safetensors"]
    assert reference.record["kind"] == "adapter"


def test_the_base_reference_is_the_bare_base(base):
    model = student_of(base)
    before = state_of(model)
    with torch.no_grad():
        expected = predicting_hidden(bare_model(base), BATCH)
    assert torch.equal(BaseReference(model, {"name": str(base)}).hidden(BATCH), expected)
    assert state_of(model) == before


def test_the_model_reference_is_that_model_frozen(base, folder):
    merged = merge_adapter(bare_model(base), read_adapter(folder)).train()
    reference = ModelReference(merged, {"name": str(folder)})
    torch.testing.assert_close(reference.hidden(BATCH), expected_hidden(base, folder), rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in merged.parameters())
    assert not reference.hidden(BATCH).requires_grad


def gradients(model, *, reference=None, when="", checkpointing=None):
    """The student's gradients of one step, the reference being asked at one point of it."""
    model = copy.deepcopy(model) if reference is None else model
    model.zero_grad()
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    found = []
    if when == "before":
        found.append(reference.hidden(BATCH))
    torch.manual_seed(0)
    hidden_ND = predicting_hidden(model, BATCH)
    if when == "between":
        found.append(reference.hidden(BATCH))
    check_student(model)
    (hidden_ND @ model.get_output_embeddings().weight.T).logsumexp(-1).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, found


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "non-reentrant", "reentrant"])
@pytest.mark.parametrize("when", ["before", "between"])
@pytest.mark.parametrize("kind", ["adapter", "base"])
def test_the_reference_may_be_asked_around_the_students_forward_under_any_checkpointing(
    base, folder, kind, when, checkpointing
):
    model = student_of(base)
    plain, _ = gradients(model)
    reference = AdapterReference(model, read_adapter(folder)) if kind == "adapter" else BaseReference(model, {})
    alone = reference.hidden(BATCH)
    got, found = gradients(model, reference=reference, when=when, checkpointing=checkpointing)
    assert torch.equal(found[0], alone)  # eval mode, whatever dropout the student trains with
    assert set(got) == set(plain)
    assert not any(".reference." in name for name in got)
    for name in plain:
        torch.testing.assert_close(got[name], plain[name], rtol=1e-5, atol=1e-6)


def test_an_error_inside_the_reference_leaves_the_student_active(base, folder, monkeypatch):
    model = student_of(base)
    reference = AdapterReference(model, read_adapter(folder))
    before = state_of(model)
    monkeypatch.setattr("uncertainty.reference.hidden_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reference.hidden(BATCH)
    assert state_of(model) == before
    assert torch.is_grad_enabled()


def test_training_changes_the_student_and_never_the_reference(base, folder):
    model = student_of(base)
    reference = AdapterReference(model, read_adapter(folder))
    before = reference.hidden(BATCH)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        gradients(model, reference=reference, when="between")
        optimizer.step()
    assert torch.equal(reference.hidden(BATCH), before)


def test_a_merged_student_is_refused_rather_than_unmerged_in_passing(base, folder):
    model = student_of(base).eval()
    reference = BaseReference(model, {})
    model.merge_adapter()
    with pytest.raises(InputError, match="merged into the base; unmerge it"):
        reference.hidden(BATCH)
    assert all(layer.merged for layer in adapter_layers(model))


def test_packed_and_padded_batches_have_the_same_reference(base, folder):
    reference = AdapterReference(student_of(base), read_adapter(folder))
    packed = reference.hidden(pack(EXAMPLES, width=14))
    torch.testing.assert_close(packed, reference.hidden(BATCH), rtol=1e-4, atol=1e-4)


def test_the_adapter_reference_works_on_the_model_inside_distributed_data_parallel(base, folder, tmp_path):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    model = student_of(base, SMALL)
    reference = AdapterReference(model, read_adapter(folder))
    alone, plain = reference.hidden(BATCH), gradients(model, reference=reference, when="before")[0]
    model.zero_grad()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        for _ in range(2):  # the reducer of the second step sees what the first left behind
            model.zero_grad()
            logits = wrapped(input_ids=BATCH.input_ids_BT, attention_mask=BATCH.attention_mask_BT).logits
            assert torch.equal(reference.hidden(BATCH), alone)
            at = targets(BATCH)
            logits[at.row_N, at.position_N - 1].logsumexp(-1).sum().backward()
    finally:
        dist.destroy_process_group()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, plain[name], rtol=1e-4, atol=1e-5)
    assert os.environ.get("RANK") is None


def test_a_reference_agrees_with_itself_and_one_with_dropout_is_refused(base, folder):
    model = student_of(base)
    assert check_reference(AdapterReference(model, read_adapter(folder)), BATCH) == 0.0
    reference = BaseReference(model, {"name": "the base"})

    class Dropping:
        model, record = reference.model, reference.record

        def hidden(self, batch):
            with torch.no_grad():
                return predicting_hidden(self.model, batch)  # the student, in train mode, with dropout

    with pytest.raises(InputError, match="the reference the base disagrees with itself by"):
        check_reference(Dropping(), BATCH)


def test_a_reference_that_is_not_finite_is_refused(base):
    model = bare_model(base)
    reference = ModelReference(model, {"name": "x"})
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(InputError, match="by nan nats"):
        check_reference(reference, BATCH)


def test_a_fresh_student_is_identical_to_its_base_and_a_trained_one_is_not(base, folder):
    fresh = attach_lora(bare_model(base), SMALL).train()
    before = state_of(fresh)
    assert identical_to_student(BaseReference(fresh, {}), fresh, BATCH)
    assert state_of(fresh) == before
    assert not identical_to_student(AdapterReference(fresh, read_adapter(folder)), fresh, BATCH)
    trained = student_of(base)
    assert not identical_to_student(BaseReference(trained, {}), trained, BATCH)


def test_adapters_that_cannot_share_the_base_are_refused(base, tiny_folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    options = {
        "saves a layer": ({"modules_to_save": ["norm"]}, "carries whole layers or biases of its own"),
        "bias": ({"bias": "lora_only"}, "carries whole layers or biases"),
        "head": ({"target_modules": ["q_proj", "lm_head"]}, "acts on the vocabulary head"),
    }
    for name, (changes, words) in options.items():
        config = LoraConfig(**({"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]} | changes))
        get_peft_model(bare_model(base), config).save_pretrained(tmp_path / name, save_embedding_layers=False)
        with pytest.raises(InputError, match=words):
            AdapterReference(student_of(base), read_adapter(tmp_path / name))
    other = save_adapter(tiny_folder("gpt2", tmp_path), tmp_path / "other")
    with pytest.raises(InputError, match="does not fit the student's base"):
        AdapterReference(student_of(base), read_adapter(other))
    with pytest.raises(InputError, match="the base cannot be the reference of a model that is trained whole"):
        BaseReference(bare_model(base), {})
