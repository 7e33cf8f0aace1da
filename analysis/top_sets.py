"""How well a signal finds the top fraction of another column: AUROC, average precision, precision and Jaccard.

A top set has a whole number of tokens. Membership is a weight from 0 to 1: a tie at the edge is shared evenly among
the tied, so the weights add up to that number and nothing hangs on the order of rows. The edges are quantiles of the
same tokens, so adding a token moves them: the influences include that, or the intervals would be wrong.

Dimension key: N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.ranks import Ranks

METRICS = ("auroc", "average_precision", "precision", "jaccard")


@dataclass(frozen=True, eq=False)
class TopSet:
    """The top fraction of a column.

    Attributes:
        ranks: of the column.
        asked: fraction of the tokens, between 0 and 1.
    """

    ranks: Ranks
    asked: float

    @property
    def n_tokens(self) -> int:
        """Number of tokens N, inside and outside."""
        return len(self.ranks.order_N)

    @property
    def n_inside(self) -> int:
        """The whole number of tokens nearest to the fraction asked, but at least one inside and one outside."""
        return min(max(round(self.asked * self.n_tokens), 1), self.n_tokens - 1)

    @property
    def fraction(self) -> float:
        """The fraction that they are."""
        return self.n_inside / self.n_tokens

    @cached_property
    def weights(self) -> np.ndarray:
        """By token, 1 inside, 0 outside, and the same share for all who tie at the edge; the mean is the fraction."""
        start_N, stop_N = self.ranks.start_N, self.ranks.stop_N
        room_N = self.n_inside - (self.n_tokens - stop_N)
        return self.ranks.to_tokens(np.clip(room_N / (stop_N - start_N), 0.0, 1.0))

    @cached_property
    def edge(self) -> np.ndarray:
        """The tokens around the edge, as many above as below, whole groups of equal values.

        N^0.7 of them, so that their mean tends to the mean at the edge: ever more tokens in an ever smaller share.
        """
        place = self.n_tokens - self.n_inside
        reach = min(0.5 * self.n_tokens**0.7, place, self.n_tokens - place)
        first = int(np.clip(np.floor(place - reach), 0, self.n_tokens - 1))
        last = int(np.clip(np.ceil(place + reach) - 1, first, self.n_tokens - 1))
        return self.ranks.order_N[self.ranks.start_N[first] : self.ranks.stop_N[last]]

    @property
    def tied_share(self) -> float:
        """Share of all tokens that tie at the edge, where the edge cuts through a tie; else 0."""
        return float(np.mean((self.weights > 0) & (self.weights < 1)))

    def moved_by(self, gain_N: np.ndarray) -> np.ndarray:
        """By token, what a token above the edge costs by pushing another one out of the set.

        Args:
            gain_N: by token, how much the statistic gains by a token's membership.
        """
        return (self.weights - self.fraction) * gain_N[self.edge].mean()


@dataclass(frozen=True, eq=False)
class Found:
    """A metric from 0 to 1 and the influence of each token on it, in the order of the tokens."""

    value: float
    influence_N: np.ndarray


def find(target: TopSet, signal: Ranks) -> dict[str, Found]:
    """Every metric of a signal, large values first, against a target set.

    auroc: P(signal of a token inside > signal of one outside), ties half (Mann-Whitney).
    average_precision: over the tokens inside, the mean share of inside tokens among those with as large a signal.
    precision: share of the signal's top fraction that is inside, which is also its recall.
    jaccard: tokens in both sets over tokens in either, precision / (2 - precision).

    Returns:
        metric -> value and influence.

    Source: influence of the area, DeLong, DeLong and Clarke-Pearson (1988); of sets with estimated edges, the
    empirical copula process, Fermanian, Radulovic and Wegkamp (2004).
    """
    precision = _precision(target, signal)
    jaccard = precision.value / (2 - precision.value)
    return {
        "auroc": _auroc(target, signal),
        "average_precision": _average_precision(target, signal),
        "precision": precision,
        "jaccard": Found(jaccard, precision.influence_N * 2 / (2 - precision.value) ** 2),
    }


def chance(fraction: float) -> dict[str, float]:
    """What a signal that knows nothing reaches on many tokens."""
    return {
        "auroc": 0.5,
        "average_precision": fraction,
        "precision": fraction,
        "jaccard": fraction / (2 - fraction),
    }


def _auroc(target: TopSet, signal: Ranks) -> Found:
    """From the mean rank share F of the inside tokens: E[w F] / q = q / 2 + (1 - q) AUROC."""
    inside_N, q = target.weights, target.fraction
    mean = float(np.mean(inside_N * signal.share_N))
    influence_N = inside_N * signal.share_N + signal.to_tokens(signal.above(inside_N))
    influence_N -= target.moved_by(signal.share_N)
    return Found((mean / q - q / 2) / (1 - q), _centred(influence_N) / (q * (1 - q)))


def _average_precision(target: TopSet, signal: Ranks) -> Found:
    """E[w H+ / H] / q, with H the share of tokens with as large a signal and H+ of inside tokens among them."""
    inside_N, q = target.weights, target.fraction
    as_large_N = np.empty(target.n_tokens)
    as_large_N[signal.order_N] = 1 - signal.start_N / target.n_tokens
    precision_N = signal.to_tokens(signal.above(inside_N, ties=1)) / as_large_N
    helped_N = signal.to_tokens(signal.below(inside_N / as_large_N, ties=1))
    diluted_N = signal.to_tokens(signal.below(inside_N * precision_N / as_large_N, ties=1))
    gain_N = precision_N + helped_N
    influence_N = inside_N * gain_N - diluted_N - target.moved_by(gain_N)
    return Found(float(np.mean(inside_N * precision_N)) / q, _centred(influence_N) / q)


def _precision(target: TopSet, signal: Ranks) -> Found:
    inside_N, q = target.weights, target.fraction
    selected = TopSet(signal, target.asked)
    both_N = inside_N * selected.weights
    influence_N = both_N - target.moved_by(selected.weights) - selected.moved_by(inside_N)
    return Found(float(np.mean(both_N)) / q, _centred(influence_N) / q)


def _centred(influence_N: np.ndarray) -> np.ndarray:
    return influence_N - influence_N.mean()
