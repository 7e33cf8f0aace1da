"""A batch through a model: hidden states where completion tokens are predicted, and the proof that packing holds.

Dimension key: B sequences, T positions, N completion tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from uncertainty.data.batches import Batch, collate, predictors, targets
from uncertainty.data.packing import pack
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.model import TOLERANCE, context_length, final_hidden, relative_difference

PROBE_LENGTHS = (7, 5, 12, 11, 3, 1)  # several a row, in two rows: some kernels see packing in a single row only


def predicting_hidden(model: Any, batch: Batch) -> Tensor:
    """Final hidden states at the positions that predict the batch's completion tokens.

    Args:
        model: a transformers causal language model, bare or inside a PeftModel.
        batch: padded or packed.

    Returns:
        ``[N, D]`` in the model's dtype, in the order of ``targets(batch)``; with a gradient where autograd is on.
    """
    device = next(model.parameters()).device
    mask_BT, position_ids_BT = batch.attention_mask_BT, batch.position_ids_BT
    hidden_BTD = final_hidden(
        model,
        batch.input_ids_BT.to(device),
        None if mask_BT is None else mask_BT.to(device),
        None if position_ids_BT is None else position_ids_BT.to(device),
    )
    row_N, column_N = (index.to(device) for index in predictors(batch, targets(batch)))
    return hidden_BTD[row_N, column_N]


@contextmanager
def evaluation(model: Any) -> Iterator[None]:
    """Every module in eval mode and autograd off; on leaving, each module's mode is what it was."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def check_packing(model: Any) -> float:
    """Prove that a packed example has the hidden states it has alone.

    Returns:
        the relative difference (Frobenius norms) of the two, mere rounding.

    Raises:
        InputError: positions do not restart, attention crosses examples, or the model takes no positions.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    longest = min(max(PROBE_LENGTHS), context_length(model.config) or max(PROBE_LENGTHS))
    examples = [_probe(number, min(length, longest), vocabulary) for number, length in enumerate(PROBE_LENGTHS)]
    refusal = (
        f"{type(_bare(model)).__name__} with attention {getattr(model.config, '_attn_implementation', None)!r} "
        "cannot be packed"
    )
    mend = "train without packing, or try another attention implementation (sdpa, eager)"
    with evaluation(model):
        alone_ND = torch.cat([predicting_hidden(model, collate([example])) for example in examples])
        try:
            packed_ND = predicting_hidden(model, pack(examples, width=2 * longest))
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(f"{refusal} ({' '.join(str(error).split())[:200]}); {mend}") from error
    difference = relative_difference(packed_ND.float(), alone_ND.float())
    if not difference <= TOLERANCE[alone_ND.dtype]:
        raise InputError(f"{refusal}: hidden states change by {difference:.3g} of their norm; {mend}")
    return difference


def _probe(number: int, length: int, vocabulary: int) -> Example:
    ids = [(5 + 13 * number + 7 * position) % vocabulary for position in range(length)]
    return Example(f"probe {number}", ids, [True] * length, [0] * length, False, [])


def _bare(model: Any) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model
