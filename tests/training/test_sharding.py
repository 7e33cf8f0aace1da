"""Which launches are refused before anything is read, and what FSDP is told about precision."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy

from uncertainty.errors import InputError
from uncertainty.training.sharding import (
    asks_for_fsdp,
    check_launch,
    check_reached,
    is_sharded,
    keep_precision,
    own_part,
)

# What `accelerate launch --use_fsdp --fsdp_version 2 --fsdp_cpu_ram_efficient_loading false` sets.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}


@pytest.mark.parametrize("environment", [{}, {"ACCELERATE_USE_FSDP": "false", "FSDP_VERSION": "1"}, FSDP])
def test_plain_processes_and_fsdp_2_are_taken(environment):
    check_launch("full", 0, environment)
    assert asks_for_fsdp(environment) == (environment is FSDP)


def test_without_fsdp_a_probe_and_4_bit_are_no_business_of_the_launch():
    check_launch("qlora", 8, {"FSDP_VERSION": "1"})


@pytest.mark.parametrize(
    ("changes", "tuning", "probe", "said"),
    [
        ({"FSDP_VERSION": "1"}, "lora", 0, "FSDP 1 is not supported.*--fsdp_version 2"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "lora", 0, "--fsdp_cpu_ram_efficient_loading false"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "lora", 0, "drop --fsdp_offload_params"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "lora", 0, "give unc-train --gradient-checkpointing"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "lora", 0, "DeepSpeed is not supported"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "lora", 0, "Megatron-LM is not supported"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "lora", 0, "--use_parallelism_config is not supported"),
        ({}, "qlora", 0, "--tuning qlora is not supported under FSDP"),
        ({}, "lora", 4, "--probe scores the whole model"),
    ],
)
def test_a_launch_that_would_not_train_the_same_is_refused_in_one_line(changes, tuning, probe, said):
    with pytest.raises(InputError, match=said) as refused:
        check_launch(tuning, probe, FSDP | changes)
    assert "\n" not in str(refused.value)


def test_accelerates_own_default_is_version_1_and_is_refused():
    """Its launcher defaults to ``--fsdp_version 1``, and so does a plugin without the variable."""
    with pytest.raises(InputError, match="FSDP 1 is not supported"):
        check_launch("lora", 0, {"ACCELERATE_USE_FSDP": "true"})


def test_fsdp_that_accelerate_passes_over_is_refused():
    plain = SimpleNamespace(distributed_type=DistributedType.MULTI_CPU, device=torch.device("cpu"))
    check_reached(plain, {})
    with pytest.raises(InputError, match=r"would not be used on cpu \(MULTI_CPU\).*launch without --use_fsdp"):
        check_reached(plain, FSDP)
    check_reached(SimpleNamespace(distributed_type=DistributedType.FSDP), FSDP)


def test_modules_give_what_they_computed_and_gradients_are_added_up_in_32_bit():
    plugin = SimpleNamespace(
        mixed_precision_policy=MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16, torch.bfloat16)
    )
    keep_precision(plugin)
    assert plugin.mixed_precision_policy == MixedPrecisionPolicy(torch.bfloat16, torch.float32, None)
    exact = SimpleNamespace(mixed_precision_policy=None)
    keep_precision(exact)
    assert exact.mixed_precision_policy is None


def test_a_whole_model_is_not_sharded_and_its_weights_are_their_own_parts():
    layer = torch.nn.Linear(2, 2)
    assert not is_sharded(layer)
    assert own_part(layer.weight) is layer.weight
