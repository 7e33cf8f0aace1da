"""Weights in 4 bit, for adapters on models that would not fit otherwise (QLoRA, Dettmers et al. 2023).

bitsandbytes holds the linear layers in 4 bit; embedding, norms and vocabulary head stay in the dtype of the products.
Its CPU kernels were run here, its GPU kernels were not: what concerns them follows its documentation.
"""

from __future__ import annotations

from typing import Any

import torch

from uncertainty.errors import InputError

METHOD = "nf4, double quantisation"


def check_four_bit(device: torch.device) -> None:
    """Refuse a device on which weights cannot be held in 4 bit, by quantising a few there.

    Raises:
        InputError: bitsandbytes is not installed, is older than transformers asks for, or cannot quantise there.
    """
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise InputError(
            "4-bit weights (--tuning qlora) need a recent bitsandbytes, which is not installed; pip install "
            "bitsandbytes, or use --tuning lora"
        )
    package = _bitsandbytes()
    try:
        package.functional.quantize_4bit(torch.ones(64, 64, device=device), compress_statistics=True, quant_type="nf4")
    except RuntimeError as error:  # NotImplementedError, of a device without the kernel, is one of them
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise InputError(
            f"bitsandbytes {package.__version__} has no 4-bit weights on the device {device} ({reason}); "
            "use --tuning lora, or --device cpu"
        ) from error


def four_bit_options(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Options of ``from_pretrained`` for normal-float 4 with double quantisation.

    Args:
        dtype: that the products are computed in.
        device: where the weights go.

    Raises:
        InputError: as ``check_four_bit``.
    """
    check_four_bit(device)
    from transformers import BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": quantisation, "device_map": {"": device}}


def keep_differentiable(model: Any) -> None:
    """Have the 4-bit layers stay in the layout that gradients pass through, in evaluations too.

    On a CPU with bfloat16 instructions (AVX-512 BF16) bitsandbytes 0.50 packs a layer's weights anew the first time it
    runs in eval mode without a gradient, for a kernel that rounds to bfloat16, takes only widths that are multiples of
    32, and has no backward pass: from then on every gradient silently ends at that layer.

    Args:
        model: loaded with ``four_bit_options``, in eval mode; changed in place.

    Raises:
        InputError: no layer is in 4 bit, or a gradient does not come through one after it has run without.
    """
    layers = four_bit_layers(model)
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no linear layer to hold in 4 bit; load it without (--tuning lora)"
        )
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    if not _passes_gradient(layers[0]):
        raise InputError(
            f"bitsandbytes {_bitsandbytes().__version__} passes no gradient through its 4-bit weights on "
            f"{layers[0].weight.device}; use --tuning lora"
        )


def four_bit_layers(model: Any) -> list[Any]:
    """The layers whose weights are in 4 bit, in the model's order."""
    linear = _bitsandbytes().nn.Linear4bit
    return [module for module in model.modules() if isinstance(module, linear)]


def four_bit_record(model: Any) -> dict[str, Any]:
    """What a record says of a model in 4 bit.

    Returns:
        ``quantisation``; ``parameters`` as the model has them, where torch counts bytes that hold two each;
        ``parameters_in_4_bit`` of them; ``weight_bytes``, scales of the quantised blocks included.
    """
    states = [layer.weight.quant_state for layer in four_bit_layers(model)]
    quantised = sum(state.shape.numel() for state in states)
    rest = sum(p.numel() for p in model.parameters() if getattr(p, "quant_state", None) is None)
    scales = [t for state in states for t in (state.absmax, state.offset, state.code, state.state2.absmax)]
    return {
        "quantisation": METHOD,
        "parameters": quantised + rest,
        "parameters_in_4_bit": quantised,
        "weight_bytes": sum(tensor.nbytes for tensor in [*model.parameters(), *scales]),
    }


def _passes_gradient(layer: Any) -> bool:
    """Whether a gradient other than zero comes through a layer that has run without one before."""
    inputs = torch.ones(1, layer.in_features, dtype=layer.compute_dtype, device=layer.weight.device)
    with torch.no_grad():
        layer(inputs)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(layer(inputs.requires_grad_()).sum(), inputs, allow_unused=True)
    return gradient is not None and bool(gradient.any())


def _bitsandbytes() -> Any:
    import bitsandbytes

    return bitsandbytes
