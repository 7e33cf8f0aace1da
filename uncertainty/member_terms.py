"""The sweep behind the measures of the members: entropies and divergences of K predictions, tile by tile.

What every run computes for every token, so it is written for speed in the dtype of its input and sums in float64. The
further measures that a run may ask for are in ``member_sweep.py``.

Dimensions: K members, N tokens, V vocabulary, G groups of members; small letters for one tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Log-probabilities below this count as this: p = 1.6e-38, still a normal float32. It keeps 0 log 0 and
# -inf minus -inf out of the arithmetic and changes no entropy by more than V * 1e-36 nats.
FLOOR = -87.0

# Longest stretch of the vocabulary whose float32 terms are added up before float64 takes over.
TILE_WIDTH = 4096


class MemberTerms(NamedTuple):
    """What one sweep over the members gives, float64, every term ``>= 0``.

    Attributes:
        aleatoric_N: ``mean_k H[p_k]``.
        divergence_KN: ``KL(p_k || mean_j p_j)``.
        removal_GN: ``KL(mean without group g || mean_j p_j)``; ``[0, N]`` where no groups were asked for.
    """

    aleatoric_N: Tensor
    divergence_KN: Tensor
    removal_GN: Tensor


def member_terms(log_probs_KNV: Tensor, tile: int | None = None, sizes: tuple[int, ...] = ()) -> MemberTerms:
    """Entropies, divergences from the mean, and what removing each group of members does to the mean.

    Args:
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed, any strides.
        tile: elements per tile; default 2**19 on a CPU, 2**24 elsewhere.
        sizes: of the G groups of consecutive members; none leaves their terms out.

    Raises:
        ValueError: shape or dtype does not fit, or ``tile < 1``.
    """
    check_log_probs(log_probs_KNV, "KNV")
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
    removal_GN = log_probs_KNV.new_zeros((len(sizes), n_tokens), dtype=torch.float64)
    for n in range(0, n_tokens, max(1, height)):
        for v in range(0, n_vocabulary, width):
            tile_Knv = log_probs_KNV.detach()[:, n : n + height, v : v + width]
            aleatoric_n, divergence_Kn, removal_Gn = _tile_terms(tile_Knv, scratch, sizes)
            aleatoric_N[n : n + height] += aleatoric_n
            divergence_KN[:, n : n + height] += divergence_Kn
            removal_GN[:, n : n + height] += removal_Gn
    return MemberTerms(aleatoric_N, divergence_KN, removal_GN)


def removal_terms(ratio_Gnv: Tensor, weight_nv: Tensor, sizes: Sequence[int]) -> Tensor:
    """``KL(mean without g || mean)`` of one tile, ``[G, n]``, from ``ratio = (mean of g) / mean``, float64.

    Without group g, one of ``h = K / size`` such groups, the mean is ``mean (1 + u)``, ``u = (1 - ratio) / (h - 1)``,
    so the divergence is ``sum_v mean ((1 + u) log(1 + u) - u)``: no term is negative and the difference of the two
    means is never taken. NaN where one group is all there is.
    """
    share_G11 = _shares(sizes, ratio_Gnv)[:, None, None]
    u_Gnv = (1.0 - ratio_Gnv).mul_(share_G11 / (1.0 - share_G11)).clamp_(min=-1.0)
    if len(sizes) < 2:
        u_Gnv.fill_(math.nan)
    return torch.special.xlog1py(1.0 + u_Gnv, u_Gnv).sub_(u_Gnv).clamp_(min=0.0).mul_(weight_nv).sum(-1)


def group_means(values_K: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mean of each group over the first dimension, ``[K, ...]`` -> ``[G, ...]``."""
    if len(set(sizes)) == 1:
        return values_K.unflatten(0, (len(sizes), sizes[0])).mean(1)
    return torch.stack([part.mean(0) for part in values_K.split(list(sizes))])


