"""From log-probabilities to one uncertainty value per token: every formula of the project stands here.

Three numbers answer three questions about the next token. *Total*: how spread is the averaged prediction of
the members? *Aleatoric*: how spread is each member by itself, because the text could go on in several ways?
*Epistemic*: how far do the members disagree, because the model does not know? And

    total = aleatoric + epistemic            H[mean_k p_k] = mean_k H[p_k] + mean_k KL(p_k || mean_j p_j)

Epistemic uncertainty (BALD, the mutual information of token and member) is computed as the right-most term
and not as a difference of two entropies: the difference cancels, so that in float32 it is 16-30 % wrong on
confident tokens and often negative, whereas a sum of divergences has no negative term.

Everything is in nats, as a pure function of its arguments, on the device they are on. Whatever is a sum over
the vocabulary or over members is returned in float64; a look-up keeps the dtype of its input. Members come
first.

Dimensions: K members, N tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Decomposition(NamedTuple):
    """The measures of K members for N tokens, each float64 and in nats."""

    total_N: Tensor
    aleatoric_N: Tensor
    epistemic_N: Tensor
    epistemic_se_N: Tensor
    mc_loss_N: Tensor


class Measure(NamedTuple):
    """One line of the table of measures: ``function(*reads)`` gives one value per token."""

    function: Callable[..., Tensor]
    reads: tuple[str, ...]
    unit: str
    meaning: str


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
    _check(log_probs_NV, "NV", label_N)
    return 0.0 - _at_label(log_probs_NV, label_N)  # not -x: a loss of zero should not be written as -0.0


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
    _check(log_probs_NV, "NV", label_N)
    return _at_label(log_probs_NV, label_N).exp()


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
    _check(log_probs_NV, "NV", label_N)
    return (log_probs_NV > _at_label(log_probs_NV, label_N)[:, None]).sum(-1)


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
    _check(log_probs_NV, "NV")
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
    aleatoric_N, divergence_KN = _member_terms(log_probs_KNV)
    return aleatoric_N + divergence_KN.mean(0)


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
    return _member_terms(log_probs_KNV)[0]


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
    return _member_terms(log_probs_KNV)[1].mean(0)


def bald_standard_error(log_probs_KNV: Tensor) -> Tensor:
    """Monte Carlo standard error of :func:`bald`: ``sd_k(KL(p_k || mean_j p_j)) / sqrt(K)``.

    The deviation over members has divisor ``K - 1``. The divergences are the influence values of the mutual
    information, so this is its delta-method error for independently drawn members; it knows nothing of the bias, nor
    of events rarer than about ``3 / K``.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed.

    Returns:
        ``[N]``, float64, nats, ``>= 0``; NaN for K = 1, where one draw says nothing of its spread.

    Raises:
        ValueError: shape or dtype does not fit.

    >>> bald_standard_error(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log())
    tensor([0.0146], dtype=torch.float64)
    """
    return _standard_error(_member_terms(log_probs_KNV)[1])


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
    _check(log_probs_KNV, "KNV", label_N)
    n_members, n_tokens, _ = log_probs_KNV.shape
    label_KN = _at_label(log_probs_KNV, label_N.expand(n_members, n_tokens)).double()
    return math.log(n_members) - label_KN.logsumexp(0)


def decompose(log_probs_KNV: Tensor, label_N: Tensor, *, tile: int | None = None) -> Decomposition:
    """All measures of the members in one sweep over ``log_probs_KNV``: what the engine calls.

    Same numbers as the functions above. The input is only read, tile by tile, and no temporary grows with K*N*V:
    beyond its input the sweep holds four blocks of ``tile`` elements, ``[K, N]`` float64 values and a few vectors.
    No gradient flows through it.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed, any strides.
        label_N: token ids in ``[0, V)``, int64.
        tile: elements per tile, which decide speed and memory; default 2**19 on a CPU (8 MiB held in float32), 2**24
            elsewhere (256 MiB).

    Returns:
        Five vectors ``[N]``, float64, nats, ``total_N == aleatoric_N + epistemic_N`` exactly.

    Raises:
        ValueError: shapes or dtypes do not fit, or ``tile < 1``.

    >>> scores = decompose(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log(), torch.tensor([1]))
    >>> scores.total_N, scores.epistemic_N
    (tensor([0.6109], dtype=torch.float64), tensor([0.1017], dtype=torch.float64))
    """
    mc_loss_N = mc_loss(log_probs_KNV.detach(), label_N)
    aleatoric_N, divergence_KN = _member_terms(log_probs_KNV, tile)
    epistemic_N = divergence_KN.mean(0)
    return Decomposition(
        total_N=aleatoric_N + epistemic_N,
        aleatoric_N=aleatoric_N,
        epistemic_N=epistemic_N,
        epistemic_se_N=_standard_error(divergence_KN),
        mc_loss_N=mc_loss_N,
    )


# Log-probabilities below this count as this: p = 1.6e-38, still a normal float32. It keeps 0 log 0 and
# -inf minus -inf out of the arithmetic and changes no entropy by more than V * 1e-36 nats.
FLOOR = -87.0

# Longest stretch of the vocabulary whose float32 terms are added up before float64 takes over.
TILE_WIDTH = 4096


def _member_terms(log_probs_KNV: Tensor, tile: int | None = None) -> tuple[Tensor, Tensor]:
    """Return ``mean_k H[p_k]`` as ``[N]`` and ``KL(p_k || mean_j p_j)`` as ``[K, N]``, float64, every term >= 0."""
    _check(log_probs_KNV, "KNV")
    on_cpu = log_probs_KNV.device.type == "cpu"
    tile = tile if tile is not None else 2**19 if on_cpu else 2**24
    if tile < 1:
        raise ValueError(f"tile must be at least 1 element, got {tile}")
    n_members, n_tokens, n_vocabulary = log_probs_KNV.shape
    # Off the CPU a kernel sums pairwise at any length, and short tiles would cost more launches than work.
    width = min(n_vocabulary, TILE_WIDTH if on_cpu else n_vocabulary, max(1, tile // n_members))
    height = min(n_tokens, max(1, tile // (n_members * width)))

    scratch = log_probs_KNV.new_empty((4, n_members * height * width))
    aleatoric_N = log_probs_KNV.new_zeros(n_tokens, dtype=torch.float64)
    divergence_KN = log_probs_KNV.new_zeros((n_members, n_tokens), dtype=torch.float64)
    for n in range(0, n_tokens, max(1, height)):
        for v in range(0, n_vocabulary, width):
            tile_Knv = log_probs_KNV.detach()[:, n : n + height, v : v + width]
            aleatoric_n, divergence_Kn = _tile_terms(tile_Knv, scratch)
            aleatoric_N[n : n + height] += aleatoric_n
            divergence_KN[:, n : n + height] += divergence_Kn
    return aleatoric_N, divergence_KN


def _tile_terms(log_probs_Knv: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Return one tile's share of both terms; ``n`` tokens and ``v`` vocabulary entries of it.

    With ``x = log(p_k / pbar)`` and ``pbar = mean_k p_k`` a member's divergence is ``sum_v pbar psi(x)``,
    ``psi(x) = x e^x - e^x + 1 >= 0``: the additional ``pbar - p_k`` adds up to zero over the vocabulary, makes every
    term non-negative and the mean over members insensitive, to first order, to the rounding of ``pbar``. ``x`` comes
    from differences of log-probabilities of one vocabulary entry, which are exact where members are close.
    """
    shape = log_probs_Knv.shape
    lp, x, odds, series = (row[: log_probs_Knv.numel()].view(shape) for row in scratch)

    torch.clamp(log_probs_Knv, min=FLOOR, out=lp)
    highest_nv = lp.amax(0)
    torch.sub(lp, highest_nv, out=x)
    torch.exp(x, out=odds)  # p_k over the largest of the members' p: 1 exactly where all agree
    mean_odds_nv = odds.mean(0)
    largest_p_nv = highest_nv.exp()
    aleatoric_n = -(lp.mul_(odds).mean(0).double() * largest_p_nv).sum(-1)

    x.sub_(mean_odds_nv.log())
    ratio = odds.div_(mean_odds_nv)
    psi = torch.sub(1.0, x, out=lp).mul_(ratio).neg_().add_(1.0)
    # Near x = 0 that cancels to x^2 / 2; there its power series takes over. The two are blended, because
    # both are right in between and a blend costs a tenth of a select.
    x_squared = torch.mul(x, x, out=odds)
    first, *rest = _psi_coefficients(x.dtype)
    torch.mul(x, first, out=series)
    for coefficient in rest[:-1]:
        series.add_(coefficient).mul_(x)
    series.add_(rest[-1]).mul_(x_squared)
    nearness = x_squared.mul_(-64 / 3).add_(4 / 3).clamp_(0.0, 1.0)  # 1 up to |x| = 1/8, 0 from 1/4
    psi.lerp_(series, nearness)
    divergence_Kn = psi.mul_(largest_p_nv.mul_(mean_odds_nv)).sum(-1)
    return aleatoric_n, divergence_Kn


