"""Low-rank adapters on a causal language model: attached the same way every time, and checked before each backward.

Without an adapter the whole model is trained (full fine-tuning). On a base in 4 bit (``load_model(four_bit=True)``) the
same adapter is QLoRA. What is not in 4 bit keeps its dtype there. peft's ``prepare_model_for_kbit_training`` would
widen it to float32; but norms and logits are computed in float32 from 16-bit weights anyway, and the float32 embedding
of a model of a billion parameters and 128,256 tokens alone weighs twice its 4-bit layers.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from uncertainty.errors import InputError
from uncertainty.model import is_local

STUDENT = "default"  # peft's own name for the first adapter; its files stand at the top of a saved folder
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraSettings:
    """How an adapter is built.

    Attributes:
        rank: of the update of each layer, at least 1.
        alpha: the update is scaled by alpha / rank.
        dropout: probability of dropping an input of the adapter while training, in [0, 1).
        targets: ``all-linear`` (every linear layer but the vocabulary head), the ends of module names, or one regular
            expression of whole names.
    """

    rank: int = 32
    alpha: float = 64
    dropout: float = 0.0
    targets: str | tuple[str, ...] = ALL_LINEAR

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"the rank of an adapter is {self.rank}; it must be at least 1")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise InputError(f"alpha of an adapter is {self.alpha}; it must be greater than 0")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"the dropout of an adapter is {self.dropout}; it must be at least 0 and less than 1")
        if not self.targets:
            raise InputError(f"an adapter without target modules changes nothing; give some, or {ALL_LINEAR}")


def attach_lora(model: Any, settings: LoraSettings, *, adapter_name: str = STUDENT, seed: int = 0) -> Any:
    """Wrap a model into a PeftModel with one new trainable adapter; everything else is frozen.

    The adapter starts as the identity (its second factor is zero), in float32 whatever the base's 16-bit dtype (a
    float64 base has a float64 adapter): updates of 1e-4 are lost in bfloat16 weights.

    Args:
        model: a transformers causal language model without adapters; changed in place.
        settings: of the adapter.
        adapter_name: of the adapter inside the PeftModel.
        seed: of the first factor's random numbers. The caller's random number generators are left as they were.

    Raises:
        InputError: the model has adapters already, no layer is targeted, or the vocabulary head (or the embedding
            tied to it) is.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers.pytorch_utils import Conv1D

    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise InputError(f"{type(model).__name__} carries an adapter already; give the bare model, or merge it first")
    names = target_names(model, settings.targets)
    short_names = _shortest(model, names)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft says int and divides
        lora_dropout=settings.dropout,
        target_modules=names,
        # GPT-2 stores W^T; source_cls is what a layer in 4 bit was before, and is again where the adapter is merged.
        fan_in_fan_out=any(
            issubclass(getattr(layer, "source_cls", type(layer)), Conv1D) for layer in map(model.get_submodule, names)
        ),
    )
    with undisturbed_random_numbers(seed), without_stale_warning():
        try:
            wrapped = get_peft_model(model, config, adapter_name=adapter_name)
        except (ValueError, TypeError) as error:
            raise InputError(f"no adapter can be put on {settings.targets}: {' '.join(str(error).split())}") from error
    _make_portable(wrapped.peft_config[adapter_name], short_names)
    return wrapped


