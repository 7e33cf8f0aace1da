"""One sweep over the members for every measure that a run adds: sums over the vocabulary of float64 terms.

A measure names its *parts*: functions from a tile to one value per token, or per member and token, each a sum over the
tile's vocabulary. ``sweep`` adds them up over all tiles, so that any number of measures costs one reading of the
members, and no temporary grows with K*N*V. All terms are in float64, where the plain formulas below serve down to
divergences of 1e-10 nats; the columns of every run are quicker (``member_terms.py``).

Dimensions: K members, N tokens, V vocabulary, G groups of members; small letters for one tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from uncertainty.member_terms import (
    FLOOR,
    check_log_probs,
    group_means,
    group_sizes,
    removal_terms,
)
from uncertainty.pass_groups import jackknife_sizes


class Groups(NamedTuple):
    """How the members are cut.

    Attributes:
        units: sizes of what is left out for the value: every member, or every block of members drawn together.
        errors: sizes of what is left out for the standard error.
    """

    units: tuple[int, ...]
    errors: tuple[int, ...]


class Tile:
    """A few tokens' members over a stretch of the vocabulary, and what several parts need of them.

    Args:
        log_p_Knv: log-probabilities of the members, floored.
        log_off_nv: those of the deterministic model, floored; None where no part reads them.
        groups: how the members are cut.
    """

    def __init__(self, log_p_Knv: Tensor, log_off_nv: Tensor | None, groups: Groups) -> None:
        self.log_p_Knv = log_p_Knv
        self.log_off_nv = log_off_nv
        self.groups = groups

    @cached_property
    def log_mean_nv(self) -> Tensor:
        """``log mean_k p_k``."""
        return self.log_p_Knv.logsumexp(0) - math.log(len(self.log_p_Knv))

    @cached_property
    def mean_nv(self) -> Tensor:
        """``mean_k p_k``."""
        return self.log_mean_nv.exp()

    @cached_property
    def log_ratio_Knv(self) -> Tensor:  # noqa: N802
        """``log(p_k / mean)``; exactly 0 where all members agree."""
        highest_nv = self.log_p_Knv.amax(0)
        x_Knv = self.log_p_Knv - highest_nv
        return x_Knv - x_Knv.exp().mean(0).log()

    @cached_property
    def excess_Knv(self) -> Tensor:  # noqa: N802
        """``p_k / mean - 1``."""
        return self.log_ratio_Knv.expm1()


Part = Callable[[Tile], Tensor]


@dataclass(frozen=True)
class Sums:
    """What a sweep found.

    Attributes:
        of: part -> float64 ``[N]``, or ``[., N]``, summed over the vocabulary.
        groups: how the members were cut.
    """

    of: dict[Part, Tensor]
    groups: Groups


class Estimate(NamedTuple):
    """A measure as a formula of sums over the vocabulary."""

    parts: tuple[Part, ...]
    formula: Callable[[Sums], Tensor]

    def __call__(
        self, log_probs_KNV: Tensor, log_probs_NV: Tensor | None = None, *, groups: int | Sequence[int] | None = None
    ) -> Tensor:
        """The measure in a sweep of its own, ``[N]``."""
        return self.formula(sweep(self.parts, log_probs_KNV, log_probs_NV, groups=groups))


class Measure(NamedTuple):
    """One line of the table of measures: ``function(*reads)`` gives one value per token.

    Attributes:
        function: the measure.
        reads: what it takes, in order: log_probs_NV is the prediction of the deterministic model, log_probs_KNV those
            of the members, label_N the token ids.
        unit: of its values.
        meaning: a few words.
        estimate: the same as a formula of sums, so that several share a sweep; None where it is none.
    """

    function: Callable[..., Tensor]
    reads: tuple[str, ...]
    unit: str
    meaning: str
    estimate: Estimate | None = None


def sweep(
    parts: Sequence[Part],
    log_probs_KNV: Tensor,
    log_probs_NV: Tensor | None = None,
    *,
    groups: int | Sequence[int] | None = None,
    tile: int | None = None,
) -> Sums:
    """Add up parts over the vocabulary.

    Args:
        parts: functions of a tile.
        log_probs_KNV: log-probabilities of the members, float32 or float64, ``-inf`` allowed, any strides. Values below
            -87 count as -87 (p = 1.6e-38), so that every divergence is finite.
        log_probs_NV: those of the deterministic model, for parts that read them.
        groups: G blocks of consecutive members drawn independently of each other, or the size of each; None where
            every member was.
        tile: elements of a tile; default 2**16 on a CPU, 2**22 elsewhere. A dozen float64 blocks of it are held.

    Returns:
        the sums, without a gradient.

    Raises:
        ValueError: shapes or dtypes do not fit, or ``groups`` do not make up K.
    """
    check_log_probs(log_probs_KNV, "KNV")
    n_members, n_tokens, n_vocabulary = log_probs_KNV.shape
    sizes = group_sizes(n_members, groups)
    cut = Groups(sizes or (1,) * n_members, sizes or jackknife_sizes(n_members))
    if log_probs_NV is not None:
        check_log_probs(log_probs_NV, "NV")
        if log_probs_NV.shape != log_probs_KNV.shape[1:]:
            raise ValueError(f"members of shape {list(log_probs_KNV.shape)} do not fit {list(log_probs_NV.shape)}")
    tile = tile if tile is not None else 2**16 if log_probs_KNV.device.type == "cpu" else 2**22
    if tile < 1:
        raise ValueError(f"tile must be at least 1 element, got {tile}")
    width = min(n_vocabulary, max(1, tile // n_members))
    height = max(1, tile // (n_members * width))
    rows = []
    for n in range(0, max(1, n_tokens), height):
        here = slice(n, n + height)
        off_nV = None if log_probs_NV is None else log_probs_NV[here]
        rows.append(_row_sums(parts, log_probs_KNV[:, here], off_nV, cut, width))
    return Sums({part: torch.cat([row[part] for row in rows], dim=-1) for part in parts}, cut)


def _row_sums(
    parts: Sequence[Part], log_probs_KnV: Tensor, log_off_nV: Tensor | None, groups: Groups, width: int
) -> dict[Part, Tensor]:
    """All parts of a few tokens, over their whole vocabulary."""
    sums: dict[Part, Tensor] = {}
    for v in range(0, log_probs_KnV.shape[-1], width):
        here = slice(v, v + width)
        off_nv = None if log_off_nV is None else _floored(log_off_nV[:, here])
        tile = Tile(_floored(log_probs_KnV[..., here]), off_nv, groups)
        for part in parts:
            value = part(tile)
            sums[part] = sums[part] + value if part in sums else value
    return sums


def _floored(log_probs: Tensor) -> Tensor:
    return log_probs.detach().double().clamp(min=FLOOR)


# The parts. Each term is a divergence in its Bregman form, whose terms over the vocabulary are >= 0 one by one.


def divergence(tile: Tile) -> Tensor:
    """``KL(p_k || mean)``, ``[K, n]``."""
    x_Knv, excess_Knv = tile.log_ratio_Knv, tile.excess_Knv
    return ((x_Knv * (1.0 + excess_Knv) - excess_Knv).clamp_(min=0.0) * tile.mean_nv).sum(-1)


def reverse_divergence(tile: Tile) -> Tensor:
    """``KL(mean || p_k)``, ``[K, n]``."""
    return ((tile.excess_Knv - tile.log_ratio_Knv).clamp_(min=0.0) * tile.mean_nv).sum(-1)


def removal_of_groups(tile: Tile) -> Tensor:
    """``KL(mean without group g || mean)`` for the groups of the standard error, ``[G, n]``."""
    return _removal(tile, tile.groups.errors)


def removal_of_units(tile: Tile) -> Tensor:
    """The same for what is drawn independently: the replicate blocks, or every member by itself."""
    return _removal(tile, tile.groups.units)


def divergence_from_others(tile: Tile) -> Tensor:
    """``KL(p_k || mean of the members outside k's block)``, ``[K, n]``; a block is k alone where none are given."""
    sizes = torch.tensor(tile.groups.units, device=tile.log_p_Knv.device)
    highest_nv = tile.log_p_Knv.amax(0)
    odds_Gnv = group_means((tile.log_p_Knv - highest_nv).exp(), tile.groups.units) * sizes[:, None, None]
    others_G11 = (sizes.sum() - sizes)[:, None, None]
    log_others_Gnv = (_sums_of_others(odds_Gnv).log() + highest_nv - others_G11.log()).clamp_(min=FLOOR)
    return _divergence(tile.log_p_Knv, log_others_Gnv.repeat_interleave(sizes, 0))


def divergence_from_deterministic(tile: Tile) -> Tensor:
    """``KL(p_k || p of the deterministic model)``, ``[K, n]``."""
    assert tile.log_off_nv is not None, "the deterministic prediction was not given"
    return _divergence(tile.log_p_Knv, tile.log_off_nv)


def summed_variance(tile: Tile) -> Tensor:
    """``sum_v var_k p_kv`` with divisor K - 1, ``[n]``; NaN for one member."""
    return _variance(tile).sum(-1)


def summed_deviation(tile: Tile) -> Tensor:
    """``sum_v sd_k p_kv`` with divisor K - 1, ``[n]``; NaN for one member."""
    return _variance(tile).sqrt().sum(-1)


def _variance(tile: Tile) -> Tensor:
    n_members = len(tile.log_p_Knv)
    return tile.mean_nv.square() * tile.excess_Knv.square().sum(0) / (n_members - 1)


def _removal(tile: Tile, sizes: tuple[int, ...]) -> Tensor:
    return removal_terms(1.0 + group_means(tile.excess_Knv, sizes), tile.mean_nv, sizes)


def _sums_of_others(odds_Gnv: Tensor) -> Tensor:
    """The sum of all rows but one, for each row.

    Added up without it, not taken off the sum of all, which would lose what is small beside it.
    """
    zero_1nv = torch.zeros_like(odds_Gnv[:1])
    before_Gnv = torch.cat([zero_1nv, odds_Gnv[:-1]]).cumsum(0)
    after_Gnv = torch.cat([odds_Gnv[1:], zero_1nv]).flip(0).cumsum(0).flip(0)
    return before_Gnv + after_Gnv


def _divergence(log_p_Knv: Tensor, log_q: Tensor) -> Tensor:
    """``KL(p_k || q) = sum_v p (e^z - 1 - z)``, ``z = log(q / p)``, ``[K, n]``."""
    z_Knv = log_q - log_p_Knv
    return ((z_Knv.expm1() - z_Knv).clamp_(min=0.0) * log_p_Knv.exp()).sum(-1)
