"""The model that every side of a benchmark runs: a Llama of a case's shape with random weights."""

from __future__ import annotations

from typing import Any, Protocol


class Shape(Protocol):
    """What a case says of its model."""

    @property
    def vocabulary(self) -> int:
        """Tokens."""

    @property
    def width(self) -> int:
        """Of the hidden states."""

    @property
    def inner(self) -> int:
        """Width inside the MLP."""

    @property
    def layers(self) -> int:
        """Decoder layers."""

    @property
    def heads(self) -> int:
        """Attention heads."""

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""

    @property
    def dtype(self) -> str:
        """Of the weights."""


def llama(shape: Shape, device: str, **more: Any) -> Any:
    """A Llama in eval mode, the same weights in every process; ``more`` goes to its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        dtype=shape.dtype,
        **more,
    )
    with torch.device(device):
        return LlamaForCausalLM(config).to(getattr(torch, shape.dtype)).eval()