def target_names(model: Any, targets: str | tuple[str, ...]) -> list[str]:
    """The modules of ``model`` that an adapter with these targets acts on, in the model's order.

    Raises:
        InputError: there is none, or the vocabulary head (or the embedding tied to it) is among them.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    if targets == ALL_LINEAR:
        linear = [
            name
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and module is not head
        ]
        if not linear:
            raise InputError(f"{type(model).__name__} has no linear layer beside its head to put an adapter on")
        return linear
    found = {name: module for name, module in model.named_modules() if name and _matches(name, targets)}
    if not found:
        raise InputError(
            f"{type(model).__name__} has no module {targets if isinstance(targets, str) else ', '.join(targets)}; "
            f"its linear layers are called {', '.join(_ends(model))}"
        )
    for name, module in found.items():
        if module is head or getattr(module, "weight", None) is head.weight:
            raise InputError(
                f"the adapter's targets include {name}, the vocabulary head (or the embedding tied to it); the head "
                f"stays frozen here, so leave it out, or use {ALL_LINEAR}"
            )
    return list(found)


def check_student(model: Any, adapter_name: str = STUDENT) -> None:
    """Refuse to go on where the student would silently get no gradient, or the wrong one.

    To be called between the student's forward and backward: with the reference's adapter still active, every gradient
    of the student is None and nothing complains.

    Args:
        model: a PeftModel whose student is the adapter ``adapter_name``, or a model that is trained whole.
        adapter_name: of the student.

    Raises:
        InputError: another adapter is active, adapters are switched off or merged, the student is frozen, or a
            parameter that is not the student's would be trained.
    """
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError("no parameter of the model is trainable; nothing would be learnt")
    layers = adapter_layers(model)
    if not layers:
        return
    for layer in layers:
        active = list(layer.active_adapters)
        if active != [adapter_name]:
            raise InputError(
                f"adapter {', '.join(active) or '(none)'} is active where the student {adapter_name!r} should be; "
                f"the student would get no gradient: call set_adapter({adapter_name!r}) before the backward pass"
            )
        if layer.disable_adapters or layer.merged:
            state = "switched off" if layer.disable_adapters else "merged into the base"
            raise InputError(f"the adapters are {state}; the student would get no gradient: undo it before training")
    own = [name for name, _ in model.named_parameters() if f".{adapter_name}." in f"{name}." and "lora_" in name]
    if frozen := sorted(set(own) - set(trainable)):
        raise InputError(f"{len(frozen)} tensors of the student are frozen (first: {frozen[0]}); make them trainable")
    if strangers := [name for name in trainable if name not in set(own)]:
        raise InputError(
            f"{len(strangers)} tensors beside the student's adapter would be trained (first: {strangers[0]}); "
            "freeze them: the base and the reference must stay as they are"
        )


def adapter_layers(model: Any) -> list[Any]:
    """The layers of a PeftModel that carry adapters; empty for a bare model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


@contextmanager
def switched(layers: list[Any], name: str | None) -> Iterator[None]:
    """Inside, only the adapter ``name`` acts (none if it is None) in these layers of ``adapter_layers``.

    peft's public switch also freezes and thaws parameters, which a backward pass or an optimizer in the making would
    see. These two fields are what its layers' forward reads, and nothing else.

    Raises:
        InputError: an adapter is merged into the base, which is not the base any more.
    """
    before = [(layer, layer._active_adapter, layer._disable_adapters) for layer in layers]
    try:
        for layer in layers:
            if layer.merged:
                raise InputError("the student's adapter is merged into the base; unmerge it before training")
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]
        yield
    finally:
        for layer, active, disabled in before:
            layer._active_adapter, layer._disable_adapters = active, disabled


@contextmanager
def undisturbed_random_numbers(seed: int) -> Iterator[None]:
    """Inside, torch's generators start from ``seed``; on leaving they are as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def without_stale_warning() -> Iterator[None]:
    """Inside, transformers does not tell our users of a name that peft, not they, still uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _make_portable(config: Any, names: list[str]) -> None:
    """What a saved adapter says of itself: the same bytes in every run, and a base that is found from anywhere."""
    config.target_modules = names  # peft keeps a set and writes it in the order of hashes, new in every process
    base = config.base_model_name_or_path
    if base and is_local(base):
        config.base_model_name_or_path = str(Path(base).expanduser().resolve())


def _shortest(model: Any, names: list[str]) -> list[str]:
    """The last parts of the names where they mean the same modules, as people write them; else the whole names."""
    ends = tuple(sorted({name.rpartition(".")[2] for name in names}))
    same = [name for name, _ in model.named_modules() if name and _matches(name, ends)] == names
    return list(ends) if same else names


def _matches(name: str, targets: str | tuple[str, ...]) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _ends(model: Any) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in target_names(model, ALL_LINEAR)})
