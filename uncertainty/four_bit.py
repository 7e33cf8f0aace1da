"""Weights in 4 bit, for adapters on models that would not fit otherwise (QLoRA).

bitsandbytes quantises on a GPU. None of this was run on one: what stands here follows its documentation.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from uncertainty.errors import InputError


def four_bit_options(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Options of ``from_pretrained`` for normal-float 4 with double quantisation (Dettmers et al. 2023, QLoRA).

    Args:
        dtype: that the products are computed in.
        device: a GPU.

    Raises:
        InputError: there is no GPU, or bitsandbytes is not installed.
    """
    if device.type != "cuda":
        raise InputError(f"4-bit weights need a GPU and the device is {device}; load in bfloat16 instead")
    if find_spec("bitsandbytes") is None:
        raise InputError("4-bit weights need bitsandbytes, which is not installed; pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": quantisation, "device_map": {"": device}}
