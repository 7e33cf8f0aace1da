"""Which tokens are trained on: from one value per token to a boolean selection.

A selection is by exact count and not by threshold, so that the number of selected tokens, the denominator of a loss
over them, is known before the first of them is seen. It is a function of the *set* of (value, example, position)
triples and not of their order, so it is the same however an optimizer step is cut into micro-batches, processes, padded
rows or packed rows. Only completion tokens come in; prompt and padding have no triple.

**What selecting by loss does.** A loss knows the label. At a context where the labels are distributed as ``p``, let
label ``y`` be selected with the probability ``s(y)`` and ``f = sum_y p(y) s(y)`` be the share that is selected. Then
masked maximum likelihood is stationary not at ``p`` but at

    q*(y) = p(y) s(y) / f                                      masked MLE alone
    q*(y) = p(y) s(y) + (1 - f) p_ref(y)                       with distillation from p_ref on the rest
          = p(y) (s(y) + 1 - f)                                with p_ref = p

A label-free signal (entropy, KL, epistemic, random) has the same ``s`` for all labels of a context: ``s = f`` and
``q* = p``, with or without distillation. A loss has a large ``s`` for rare labels and a small one for common labels.
With a threshold on the reference's loss ``s`` is 1 or 0 once and for all. With one on the model's own loss ``s`` is
that of ``q*`` itself, and labels whose loss is over it when they are left out and under it when they are selected come
to rest at it, with an ``s`` between.

With distillation the ratio ``q*(y) / p(y)`` stays between ``1 - f`` and ``2 - f``: a rare label is over-weighted at
most twice. Without it the ratio goes up to ``1 / f`` (four, at the top quarter), common labels lose whatever that
costs, and where ``s`` is fixed (a threshold on the reference's loss) they lose *all* of their probability. That is the
mechanism behind "masked MLE overfits, distillation repairs": ``figures/fixed_point.py`` computes and draws it.

Dimensions: N completion tokens, U units of selection (tokens or whole examples), L tokens of the longest example.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from uncertainty.selection_rules import KEEPS, LEVELS, SCOPES, SIGNALS, Rule, scheduled_fraction
from uncertainty.selection_signals import TokenSignals, keyed_uniform, ranking_values

__all__ = [
    "KEEPS",
    "LEVELS",
    "SCOPES",
    "SIGNALS",
    "Gather",
    "Rule",
    "TokenSignals",
    "ranking_values",
    "scheduled_fraction",
    "select",
    "select_part",
    "top_fraction",
]

# Every process's tensor, all of one shape, concatenated along the first dimension in the order of their ranks.
Gather = Callable[[Tensor], Tensor]


def top_fraction(values_N: Tensor, fraction: float) -> Tensor:
    """Select the tokens with the highest values: exactly ``k = max(1, floor(fraction * N + 1/2))`` of them.

    Of tokens with equal values the earlier one is taken first, so the selection is the same in every run and on every
    device. The paper speaks of the top quarter and does not say what becomes of fractions of a token; we round to the
    nearest count, halves up, and select at least one, because a batch without any selected token has no loss.

    Args:
        values_N: one value per token, floating point, any unit; ``inf`` and ``-inf`` allowed, NaN not: leave out the
            tokens that have no prediction.
        fraction: share of the tokens to select, 0 to 1; 0 selects none.

    Returns:
        ``[N]``, bool, ``k`` of them true (none if ``fraction`` or ``N`` is 0); no gradient.

    Raises:
        ValueError: wrong shape or dtype, a NaN, or a fraction outside 0 to 1.

    Source: arXiv:2503.16511, maximum likelihood on the tokens of highest loss.

    >>> top_fraction(torch.tensor([0.5, 2.0, 0.5, 0.1]), 0.5)
    tensor([ True,  True, False, False])
    """
    if values_N.dim() != 1 or not values_N.is_floating_point():
        raise ValueError(
            f"values must be floating point of shape [N], got {values_N.dtype} of shape {list(values_N.shape)}"
        )
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    n_missing = int(values_N.isnan().sum())
    if n_missing:
        raise ValueError(f"{n_missing} of {len(values_N)} values are NaN; leave out the tokens without a prediction")
    selected_N = torch.zeros_like(values_N, dtype=torch.bool)
    # + 0.0 turns -0.0 into 0.0: a sort by bits, as some devices do it, would tell the two apart.
    order_N = (values_N.detach() + 0.0).argsort(descending=True, stable=True)
    selected_N[order_N[: _count(len(values_N), fraction)]] = True
    return selected_N


def select(
    values_N: Tensor, example_N: Tensor, position_N: Tensor, rule: Rule, *, fraction: float, seed: int, step: int
) -> Tensor:
    """Select completion tokens by their values, as a rule says.

    Of units with equal values the one with the smaller (example, position) comes first. The count is that of
    ``top_fraction``: ``max(1, floor(fraction * U + 1/2))`` of U tokens (or examples), and a band holds the units
    between two such counts, at least one. A token that occurs twice, because an epoch was filled up, counts twice.

    - ``sampled`` draws without replacement, one after the other, each in proportion to its value among those left
      (negative values count as 0, and come last): the first with the smallest ``e / value``, where ``e`` is
      exponential and keyed by (seed, step, example, position). Efraimidis and Spirakis (2006), Inf. Proc. Letters 97.
    - Level ``document``: the unit is the example, its value the mean over its completion tokens; all its tokens are
      selected. The share of the tokens then differs from the fraction.

    Args:
        values_N: one value per completion token, floating point, ``inf`` and ``-inf`` allowed, NaN not.
        example_N: number of the token's example *in the data set*, int64.
        position_N: position of the token in its rendered example, int64.
        rule: its ``keep``, ``band``, ``threshold`` and ``level`` count; its scope is a matter of which tokens come in.
        fraction: share to select, in (0, 1], from ``scheduled_fraction``; not used by ``band`` and ``threshold``.
        seed: of the run, for ``sampled``.
        step: optimizer steps done before this one, for ``sampled``.

    Returns:
        ``[N]``, bool; no gradient. Without tokens it is empty; otherwise only ``threshold`` can select none.

    Raises:
        ValueError: wrong shapes or dtypes, a NaN, or a fraction outside (0, 1].

    Source: arXiv:2503.16511; what it leaves open (scope, ties, documents) as said above.

    >>> values_N, example_N, position_N = torch.tensor([0.5, 2, 3, 0.5]), torch.tensor([7, 7, 3, 3]), torch.arange(4)
    >>> select(values_N, example_N, position_N, Rule(), fraction=0.75, seed=0, step=0)
    tensor([False,  True,  True,  True])
    >>> select(values_N, example_N, position_N, Rule(level="document"), fraction=0.5, seed=0, step=0)
    tensor([False, False,  True,  True])
    """
    _check_triples(values_N, example_N, position_N, fraction)
    if len(values_N) == 0:
        return torch.zeros_like(values_N, dtype=torch.bool)
    order_N = position_N.argsort(stable=True)
    order_N = order_N[example_N[order_N].argsort(stable=True)]
    value_U, example_U, position_U = values_N.detach()[order_N] + 0.0, example_N[order_N], position_N[order_N]
    unit_N = torch.arange(len(order_N), device=order_N.device)
    if rule.level == "document":
        value_U, example_U, unit_N = _example_means(value_U, example_U)
        position_U = torch.zeros_like(example_U)
    if rule.keep == "sampled":
        uniform_U = keyed_uniform(example_U, position_U, seed=seed, step=step, purpose="sampled")
        value_U = uniform_U.log() / value_U.to(torch.float64).clamp_min(0.0)  # -e / value, so the largest are taken
    selected_N = torch.zeros_like(order_N, dtype=torch.bool)
    selected_N[order_N] = _keep(value_U, rule, fraction)[unit_N]
    return selected_N


def select_part(
    values_N: Tensor,
    example_N: Tensor,
    position_N: Tensor,
    rule: Rule,
    *,
    fraction: float,
    seed: int,
    step: int,
    gather: Gather,
    rank: int,
) -> Tensor:
    """Select over the tokens of all processes, and return the part of this process.

    Every process must call it, the ones without any token too; each then computes the same selection.

    Args:
        values_N: as ``select``, this process's tokens; likewise the arguments up to ``step``. The dtype is the same in
            all processes.
        example_N: as ``select``.
        position_N: as ``select``.
        rule: as ``select``.
        fraction: as ``select``.
        seed: as ``select``.
        step: as ``select``.
        gather: concatenates the processes' tensors, as ``accelerate.Accelerator.gather`` does.
        rank: this process's place in what ``gather`` returns.

    Returns:
        ``[N]``, bool, for this process's tokens.

    Raises:
        ValueError: as ``select``; shapes and dtypes in the process concerned, all else in every process alike.
    """
    _check_shapes(values_N, example_N, position_N)
    counts = gather(torch.tensor([len(values_N)], device=values_N.device)).tolist()
    longest = max(counts)
    if longest == 0:
        return torch.zeros_like(values_N, dtype=torch.bool)
    room = longest - len(values_N)
    values_WN = torch.nn.functional.pad(values_N.detach(), (0, room))
    places_WN2 = torch.nn.functional.pad(torch.stack([example_N, position_N], dim=1), (0, 0, 0, room))
    real_N = torch.cat([torch.arange(longest, device=values_N.device) < count for count in counts])
    all_N = gather(values_WN)[real_N]
    example_all_N, position_all_N = gather(places_WN2)[real_N].unbind(1)
    all_selected_N = select(all_N, example_all_N, position_all_N, rule, fraction=fraction, seed=seed, step=step)
    start = sum(counts[:rank])
    return all_selected_N[start : start + counts[rank]]


def _keep(value_U: Tensor, rule: Rule, fraction: float) -> Tensor:
    """Apply ``rule.keep`` to units that stand in the order of their places."""
    if rule.threshold is not None:
        return value_U >= rule.threshold
    if rule.band is not None:
        # counted from the top, so that (0.75, 1.0) is the top quarter to the token
        last, first = (math.floor((1 - quantile) * len(value_U) + 0.5) for quantile in rule.band)
        first = min(first, len(value_U) - 1)
        kept_U = torch.zeros_like(value_U, dtype=torch.bool)
        kept_U[value_U.argsort(descending=True, stable=True)[first : max(last, first + 1)]] = True
        return kept_U
    return top_fraction(-value_U if rule.keep == "bottom" else value_U, fraction)


def _example_means(value_N: Tensor, example_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of tokens sorted by (example, position): mean and number of each example, and each token's index in them.

    The mean is summed in float64 along the rows of a padded block, not by scattered additions, whose order, and so
    whose last bits, would change from run to run on a GPU; and rounded to float32, so that they do not count.
    """
    example_U, unit_N, length_U = example_N.unique_consecutive(return_inverse=True, return_counts=True)
    start_U = length_U.cumsum(0) - length_U
    place_N = torch.arange(len(value_N), device=value_N.device) - start_U[unit_N]
    block_UL = torch.zeros(len(example_U), int(length_U.max()), dtype=torch.float64, device=value_N.device)
    block_UL[unit_N, place_N] = value_N.to(torch.float64)
    mean_U = (block_UL.sum(1) / length_U).to(torch.float32) + 0.0  # no -0.0, as the values
    if mean_U.isnan().any():
        raise ValueError(
            f"the mean value is NaN (inf and -inf) in the examples {example_U[mean_U.isnan()].tolist()[:8]}"
        )
    return mean_U, example_U, unit_N


def _check_triples(values_N: Tensor, example_N: Tensor, position_N: Tensor, fraction: float) -> None:
    _check_shapes(values_N, example_N, position_N)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    nan_N = values_N.isnan()
    if nan_N.any():
        examples = sorted(set(example_N[nan_N].tolist()))
        raise ValueError(f"{int(nan_N.sum())} of {len(values_N)} values are NaN, in the examples {examples[:8]}")


def _check_shapes(values_N: Tensor, example_N: Tensor, position_N: Tensor) -> None:
    if values_N.dim() != 1 or not values_N.is_floating_point():
        raise ValueError(
            f"values must be floating point of shape [N], got {values_N.dtype} of shape {list(values_N.shape)}"
        )
    for name, place_N in (("example", example_N), ("position", position_N)):
        if place_N.shape != values_N.shape or place_N.dtype != torch.int64:
            raise ValueError(
                f"{name} must be int64 of shape {list(values_N.shape)}, got {place_N.dtype} of {list(place_N.shape)}"
            )


def _count(n_tokens: int, fraction: float) -> int:
    if fraction == 0 or n_tokens == 0:
        return 0
    return max(1, math.floor(fraction * n_tokens + 0.5))
