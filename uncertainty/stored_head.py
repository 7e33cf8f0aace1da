"""A vocabulary head in a file of its own, and something that reads hidden states with nothing else of its model.

Dimension key: V vocabulary, D hidden size.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from uncertainty.errors import InputError
from uncertainty.head import Head
from uncertainty.run_info import canonical_json, one_line


def head_facts(head: Head) -> dict[str, Any]:
    """What identifies a head, as plain data: its checksum, its post-processing and V."""
    return {"sha256": head_sha256(head), "steps": dict(head.steps), "rows": len(head.weight_VD)}


def head_sha256(head: Head) -> str:
    """SHA-256 over post-processing, weight and bias: equal heads turn equal hidden states into equal logits."""
    digest = hashlib.sha256(canonical_json(dict(head.steps)))
    for tensor in (head.weight_VD, head.bias_V):
        if tensor is not None:
            digest.update(f"{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def head_content(head: Head) -> bytes:
    """The file's content: weight ``[V, D]`` and bias ``[V]`` as safetensors."""
    from safetensors.torch import save

    tensors = {"weight": head.weight_VD} | ({} if head.bias_V is None else {"bias": head.bias_V})
    return bytes(save({name: one.detach().cpu().contiguous() for name, one in tensors.items()}))


def load_head(path: Path, facts: dict[str, Any], device: torch.device) -> Any:
    """Read a head back: what ``head_of`` and ``readout`` take for a model, though it has nothing but a head.

    Args:
        path: of the file.
        facts: of ``head_facts`` when it was written.
        device: where to put it.

    Raises:
        InputError: the file is missing, or not the one that was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    mend = "delete it and run the build again"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is damaged ({one_line(error)}); {mend}") from error
    if head_sha256(Head(tensors["weight"], tensors.get("bias"), facts["steps"])) != facts["sha256"]:
        raise InputError(f"{path} is damaged (a checksum differs); {mend}")
    bias = tensors.get("bias")
    module = SimpleNamespace(weight=tensors["weight"].to(device), bias=None if bias is None else bias.to(device))
    text = SimpleNamespace(**facts["steps"])
    config = SimpleNamespace(get_text_config=lambda: text)
    return SimpleNamespace(get_output_embeddings=lambda: module, config=config, dtype=module.weight.dtype)
