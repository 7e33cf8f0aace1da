"""A causal language model as this project sees it: final hidden states, read-out to fp32 logits, what is refused.

Dimension key: B sequences, T positions, N completion tokens, K members, V vocabulary, D hidden size.

``readout(model, final_hidden(model, ids, mask))`` equals the model's own logits. The arithmetic of the head, soft caps
and logit scales have one home, ``head.py``, and its logits are float32 whatever the model's dtype: logits rounded to
bfloat16 inflate small epistemic uncertainties by up to several times.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uncertainty.errors import InputError
from uncertainty.head import head_of, logits_of

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Largest relative difference (Frobenius norms) of two ways to compute one thing: the rounding of each dtype.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-9}
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", ".py")


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with its tokenizer and the facts that identify both.

    Attributes:
        model: a transformers causal language model, in eval mode, on its device.
        tokenizer: its tokenizer.
        record: what was loaded (name, architecture, dtype, device, attention implementation, revision or files).
    """

    model: Any
    tokenizer: Any
    record: dict[str, Any]


def is_local(name: str | Path) -> bool:
    """Whether ``name`` is a folder on this machine rather than a hub id."""
    return Path(name).expanduser().is_dir()


def adopt_model(model: Any, tokenizer: Any, *, name: str = "", revision: str | None = None) -> LoadedModel:
    """Take a model that is loaded already, after the same checks as ``load_model``.

    Raises:
        InputError: a tensor is not finite, the vocabularies do not fit, or ``readout`` does not fit the model.
    """
    check_finite(model)
    check_vocabulary(model, tokenizer)
    check_readout(model)
    return LoadedModel(model, tokenizer, describe(model, tokenizer, name=name, revision=revision))


