"""Several examples in one sequence, without attention between them: nothing is spent on padding short ones.

Dimension key: B sequences, T positions.

Positions restart at 0 in each example. Without an attention mask, transformers cuts the attention where they do, so an
example's hidden states are those it has alone; `uncertainty.batch_hidden.check_packing` proves it of a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from uncertainty.data.batches import IGNORE, Batch
from uncertainty.data.render import Example
from uncertainty.errors import InputError


def pack(examples: Sequence[Example], *, width: int, pad_id: int = 0) -> Batch:
    """Put examples into as few sequences as best-fit decreasing finds.

    Args:
        examples: at least one; all of them, and no others, are in the batch, ``ids`` in their order.
        width: the longest sequence, in tokens. The batch is only as wide as its fullest sequence.
        pad_id: any id of the vocabulary; padding is never attended to by an example.

    Raises:
        InputError: an example is longer than ``width``.
        ValueError: there is no example, or one without a token.
    """
    rows = plan_rows([len(example.input_ids) for example in examples], width, [example.id for example in examples])
    lengths = tuple(len(example.input_ids) for example in examples)
    shape = (len(rows), max(sum(lengths[i] for i in row) for row in rows))
    input_ids_BT = torch.full(shape, pad_id, dtype=torch.int64)
    labels_BT = torch.full(shape, IGNORE, dtype=torch.int64)
    # Each padding token is a sequence of one: its position never exceeds what the model was made for.
    position_ids_BT = torch.zeros(shape, dtype=torch.int64)
    segment_BT = torch.full(shape, -1, dtype=torch.int64)
    for row, members in enumerate(rows):
        start = 0
        for index in members:
            span = slice(start, start + lengths[index])
            ids = torch.tensor(examples[index].input_ids, dtype=torch.int64)
            input_ids_BT[row, span] = ids
            labels_BT[row, span] = torch.where(torch.tensor(examples[index].completion), ids, IGNORE)
            position_ids_BT[row, span] = torch.arange(lengths[index])
            segment_BT[row, span] = index
            start = span.stop
    ids_E = tuple(example.id for example in examples)
    return Batch(input_ids_BT, None, labels_BT, ids_E, lengths, "right", position_ids_BT, segment_BT)


def plan_rows(lengths: Sequence[int], width: int, names: Sequence[str] | None = None) -> list[list[int]]:
    """Best-fit decreasing: the longest first, each into the fullest row that still has room for it.

    Never more than 11/9 of the fewest rows possible, plus one (Johnson et al. 1974).

    Args:
        lengths: tokens of each example, at least 1.
        width: tokens of a row.
        names: what to call the examples in messages.

    Returns:
        indices into ``lengths``, each exactly once; ascending within a row.

    Raises:
        InputError: a length exceeds ``width``.
        ValueError: nothing to pack, or an example without a token.
    """
    if not lengths or min(lengths) < 1:
        raise ValueError("packing needs at least one example, and at least one token in each")
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > width:
            name = names[index] if names is not None else str(index)
            raise InputError(
                f"example {name} has {lengths[index]} tokens and does not fit into packed sequences of {width}; "
                "pack wider, or cut examples with a smaller --max-length"
            )
        fitting = [row for row, free in enumerate(room) if free >= lengths[index]]
        row = min(fitting, key=lambda r: (room[r], r), default=len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(index)
        room[row] -= lengths[index]
    return [sorted(row) for row in rows]
