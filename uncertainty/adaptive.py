"""Adaptive passes: an example is drawn in rounds until its epistemic uncertainty is known well enough.

Dimension key: B examples, N completion tokens, K members, D hidden size; n the tokens still in work.

After each round the members drawn so far are measured as if they were all; an example that has reached the target is
done, with these very values, and the next round runs without it. Members depend on (seed, example, pass) alone and the
decision on the example's own tokens alone: so nothing depends on which examples run together. Hidden states of earlier
rounds are kept, in the memory that a run of the most passes takes, for a look needs all of them.

Source: Chow and Robbins 1965, sequential intervals of fixed width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from uncertainty.data.batches import Batch, targets
from uncertainty.stopping import TargetError, is_enough


class Reader(Protocol):
    """What the engine's loop offers."""

    @property
    def added(self) -> tuple[str, ...]:
        """The measures that the run adds."""

    def hidden(self, batch: Batch, passes: Sequence[int], total: int) -> Tensor:
        """States of these passes, out of ``total``, at the positions that predict: ``[K, N, D]``."""

    def read(
        self, off_ND: Tensor, hidden_KND: Tensor, label_N: Tensor, *, total: int, at: Tensor, added: tuple[str, ...]
    ) -> dict[str, Tensor]:
        """The measures of the tokens ``at`` from all the members given, the first ones of ``total``."""


def score_in_rounds(
    loop: Reader, batch: Batch, off_ND: Tensor, ends: Sequence[int], target: TargetError
) -> tuple[dict[str, Tensor], Tensor]:
    """Draw and measure a batch until each of its examples has reached the target, or had all passes.

    Args:
        loop: draws and measures.
        batch: the examples.
        off_ND: states of the deterministic pass.
        ends: numbers of passes after which to look, ascending; the last is the most that an example gets.
        target: when an example stops.

    Returns:
        measure -> ``[N]`` on the CPU, each example's from its own number of passes; and ``[N]`` int64, that number.
    """
    at = targets(batch)
    label_N, example_N = at.label_N.to(off_ND.device), at.example_N.cpu()
    hidden_KND = off_ND.new_empty((ends[-1], *off_ND.shape))
    found: dict[str, Tensor] = {}
    passes_N = torch.zeros(len(example_N), dtype=torch.int64)
    active, done = list(range(len(batch.ids))), 0
    for end in ends:
        token_n = torch.isin(example_N, torch.tensor(active)).nonzero()[:, 0]
        drawn_KnD = loop.hidden(some_of(batch, active), range(done, end), ends[-1])
        hidden_KND[done:end, token_n.to(off_ND.device)] = drawn_KnD
        done, here_KND = end, hidden_KND[:end]
        # What the run adds is not needed to decide, and may cost more than all the rest.
        values = loop.read(off_ND, here_KND, label_N, total=ends[-1], at=token_n, added=())
        stopped = active if end == ends[-1] else _stopped(active, example_N[token_n], values, target)
        out_n = torch.isin(example_N[token_n], torch.tensor(stopped, dtype=torch.int64))
        out_N = token_n[out_n]
        if loop.added and len(out_N):
            values = loop.read(off_ND, here_KND, label_N, total=ends[-1], at=out_N, added=loop.added)
            out_n = torch.ones(len(out_N), dtype=torch.bool)
        for name, value_n in values.items():
            found.setdefault(name, value_n.new_zeros(len(example_N)))[out_N] = value_n[out_n]
        passes_N[out_N] = end
        active = [b for b in active if b not in stopped]
        if not active:
            break
    return found, passes_N


def some_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some examples of a padded batch, at the same width."""
    mask_BT = batch.attention_mask_BT
    return replace(
        batch,
        input_ids_BT=batch.input_ids_BT[list(rows)],
        attention_mask_BT=None if mask_BT is None else mask_BT[list(rows)],
        labels_BT=batch.labels_BT[list(rows)],
        ids=tuple(batch.ids[row] for row in rows),
        lengths=tuple(batch.lengths[row] for row in rows),
    )


def _stopped(active: Sequence[int], example_n: Tensor, values: dict[str, Tensor], target: TargetError) -> list[int]:
    if not values:  # no token of them is predicted
        return list(active)
    reached_n = target.reached(values["epistemic"], values["epistemic_se"])
    return [b for b in active if is_enough(int(reached_n[example_n == b].sum()), int((example_n == b).sum()))]
