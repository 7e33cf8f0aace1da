"""Disagreement of the members on the scale of probabilities and of choices, as other toolkits report it.

Which toolkit calls what how stands in docs/estimators.md.

Dimensions: K members, N tokens, V vocabulary; small letters for one tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from uncertainty.member_sweep import Estimate, Measure, summed_deviation, summed_variance, sweep
from uncertainty.member_terms import at_label, check_log_probs


def label_prob_variance(log_probs_KNV: Tensor, label_N: Tensor) -> Tensor:
    """Variance over the members of the label's probability, with divisor K - 1: unbiased at any K >= 2.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.
        label_N: token ids in ``[0, V)``, int64.

    Returns:
        ``[N]``, float64, a fraction squared, in ``[0, 1/2]`` (below ``K / (4 (K - 1))``); NaN for K = 1.

    Raises:
        ValueError: shapes or dtypes do not fit.

    >>> label_prob_variance(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log(), torch.tensor([1]))
    tensor([0.0800], dtype=torch.float64)
    """
    check_log_probs(log_probs_KNV, "KNV", label_N)
    n_members, n_tokens, _ = log_probs_KNV.shape
    p_KN = at_label(log_probs_KNV.detach(), label_N.expand(n_members, n_tokens)).double().exp()
    return (p_KN - p_KN.mean(0)).square().sum(0) / p_KN.new_tensor(n_members - 1)


def prob_variance(log_probs_KNV: Tensor) -> Tensor:
    """Variance of the members' probabilities, all tokens together: ``sum_v var_k p_kv``, with divisor K - 1.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, float64, a fraction squared, in ``[0, 1]``; 1 for members that are sure of different tokens; NaN for
        K = 1.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: Sale et al. 2024 (arXiv:2401.00276), label-wise variance, the epistemic part.

    >>> prob_variance(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log())
    tensor([0.1600], dtype=torch.float64)
    """
    return _VARIANCE(log_probs_KNV)


def mean_prob_sd(log_probs_KNV: Tensor) -> Tensor:
    """Standard deviation of the members' probabilities, mean over the vocabulary: ``mean_v sd_k p_kv``.

    A mean over the vocabulary: with 100,000 tokens its values are tiny, and of use for ranking only.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, float64, a fraction, in ``[0, 1]``; divisor K - 1; NaN for K = 1.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: Gal et al. 2017 (arXiv:1703.02910), mean standard deviation.

    >>> mean_prob_sd(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log())
    tensor([0.2828], dtype=torch.float64)
    """
    return sweep((summed_deviation,), log_probs_KNV).of[summed_deviation] / log_probs_KNV.shape[-1]


def variation_ratio(log_probs_KNV: Tensor) -> Tensor:
    """Share of the members whose first choice is not the most frequent one: ``1 - max_v n_v / K``.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, float64, a fraction, in ``[0, 1 - 1/K]``, in steps of 1/K. Of equally probable tokens a member chooses
        the one with the lowest id.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: Freeman 1965; Gal 2016 (thesis, 3.3.1).

    >>> variation_ratio(torch.tensor([[[0.6, 0.4]], [[0.9, 0.1]], [[0.3, 0.7]]]).log())
    tensor([0.3333], dtype=torch.float64)
    """
    choice_KN = _choices(log_probs_KNV)
    return 1.0 - (choice_KN == choice_KN.mode(0).values).double().mean(0)


def disagreement(log_probs_KNV: Tensor) -> Tensor:
    """Share of the pairs of members with different first choices: ``1 - sum_v n_v (n_v - 1) / (K (K - 1))``.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, float64, a fraction, in ``[0, 1]``; NaN for K = 1, which has no pair.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: torch-uncertainty, ``Disagreement``.

    >>> disagreement(torch.tensor([[[0.6, 0.4]], [[0.9, 0.1]], [[0.3, 0.7]]]).log())
    tensor([0.6667], dtype=torch.float64)
    """
    choice_NK = _choices(log_probs_KNV).T.contiguous().sort(-1).values
    n_members = choice_NK.shape[-1]
    # How many members make each member's choice: its run in the sorted row.
    run_NK = torch.searchsorted(choice_NK, choice_NK, right=True) - torch.searchsorted(choice_NK, choice_NK)
    different_N = (n_members - run_NK).sum(-1).double()
    return different_N / different_N.new_tensor(n_members * (n_members - 1))


def zero_one_epistemic(log_probs_KNV: Tensor) -> Tensor:
    """What knowing the member adds to the chance of a right guess: ``mean_k max_v p_kv - max_v mean_k p_kv``.

    The mutual information's counterpart where one is paid for right guesses instead of nats.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, float64, a fraction, in ``[0, 1 - 1/K]``; 0 where all members prefer the same token.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: Hofman et al. 2024 (arXiv:2404.12215), the zero-one loss in their decomposition; probly.

    >>> zero_one_epistemic(torch.tensor([[[0.6, 0.4]], [[0.2, 0.8]]]).log())
    tensor([0.1000], dtype=torch.float64)
    """
    check_log_probs(log_probs_KNV, "KNV")
    log_p_KNV = log_probs_KNV.detach()
    highest_N = log_p_KNV.new_zeros(log_p_KNV.shape[1], dtype=torch.float64)
    for n in range(len(highest_N)):  # token by token: all members of one, and not of all, stand in float64
        highest_N[n] = log_p_KNV[:, n].double().logsumexp(0).max().exp() / len(log_p_KNV)
    return (log_p_KNV.amax(-1).double().exp().mean(0) - highest_N).clamp(min=0.0)


def _choices(log_probs_KNV: Tensor) -> Tensor:
    """The first choice of each member, ``[K, N]``."""
    check_log_probs(log_probs_KNV, "KNV")
    return log_probs_KNV.detach().argmax(-1)


_VARIANCE = Estimate((summed_variance,), lambda sums: sums.of[summed_variance])
_READS = ("log_probs_KNV",)
MEASURES: dict[str, Measure] = {
    "label_prob_variance": Measure(
        label_prob_variance, (*_READS, "label_N"), "fraction^2", "variance of p(label) over the members"
    ),
    "prob_variance": Measure(
        prob_variance, _READS, "fraction^2", "variance of p over the members, summed over the vocabulary", _VARIANCE
    ),
    "mean_prob_sd": Measure(
        mean_prob_sd, _READS, "fraction", "standard deviation of p over the members, mean over the vocabulary"
    ),
    "variation_ratio": Measure(
        variation_ratio, _READS, "fraction", "members whose first choice is not the most frequent one"
    ),
    "disagreement": Measure(disagreement, _READS, "fraction", "pairs of members with different first choices"),
    "zero_one_epistemic": Measure(
        zero_one_epistemic, _READS, "fraction", "mean of the members' highest p, less the highest of their average"
    ),
}