def _psi_coefficients(dtype: torch.dtype) -> tuple[float, ...]:
    """Coefficients of ``psi(x) = sum_{n >= 2} (n-1)/n! x^n``, highest first, to rounding error at ``|x| <= 1/8``."""
    highest = 6 if dtype == torch.float32 else 13
    return tuple((n - 1) / math.factorial(n) for n in range(highest, 1, -1))


def _standard_error(divergence_KN: Tensor) -> Tensor:
    n_members = len(divergence_KN)
    squares_N = (divergence_KN - divergence_KN.mean(0)).square().sum(0)
    return (squares_N / (n_members - 1) / n_members).sqrt()  # 0 / 0 = NaN for one member


def _at_label(log_probs: Tensor, label: Tensor) -> Tensor:
    return log_probs.gather(-1, label.unsqueeze(-1)).squeeze(-1)


def _check(log_probs: Tensor, dimensions: str, label_N: Tensor | None = None) -> None:
    shape = tuple(log_probs.shape)
    if len(shape) != len(dimensions) or 0 in (shape[0] if dimensions == "KNV" else 1, shape[-1]):
        raise ValueError(f"log_probs must be [{', '.join(dimensions)}] with K, V >= 1, got shape {list(shape)}")
    if log_probs.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"log_probs must be float32 or float64, got {log_probs.dtype}: the rounding of 16-bit "
            "log-probabilities is larger than the uncertainties they are asked for"
        )
    if label_N is not None and (label_N.shape != (shape[-2],) or label_N.dtype != torch.int64):
        raise ValueError(
            f"label must be int64 of shape [{shape[-2]}] for log_probs of shape {list(shape)}, "
            f"got {label_N.dtype} of shape {list(label_N.shape)}"
        )


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
    "label_rank": Measure(label_rank, ("log_probs_NV", "label_N"), "tokens", "tokens more probable than the label"),
}
