"""FSDP: which of ``accelerate launch``'s ways to split a model over processes are supported, and what they need.

Only FSDP2 (``fully_shard``) is: every process keeps a part of each weight, its gradient and its optimizer state, and
gathers a layer whole while that layer computes. Plain data parallelism needs nothing of this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import DistributedType
from torch import Tensor

from uncertainty.errors import InputError

# What `accelerate launch` sets in the environment of each process -> how its option is called.
UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "--use_parallelism_config",
}
LAUNCH = (
    "accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP "
    "--fsdp_cpu_ram_efficient_loading false"
)


def check_launch(tuning: str, probe: int, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse what would not train, or not the same, the way that the processes were launched.

    Args:
        tuning: of the run.
        probe: examples of its probe, 0 for none.
        environment: of the process; ``accelerate launch`` says there what it was asked for.

    Raises:
        InputError: a way to split the model that is not supported here.
    """
    for name, what in UNSUPPORTED.items():
        if _is_on(environment, name):
            raise InputError(f"{what} is not supported; launch plain data parallelism, or FSDP: {LAUNCH}")
    if not asks_for_fsdp(environment):
        return
    if environment.get("FSDP_VERSION", "1") != "2":
        raise InputError(f"FSDP 1 is not supported; use version 2: {LAUNCH}")
    if _is_on(environment, "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise InputError(
            "FSDP with cpu_ram_efficient_loading gives all processes but one an empty model, which cannot be proved "
            "before training; launch with --fsdp_cpu_ram_efficient_loading false"
        )
    if _is_on(environment, "FSDP_OFFLOAD_PARAMS"):
        raise InputError("FSDP with its weights offloaded to the CPU is not supported; drop --fsdp_offload_params")
    if _is_on(environment, "FSDP_ACTIVATION_CHECKPOINTING"):
        raise InputError(
            "FSDP's own activation checkpointing renames the layers of an adapter; drop "
            "--fsdp_activation_checkpointing and give unc-train --gradient-checkpointing"
        )
    if tuning == "qlora":
        raise InputError("--tuning qlora is not supported under FSDP, which would not split 4-bit weights; use lora")
    if probe:
        raise InputError(
            "--probe scores the whole model in one process, which under FSDP has a part of it; leave it out, and score "
            "the result with unc-score"
        )


def asks_for_fsdp(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the processes were launched with FSDP."""
    return _is_on(environment, "ACCELERATE_USE_FSDP")


def check_reached(accelerator: Any, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse FSDP where accelerate would pass over it without a word: on a CPU, or in a process that it did not start.

    Raises:
        InputError: FSDP was asked for, and the model would stay whole.
    """
    if asks_for_fsdp(environment) and accelerator.distributed_type != DistributedType.FSDP:
        raise InputError(
            f"FSDP was asked for and would not be used on {accelerator.device} ({accelerator.distributed_type.value}); "
            "it needs GPUs: launch without --use_fsdp"
        )


def is_sharded(model: Any) -> bool:
    """Whether FSDP2 has dealt out the model's weights to the processes."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def keep_precision(plugin: Any) -> None:
    """Let FSDP compute in 16 bit as asked, and neither round what modules give nor add up gradients in 16 bit.

    accelerate's own policy rounds the losses of the tokens, by which they are ranked, to bfloat16.

    Args:
        plugin: ``fsdp_plugin`` of an accelerator whose model is not prepared yet; changed in place.
    """
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )


def gathered(model: Any, *, trained_alone: bool) -> dict[str, Any]:
    """The weights of a sharded model put together on the CPU of the first process, empty elsewhere; all must call it.

    A weight that two modules share (a head tied to the embedding) is there once, as in a model that is whole.

    Args:
        model: sharded.
        trained_alone: leave out those that are frozen.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_alone)
    weights = get_model_state_dict(model, options=options)
    every, distinct = (dict(model.named_parameters(remove_duplicate=flag)) for flag in (False, True))
    return {name: weight for name, weight in weights.items() if name not in every or name in distinct}


def own_part(weight: Tensor) -> Tensor:
    """What this process holds of a weight: its shard, or all of it."""
    if not torch.distributed.is_available():
        return weight
    from torch.distributed.tensor import DTensor

    return weight.to_local() if isinstance(weight, DTensor) else weight


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "false").lower() in ("true", "1", "yes", "on")
