"""How epistemic uncertainty settles as passes are added: its mean, its ranking, its top tokens. Pure functions.

Everything comes from the passes of one run, cut into disjoint blocks. Two blocks of 20 passes *are* two independent
runs of 20, so what they have in common is what a user's two runs would have. The first 20 passes against all 100 is
another thing: they share passes, so they agree too well; both are told, under their names.

Where the run has no two blocks of a size (more than half of its passes), the agreement is predicted from the sizes that
have. Were noise to fall as it does for means of independent draws, the odds ``r / (1 - r)`` of a rank correlation would
grow with the passes (Spearman and Brown), and the misses ``1 - o`` of a top set fall with their root. Where rare masks
make the noise it falls more slowly, so the power is fitted to the three largest sizes measured, and is at most theirs.

Dimension key: S blocks of one size, N tokens, D examples.

Source: Spearman 1910 and Brown 1910, reliability of a longer test; Quenouille 1956, the jackknife over examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.by_example import NO_INTERVAL, Examples, Interval, Scale, t_interval
from analysis.ranks import rank
from analysis.top_sets import TopSet

ESTIMATES = ("epistemic", "epistemic_corrected")
MEASURED, PREDICTED = "measured", "predicted"
_PAIRED = 10  # blocks whose pairs are compared: 45 pairs say as much as 190 that share passes
_SPREAD = 5  # blocks whose means tell their spread


@dataclass(frozen=True, eq=False)
class PassCurve:
    """Epistemic uncertainty of the same tokens from blocks of passes of one run.

    Attributes:
        owner: the example of each token.
        values: estimate (``ESTIMATES``) -> number of passes -> float64 ``[S, N]``, nats; the first block is the run's
            first passes. NaN where the estimate has no value at that size. The largest number is the whole run.
    """

    owner: Examples
    values: dict[str, dict[int, np.ndarray]]

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of passes, ascending."""
        return tuple(sorted(self.values[ESTIMATES[0]]))

    @property
    def passes(self) -> int:
        """Passes of the whole run."""
        return self.counts[-1]


def convergence_table(curve: PassCurve, *, top: float = 0.25, confidence: float = 0.95) -> pd.DataFrame:
    """One row per estimate and number of passes.

    Args:
        curve: of one run.
        top: fraction of the tokens that a selection takes, between 0 and 1.
        confidence: of the intervals by example.

    Returns:
        ``estimate``, ``passes``, ``runs`` (blocks of that size);
        ``mean``, ``mean_low``, ``mean_high``: over tokens and blocks, nats (the interval is about other examples);
        ``bias``: that mean over the corrected mean of all passes, less 1; ``noise``: sd of one run's mean over it
        (``noise_from``: measured between blocks of so many passes);
        ``agreement``, ``agreement_low``, ``agreement_high``: Spearman's correlation of two independent runs,
        ``overlap``...: share of the top tokens of one that are in the other's; ``how``: measured between disjoint
        blocks, or predicted from ``from_passes`` with the fitted ``agreement_power``, ``overlap_power``;
        ``agreement_with_all``, ``overlap_with_all``: of the first passes with the run that holds them: too good.
    """
    rows = []
    for estimate in ESTIMATES:
        by_count = curve.values[estimate]
        level = float(curve.values[ESTIMATES[1]][curve.passes].mean())
        base: dict[str, tuple[float, Interval]] = dict.fromkeys(TRENDS, (math.nan, NO_INTERVAL))
        base_count, spread_count = 0, 0
        measured: dict[str, dict[int, float]] = {name: {} for name in TRENDS}
        for count in curve.counts:
            values_SN = by_count[count]
            if np.isnan(values_SN).any():
                continue
            row = {"estimate": estimate, "passes": count, "runs": len(values_SN)}
            mean = by_jackknife(values_SN, curve.owner, _mean, confidence, "plain")
            row |= _named("mean", *mean) | {"bias": mean[0] / level - 1 if level > 0 else math.nan}
            if len(values_SN) >= _SPREAD or not spread_count:
                spread_count, spread = count, _relative_spread(values_SN)
            row |= {"noise": spread * math.sqrt(spread_count / count), "noise_from": spread_count}
            if len(values_SN) > 1:
                base_count = count
                base = {
                    "agreement": by_jackknife(values_SN, curve.owner, agreement, confidence, "fisher"),
                    "overlap": by_jackknife(values_SN, curve.owner, _Overlap(top), confidence, "share"),
                }
                for name, (value, _) in base.items():
                    measured[name][count] = value
            for name, (value, interval) in base.items():
                trend = TRENDS[name]
                power = trend.power(measured[name])
                ends = (value, interval.low, interval.high)
                value, low, high = (trend.after(end, count / (base_count or count), power) for end in ends)
                row |= _named(name, value, Interval(low, high)) | {f"{name}_power": power}
            row |= {
                "how": MEASURED if count == base_count else PREDICTED if base_count else "",
                "from_passes": base_count,
            }
            both_SN = np.stack([values_SN[0], by_count[curve.passes][0]])
            row |= {"agreement_with_all": agreement(both_SN), "overlap_with_all": overlap(both_SN, top)}
            rows.append(row)
    return pd.DataFrame(rows).assign(**curve.owner.counts())


