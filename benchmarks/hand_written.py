"""What a careful user writes without this project: Monte Carlo dropout by hand, with transformers and torch only.

Two loops over padded batches, ``passes`` forward passes each, dropout on in the attention modules (Llama and its kin
have no ``nn.Dropout`` to switch on), float32 statistics, scored positions picked before the softmax. Both return the
same four numbers per scored token; they differ in what they keep:

- ``stack``: the log-probabilities of all passes, ``[K, N, V]``, then the formulas;
- ``running_sums``: the sum of the probabilities and the sum of the entropies.

Both take epistemic uncertainty as the difference of two entropies, as such loops do.

Dimensions: B sequences, T positions, N scored tokens of a batch, K passes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

Scores = dict[str, np.ndarray]
BatchLoop = Callable[[Callable[[], Tensor], int], tuple[Tensor, Tensor]]


def stack(
    model: Any,
    input_ids: Sequence[Sequence[int]],
    *,
    batch_size: int = 1,
    passes: int = 100,
    rate: float = 0.1,
    scored: Sequence[Sequence[bool]] | None = None,
) -> Scores:
    """Keep the log-probabilities of every pass, then apply the formulas.

    Args:
        model: a causal language model in eval mode whose attention modules have an ``attention_dropout``.
        input_ids: token ids of each example.
        batch_size: examples per forward, padded on the right to the longest of them, in the given order.
        passes: K.
        rate: dropout probability.
        scored: which tokens of each example to score; default all but the first, which nothing predicts.

    Returns:
        ``loss`` (dropout off), ``total``, ``aleatoric`` and ``epistemic``: float64 arrays in nats, one value per scored
        token, examples one after the other.
    """
    return _loop(_stack, model, input_ids, batch_size, passes, rate, scored)


def running_sums(
    model: Any,
    input_ids: Sequence[Sequence[int]],
    *,
    batch_size: int = 1,
    passes: int = 100,
    rate: float = 0.1,
    scored: Sequence[Sequence[bool]] | None = None,
) -> Scores:
    """Add up probabilities and entropies pass by pass. Arguments and result as of ``stack``."""
    return _loop(_running_sums, model, input_ids, batch_size, passes, rate, scored)


def _stack(log_probs: Callable[[], Tensor], passes: int) -> tuple[Tensor, Tensor]:
    log_probs_KNV = torch.stack([log_probs() for _ in range(passes)])
    probs_KNV = log_probs_KNV.exp()
    aleatoric_N = -(probs_KNV * log_probs_KNV).sum(-1).mean(0)
    return _entropy(probs_KNV.mean(0)), aleatoric_N


def _running_sums(log_probs: Callable[[], Tensor], passes: int) -> tuple[Tensor, Tensor]:
    for k in range(passes):
        log_probs_NV = log_probs()
        probs_NV = log_probs_NV.exp()
        entropy_N = -(probs_NV * log_probs_NV).sum(-1)
        if k == 0:
            sum_probs_NV, sum_entropy_N = probs_NV, entropy_N
        else:
            sum_probs_NV += probs_NV
            sum_entropy_N += entropy_N
    return _entropy(sum_probs_NV / passes), sum_entropy_N / passes


@torch.inference_mode()
def _loop(
    statistics: BatchLoop,
    model: Any,
    input_ids: Sequence[Sequence[int]],
    batch_size: int,
    passes: int,
    rate: float,
    scored: Sequence[Sequence[bool]] | None,
) -> Scores:
    columns: dict[str, list[Tensor]] = {"loss": [], "total": [], "aleatoric": [], "epistemic": []}
    if scored is None:
        scored = [[position > 0 for position in range(len(ids))] for ids in input_ids]
    for start in range(0, len(input_ids), batch_size):
        batch = slice(start, start + batch_size)
        ids_BT, mask_BT, scored_BT = _padded(input_ids[batch], scored[batch], model.device)

        def log_probs(ids_BT: Tensor = ids_BT, mask_BT: Tensor = mask_BT, scored_BT: Tensor = scored_BT) -> Tensor:
            logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
            # The token at position t is predicted at t - 1.
            return logits_BTV[:, :-1][scored_BT[:, 1:]].float().log_softmax(-1)

        label_N = ids_BT[:, 1:][scored_BT[:, 1:]]
        columns["loss"].append(-log_probs().gather(-1, label_N[:, None])[:, 0])
        with dropout_on(model, rate):
            total_N, aleatoric_N = statistics(log_probs, passes)
        columns["total"].append(total_N)
        columns["aleatoric"].append(aleatoric_N)
        columns["epistemic"].append(total_N - aleatoric_N)
    return {name: torch.cat(parts).double().cpu().numpy() for name, parts in columns.items()}


@contextmanager
def dropout_on(model: Any, rate: float) -> Iterator[None]:
    """Switch attention dropout on at ``rate`` and nothing else; on leaving, the model is as before.

    Raises:
        ValueError: no module of the model has an ``attention_dropout``.
    """
    found = [module for module in model.modules() if isinstance(getattr(module, "attention_dropout", None), float)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no module with an attention_dropout")
    before = [(module, module.training, module.attention_dropout) for module in found]
    try:
        for module in found:
            module.training, module.attention_dropout = True, rate
        yield
    finally:
        for module, training, native_rate in before:
            module.training, module.attention_dropout = training, native_rate


def _padded(
    input_ids: Sequence[Sequence[int]], scored: Sequence[Sequence[bool]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    width = max(len(ids) for ids in input_ids)
    ids_BT = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in input_ids])
    mask_BT = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in input_ids])
    scored_BT = torch.tensor([[*flags, *[False] * (width - len(flags))] for flags in scored])
    return ids_BT.to(device), mask_BT.to(device), scored_BT.to(device)


def _entropy(probs_NV: Tensor) -> Tensor:
    # The clamp keeps 0 log 0 at 0.
    return -(probs_NV * probs_NV.clamp_min(torch.finfo(probs_NV.dtype).tiny).log()).sum(-1)
