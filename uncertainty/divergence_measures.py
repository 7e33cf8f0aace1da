"""Other divergences of the members: from each other, of their mean from them, and from the deterministic prediction.

Dimensions: K members, N tokens, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from uncertainty.member_sweep import (
    Estimate,
    Measure,
    Part,
    Sums,
    divergence,
    divergence_from_deterministic,
    reverse_divergence,
)


def expected_pairwise_kl(log_probs_KNV: Tensor) -> Tensor:
    """Mean divergence of two different members: ``mean_{j != k} KL(p_j || p_k)``, exactly unbiased at any K >= 2.

    Computed as ``K / (K - 1) * (BALD + reverse mutual information)``, which is the same sum. Unlike BALD it has no
    ceiling of ``log K``, and it weighs tokens that only some members exclude.

    Args:
        log_probs_KNV: log-probabilities of independent members, float32 or float64; values below -87 count as -87.

    Returns:
        ``[N]``, float64, nats, in ``[0, 87]``; NaN for K = 1.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: Malinin and Gales 2021 (arXiv:2002.07650), there with j = k among the pairs, which is biased low by 1/K;
    Schweighofer et al. 2023 (arXiv:2311.08309), why to prefer it to BALD.

    >>> expected_pairwise_kl(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log())
    tensor([0.4394], dtype=torch.float64)
    """
    return _PAIRWISE(log_probs_KNV)


def reverse_mutual_information(log_probs_KNV: Tensor) -> Tensor:
    """Mean divergence of the average from the members: ``mean_k KL(mean_j p_j || p_k)``.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64; values below -87 count as -87.

    Returns:
        ``[N]``, float64, nats, in ``[0, 87]``; 0 for K = 1. Biased low like BALD.

    Raises:
        ValueError: shape or dtype does not fit.

    Source: Malinin and Gales 2021 (arXiv:2002.07650).

    >>> reverse_mutual_information(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log())
    tensor([0.1180], dtype=torch.float64)
    """
    return _REVERSE(log_probs_KNV)


def expected_kl_to_deterministic(log_probs_KNV: Tensor, log_probs_NV: Tensor) -> Tensor:
    """Mean divergence of the members from the deterministic prediction: ``mean_k KL(p_k || p)``.

    BALD plus ``KL(mean_k p_k || p)``: unbiased at any K, and at least BALD. What a user of the deterministic model
    would pay in nats if the members were right.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64; values below -87 count as -87.
        log_probs_NV: those of the deterministic model.

    Returns:
        ``[N]``, float64, nats, in ``[0, 87]``.

    Raises:
        ValueError: shapes or dtypes do not fit.

    >>> expected_kl_to_deterministic(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log(), torch.tensor([[0.5, 0.5]]).log())
    tensor([0.1840], dtype=torch.float64)
    """
    return _TO_DETERMINISTIC(log_probs_KNV, log_probs_NV)


def _pairwise(sums: Sums) -> Tensor:
    both_KN = sums.of[divergence] + sums.of[reverse_divergence]
    return both_KN.sum(0) / both_KN.new_tensor(len(both_KN) - 1)  # 0 / 0 = NaN for one member, which has no pair


def _mean_of(part: Part) -> Estimate:
    return Estimate((part,), lambda sums: sums.of[part].mean(0))


_PAIRWISE = Estimate((divergence, reverse_divergence), _pairwise)
_REVERSE = _mean_of(reverse_divergence)
_TO_DETERMINISTIC = _mean_of(divergence_from_deterministic)
MEASURES: dict[str, Measure] = {
    "expected_pairwise_kl": Measure(
        expected_pairwise_kl, ("log_probs_KNV",), "nats", "mean KL of two different members", _PAIRWISE
    ),
    "reverse_mutual_information": Measure(
        reverse_mutual_information, ("log_probs_KNV",), "nats", "mean KL(average || member)", _REVERSE
    ),
    "expected_kl_to_deterministic": Measure(
        expected_kl_to_deterministic,
        ("log_probs_KNV", "log_probs_NV"),
        "nats",
        "mean KL(member || prediction with dropout off)",
        _TO_DETERMINISTIC,
    ),
}
