"""Attention with keyed dropout on its weights, as a function that transformers' attention modules call.

Dimension key: R rows (one pass of one example each), H heads, T positions, D hidden size.

It stands in for the attention of a model while keyed masks are drawn, and is exact without them. Worked through in
blocks of rows and queries, so that memory stays bounded for long texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from uncertainty.errors import InputError
from uncertainty.families.sites import Site

ATTENTION_NAME = "uncertainty_keyed"
# One block of attention weights, (elements, queries): small enough for a core's cache, large enough to fill a GPU.
BLOCKS = {"cpu": (1 << 18, 64), "cuda": (1 << 27, 256)}


class AttentionMasks(Protocol):
    """Who draws the masks of an attention site (``dropout.DropoutMembers``)."""

    fired: dict[str, int]

    @property
    def drawing(self) -> bool:
        """Whether forward passes are stochastic now."""

    @property
    def kept_share(self) -> float:
        """The share of the weights that masks keep on average: 1 - rate."""

    def keep_attention(self, site: Site, heads: int, rows: slice, block: range) -> Tensor:
        """Which attention weights of some rows and a block of queries survive; keys up to the end of the block."""


# Attention modules in use now, by id: the registered attention function finds its members here.
_ACTIVE: dict[int, tuple[AttentionMasks, Site]] = {}


@contextmanager
def keyed_attention_sites(model: Any, members: AttentionMasks, sites: Sequence[Site]) -> Iterator[None]:
    """Inside, these attention modules of ``model`` ask ``members`` for their masks; afterwards they are as before."""
    AttentionInterface.register(ATTENTION_NAME, keyed_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, keyed_mask)
    with _attention_implementation(model), _registered({id(site.module): (members, site) for site in sites}):
        yield


def keyed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention with keyed dropout on its weights, in the form transformers calls an attention function.

    Softmax in float32.

    Raises:
        InputError: the module is not one of the planned sites.
    """
    if id(module) not in _ACTIVE:
        raise InputError(
            f"an attention module of class {type(module).__name__} has no dropout rate, so its sites were not planned; "
            "use --rng kernel"
        )
    members, site = _ACTIVE[id(module)]
    rows, heads, length, _ = query.shape
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    limit, span = BLOCKS.get(query.device.type, BLOCKS["cuda"])
    rows_at_once = max(1, limit // (heads * min(span, length) * length))
    out = query.new_empty(rows, length, heads, value.shape[-1])
    if members.drawing:
        members.fired[site.name] += 1
    for r in range(0, rows, rows_at_once):
        row = slice(r, min(r + rows_at_once, rows))
        mask_row = None if attention_mask is None else attention_mask[row if len(attention_mask) > 1 else slice(None)]
        for q in range(0, length, span):
            block = range(q, min(q + span, length))
            seen = block.stop  # causal: a query looks at no key after it
            weights = _attention_weights(query[row, :, q:seen], key[row, :, :seen], scaling, softcap, mask_row, block)
            if members.drawing:
                weights *= members.keep_attention(site, heads, row, block)
            out[row, q:seen] = _weighted(weights.to(query.dtype), value[row, :, :seen]).transpose(1, 2)
    if members.drawing:
        out /= members.kept_share
    return out, None


def _attention_weights(
    query: Tensor, key: Tensor, scaling: float, softcap: float | None, mask: Tensor | None, block: range
) -> Tensor:
    rows, heads, length, width = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, width)  # the heads that share a key head, side by side
    scores = torch.matmul(grouped, key.transpose(2, 3)).view(rows, heads, length, -1).mul_(scaling)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    if mask is not None:
        scores += mask[:, :, block.start : block.stop, : block.stop]
    return torch.softmax(scores, dim=-1, dtype=torch.float32)


def _weighted(weights: Tensor, value: Tensor) -> Tensor:
    rows, heads, length, keys = weights.shape
    grouped = weights.view(rows, value.shape[1], -1, keys)
    return torch.matmul(grouped, value).view(rows, heads, length, -1)


def keyed_mask(*, batch_size: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    """The additive mask of eager attention; one row for all where nothing is padded."""
    batch_size = batch_size if attention_mask is not None else 1
    return eager_mask(batch_size=batch_size, attention_mask=attention_mask, **kwargs)


@contextmanager
def _attention_implementation(model: Any) -> Iterator[None]:
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        model.set_attn_implementation(ATTENTION_NAME)
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]


@contextmanager
def _registered(entries: dict[int, tuple[AttentionMasks, Site]]) -> Iterator[None]:
    if _ACTIVE.keys() & entries.keys():
        raise RuntimeError("this model is inside another McDropout context already; leave that one first")
    _ACTIVE.update(entries)
    try:
        yield
    finally:
        for key in entries:
            del _ACTIVE[key]