def resolve_device(device: str) -> torch.device:
    """The torch device that ``device`` names; ``auto`` takes a GPU where there is one.

    Raises:
        InputError: torch does not know the device or this machine lacks it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device} cannot be used here ({reason}); try --device cpu") from None
    if target.type == "meta":
        raise InputError("--device meta holds no numbers; try --device cpu")
    return target


def resolve_dtype(dtype: str) -> torch.dtype:
    """The torch dtype that ``dtype`` names.

    Raises:
        InputError: the name is not in ``DTYPES``.
    """
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype} is not known; choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def final_hidden(
    model: Any,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor | None = None,
    position_ids_BT: Tensor | None = None,
) -> Tensor:
    """Hidden states after the final norm, without the vocabulary head.

    Args:
        model: a transformers causal language model.
        input_ids_BT: token ids.
        attention_mask_BT: 1 on tokens, 0 on padding (either side); None where nothing is padded, which lets the
            attention run without a padding mask.
        position_ids_BT: for packed sequences, without an attention mask: restarts at 0 in each example, which is where
            transformers cuts the attention.

    Returns:
        ``[B, T, D]`` in the model's dtype. Positions are counted over real tokens, so the side of the padding does
        not matter.
    """
    inputs: dict[str, Any] = {"input_ids": input_ids_BT, "use_cache": False}
    if position_ids_BT is not None:
        if attention_mask_BT is not None:  # transformers would take the mask and let attention cross examples
            raise ValueError("packed sequences (position_ids_BT) take no attention_mask_BT")
        inputs["position_ids"] = position_ids_BT
    if attention_mask_BT is not None:
        inputs["attention_mask"] = attention_mask_BT
        if not bool(attention_mask_BT[:, 0].all()):  # left padding: say where counting starts
            inputs["position_ids"] = (attention_mask_BT.cumsum(-1) - 1).clamp(min=0)
    return backbone(model)(**inputs).last_hidden_state


def readout(model: Any, hidden: Tensor, out: Tensor | None = None) -> Tensor:
    """Float32 logits of final hidden states, equal to the model's own logits up to the rounding of its dtype.

    Args:
        model: the model that made ``hidden``.
        hidden: ``[..., D]``, after the final norm.
        out: memory to write the logits to, of their shape and dtype; reusing it saves an allocation as large as they.

    Returns:
        ``[..., V]`` float32 (float64 for a float64 model), soft-capped and scaled as the model does it.
    """
    head = head_of(model)
    shape = (*hidden.shape[:-1], len(head.weight_VD))
    flat_out = None if out is None else out.view(-1, shape[-1])
    return logits_of(head, hidden.reshape(-1, hidden.shape[-1]), flat_out).view(shape)


def backbone(model: Any) -> nn.Module:
    """The model without its vocabulary head (the decoder whose output is the final norm's)."""
    return model.get_decoder()


def hidden_size(model: Any) -> int:
    """D, the width of the final hidden states."""
    return int(model.get_output_embeddings().weight.shape[1])


def vocabulary_size(model: Any) -> int:
    """V, the width of the logits (may exceed the tokenizer's vocabulary: padded rows)."""
    return int(model.get_output_embeddings().weight.shape[0])


def context_length(config: Any) -> int | None:
    """The longest sequence the model was made for, in tokens; None where its configuration does not say."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def check_finite(model: Any) -> None:
    """Refuse a model that holds a weight which is not finite.

    Raises:
        InputError: names the first such tensor.
    """
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.detach()).all()):
            raise InputError(f"the model's tensor {name} holds NaN or infinity; its weights are damaged")


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for.

    Raises:
        InputError: the tokenizer is wider than the embedding.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens but the model embeds only {rows}; "
            "they do not belong together, or the embedding must be resized first"
        )


@torch.no_grad()
def check_readout(model: Any) -> None:
    """Refuse a model whose own logits differ from ``readout(final_hidden(...))``.

    Raises:
        InputError: says by how much; the model post-processes its logits in a way that we do not know.
    """
    was_training = {module: module.training for module in model.modules()}
    try:
        for module in was_training:
            module.training = False
        width = min(32, vocabulary_size(model), model.get_input_embeddings().weight.shape[0])
        device = model.get_input_embeddings().weight.device
        ids = torch.arange(width, device=device)[None, : min(8, width)]
        own = model(input_ids=ids, use_cache=False).logits.float()
        ours = readout(model, final_hidden(model, ids)).float()
    finally:
        for module, flag in was_training.items():
            module.training = flag
    if not bool(torch.isfinite(own).all()):
        raise InputError(not_finite(model))
    difference = relative_difference(ours, own)
    if not difference <= TOLERANCE[model.dtype]:
        raise InputError(
            f"{type(model).__name__} turns hidden states into logits in a way that is not known here (relative "
            f"difference {difference:.3g}); this architecture cannot be scored yet"
        )


def relative_difference(ours: Tensor, own: Tensor) -> float:
    """Frobenius norm of the difference over that of ``own``; NaN where either is not finite."""
    return float((ours.double() - own.double()).norm() / own.double().norm().clamp(min=1e-30))


def not_finite(model: Any) -> str:
    """What to say of a model whose weights are finite and whose results are not."""
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{type(model).__name__} gives results that are not finite in {dtype}; try --dtype bfloat16 or float32"


def describe(model: Any, tokenizer: Any, *, name: str = "", revision: str | None = None) -> dict[str, Any]:
    """What identifies a model: for a folder the SHA-256 of every file, for a hub id the commit."""
    config = model.config
    record: dict[str, Any] = {
        "name": name or getattr(config, "name_or_path", "") or type(model).__name__,
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(next(model.parameters()).device),
        "attention": getattr(config, "_attn_implementation", None),
        "vocabulary": {"logits": vocabulary_size(model), "tokenizer": len(tokenizer)},
        "revision": revision or getattr(config, "_commit_hash", None),
    }
    if name and is_local(name):
        record["files"] = file_hashes(Path(name))
    return record


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every weight, configuration and tokenizer file of a model folder, by name."""
    paths = sorted(p for p in folder.expanduser().iterdir() if p.suffix in WEIGHT_SUFFIXES and p.is_file())
    return {path.name: _sha256(path) for path in paths}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