def agreement(values_SN: np.ndarray) -> float:
    """Mean of Spearman's correlation over the pairs of rows; NaN where a row is constant.

    >>> agreement(np.array([[1.0, 2.0, 3.0], [10.0, 30.0, 20.0]]))
    0.5
    """
    shares_SN = np.stack([rank(values_N).share_N for values_N in values_SN[:_PAIRED]])
    shares_SN = shares_SN - shares_SN.mean(1, keepdims=True)
    length_S = np.sqrt((shares_SN**2).sum(1))
    if (length_S < 1e-12).any():
        return math.nan
    correlation_SS = (shares_SN @ shares_SN.T) / np.outer(length_S, length_S)
    return float(np.mean([correlation_SS[a, b] for a, b in combinations(range(len(length_S)), 2)]))


def overlap(values_SN: np.ndarray, top: float) -> float:
    """Mean share of one row's top tokens that are among the other's, over the pairs of rows.

    Ties at the edge are shared evenly. Rows that have nothing to do with each other share ``top`` of them.

    >>> overlap(np.array([[1.0, 2.0, 3.0, 4.0], [4.0, 2.0, 1.0, 3.0]]), 0.5)
    0.5
    """
    sets = [TopSet(rank(values_N), top) for values_N in values_SN[:_PAIRED]]
    weights = [one.weights for one in sets]
    return float(np.mean([np.minimum(a, b).sum() for a, b in combinations(weights, 2)]) / sets[0].n_inside)


@dataclass(frozen=True)
class Trend:
    """How the agreement of two runs grows with their passes: its odds as a power of them.

    Attributes:
        odds: of an agreement.
        value: the agreement of odds.
        steepest: the power where noise falls as in a mean of independent draws.
    """

    odds: Callable[[float], float]
    value: Callable[[float], float]
    steepest: float

    def power(self, measured: dict[int, float]) -> float:
        """The power that fits the three largest numbers of passes, from 0 to the steepest; that where one is known."""
        known = [(math.log(count), self.odds(value)) for count, value in sorted(measured.items())[-3:]]
        usable = [(x, math.log(odds)) for x, odds in known if 0 < odds < math.inf]
        if len(usable) < 2:
            return self.steepest
        x, y = np.array(usable).T
        return float(np.clip(np.polyfit(x, y, 1)[0], 0.0, self.steepest))

    def after(self, value: float, times: float, power: float) -> float:
        """The agreement of two runs with ``times`` as many passes each."""
        return value if times == 1 else self.value(self.odds(value) * times**power)

    def times(self, value: float, threshold: float, power: float) -> float:
        """How many times the passes bring an agreement to a threshold; infinite where they do not."""
        odds, wanted = self.odds(value), self.odds(threshold)
        if math.isnan(odds):
            return math.nan
        if odds <= 0 or (power <= 0 and odds < wanted):
            return math.inf
        return (wanted / odds) ** (1 / power) if power > 0 else 1.0


def reliability_odds(value: float) -> float:
    """``r / (1 - r)``: Spearman and Brown's formula is that it grows with the passes.

    >>> reliability_odds(0.75)
    3.0
    """
    return math.inf if value >= 1 else value / (1 - value)


def hit_odds(value: float) -> float:
    """``1 / (1 - o)``: one miss in so many.

    >>> hit_odds(0.75)
    4.0
    """
    return math.inf if value >= 1 else 1 / (1 - value)


def by_jackknife(
    values_SN: np.ndarray,
    owner: Examples,
    statistic: Callable[[np.ndarray], float],
    confidence: float,
    scale: Scale,
) -> tuple[float, Interval]:
    """A statistic over tokens and its interval by example, from leaving out one example at a time."""
    value = statistic(values_SN)
    if owner.n_examples < 3 or math.isnan(value):
        return value, NO_INTERVAL
    left_D = np.array([statistic(values_SN[:, owner.code_N != d]) for d in range(owner.n_examples)])
    if np.isnan(left_D).any():
        return value, NO_INTERVAL
    share = (owner.n_examples - 1) / owner.n_examples
    return value, t_interval(value, (left_D.mean() - left_D) * share * owner.n_tokens, owner, confidence, scale)


@dataclass(frozen=True)
class _Overlap:
    top: float

    def __call__(self, values_SN: np.ndarray) -> float:
        return overlap(values_SN, self.top)


def _mean(values_SN: np.ndarray) -> float:
    return float(values_SN.mean())


def _relative_spread(values_SN: np.ndarray) -> float:
    """The sd of one run's mean level over that level; NaN for one run and for a level of zero."""
    means_S = values_SN.mean(1)
    if len(means_S) < 2 or not means_S.mean() > 0:
        return math.nan
    return float(means_S.std(ddof=1) / means_S.mean())


def _named(name: str, value: float, interval: Interval) -> dict[str, float]:
    return {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _reliability(odds: float) -> float:
    return odds / (1 + odds) if math.isfinite(odds) else 1.0 if odds > 0 else math.nan


def _hits(odds: float) -> float:
    return 1 - 1 / odds if odds else math.nan


TRENDS = {"agreement": Trend(reliability_odds, _reliability, 1.0), "overlap": Trend(hit_odds, _hits, 0.5)}
