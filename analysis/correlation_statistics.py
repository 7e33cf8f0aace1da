"""Correlation, partial correlation and difference of correlations as functions of a covariance matrix.

Dimension key: P measures, R replicates, S measures of one term (x, y, then those held fixed).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from analysis.moments import Moments

Pair = tuple[str, str]
Partial = tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True)
class Term:
    """The correlation of x with y, at fixed ``given``."""

    x: str
    y: str
    given: tuple[str, ...] = ()

    @property
    def measures(self) -> tuple[str, ...]:
        """All measures it looks at, x and y first."""
        return (self.x, self.y, *self.given)


@dataclass(frozen=True)
class Statistic:
    """What one row of the table asks for: a term, or a term minus another."""

    kind: str
    plus: Term
    minus: Term | None = None

    @property
    def terms(self) -> tuple[tuple[int, Term], ...]:
        """The terms with their signs."""
        return ((1, self.plus),) if self.minus is None else ((1, self.plus), (-1, self.minus))

    @property
    def measures(self) -> tuple[str, ...]:
        """All measures it looks at."""
        return tuple(dict.fromkeys(name for _, term in self.terms for name in term.measures))

    @property
    def labels(self) -> dict[str, str]:
        """The columns that name it in the table."""
        minus_x, minus_y = (self.minus.x, self.minus.y) if self.minus else ("", "")
        x, y, given = self.plus.x, self.plus.y, " + ".join(self.plus.given)
        return {"x": x, "y": y, "given": given, "minus_x": minus_x, "minus_y": minus_y}


def asked(
    pairs: Iterable[Pair], partials: Iterable[Partial], differences: Iterable[tuple[Pair, Pair]]
) -> list[Statistic]:
    """The statistics in the order of the table."""
    return [
        *(Statistic("correlation", Term(*pair)) for pair in pairs),
        *(Statistic("partial", Term(x, y, tuple(given))) for x, y, given in partials),
        *(Statistic("difference", Term(*first), Term(*second)) for first, second in differences),
    ]


def value_and_influence(statistic: Statistic, moments: Moments) -> tuple[float, np.ndarray]:
    """A statistic at the moments, and its influence summed by example (D); NaN where a term is undefined."""
    value, gradient_PP = 0.0, np.zeros_like(moments.covariance_PP)
    for sign, term in statistic.terms:
        places = moments.indices(term.measures)
        correlation, gradient_SS = _correlation(moments.covariance_PP[np.ix_(places, places)])
        value += sign * correlation
        gradient_PP[np.ix_(places, places)] += sign * gradient_SS
    return value, np.tensordot(moments.influence_DPP, gradient_PP, axes=2)


def bootstrap_limits(
    statistic: Statistic, covariance_RPP: np.ndarray, names: tuple[str, ...], confidence: float
) -> tuple[float, float]:
    """Percentiles of a statistic over resampled covariance matrices; NaN where 1 % of them leave it undefined."""
    value_R = np.zeros(len(covariance_RPP))
    for sign, term in statistic.terms:
        places = np.array([names.index(name) for name in term.measures])
        value_R += sign * _correlations(covariance_RPP[:, places[:, None], places])
    defined_R = value_R[~np.isnan(value_R)]
    if len(defined_R) < 0.99 * len(value_R) or not len(defined_R):
        return math.nan, math.nan
    low, high = np.quantile(defined_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _correlation(covariance_SS: np.ndarray) -> tuple[float, np.ndarray]:
    """The first two measures' correlation at fixed others, and its gradient in the covariances.

    r = C_01 / sqrt(C_00 C_11). At fixed others, with P the inverse of C, r = -P_01 / sqrt(P_00 P_11), and as
    dP = -P dC P, dr/dC = P_0 P_1' / sqrt(P_00 P_11) + r/2 (P_0 P_0' / P_00 + P_1 P_1' / P_11).

    Source: Whittaker (1990), Graphical Models in Applied Multivariate Statistics, section 5.7.
    """
    correlation = float(_correlations(covariance_SS[None])[0])
    if math.isnan(correlation):
        return math.nan, np.zeros_like(covariance_SS)
    if len(covariance_SS) == 2:
        variance_S = np.diagonal(covariance_SS)
        across = 0.5 / math.sqrt(variance_S.prod())
        own_S = -correlation / (2 * variance_S)
        return correlation, np.array([[own_S[0], across], [across, own_S[1]]])
    inverse_SS = np.linalg.inv(covariance_SS)
    first, second = inverse_SS[0], inverse_SS[1]
    gradient_SS = np.outer(first, second) / math.sqrt(first[0] * second[1])
    gradient_SS += correlation / 2 * (np.outer(first, first) / first[0] + np.outer(second, second) / second[1])
    return correlation, (gradient_SS + gradient_SS.T) / 2


def _correlations(covariance_RSS: np.ndarray) -> np.ndarray:
    """The correlation in each matrix; NaN where a measure is constant, is fixed by the others, or goes beyond 1."""
    variance_RS = np.diagonal(covariance_RSS, axis1=1, axis2=2)
    varies_R = (variance_RS > 0).all(axis=1)
    sd_RS = np.sqrt(variance_RS[varies_R])
    scaled_RSS = covariance_RSS[varies_R] / (sd_RS[:, :, None] * sd_RS[:, None, :])
    value_R = np.full(len(covariance_RSS), np.nan)
    if covariance_RSS.shape[1] == 2:
        correlation_R = scaled_RSS[:, 0, 1]
        beyond_R = np.abs(correlation_R) > 1 + _ROUNDING
        value_R[varies_R] = np.where(beyond_R, np.nan, np.clip(correlation_R, -1, 1))
        return value_R
    regular_R = np.linalg.eigvalsh(scaled_RSS)[:, 0] > _ROUNDING
    inverse_RSS = np.linalg.inv(scaled_RSS[regular_R])
    scale_R = np.sqrt(inverse_RSS[:, 0, 0] * inverse_RSS[:, 1, 1])
    value_R[np.flatnonzero(varies_R)[regular_R]] = -inverse_RSS[:, 0, 1] / scale_R
    return value_R


_ROUNDING = 1e-10
