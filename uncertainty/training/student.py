"""The model in training as one forward call: micro-batch in, per-token losses out.

Dimension key: N completion tokens, D hidden size.

The losses are computed inside the model's own ``forward``, and there inside that of its vocabulary head, so that
whatever wraps them (DistributedDataParallel, FSDP, autocast, peft) sees one ordinary call of each, and no logits of all
positions are ever made. FSDP holds the weights of a module whole only inside that module's ``forward``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uncertainty.batch_hidden import predicting_hidden
from uncertainty.data.batches import Batch
from uncertainty.training.sharding import is_sharded


@dataclass(frozen=True)
class Ask:
    """What a forward call of the student is asked for.

    Attributes:
        batch: the examples.
        read: from (causal language model, ``hidden_ND``) to the answer, such as ``token_losses`` with its arguments.
    """

    batch: Batch
    read: Callable[[Any, Tensor], Any]


def causal_model(model: Any) -> Any:
    """The causal language model under peft's wrapper, adapters active inside it; the model itself without one."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Inside this context ``model(ask=Ask(...))`` answers; calls without ``ask`` do what they did before."""
    inner = causal_model(model)
    head = inner.get_output_embeddings()
    own, own_head = inner.forward, head.forward

    def forward(*args: Any, ask: Ask | None = None, **kwargs: Any) -> Any:
        return own(*args, **kwargs) if ask is None else head(predicting_hidden(inner, ask.batch), ask=ask)

    def forward_head(hidden: Tensor, *args: Any, ask: Ask | None = None, **kwargs: Any) -> Any:
        return own_head(hidden, *args, **kwargs) if ask is None else ask.read(inner, hidden)

    with _forward_of(inner, forward), _forward_of(head, forward_head):
        yield


def hidden_of(model: Any, batch: Batch) -> Tensor:
    """``predicting_hidden``, also of a model whose weights FSDP has dealt out to the processes: all must call it."""
    if not is_sharded(model):
        return predicting_hidden(model, batch)
    with answering(model):  # its weights are whole inside its own forward call alone
        return model(ask=Ask(batch, lambda _, hidden_ND: hidden_ND))


@contextmanager
def _forward_of(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, ``module`` is called by ``forward``."""
    own, was_patched = module.forward, "forward" in vars(module)
    module.forward = forward
    try:
        yield
    finally:
        if was_patched:
            module.forward = own
        else:
            del module.forward


def has_dropout(model: Any) -> bool:
    """Whether a forward pass in train mode may differ from one in eval mode."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            if module.p > 0:
                return True
            continue
        # Functional dropout keeps its rate on the module that does it, under a name of its own; a rate that is never
        # used costs one more pass, one that is missed would change what is selected.
        if any("drop" in name and isinstance(rate, float) and rate > 0 for name, rate in vars(module).items()):
            return True
    return False
