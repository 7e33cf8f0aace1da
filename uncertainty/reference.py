"""The reference model: where its hidden states come from, and what is proved of it before training.

Dimension key: N completion tokens, V vocabulary, D hidden size.

A reference costs a second set of weights only where it must. As a second adapter on the student's own base, or as that
base with its adapters off, it is the student's model with a switch thrown for one forward pass.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from uncertainty.adapters import AdapterFolder, load_weights, read_config
from uncertainty.batch_hidden import evaluation, predicting_hidden
from uncertainty.data.batches import Batch
from uncertainty.errors import InputError
from uncertainty.lora import adapter_layers, switched, undisturbed_random_numbers, without_stale_warning
from uncertainty.model import readout, relative_difference
from uncertainty.training.student import hidden_of

REFERENCE = "reference"  # the name of the second adapter inside the PeftModel
SELF_KL = 1e-6  # nats; the largest KL of a reference with itself that passes as rounding
TOKENS_CHECKED = 256
IDENTICAL = 1e-6  # relative; two hidden states closer than this are one computation done twice


class Reference(Protocol):
    """Where the reference's predictions come from.

    ``readout(reference.model, reference.hidden(batch))`` are its logits at the batch's targets.
    """

    @property
    def model(self) -> Any:
        """The model whose vocabulary head reads the hidden states."""

    @property
    def record(self) -> dict[str, Any]:
        """What identifies the reference, as plain data."""

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states ``[N, D]`` in the order of ``targets(batch)``, in eval mode, without gradient."""


class AdapterReference:
    """A second, frozen adapter on the student's base: the reference at the price of an adapter.

    Args:
        model: the student's PeftModel, bare of wrappers such as DistributedDataParallel. The adapter is loaded into
            it; the student stays active, and every other parameter keeps its ``requires_grad``.
        adapter: the reference's, trained on the same base.
        name: of the adapter inside the PeftModel.

    Raises:
        InputError: the adapter does not fit the base, carries whole layers of its own, or acts on the head. The model
            should not be used then.
    """

    def __init__(self, model: Any, adapter: AdapterFolder, *, name: str = REFERENCE) -> None:
        _insert(model, adapter, name)
        self.model = model
        self.record: dict[str, Any] = {
            "kind": "adapter",
            "name": str(adapter.path),
            "files": adapter.hashes(),
            "base": adapter.base,
        }
        self._name = name
        self._layers = adapter_layers(model)

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states ``[N, D]`` under the reference's adapter; the student is active again afterwards."""
        with switched(self._layers, self._name), evaluation(self.model):
            return hidden_of(self.model, batch)


class BaseReference:
    """The student's base, its adapters off.

    Args:
        model: the student's PeftModel, bare of wrappers.
        record: of the base, as ``load_model`` gives it.

    Raises:
        InputError: the model carries no adapter: it is its own base, and changes with the student.
    """

    def __init__(self, model: Any, record: dict[str, Any]) -> None:
        self._layers = adapter_layers(model)
        if not self._layers:
            raise InputError(
                "the base cannot be the reference of a model that is trained whole, since it changes with it; "
                "load it as a second model"
            )
        self.model = model
        self.record: dict[str, Any] = {"kind": "base", **_identity(record)}

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states ``[N, D]`` of the base; the adapters are on again afterwards."""
        with switched(self._layers, None), evaluation(self.model):
            return hidden_of(self.model, batch)


class ModelReference:
    """Another model with a head of its own, in memory beside the student.

    Args:
        model: a transformers causal language model; it is frozen here and put in eval mode.
        record: of ``load_model``.
    """

    def __init__(self, model: Any, record: dict[str, Any]) -> None:
        self.model = model.requires_grad_(False).eval()
        self.record: dict[str, Any] = {"kind": "model", **_identity(record)}

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states ``[N, D]`` of the other model."""
        with evaluation(self.model):
            return predicting_hidden(self.model, batch)


def check_reference(reference: Reference, batch: Batch) -> float:
    """The start-up self-test: two evaluations of the reference must be one distribution.

    A reference left in train mode, with dropout, is a different teacher at each step.

    Args:
        reference: any.
        batch: with at least one completion token; 256 of them, evenly spread, are compared.

    Returns:
        the largest KL of the reference with itself, nats.

    Raises:
        InputError: the KL exceeds 1e-6, or a value is not finite.
    """
    first_ND, second_ND = reference.hidden(batch), reference.hidden(batch)
    if not len(first_ND):
        raise ValueError("the batch holds no completion token to check the reference on")
    spread = torch.linspace(0, len(first_ND) - 1, min(TOKENS_CHECKED, len(first_ND))).long().unique()
    largest = 0.0
    with torch.no_grad():
        for rows in spread.to(first_ND.device).split(32):
            p_NV, q_NV = (readout(reference.model, one_ND[rows]).double() for one_ND in (first_ND, second_ND))
            kl = float(_divergence(p_NV.log_softmax(-1), q_NV.log_softmax(-1)).max())
            if not kl <= SELF_KL:  # NaN included
                raise InputError(
                    f"the reference {reference.record.get('name', '')} disagrees with itself by {kl:.3g} nats between "
                    "two evaluations (NaN: its results are not finite); it must be deterministic: no dropout, finite "
                    "weights"
                )
            largest = max(largest, kl)
    return largest


def identical_to_student(reference: Reference, student: Any, batch: Batch) -> bool:
    """Whether student and reference have the same hidden states: then distillation alone has nothing to teach.

    Args:
        reference: any.
        student: the model in training, bare of wrappers, its adapter active; left as it was.
        batch: with at least one completion token.
    """
    with evaluation(student):
        own_ND = predicting_hidden(student, batch)
    ref_ND = reference.hidden(batch)
    if own_ND.shape != ref_ND.shape:
        return False
    return relative_difference(ref_ND.to(own_ND.device), own_ND) <= IDENTICAL


def _divergence(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    """KL(p || q) as a sum of terms that are all >= 0: as a difference of entropies it would drown in rounding."""
    difference_NV = log_q_NV - log_p_NV
    return (log_p_NV.exp() * (difference_NV.expm1() - difference_NV)).sum(-1)


def _insert(model: Any, adapter: AdapterFolder, name: str) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = read_config(adapter)
    if config.modules_to_save or getattr(config, "bias", "none") != "none":
        raise InputError(
            f"the adapter {adapter.path} carries whole layers or biases of its own, which cannot share the student's "
            "base; merge it into its base and give that model's folder as the reference"
        )
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    active = [(layer, layer._active_adapter) for layer in adapter_layers(model)]
    with undisturbed_random_numbers(0), without_stale_warning():
        try:
            model.add_adapter(name, config)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(
                f"the adapter {adapter.path} does not fit the student's base: {' '.join(str(error).split())}"
            ) from error
    load_weights(model, adapter, name)
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise InputError(
            f"the adapter {adapter.path} acts on the vocabulary head, which student and reference share here; merge "
            "it into its base and give that model's folder as the reference"
        )
    known = {id(parameter) for parameter, _ in flags}
    for parameter in model.parameters():
        if id(parameter) not in known:
            parameter.requires_grad_(False)
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    for layer, before in active:
        layer._active_adapter = before


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    names = ("name", "architecture", "dtype", "revision", "files", "base")
    return {name: record[name] for name in names if record.get(name) is not None}
