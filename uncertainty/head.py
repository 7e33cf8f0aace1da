"""The vocabulary head: from final hidden states to float32 logits, the slope of that step, and the way back.

Dimension key: N tokens, V vocabulary, D hidden size.

Whatever a model does to its logits after the projection (soft cap, scales) stands in ``POST_PROCESSING`` and its
derivative beside it. All arithmetic is in float32 (float64 for a float64 model) whatever the dtype of the weights, and
nothing here is differentiated by autograd: the caller forms the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uncertainty.errors import InputError

# Bytes of 16-bit weights that a CPU turns into float32 at a time; the whole of a large head would be gigabytes.
WIDENED_BYTES = 2**25


@dataclass(frozen=True)
class Head:
    """What turns final hidden states into logits.

    Attributes:
        weight_VD: the projection, in the model's dtype.
        bias_V: added to it, or None.
        steps: the model's post-processing, names of ``POST_PROCESSING`` with their values, in the order of that table.
    """

    weight_VD: Tensor
    bias_V: Tensor | None
    steps: Mapping[str, float]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its logits: float64 for float64 weights, float32 for all others."""
        return torch.float64 if self.weight_VD.dtype == torch.float64 else torch.float32


def head_of(model: Any, vocabulary: int | None = None) -> Head:
    """The vocabulary head of a transformers causal language model (a PEFT model around one included).

    Args:
        model: the model.
        vocabulary: number of logits wanted, the tokenizer's tokens: rows beyond it are padding that no text can hold.
            None takes them all.

    Raises:
        InputError: an adapter sits on the head, its weights are quantised, or it has fewer rows than asked for.
    """
    module = model.get_output_embeddings()
    if getattr(module, "base_layer", None) is not None:
        raise InputError("an adapter sits on the vocabulary head; leave lm_head out of the adapter's target modules")
    weight_VD, bias_V = module.weight, getattr(module, "bias", None)
    if not weight_VD.is_floating_point():
        raise InputError(f"the vocabulary head is stored as {weight_VD.dtype}; load it without quantising lm_head")
    if vocabulary is not None and vocabulary != len(weight_VD):
        if vocabulary > len(weight_VD):
            raise InputError(f"{vocabulary} tokens asked of a vocabulary head that has {len(weight_VD)}")
        weight_VD, bias_V = weight_VD[:vocabulary], None if bias_V is None else bias_V[:vocabulary]
    settings = {name: getattr(model.config.get_text_config(), name, None) for name in POST_PROCESSING}
    return Head(weight_VD, bias_V, {name: float(value) for name, value in settings.items() if value is not None})


def logits_of(head: Head, hidden_ND: Tensor, out: Tensor | None = None) -> Tensor:
    """Logits ``[N, V]`` of ``hidden_ND`` in the head's dtype, written to ``out`` where it is given."""
    if out is None:
        out = hidden_ND.new_empty((len(hidden_ND), len(head.weight_VD)), dtype=head.dtype)
    _project(hidden_ND, head.weight_VD, out)
    if head.bias_V is not None:
        out += head.bias_V.to(out.dtype)
    for name, value in head.steps.items():
        POST_PROCESSING[name](out, value)
    return out


def slope_of(head: Head, logits_NV: Tensor) -> tuple[float, Tensor | None]:
    """Derivative of the logits with respect to what the projection and its bias gave.

    Args:
        head: the head that made them.
        logits_NV: its logits, only read.

    Returns:
        A constant factor, and a factor ``[N, V]`` (None where it is 1 everywhere); the derivative is their product.
    """
    constant, bend_NV = 1.0, None
    for name, value in head.steps.items():
        slope = SLOPES[name](logits_NV, value)
        if isinstance(slope, Tensor):
            bend_NV = slope
        else:
            constant *= slope
    return constant, bend_NV


def project_back(gradient_NV: Tensor, weight_VD: Tensor) -> Tensor:
    """``gradient_NV @ weight_VD`` as ``[N, D]``, in the dtype of the gradient.

    On a GPU a gradient against bfloat16 weights is rounded to bfloat16, the sums are float32: whatever is subtracted
    must have been subtracted before.
    """
    if weight_VD.dtype == gradient_NV.dtype:
        return torch.mm(gradient_NV, weight_VD)
    if gradient_NV.is_cuda and weight_VD.dtype == torch.bfloat16:
        return torch.mm(gradient_NV.bfloat16(), weight_VD, out_dtype=torch.float32)
    hidden_ND = gradient_NV.new_zeros((len(gradient_NV), weight_VD.shape[1]))
    for rows in _widened(weight_VD):
        hidden_ND.addmm_(gradient_NV[:, rows], weight_VD[rows].to(gradient_NV.dtype))
    return hidden_ND


def _project(hidden_ND: Tensor, weight_VD: Tensor, out: Tensor) -> None:
    if weight_VD.dtype == out.dtype:
        torch.mm(hidden_ND.to(out.dtype), weight_VD.T, out=out)
    elif hidden_ND.is_cuda and hidden_ND.dtype == weight_VD.dtype:
        # 16-bit factors, float32 accumulation and float32 output, in one kernel
        torch.mm(hidden_ND, weight_VD.T, out_dtype=torch.float32, out=out)
    else:
        wide_ND = hidden_ND.to(out.dtype)
        for rows in _widened(weight_VD):
            torch.mm(wide_ND, weight_VD[rows].to(out.dtype).T, out=out[:, rows])


def _widened(weight_VD: Tensor) -> list[slice]:
    """Slices of a 16-bit head's rows that are turned into float32 one after the other."""
    height = max(1, WIDENED_BYTES // (weight_VD.element_size() * max(1, weight_VD.shape[1])))
    return [slice(start, min(start + height, len(weight_VD))) for start in range(0, len(weight_VD), height)]


def _soft_cap(logits: Tensor, cap: float) -> Tensor:
    return logits.div_(cap).tanh_().mul_(cap)


# Each attribute a config (or model) may carry, and what it does to the logits. In place: logits_of owns them.
POST_PROCESSING: dict[str, Callable[[Tensor, float], Tensor]] = {
    "logit_scale": lambda logits, value: logits.mul_(value),  # Cohere
    "logits_scaling": lambda logits, value: logits.div_(value),  # Granite
    "final_logit_softcapping": _soft_cap,  # Gemma 2 and later
}

# The derivative of each step, from the final logits. That suffices because only the last step bends.
SLOPES: dict[str, Callable[[Tensor, float], Tensor | float]] = {
    "logit_scale": lambda logits, value: value,
    "logits_scaling": lambda logits, value: 1.0 / value,
    "final_logit_softcapping": lambda logits, cap: 1.0 - (logits / cap).square_(),
}
