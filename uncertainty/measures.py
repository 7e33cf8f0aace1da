"""From log-probabilities to one uncertainty value per token: every formula of the project stands here.

Three numbers answer three questions about the next token. *Total*: how spread is the averaged prediction of
the members? *Aleatoric*: how spread is each member by itself, because the text could go on in several ways?
*Epistemic*: how far do the members disagree, because the model does not know? And

    total = aleatoric + epistemic            H[mean_k p_k] = mean_k H[p_k] + mean_k KL(p_k || mean_j p_j)

Epistemic uncertainty (BALD, the mutual information of token and member) is computed as the right-most term
and not as a difference of two entropies: the difference cancels, so that in float32 it is 16-30 % wrong on
confident tokens and often negative, whereas a sum of divergences has no negative term.

Everything is a pure function of its arguments, on the device they are on, in nats where its line in the table says
nothing else. Whatever is a sum over the vocabulary or over members is returned in float64; a look-up keeps the dtype of
its input. Members come first.

The functions here are the columns of every run; what ``--measures`` adds stands in ``estimators.py`` (epistemic without
its bias, and its error), ``divergence_measures.py`` and ``probability_measures.py``. The table ``MEASURES`` at the end
holds them all.

Dimensions: K members, N tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from uncertainty import divergence_measures, estimators, probability_measures
from uncertainty.member_sweep import Measure, sweep
from uncertainty.member_terms import (
    FLOOR,
    at_label,
    check_log_probs,
    group_sizes,
    member_terms,
    pseudo_values,
    standard_error,
)
from uncertainty.pass_groups import jackknife_sizes


class Decomposition(NamedTuple):
    """The measures of K members for N tokens, each float64 and in nats."""

    total_N: Tensor
    aleatoric_N: Tensor
    epistemic_N: Tensor
    epistemic_se_N: Tensor
    mc_loss_N: Tensor


# One prediction per token: the deterministic model.


def token_loss(log_probs_NV: Tensor, label_N: Tensor) -> Tensor:
    """Surprise at the label: ``-log p(label)``.

    Args:
        log_probs_NV: log-probabilities, float32 or float64, ``-inf`` allowed.
        label_N: token ids in ``[0, V)``, int64.

    Returns:
        ``[N]``, nats, ``>= 0``, dtype of the input; ``inf`` where the label has probability zero.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Source: arXiv:2503.16511, the per-token loss that stands in for epistemic uncertainty.

    >>> token_loss(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([1]))
    tensor([1.3863])
    """
    check_log_probs(log_probs_NV, "NV", label_N)
    return 0.0 - at_label(log_probs_NV, label_N)  # not -x: a loss of zero should not be written as -0.0


def label_prob(log_probs_NV: Tensor, label_N: Tensor) -> Tensor:
    """Probability of the label: ``p(label)``.

    Args:
        log_probs_NV: log-probabilities, float32 or float64, ``-inf`` allowed.
        label_N: token ids in ``[0, V)``, int64.

    Returns:
        ``[N]``, a fraction in ``[0, 1]``, dtype of the input.

    Raises:
        ValueError: shapes or dtypes do not fit.

    >>> label_prob(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([1]))
    tensor([0.2500])
    """
    check_log_probs(log_probs_NV, "NV", label_N)
    return at_label(log_probs_NV, label_N).exp()


def label_rank(log_probs_NV: Tensor, label_N: Tensor) -> Tensor:
    """How many tokens the model holds strictly more probable than the label.

    Args:
        log_probs_NV: log-probabilities, float32 or float64, ``-inf`` allowed.
        label_N: token ids in ``[0, V)``, int64.

    Returns:
        ``[N]``, int64 in ``[0, V)``; 0 = the label is the first choice, alone or tied.

    Raises:
        ValueError: shapes or dtypes do not fit.

    >>> label_rank(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([2]))
    tensor([2])
    """
    check_log_probs(log_probs_NV, "NV", label_N)
    return (log_probs_NV > at_label(log_probs_NV, label_N)[:, None]).sum(-1)


def margin(log_probs_NV: Tensor) -> Tensor:
    """How far the first choice leads: ``p(best) - p(second best)``. Looks at no label.

    Args:
        log_probs_NV: log-probabilities, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, a fraction in ``[0, 1]``, dtype of the input; 0 where two tokens tie for the first place, ``p`` itself
        for a vocabulary of one token.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: Scheffer et al. 2001, margin sampling.

    >>> margin(torch.tensor([[0.5, 0.3, 0.2]]).log())
    tensor([0.2000])
    """
    check_log_probs(log_probs_NV, "NV")
    best = log_probs_NV.topk(min(2, log_probs_NV.shape[-1])).values.exp()
    return best[:, 0] - best[:, 1] if best.shape[-1] == 2 else best[:, 0]


def entropy(log_probs_NV: Tensor) -> Tensor:
    """Spread of one prediction: ``H[p] = -sum_v p_v log p_v``, with ``0 log 0 = 0``.

    Args:
        log_probs_NV: log-probabilities, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, float64, nats, in ``[0, log V]``.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: Shannon 1948; scipy.stats.entropy.

    >>> entropy(torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log())
    tensor([1.0397, 0.0000], dtype=torch.float64)
    """
    check_log_probs(log_probs_NV, "NV")
    return (log_probs_NV.exp() * -log_probs_NV.clamp(min=FLOOR)).sum(-1, dtype=torch.float64)


# K predictions per token: the members.


def predictive_entropy(log_probs_KNV: Tensor) -> Tensor:
    """Total uncertainty: entropy of the averaged prediction, ``H[mean_k p_k]``.

    Computed as ``expected_entropy + bald``, which is the same number, so that the identity holds exactly.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, float64, nats, in ``[0, log V]``.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: arXiv:2503.16511, predictive entropy; Depeweg et al. 2018 (arXiv:1710.07283), the decomposition.

    >>> predictive_entropy(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log())
    tensor([0.6109], dtype=torch.float64)
    """
    terms = member_terms(log_probs_KNV)
    return terms.aleatoric_N + terms.divergence_KN.mean(0)


def expected_entropy(log_probs_KNV: Tensor) -> Tensor:
    """Aleatoric uncertainty: mean entropy of the members, ``mean_k H[p_k]``.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, float64, nats, in ``[0, log V]``.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: arXiv:2503.16511, expected entropy; Depeweg et al. 2018 (arXiv:1710.07283), the decomposition.

    >>> expected_entropy(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log())
    tensor([0.5091], dtype=torch.float64)
    """
    return member_terms(log_probs_KNV).aleatoric_N


def bald(log_probs_KNV: Tensor) -> Tensor:
    """Epistemic uncertainty: mutual information of token and member, ``mean_k KL(p_k || mean_j p_j)``.

    With K members it cannot exceed ``log K``, and it is biased low, by about ``1/K`` of itself where members
    differ little and by more where they differ much; :func:`bald_standard_error` gives its noise.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, float64, nats, in ``[0, log min(K, V)]``, never negative; exactly 0 where all members are
        equal and for K = 1. Against exact arithmetic on the given log-probabilities the relative error is below
        1e-5 for values down to 1e-8 nats.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: Houlsby et al. 2011 (arXiv:1112.5745), BALD; arXiv:2503.16511, epistemic = total - aleatoric.

    >>> bald(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log())
    tensor([0.1017], dtype=torch.float64)
    """
    return member_terms(log_probs_KNV).divergence_KN.mean(0)


def bald_standard_error(log_probs_KNV: Tensor, groups: int | Sequence[int] | None = None) -> Tensor:
    """Monte Carlo standard error of :func:`bald`: a jackknife over groups of members.

    ``sd_g(J_g) / sqrt(G)`` with the pseudo-values ``J_g = G I - (G - 1) I_without_g`` of G groups of K / G members.
    Independent members are cut into ten groups (K groups where ten does not divide K); members drawn in G blocks, such
    as balanced masks, must be cut into these blocks, for only the blocks are independent. An interval takes the t
    quantile of G - 1 degrees of freedom: see ``estimators.epistemic_low``. Of events rarer than about ``3 / K`` it
    knows nothing.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.
        groups: G blocks of consecutive members drawn together, or their sizes; None where all were drawn independently.

    Returns:
        ``[N]``, float64, nats, ``>= 0``; NaN for K < 3, where leaving out one leaves no spread, and for a single group.

    Raises:
        ValueError: shape or dtype does not fit, or the groups do not make up K.

    Source: Quenouille 1956 and Tukey 1958, the jackknife; measured coverage in docs/estimators.md.

    >>> bald_standard_error(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]], [[0.7, 0.3]]]).log())
    tensor([0.0505], dtype=torch.float64)
    """
    sizes = _error_sizes(log_probs_KNV, groups)
    _, divergence_KN, removal_GN = member_terms(log_probs_KNV, sizes=sizes)
    return standard_error(pseudo_values(divergence_KN, removal_GN, sizes), sizes)


def mc_loss(log_probs_KNV: Tensor, label_N: Tensor) -> Tensor:
    """Surprise of the averaged prediction at the label: ``-log mean_k p_k(label)``.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.
        label_N: token ids in ``[0, V)``, int64.

    Returns:
        ``[N]``, float64, nats, ``>= 0``; ``inf`` where no member gives the label any probability.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Source: Gal and Ghahramani 2016 (arXiv:1506.02142), the predictive log-likelihood.

    >>> mc_loss(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log(), torch.tensor([1]))
    tensor([1.2040], dtype=torch.float64)
    """
    check_log_probs(log_probs_KNV, "KNV", label_N)
    n_members, n_tokens, _ = log_probs_KNV.shape
    label_KN = at_label(log_probs_KNV, label_N.expand(n_members, n_tokens)).double()
    return math.log(n_members) - label_KN.logsumexp(0)


def decompose(
    log_probs_KNV: Tensor, label_N: Tensor, *, groups: int | Sequence[int] | None = None, tile: int | None = None
) -> Decomposition:
    """All measures of the members in one sweep over ``log_probs_KNV``: what the engine calls.

    Same numbers as the functions above. The input is only read, tile by tile, and no temporary grows with K*N*V:
    beyond its input the sweep holds four blocks of ``tile`` elements, the groups' means of one tile, ``[K, N]`` float64
    values and a few vectors.
    No gradient flows through it.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed, any strides.
        label_N: token ids in ``[0, V)``, int64.
        groups: of the standard error, see :func:`bald_standard_error`.
        tile: elements per tile, which decide speed and memory; default 2**19 on a CPU (8 MiB held in float32), 2**24
            elsewhere (256 MiB).

    Returns:
        Five vectors ``[N]``, float64, nats, ``total_N == aleatoric_N + epistemic_N`` exactly.

    Raises:
        ValueError: shapes or dtypes do not fit, ``tile < 1``, or ``groups`` do not make up K.

    >>> scores = decompose(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log(), torch.tensor([1]))
    >>> scores.total_N, scores.epistemic_N
    (tensor([0.6109], dtype=torch.float64), tensor([0.1017], dtype=torch.float64))
    """
    mc_loss_N = mc_loss(log_probs_KNV.detach(), label_N)
    sizes = _error_sizes(log_probs_KNV, groups)
    aleatoric_N, divergence_KN, removal_GN = member_terms(log_probs_KNV, tile, sizes)
    epistemic_N = divergence_KN.mean(0)
    return Decomposition(
        total_N=aleatoric_N + epistemic_N,
        aleatoric_N=aleatoric_N,
        epistemic_N=epistemic_N,
        epistemic_se_N=standard_error(pseudo_values(divergence_KN, removal_GN, sizes), sizes),
        mc_loss_N=mc_loss_N,
    )


def measure_all(
    names: Sequence[str],
    log_probs_KNV: Tensor,
    log_probs_NV: Tensor,
    label_N: Tensor,
    *,
    groups: int | Sequence[int] | None = None,
    tile: int | None = None,
) -> dict[str, Tensor]:
    """Several measures that ``--measures`` adds, in one sweep over the members: what the engine calls.

    Args:
        names: keys of ``MEASURES`` whose values are float64.
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.
        log_probs_NV: those of the deterministic model.
        label_N: token ids in ``[0, V)``, int64.
        groups: replicate blocks of the members, see :func:`bald_standard_error`.
        tile: elements of one tile of the sweep.

    Returns:
        name -> ``[N]``, float64, the values of the single functions; NaN where there are too few members.

    Raises:
        ValueError: shapes or dtypes do not fit, or ``groups`` do not make up K.
    """
    given = {"log_probs_KNV": log_probs_KNV, "log_probs_NV": log_probs_NV, "label_N": label_N}
    measures = {name: MEASURES[name] for name in names}
    parts = dict.fromkeys(part for one in measures.values() if one.estimate for part in one.estimate.parts)
    sums = sweep(tuple(parts), log_probs_KNV, log_probs_NV, groups=groups, tile=tile)
    return {
        name: one.estimate.formula(sums) if one.estimate else one.function(*(given[reads] for reads in one.reads))
        for name, one in measures.items()
    }


def _error_sizes(log_probs_KNV: Tensor, groups: int | Sequence[int] | None) -> tuple[int, ...]:
    """Sizes of the groups that the standard error leaves out."""
    check_log_probs(log_probs_KNV, "KNV")
    return group_sizes(len(log_probs_KNV), groups) or jackknife_sizes(len(log_probs_KNV))


# The names users type. `reads` names what the function takes, in order: log_probs_NV is the prediction of the
# deterministic model, log_probs_KNV those of the members, label_N the token ids.
MEASURES: dict[str, Measure] = {
    "loss": Measure(token_loss, ("log_probs_NV", "label_N"), "nats", "-log p(label), dropout off"),
    "entropy": Measure(entropy, ("log_probs_NV",), "nats", "entropy of the prediction, dropout off"),
    "total": Measure(predictive_entropy, ("log_probs_KNV",), "nats", "entropy of the members' mean prediction"),
    "aleatoric": Measure(expected_entropy, ("log_probs_KNV",), "nats", "mean entropy of the members"),
    "epistemic": Measure(bald, ("log_probs_KNV",), "nats", "BALD: disagreement of members, total - aleatoric"),
    "epistemic_se": Measure(bald_standard_error, ("log_probs_KNV",), "nats", "standard error of epistemic"),
    "mc_loss": Measure(mc_loss, ("log_probs_KNV", "label_N"), "nats", "-log of the members' mean p(label)"),
    "label_prob": Measure(label_prob, ("log_probs_NV", "label_N"), "fraction", "p(label), dropout off"),
    "margin": Measure(margin, ("log_probs_NV",), "fraction", "p(best) - p(second best), dropout off"),
    "label_rank": Measure(label_rank, ("log_probs_NV", "label_N"), "tokens", "tokens more probable than the label"),
    # What --measures adds.
    **estimators.MEASURES,
    **divergence_measures.MEASURES,
    **probability_measures.MEASURES,
}
