"""Covariances of measures over tokens, or of their global ranks, with what each example contributes to them.

Every correlation, partial correlation and difference is a smooth function of one covariance matrix. So the matrix
is computed once, with its influence by example, and a statistic is its value and gradient there.

Dimension key: P measures, N tokens, D examples, R replicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.by_example import Examples
from analysis.ranks import Ranks


@dataclass(frozen=True, eq=False)
class Moments:
    """A covariance matrix and the examples' part in it.

    Attributes:
        names: the P measures.
        undefined: measure -> why it has no correlation.
        covariance_PP: over all tokens.
        influence_DPP: sums over each example's tokens of the influence on the covariance.
        sums_DQ: per example the sums that resampling needs: count, P values, P * P products.
    """

    names: tuple[str, ...]
    undefined: dict[str, str]
    covariance_PP: np.ndarray
    influence_DPP: np.ndarray
    sums_DQ: np.ndarray

    def indices(self, names: Sequence[str]) -> list[int]:
        """Places of measures in the matrix."""
        return [self.names.index(name) for name in names]

    def why_undefined(self, names: Sequence[str]) -> str:
        """Why a statistic of these measures is undefined; "" if it is not."""
        return "; ".join(self.undefined[name] for name in dict.fromkeys(names) if name in self.undefined)


def rank_moments(ranks: dict[str, Ranks], examples: Examples) -> Moments:
    """Moments of the global ranks (as shares of N): Spearman's statistics.

    The influence has three parts: the token's own product, and how its presence moves the ranks of all others in
    either measure. Leaving out the latter two made intervals a quarter too narrow on a small model's scores, where
    most tokens are near zero, and a third to a half on simulated easy and hard tokens.
    """
    undefined = {name: f"undefined: {name} is constant" for name, one in ranks.items() if one.n_distinct < 2}
    centred = {name: one.share_N - 0.5 for name, one in ranks.items()}
    moments = _moments(centred, undefined, examples)
    moved_DPP = np.zeros_like(moments.influence_DPP)
    for i, one in enumerate(ranks.values()):
        owner_N = examples.code_N[one.order_N]
        for j, other_N in enumerate(centred.values()):
            moved_N = one.above(other_N)
            moved_N -= moved_N.mean()
            moved_DPP[:, i, j] = np.bincount(owner_N, weights=moved_N, minlength=examples.n_examples)
    moved_DPP += moved_DPP.transpose(0, 2, 1)
    # Resampling must see the moving ranks too. The mean rank is 1/2 whatever is drawn, so it has no share in it.
    sums_DQ = moments.sums_DQ.copy()
    sums_DQ[:, 1 : 1 + len(ranks)] = 0
    sums_DQ[:, 1 + len(ranks) :] += moved_DPP.reshape(len(sums_DQ), -1)
    return replace(moments, influence_DPP=moments.influence_DPP + moved_DPP, sums_DQ=sums_DQ)


def value_moments(values: dict[str, np.ndarray], examples: Examples) -> Moments:
    """Moments of the values themselves, each measure in units of its standard deviation: Pearson's statistics."""
    undefined = {name: reason for name, value_N in values.items() if (reason := _no_variance(name, value_N))}
    zero_N = np.zeros(examples.n_tokens)
    standard = {name: zero_N if name in undefined else _standardised(value_N) for name, value_N in values.items()}
    return _moments(standard, undefined, examples)


def less_noise(moments: Moments, name: str, reliability: float, noise_D: np.ndarray | None = None) -> Moments:
    """Moments with the noise of one measure taken out of its variance: its variance times the reliability.

    Args:
        moments: of the measures as they were measured.
        name: the noisy measure; its noise is independent of the other measures that are looked at.
        reliability: share of its variance that is not noise.
        noise_D: sums by example of each token's noise variance, in units of the measure's variance, where its
            sampling error shall count; None takes the reliability as known.
    """
    k = moments.names.index(name)
    covariance_PP, influence_DPP = moments.covariance_PP.copy(), moments.influence_DPP.copy()
    if noise_D is None:
        influence_DPP[:, k, k] *= reliability
    else:
        n_D = moments.sums_DQ[:, 0]
        influence_DPP[:, k, k] -= noise_D - n_D * noise_D.sum() / n_D.sum()
    covariance_PP[k, k] *= reliability
    return replace(moments, covariance_PP=covariance_PP, influence_DPP=influence_DPP)


def resampled_covariances(moments: Moments, replicates: int, seed: int) -> np.ndarray:
    """Covariance matrices under resampling of the examples: RPP.

    Ranks are not taken anew in each replicate but kept, with how they would move to first order: so a replicate costs
    D additions instead of a sort of N tokens.
    """
    n_examples, n_measures = len(moments.sums_DQ), len(moments.names)
    rng = np.random.default_rng(seed)
    blocks = [weights_RD @ moments.sums_DQ for weights_RD in _draws(rng, n_examples, replicates)]
    sums_RQ = np.concatenate([moments.sums_DQ[:0], *blocks])
    mean_RQ = sums_RQ[:, 1:] / sums_RQ[:, :1]
    mean_RP = mean_RQ[:, :n_measures]
    products_RPP = mean_RQ[:, n_measures:].reshape(-1, n_measures, n_measures)
    return products_RPP - mean_RP[:, :, None] * mean_RP[:, None, :]


def _draws(rng: np.random.Generator, n_examples: int, replicates: int) -> Iterator[np.ndarray]:
    """How often each example is drawn, in blocks of replicates that stay below 64 MB."""
    block = max(1, 8_000_000 // n_examples)
    for start in range(0, replicates, block):
        n_rows = min(block, replicates - start)
        drawn = rng.integers(n_examples, size=(n_rows, n_examples))
        drawn += np.arange(n_rows)[:, None] * n_examples
        count = np.bincount(drawn.ravel(), minlength=n_rows * n_examples)
        yield count.reshape(n_rows, n_examples).astype(np.float64)


def _moments(values: dict[str, np.ndarray], undefined: dict[str, str], examples: Examples) -> Moments:
    """Moments of columns whose mean over all tokens is 0."""
    names, n_measures = tuple(values), len(values)
    sums_DQ = np.empty((examples.n_examples, 1 + n_measures + n_measures**2))
    sums_DQ[:, 0] = examples.n_tokens_D
    for i, first in enumerate(names):
        sums_DQ[:, 1 + i] = examples.sums(values[first])
        for j, second in enumerate(names[: i + 1]):
            product_D = examples.sums(values[first] * values[second])
            sums_DQ[:, 1 + n_measures + i * n_measures + j] = product_D
            sums_DQ[:, 1 + n_measures + j * n_measures + i] = product_D
    products_DPP = sums_DQ[:, 1 + n_measures :].reshape(-1, n_measures, n_measures)
    covariance_PP = products_DPP.sum(axis=0) / examples.n_tokens
    influence_DPP = products_DPP - examples.n_tokens_D[:, None, None] * covariance_PP
    return Moments(names, undefined, covariance_PP, influence_DPP, sums_DQ)


def _standardised(value_N: np.ndarray) -> np.ndarray:
    centred_N = value_N.astype(np.float64)
    centred_N -= centred_N.mean()
    return centred_N / np.sqrt(np.mean(centred_N**2))


def _no_variance(name: str, value_N: np.ndarray) -> str:
    if not np.isfinite(value_N).all():
        return f"undefined: {name} is infinite for {int(np.sum(~np.isfinite(value_N)))} tokens"
    return f"undefined: {name} is constant" if value_N.min() == value_N.max() else ""
