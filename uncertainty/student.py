"""The model in training as one forward call: micro-batch in, per-token losses out.

Dimension key: N completion tokens, D hidden size.

The losses are computed inside the model's own ``forward``, so that whatever wraps the model (DistributedDataParallel,
FSDP, autocast, peft) sees one ordinary call, and no logits of all positions are ever made.
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
    own = inner.forward
    was_patched = "forward" in vars(inner)

    def forward(*args: Any, ask: Ask | None = None, **kwargs: Any) -> Any:
        return own(*args, **kwargs) if ask is None else ask.read(inner, predicting_hidden(inner, ask.batch))

    inner.forward = forward
    try:
        yield
    finally:
        if was_patched:
            inner.forward = own
        else:
            del inner.forward


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