def group_sizes(n_members: int, groups: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """Sizes of the groups of consecutive members that were drawn independently; None where every member was.

    Args:
        n_members: K.
        groups: how many groups of equal size, or the size of each, or None.

    Raises:
        ValueError: they do not make up K members.

    >>> group_sizes(100, 4), group_sizes(7, (4, 3)), group_sizes(7, None)
    ((25, 25, 25, 25), (4, 3), None)
    """
    if groups is None:
        return None
    sizes = (n_members // max(1, groups),) * groups if isinstance(groups, int) else tuple(groups)
    if sum(sizes) != n_members or min(sizes, default=0) < 1:
        raise ValueError(f"{n_members} members cannot be cut into groups of {groups}")
    return sizes


def pseudo_values(divergence_KN: Tensor, removal_GN: Tensor, sizes: Sequence[int]) -> Tensor:
    """The jackknife's pseudo-values of BALD, ``h I - (h - 1) I_without_g`` with ``h = K / size``, ``[G, N]``.

    ``I_without_g = (h I - D_g) / (h - 1) - B_g`` with ``D_g`` the group's mean divergence and ``B_g`` its removal
    term (the mean divergence of any members from q is their divergence from their own mean plus that mean's from q),
    so a pseudo-value is ``D_g + (h - 1) B_g``: nothing cancels.
    """
    share_G1 = _shares(sizes, removal_GN)[:, None]
    return group_means(divergence_KN, sizes) + (1.0 / share_G1 - 1.0) * removal_GN


def corrected(pseudo_GN: Tensor, sizes: Sequence[int]) -> Tensor:
    """The jackknife's value: the pseudo-values' mean, weighted by the groups' sizes, ``[N]``."""
    return (pseudo_GN * _shares(sizes, pseudo_GN)[:, None]).sum(0)


def standard_error(pseudo_GN: Tensor, sizes: Sequence[int]) -> Tensor:
    """The jackknife's standard error, ``[N]``; for groups of equal size ``sd_g / sqrt(G)`` of the pseudo-values.

    NaN for fewer than two groups, and for two members: leaving out either gives 0, whatever they are.

    Source: Busing, Meijer and van der Leeden 1999, for groups of different sizes.
    """
    if len(sizes) < 2 or sum(sizes) < 3:
        return torch.full_like(pseudo_GN[0], math.nan)
    share_G1 = _shares(sizes, pseudo_GN)[:, None]
    squares_GN = (pseudo_GN - corrected(pseudo_GN, sizes)).square()
    return (squares_GN * share_G1 / (1.0 - share_G1)).mean(0).sqrt()


def _shares(sizes: Sequence[int], like: Tensor) -> Tensor:
    """Each group's share of the members, ``[G]``."""
    return torch.tensor(sizes, dtype=torch.float64, device=like.device) / sum(sizes)


def at_label(log_probs: Tensor, label: Tensor) -> Tensor:
    """The entry of the last dimension that ``label`` names."""
    return log_probs.gather(-1, label.unsqueeze(-1)).squeeze(-1)


def check_log_probs(log_probs: Tensor, dimensions: str, label_N: Tensor | None = None) -> None:
    """Refuse what is no table of log-probabilities ``NV`` or ``KNV``, or labels that do not fit it.

    Raises:
        ValueError: prints the shapes or dtypes.
    """
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


def _tile_terms(log_probs_Knv: Tensor, scratch: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return one tile's share of the terms; ``n`` tokens and ``v`` vocabulary entries of it.

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
    weight_nv = largest_p_nv.mul_(mean_odds_nv)
    removal_Gn = x.new_zeros((0, x.shape[1]), dtype=torch.float64)
    if sizes:
        removal_Gn = removal_terms(group_means(ratio, sizes).double(), weight_nv.double(), sizes)
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
    divergence_Kn = psi.mul_(weight_nv).sum(-1)
    return aleatoric_n, divergence_Kn, removal_Gn


def _psi_coefficients(dtype: torch.dtype) -> tuple[float, ...]:
    """Coefficients of ``psi(x) = sum_{n >= 2} (n-1)/n! x^n``, highest first, to rounding error at ``|x| <= 1/8``."""
    highest = 6 if dtype == torch.float32 else 13
    return tuple((n - 1) / math.factorial(n) for n in range(highest, 1, -1))
