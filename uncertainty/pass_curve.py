"""Epistemic uncertainty from the first 5, 10, 20, ... of a run's passes, and from the next as many, and so on.

The passes of one run are cut into disjoint blocks: two blocks of 20 passes are two independent runs of 20 passes, so
they show what such runs have in common without drawing a second run; and the first block is what the run itself would
have reported after 20.

Dimension key: K members, S blocks of one size, M tokens of one slice, N completion tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from uncertainty import measures
from uncertainty.budget import Budget
from uncertainty.data.batches import Batch, targets
from uncertainty.engine import StochasticFamily, drawn_together, read_members
from uncertainty.errors import InputError
from uncertainty.estimators import epistemic_corrected

COUNTS = (5, 10, 20, 50, 100, 200, 500, 1000)


class BatchCurve(NamedTuple):
    """What one batch gives, over its predicted completion tokens.

    Attributes:
        ids: the batch's examples.
        example_N: index into ``ids``.
        epistemic: number of passes -> float64 ``[S, N]``, nats: the plug-in value of each block.
        corrected: the same without its bias; NaN where a block is a single group of balanced masks.
    """

    ids: tuple[str, ...]
    example_N: np.ndarray
    epistemic: dict[int, np.ndarray]
    corrected: dict[int, np.ndarray]


def drawn_in(model: Any, family: StochasticFamily, passes: int) -> tuple[int, ...] | None:
    """Sizes of the groups of passes drawn together; None where every pass is drawn by itself.

    Raises:
        InputError: members are not drawn but given, or all passes are one group, of which no part stands for a run.
    """
    if family.n_members is not None:
        raise InputError(
            f"an ensemble has {family.n_members} members that are not draws of one another; convergence is asked of "
            "--family dropout or weight-noise"
        )
    with family.active(model) as members:
        sizes = drawn_together(members.groups(passes))
        if sizes is None and members.report().get("masks") == "balanced":
            raise InputError(
                f"balanced masks of {passes} passes are a single group, which cannot be cut; give more --passes (100 "
                "at rate 0.1), or --masks iid"
            )
    return sizes


def usable_counts(asked: Sequence[int], passes: int, sizes: Sequence[int] | None = None) -> tuple[int, ...]:
    """The numbers of passes that a run of ``passes`` can show, ascending; the last is ``passes``.

    Args:
        asked: numbers of passes.
        passes: of the run.
        sizes: of the groups of passes drawn together, which are not cut; None where every pass is drawn by itself.

    Raises:
        InputError: groups of unequal size, or one group only.

    >>> usable_counts(COUNTS, 60), usable_counts(COUNTS, 100, (20,) * 5)
    ((5, 10, 20, 50, 60), (20, 100))
    """
    if sizes is not None and len(set(sizes)) != 1:
        raise InputError(
            f"balanced masks come in groups of {min(sizes)} and {max(sizes)} passes where --passes is {passes}; give "
            f"--passes {max(sizes) * len(sizes)}, so that blocks of passes can be compared"
        )
    step = 1 if sizes is None else sizes[0]
    return (*sorted({k for k in asked if 1 < k < passes and k % step == 0}), passes)


def pass_curve(
    model: Any,
    batches: Iterable[Batch],
    family: StochasticFamily,
    counts: Sequence[int],
    *,
    seed: int = 0,
    budget: Budget | None = None,
    vocabulary: int | None = None,
) -> Iterator[BatchCurve]:
    """Epistemic uncertainty of every completion token from blocks of passes of one run.

    Args:
        model: see ``engine.score``, as for all that is not named here.
        batches: see ``engine.score``.
        family: see ``engine.score``.
        counts: numbers of passes, ascending, from ``usable_counts``; the last is that of the run.
        seed: of the members.
        budget: memory bounds.
        vocabulary: read out only the first so many tokens.

    Yields:
        the curves of one batch at a time.
    """

    def measure(log_probs_KMV: Tensor, groups: tuple[int, ...] | None) -> dict[str, Tensor]:
        return block_values(log_probs_KMV, counts, groups)

    passes = counts[-1]
    for batch, found in read_members(
        model, batches, family, measure, passes=passes, seed=seed, budget=budget, vocabulary=vocabulary
    ):
        plug_in, corrected = ({k: found[f"{name} {k}"].numpy() for k in counts} for name in _NAMES)
        yield BatchCurve(batch.ids, targets(batch).example_N.numpy(), plug_in, corrected)


def block_values(
    log_probs_KMV: Tensor, counts: Sequence[int], groups: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Both estimates of each whole block of each size: ``"plug-in 20"`` and ``"corrected 20"`` -> ``[S, M]``."""
    found = {}
    for count in counts:
        blocks = log_probs_KMV[: len(log_probs_KMV) // count * count].split(count)
        cut = None if groups is None else groups[: list(accumulate(groups)).index(count) + 1]
        found[f"{_NAMES[0]} {count}"] = torch.stack([measures.bald(block) for block in blocks])
        found[f"{_NAMES[1]} {count}"] = torch.stack([epistemic_corrected(block, cut) for block in blocks])
    return found


_NAMES = ("plug-in", "corrected")
