"""Epistemic uncertainty without its bias, and with its error: what K members can say of infinitely many.

The plug-in value (``measures.bald``) is biased low, because K members are closer to their own mean than to the true
one. The jackknife takes that off: with ``I_without_g`` the plug-in value of the members outside group g,

    pseudo-value  J_g = G I - (G - 1) I_without_g      corrected = mean_g J_g      error = sd_g(J_g) / sqrt(G)

Independent members are left out one by one (G = K) for the value, and in ten groups for the error. Members that were
drawn in replicate blocks (balanced masks: the members of one block hang together, the blocks do not) are left out block
by block in both. What was measured about each, and when to use which: docs/estimators.md.

Dimensions: K members, N tokens, V vocabulary, G groups of consecutive members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor

from uncertainty.member_sweep import (
    Estimate,
    Measure,
    Sums,
    divergence,
    divergence_from_others,
    removal_of_groups,
    removal_of_units,
    sweep,
)
from uncertainty.member_terms import corrected, pseudo_values, standard_error

CONFIDENCE = 0.95
NEAR_LOG_K = 0.5  # of log K: from there on the corrected value was still 0.4 % to 4 % low at K = 100


class Jackknife(NamedTuple):
    """Epistemic uncertainty of N tokens, float64, in nats.

    Attributes:
        corrected_N: without the bias of order 1/K.
        error_N: its standard error; NaN where there are fewer than three members.
        degrees: of freedom of the error, for a t quantile.
    """

    corrected_N: Tensor
    error_N: Tensor
    degrees: int


def group_jackknife(log_probs_KNV: Tensor, groups: int | Sequence[int]) -> Jackknife:
    """The jackknife that leaves out one group of consecutive members at a time.

    For members drawn in G replicate blocks it is the right one and the plain one is wrong: within a block of balanced
    masks members repel each other, so that leaving out one of them says nothing of the spread of the estimate.

    Args:
        log_probs_KNV: log-probabilities of the members, block after block, float32 or float64, ``-inf`` allowed.
        groups: G groups of equal size, or the size of each. G = K leaves out one member at a time; of a single group
            nothing can be said, and both values are NaN.

    Raises:
        ValueError: shape or dtype does not fit, or the groups do not make up K.

    Source: Quenouille 1956, Tukey 1958; Kuensch 1989 for blocks.

    >>> log_probs_KNV = torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]], [[0.7, 0.3]], [[0.6, 0.4]]]).log()
    >>> value_N, error_N, degrees = group_jackknife(log_probs_KNV, 2)
    >>> value_N, error_N, degrees
    (tensor([0.0565], dtype=torch.float64), tensor([0.0481], dtype=torch.float64), 1)
    """
    sums = sweep((divergence, removal_of_units), log_probs_KNV, groups=groups)
    sizes = sums.groups.units
    pseudo_GN = pseudo_values(sums.of[divergence], sums.of[removal_of_units], sizes)
    return Jackknife(corrected(pseudo_GN, sizes), standard_error(pseudo_GN, sizes), len(sizes) - 1)


def epistemic_corrected(log_probs_KNV: Tensor, groups: int | Sequence[int] | None = None) -> Tensor:
    """Epistemic uncertainty without its bias: ``K I - (K - 1) mean_k I_without_k``, the leave-one-out jackknife.

    Computed as ``I + (K - 1) mean_k KL(mean without k || mean)``, which is the same and never below ``I``.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.
        groups: G blocks of consecutive members drawn together, or their sizes; None where all were drawn independently.

    Returns:
        ``[N]``, float64, nats, at least :func:`measures.bald` and at most twice it for K = 2; NaN for K = 1. It can
        exceed ``log K``.

    Raises:
        ValueError: shape or dtype does not fit, or the groups do not make up K.

    Source: Quenouille 1956, Tukey 1958.

    >>> epistemic_corrected(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]], [[0.7, 0.3]]]).log())
    tensor([0.1000], dtype=torch.float64)
    """
    return _CORRECTED(log_probs_KNV, groups=groups)


def epistemic_low(log_probs_KNV: Tensor, groups: int | Sequence[int] | None = None) -> Tensor:
    """Lower end of the 95 % interval of epistemic: ``corrected - t * error``, not below 0.

    The value is :func:`epistemic_corrected`, the error that of ten groups (``measures.bald_standard_error``), t the
    0.975 quantile of Student's distribution with as many degrees of freedom as groups less one.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.
        groups: G blocks of consecutive members drawn together, or their sizes; None where all were drawn independently.

    Returns:
        ``[N]``, float64, nats, ``>= 0``; NaN for K < 3.

    Raises:
        ValueError: shape or dtype does not fit, or the groups do not make up K.

    Source: coverage measured in docs/estimators.md.

    >>> epistemic_low(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]], [[0.7, 0.3]], [[0.2, 0.8]]]).log())
    tensor([0.], dtype=torch.float64)
    """
    return _LOW(log_probs_KNV, groups=groups)


def epistemic_high(log_probs_KNV: Tensor, groups: int | Sequence[int] | None = None) -> Tensor:
    """Upper end of the 95 % interval of epistemic: ``corrected * exp(t * error / corrected)``.

    Value, error and t are those of :func:`epistemic_low`. Divergences are skewed: where no member of the rare, far
    kind was drawn, the value is too low and so is its error. Hence the way up is taken in proportion, which is the
    longer one (``corrected + t * error`` to first order); with it the interval covers best.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.
        groups: G blocks of consecutive members drawn together, or their sizes; None where all were drawn independently.

    Returns:
        ``[N]``, float64, nats, at least :func:`epistemic_corrected`, 0 where all members agree; NaN for K < 3.

    Raises:
        ValueError: shape or dtype does not fit, or the groups do not make up K.

    Source: coverage measured in docs/estimators.md.

    >>> epistemic_high(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]], [[0.7, 0.3]], [[0.2, 0.8]]]).log())
    tensor([0.9485], dtype=torch.float64)
    """
    return _HIGH(log_probs_KNV, groups=groups)


def epistemic_bound(log_probs_KNV: Tensor, groups: int | Sequence[int] | None = None) -> Tensor:
    """An upper bound of epistemic in expectation: ``mean_k KL(p_k || mean of the others)``.

    Its expectation is the true value or more, that of ``measures.bald`` the true value or less, at any K: the two
    bracket it. Where members differ much the bound is far too high: a member's rare tokens count fully.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64; values below -87 count as -87.
        groups: G blocks of consecutive members drawn together, or their sizes ("others" are those of other blocks);
            None where all were drawn independently.

    Returns:
        ``[N]``, float64, nats, at least ``measures.bald``, at most 87; NaN for K = 1.

    Raises:
        ValueError: shape or dtype does not fit, or the groups do not make up K.

    Source: the leave-one-out bound of nested Monte Carlo, Poole et al. 2019 (arXiv:1905.06922).

    >>> epistemic_bound(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log())
    tensor([0.4394], dtype=torch.float64)
    """
    return _BOUND(log_probs_KNV, groups=groups)


def unresolved(log_probs_KNV: Tensor, groups: int | Sequence[int] | None = None) -> Tensor:
    """Whether the passes are too few to know this token's epistemic uncertainty.

    1 where the 95 % interval is wider than the corrected value, or where the plug-in value is above half of ``log K``,
    the most that K members can show; 0 elsewhere.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.
        groups: G blocks of consecutive members drawn together, or their sizes; None where all were drawn independently.

    Returns:
        ``[N]``, float64, 0 or 1; 1 for K < 3, which have no interval, and 0 where all of K >= 3 members agree.

    Raises:
        ValueError: shape or dtype does not fit, or the groups do not make up K.

    >>> unresolved(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]], [[0.7, 0.3]], [[0.2, 0.8]]]).log())
    tensor([1.], dtype=torch.float64)
    """
    return _UNRESOLVED(log_probs_KNV, groups=groups)


def _corrected(sums: Sums) -> Tensor:
    sizes = sums.groups.units
    return corrected(pseudo_values(sums.of[divergence], sums.of[removal_of_units], sizes), sizes)


def _half_width(sums: Sums) -> Tensor:
    sizes = sums.groups.errors
    quantile = float(stdtrit(max(1, len(sizes) - 1), (1 + CONFIDENCE) / 2))
    return quantile * standard_error(pseudo_values(sums.of[divergence], sums.of[removal_of_groups], sizes), sizes)


def _low(sums: Sums) -> Tensor:
    return (_corrected(sums) - _half_width(sums)).clamp(min=0.0)


def _high(sums: Sums) -> Tensor:
    corrected_N, half_N = _corrected(sums), _half_width(sums)
    # A NaN half width stays one: the comparison with 0 is of the value alone.
    relative_N = torch.where(corrected_N > 0, half_N / corrected_N, half_N)
    return corrected_N * relative_N.exp()


def _bound(sums: Sums) -> Tensor:
    bound_N = sums.of[divergence_from_others].mean(0)
    return bound_N if len(sums.groups.units) > 1 else torch.full_like(bound_N, math.nan)


def _unresolved(sums: Sums) -> Tensor:
    divergence_KN = sums.of[divergence]
    # A NaN compares as false, so a missing interval must be asked for by the negation.
    narrow_N = _high(sums) - _low(sums) <= _corrected(sums)
    far_N = divergence_KN.mean(0) <= NEAR_LOG_K * math.log(len(divergence_KN))
    return (~(narrow_N & far_N)).double()


_INTERVAL = (divergence, removal_of_units, removal_of_groups)
_CORRECTED = Estimate((divergence, removal_of_units), _corrected)
_LOW, _HIGH = Estimate(_INTERVAL, _low), Estimate(_INTERVAL, _high)
_BOUND = Estimate((divergence_from_others,), _bound)
_UNRESOLVED = Estimate(_INTERVAL, _unresolved)
_READS = ("log_probs_KNV",)
MEASURES: dict[str, Measure] = {
    "epistemic_corrected": Measure(
        epistemic_corrected, _READS, "nats", "epistemic without its bias: jackknife", _CORRECTED
    ),
    "epistemic_low": Measure(epistemic_low, _READS, "nats", "lower end of the 95 % interval of epistemic", _LOW),
    "epistemic_high": Measure(epistemic_high, _READS, "nats", "upper end of the 95 % interval of epistemic", _HIGH),
    "epistemic_bound": Measure(
        epistemic_bound,
        _READS,
        "nats",
        "upper bound of epistemic in expectation: mean KL(member || the others)",
        _BOUND,
    ),
    "unresolved": Measure(unresolved, _READS, "0 or 1", "the passes are too few to know epistemic", _UNRESOLVED),
}
