"""What a dropout sweep says: how epistemic uncertainty (BALD) depends on the rate.

Three tables. ``distribution_table``: the values at each rate. ``step_table``: the change from each rate to the next.
``trend_table``: whether uncertainty rises with the rate, token by token, and in which range. Intervals are by example,
see ``by_example``; the sites are compared in ``sweep_sites``.

The paper says that uncertainty rises monotonically with the rate (arXiv:2503.16511, figure 10). That cannot hold up to
rate 1, where all members are equal again, and a single token's value carries Monte Carlo noise; so the range is found
and not assumed, and a fall of one token counts only where it is larger than its noise.

Dimension key: N tokens, R rates, D examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from analysis.by_example import Examples, few_examples, number_examples, t_interval
from analysis.levels import QUANTILES
from analysis.sweep_runs import RateSeries

CONFIDENCE = 0.95
NOISE_FACTOR = 2.0  # a token's fall counts from so many standard errors on; 2.3 % of equal values fall that far
FEWEST_RATES = 3  # Page's test has no meaning for two

RISES, FALLS, NOT_RESOLVED = "rises", "falls", "not resolved"

_COUNTS = ("n_tokens", "n_examples", "n_effective", "warning")
DISTRIBUTION_COLUMNS = (
    *("model", "dataset", "sites", "rate"),
    "kinds",  # the kinds of sites on which dropout acted
    *("n_sites", "passes"),
    *("mean", "low", "high"),  # nats, over tokens; interval by example
    *(f"q{100 * q:02.0f}" for q in QUANTILES),  # nats, q01 ... q99
    "relative_se",  # median over tokens of Monte Carlo standard error / value
    *_COUNTS,
    "fingerprint",  # of the run
)
STEP_COLUMNS = (
    *("model", "dataset", "sites", "rate", "next_rate"),
    *("change", "low", "high"),  # of the mean, nats; interval by example
    "slope",  # d log mean / d log rate: 1 is proportional
    "verdict",  # RISES, FALLS or NOT_RESOLVED
    "share_rising",  # of the tokens
    "share_falling_beyond_noise",  # of the tokens
    "warning",
)
TREND_COLUMNS = (
    *("model", "dataset", "sites", "n_rates"),
    *("tau", "low", "high"),  # mean over tokens of Kendall's tau, -1 to 1; interval by example
    "tau_median",
    "share_monotone",  # of the tokens: tau is 1
    "share_falling",  # of the tokens: tau is below 0
    *("page_l", "page_p"),  # one-sided; NaN under 3 rates or 2 examples
    *("monotone_from", "monotone_to"),  # longest range in which the mean rises at every step; NaN if it rises nowhere
    "monotone_resolved",  # whether every step in it has its interval above 0
    "peak_rate",  # where the mean is highest
    *_COUNTS,
)


def distribution_table(series: Sequence[RateSeries]) -> pd.DataFrame:
    """The distribution of epistemic uncertainty over tokens at each rate (the paper's figure 10).

    Returns:
        one row per series and rate, ``DISTRIBUTION_COLUMNS``.
    """
    rows = []
    for one in series:
        examples = examples_of(one)
        for rate, run in zip(one.rates, one.runs, strict=True):
            values_N = one.epistemic[rate].to_numpy()
            known = values_N > 0
            relative_N = one.standard_error[rate].to_numpy()[known] / values_N[known]
            rows.append(
                one.label
                | {"rate": rate, "kinds": run.kinds, "n_sites": run.n_sites, "passes": one.passes}
                | mean_with_interval("mean", values_N, examples)
                | {f"q{100 * q:02.0f}": float(np.quantile(values_N, q)) for q in QUANTILES}
                | {"relative_se": float(np.median(relative_N)) if known.any() else math.nan}
                | examples.counts()
                | {"warning": few_examples(examples), "fingerprint": run.info.fingerprint}
            )
    return pd.DataFrame(rows, columns=DISTRIBUTION_COLUMNS)


def step_table(series: Sequence[RateSeries]) -> pd.DataFrame:
    """The change of epistemic uncertainty from each rate to the next, on the same tokens.

    The interval is that of a paired difference by example; the Monte Carlo noise of both rates is in it, because each
    example has masks of its own. Of single tokens only falls beyond noise are counted: more than ``NOISE_FACTOR``
    standard errors sqrt(se^2 + se'^2). Keyed masks are nested (what is dropped at a low rate is dropped at a higher
    one), so the two errors go together and this bound is too wide rather than too narrow.

    Returns:
        one row per series and step, ``STEP_COLUMNS``.
    """
    rows = []
    for one in series:
        examples = examples_of(one)
        for rate, next_rate in pairwise(one.rates):
            before_N, after_N = one.epistemic[rate].to_numpy(), one.epistemic[next_rate].to_numpy()
            noise_N = np.hypot(one.standard_error[rate].to_numpy(), one.standard_error[next_rate].to_numpy())
            change = mean_with_interval("change", after_N - before_N, examples)
            rows.append(
                one.label
                | {"rate": rate, "next_rate": next_rate}
                | change
                | {"slope": _slope(rate, next_rate, before_N.mean(), after_N.mean()), "verdict": _verdict(change)}
                | {"share_rising": float(np.mean(after_N > before_N))}
                | {"share_falling_beyond_noise": float(np.mean(before_N - after_N > NOISE_FACTOR * noise_N))}
                | {"warning": few_examples(examples)}
            )
    return pd.DataFrame(rows, columns=STEP_COLUMNS)


def trend_table(series: Sequence[RateSeries]) -> pd.DataFrame:
    """Whether epistemic uncertainty rises with the rate: token by token, as a test over examples, and in the mean.

    The test is Page's L, because it is the rank test for an ordered alternative on the same blocks at every level. Its
    blocks are the examples and not the tokens: tokens of one example hang together, and a test that took them as
    independent would be far too sure. The block's value at a rate is the mean of its tokens' ranks over the rates, so
    that each token has one voice however uncertain it is; if the rate made no difference, all orders of the rates
    would be as likely in a block, whatever its tokens do together. Beside the test stands the size of the effect,
    Kendall's tau of rate and uncertainty for every token. Its interval, again by example, is the sounder of the two:
    keyed masks are nested from rate to rate, so that neighbouring rates share noise and not all orders are quite
    equally likely, while tau averages 0 as soon as no rate is favoured in any pair of rates.

    Returns:
        one row per series, ``TREND_COLUMNS``.

    Source: Page (1963); Kendall (1938).
    """
    steps = step_table(series)
    rows = []
    for one in series:
        examples = examples_of(one)
        tau_N = token_trend(one.epistemic)
        known_N = ~np.isnan(tau_N)
        owners = number_examples(pd.Series(one.epistemic.index[known_N])) if known_N.any() else examples
        page_l, page_p = page_test(one.epistemic)
        mine = steps[(steps[list(one.label)] == list(one.label.values())).all(axis=1)]
        rows.append(
            one.label
            | {"n_rates": len(one.runs)}
            | mean_with_interval("tau", tau_N[known_N], owners)
            | {"tau_median": float(np.median(tau_N[known_N])) if known_N.any() else math.nan}
            | {"share_monotone": _share(tau_N == 1, known_N), "share_falling": _share(tau_N < 0, known_N)}
            | {"page_l": page_l, "page_p": page_p}
            | monotone_range(mine)
            | {"peak_rate": one.epistemic.mean().idxmax()}
            | examples.counts()
            | {"warning": few_examples(examples)}
        )
    return pd.DataFrame(rows, columns=TREND_COLUMNS)


def token_trend(epistemic: pd.DataFrame) -> np.ndarray:
    """Kendall's tau-b of rate and epistemic uncertainty for every token.

    tau_b = sum over pairs of rates of sign(later - earlier) / sqrt(pairs * pairs that differ).

    Args:
        epistemic: one row per token, one column per rate, ascending.

    Returns:
        N values from -1 to 1; 1 where uncertainty rises at every step, NaN where it is the same at all rates.

    >>> token_trend(pd.DataFrame({0.1: [1.0, 3.0, 2.0], 0.2: [2.0, 2.0, 2.0], 0.3: [3.0, 1.0, 2.0]}))
    array([ 1., -1., nan])
    """
    values_NR = epistemic.to_numpy()
    n_rates = values_NR.shape[1]
    rising_N, untied_N = np.zeros((2, len(values_NR)))
    for low in range(n_rates):
        for high in range(low + 1, n_rates):
            sign_N = np.sign(values_NR[:, high] - values_NR[:, low])
            rising_N += sign_N
            untied_N += np.abs(sign_N)
    pairs = n_rates * (n_rates - 1) / 2
    with np.errstate(invalid="ignore"):
        return rising_N / np.sqrt(pairs * untied_N)


def page_test(epistemic: pd.DataFrame) -> tuple[float, float]:
    """Page's test for uncertainty rising with the rate: L and its one-sided p-value; see ``trend_table`` for why.

    Args:
        epistemic: one row per token, indexed by its ``example``; one column per rate, ascending.

    Returns:
        L and p; NaN with fewer than 3 rates or 2 examples.
    """
    if epistemic.shape[1] < FEWEST_RATES or epistemic.index.nunique() < 2:
        return math.nan, math.nan
    ranks = epistemic.rank(axis=1).groupby(level="example").mean()
    # Averages of a few ranks tie exactly or not by rounding alone; a tie must be one.
    found = stats.page_trend_test(ranks.round(9).to_numpy())
    return float(found.statistic), float(found.pvalue)


def monotone_range(steps: pd.DataFrame) -> dict[str, float | bool]:
    """The longest stretch of rates over which the mean rises at every step; of equals the first.

    Args:
        steps: the rows of ``step_table`` of one series, in order.

    Returns:
        ``monotone_from`` and ``monotone_to`` (rates; NaN if the mean rises nowhere), ``monotone_resolved`` (whether
        every step in between is resolved from 0).
    """
    stretches: list[list[int]] = [[]]
    for place in range(len(steps)):
        if steps["change"].iloc[place] > 0:
            stretches[-1].append(place)
        else:
            stretches.append([])
    longest = max(stretches, key=len)
    if not longest:
        return {"monotone_from": math.nan, "monotone_to": math.nan, "monotone_resolved": False}
    inside = steps.iloc[longest]
    return {
        "monotone_from": float(inside["rate"].iloc[0]),
        "monotone_to": float(inside["next_rate"].iloc[-1]),
        "monotone_resolved": bool((inside["verdict"] == RISES).all()),
    }


def examples_of(one: RateSeries) -> Examples:
    """Who owns the tokens of a series."""
    return number_examples(pd.Series(one.epistemic.index, name="example"))


def mean_with_interval(name: str, values_N: np.ndarray, examples: Examples) -> dict[str, float]:
    """The mean over tokens with its interval by example, as columns ``name, low, high``."""
    if not len(values_N):
        return {name: math.nan, "low": math.nan, "high": math.nan}
    mean = float(values_N.mean())
    interval = t_interval(mean, examples.sums(values_N - mean), examples, CONFIDENCE, "plain")
    return {name: mean, "low": interval.low, "high": interval.high}


def _verdict(change: dict[str, float]) -> str:
    if change["low"] > 0:
        return RISES
    return FALLS if change["high"] < 0 else NOT_RESOLVED


def _slope(rate: float, next_rate: float, before: float, after: float) -> float:
    if before <= 0 or after <= 0:
        return math.nan
    return math.log(after / before) / math.log(next_rate / rate)


def _share(which_N: np.ndarray, known_N: np.ndarray) -> float:
    return float(which_N[known_N].mean()) if known_N.any() else math.nan
