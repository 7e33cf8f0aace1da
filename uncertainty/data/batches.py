"""Examples -> padded batches under a token budget, and the one place of the shift by one.

Dimension key: B sequences, T positions, N completion tokens, E examples (= B where nothing is packed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from uncertainty.data.render import Example

IGNORE = -100  # label outside the completion, as torch's cross-entropy ignores it


@dataclass(frozen=True)
class Batch:
    """Sequences that run through the model together: one example each, or several where they are packed.

    Attributes:
        input_ids_BT: token ids, padded.
        attention_mask_BT: 1 on tokens, 0 on padding; None where nothing is padded, and where examples are packed.
        labels_BT: unshifted: the token itself inside the completion, ``IGNORE`` elsewhere.
        ids: the examples' ids.
        lengths: tokens of each example without padding.
        side: where the padding is.
        position_ids_BT: only where examples are packed: restarts at 0 in each of them; 0 on padding.
        segment_BT: only where examples are packed: index into ``ids`` at each position, -1 on padding.
    """

    input_ids_BT: Tensor
    attention_mask_BT: Tensor | None
    labels_BT: Tensor
    ids: tuple[str, ...]
    lengths: tuple[int, ...]
    side: Literal["left", "right"] = "right"
    position_ids_BT: Tensor | None = None
    segment_BT: Tensor | None = None

    @property
    def rows(self) -> tuple[int, ...]:
        """The sequence that each example stands in."""
        return tuple(self._corners()[0]) if self.segment_BT is not None else tuple(range(len(self.ids)))

    @property
    def starts(self) -> tuple[int, ...]:
        """The column of each example's first token."""
        if self.segment_BT is not None:
            return tuple(self._corners()[1])
        width = self.input_ids_BT.shape[1]
        return tuple(width - n if self.side == "left" else 0 for n in self.lengths)

    def _corners(self) -> tuple[list[int], list[int]]:
        assert self.segment_BT is not None
        assert self.position_ids_BT is not None  # packed batches have both
        first_BT = (self.position_ids_BT == 0) & (self.segment_BT >= 0)
        row_E, column_E = first_BT.nonzero(as_tuple=True)
        order_E = self.segment_BT[row_E, column_E].argsort()
        return row_E[order_E].tolist(), column_E[order_E].tolist()


class Targets(NamedTuple):
    """The completion tokens of a batch, example by example.

    ``row_N`` is the sequence, ``position_N`` the position of the *predicted* token in the rendered example (padding
    and examples packed before it not counted), ``label_N`` the token, ``example_N`` the index into the batch's ``ids``
    (``row_N`` itself where nothing is packed). Tokens at position 0 have no prediction and are not among them.
    """

    row_N: Tensor
    position_N: Tensor
    label_N: Tensor
    example_N: Tensor


def collate(examples: Sequence[Example], *, pad_id: int = 0, side: Literal["left", "right"] = "right") -> Batch:
    """Pad examples to one length.

    Args:
        examples: at least one.
        pad_id: any id of the vocabulary; it is masked out.
        side: where to pad; the engine pads on the right, the scores are the same on the left.
    """
    lengths = tuple(len(example.input_ids) for example in examples)
    width = max(lengths)
    input_ids_BT = torch.full((len(examples), width), pad_id, dtype=torch.int64)
    labels_BT = torch.full((len(examples), width), IGNORE, dtype=torch.int64)
    attention_mask_BT = torch.zeros((len(examples), width), dtype=torch.int64)
    for row, example in enumerate(examples):
        start = width - lengths[row] if side == "left" else 0
        ids = torch.tensor(example.input_ids, dtype=torch.int64)
        span = slice(start, start + lengths[row])
        input_ids_BT[row, span] = ids
        labels_BT[row, span] = torch.where(torch.tensor(example.completion), ids, IGNORE)
        attention_mask_BT[row, span] = 1
    padded = min(lengths) < width
    return Batch(
        input_ids_BT,
        attention_mask_BT if padded else None,
        labels_BT,
        tuple(example.id for example in examples),
        lengths,
        side,
    )


def targets(batch: Batch) -> Targets:
    """The predicted completion tokens of a batch; the token at position p is predicted from position p - 1.

    They come in the order of ``ids`` and positions, packed or not.
    """
    starts_E = torch.tensor(batch.starts, device=batch.labels_BT.device)
    row_N, column_N = (batch.labels_BT != IGNORE).nonzero(as_tuple=True)
    example_N = row_N
    if batch.segment_BT is not None:
        example_N, order_N = batch.segment_BT[row_N, column_N].sort(stable=True)
        row_N, column_N = row_N[order_N], column_N[order_N]
    predicted = column_N > starts_E[example_N]
    row_N, column_N, example_N = row_N[predicted], column_N[predicted], example_N[predicted]
    return Targets(row_N, column_N - starts_E[example_N], batch.labels_BT[row_N, column_N], example_N)


def predictors(batch: Batch, at: Targets) -> tuple[Tensor, Tensor]:
    """Where in ``[B, T]`` hidden states the prediction of each target is read: (row_N, column_N)."""
    starts_E = torch.tensor(batch.starts, device=at.position_N.device)
    return at.row_N, at.position_N + starts_E[at.example_N] - 1


def plan_batches(
    lengths: Sequence[int], *, tokens_per_batch: int, passes: int, padding: float = 0.1
) -> list[list[int]]:
    """Group examples so that all passes of a group fill, and do not exceed, the token budget of one forward.

    Passes of one example are rows of equal length, so a long example is a group of its own and needs no padding; short
    ones share a forward with examples of nearly their length. The plan depends on the lengths alone.

    Args:
        lengths: tokens of each example.
        tokens_per_batch: budget of one forward pass, in tokens (rows times the longest length).
        passes: stochastic passes of each example.
        padding: the largest share of a group's longest length that a member may fall short of it, in [0, 1).

    Returns:
        indices into ``lengths``, each exactly once; longest examples first, so that memory peaks at the start.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    for index in order:
        if groups:
            longest = lengths[groups[-1][0]]
            fits = (len(groups[-1]) + 1) * longest * passes <= tokens_per_batch
            if fits and lengths[index] >= (1.0 - padding) * longest:
                groups[-1].append(index)
                continue
        groups.append([index])
    return groups
