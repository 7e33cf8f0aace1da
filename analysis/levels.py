"""Token level against example level: distributions, and how much of the variance lies within and between examples.

An example's value is the mean over its predicted tokens (the paper's "average"; figures 8 and 9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.by_example import Examples, check_confidence, example_column, t_interval, usable_tokens
from uncertainty.errors import InputError

LEVEL_MEASURES = ("loss", "entropy", "total", "aleatoric", "epistemic")
QUANTILES = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)

QUANTILE_COLUMNS = (
    *("measure", "level"),  # level: "token" or "example"
    *("n", "mean", "sd", "min"),  # n tokens or n examples; the rest in the measure's unit
    *(f"q{100 * q:02.0f}" for q in QUANTILES),  # q01 ... q99
    "max",
)
VARIANCE_COLUMNS = (
    "measure",
    "total_variance",  # of the tokens, nats^2: within + between
    "within_variance",  # mean squared distance from the own example's mean
    "between_variance",  # mean squared distance of that mean from the overall mean, examples weighted by tokens
    "between_share",  # between / total, 0 to 1; about n_examples / n_tokens even if examples do not differ
    "icc",  # intraclass correlation (ANOVA): the share with that chance part taken out; may be below 0
    "icc_low",  # leave-one-example-out jackknife t interval
    "icc_high",
    "n_tokens",
    "n_examples",
    "n_effective",
    "warning",
)
HISTOGRAM_COLUMNS = (
    "measure",
    "level",
    "left",  # edges of the bin, in the measure's unit; the last bin includes its right edge, and holds the
    "right",  # largest 0.5 % of the tokens: the bins before it are of equal width
    "count",
    "density",  # count / (n * width): the two levels of a measure have the same bins and area 1
)


def level_quantiles(frame: pd.DataFrame, measures: tuple[str, ...] = LEVEL_MEASURES) -> pd.DataFrame:
    """Mean, spread and quantiles of each measure over tokens and over examples (fig 8).

    Args:
        frame: one row per token: the measures and ``example`` (or ``example_id``); NaN rows are left out.
        measures: which; one without any value gives rows with n = 0.

    Returns:
        two rows per measure; columns ``QUANTILE_COLUMNS``. ``sd`` divides by n - 1.

    Raises:
        InputError: a column is missing, or no measure has a value.
    """
    rows = [
        {"measure": one.measure, "level": level, **_spread(values)}
        for one in _by_measure(frame, measures)
        for level, values in one.levels
    ]
    return pd.DataFrame(rows, columns=list(QUANTILE_COLUMNS))


def variance_split(
    frame: pd.DataFrame, measures: tuple[str, ...] = LEVEL_MEASURES, confidence: float = 0.95
) -> pd.DataFrame:
    """Variance of each measure within and between examples (law of total variance), and the intraclass correlation.

    total = (1/N) sum_i (x_i - mean)^2 = within + between, exactly. The intraclass correlation is the ANOVA estimator
    (MSB - MSW) / (MSB + (n0 - 1) MSW) with n0 = (N - sum n_d^2 / N) / (D - 1), which is about 0 where the examples
    do not differ.

    Args:
        frame: as ``level_quantiles``.
        measures: which.
        confidence: coverage asked of the interval.

    Returns:
        one row per measure; columns ``VARIANCE_COLUMNS``; a constant measure is undefined and says so.

    Raises:
        InputError: a column is missing, no measure has a value, the confidence is out of range.

    Source: Donner (1986), section 2.1; leave-one-cluster-out jackknife, Ukoumunne, Davison, Gulliford and Chinn (2003).
    """
    check_confidence(confidence)
    rows = [_variance_row(one, confidence) for one in _by_measure(frame, measures)]
    return pd.DataFrame(rows, columns=list(VARIANCE_COLUMNS))


def example_means(frame: pd.DataFrame, measures: tuple[str, ...] = LEVEL_MEASURES) -> pd.DataFrame:
    """The mean of each measure over the predicted tokens of each example (the dots of fig 8).

    Args:
        frame: as ``level_quantiles``; a token counts if it has all the measures.
        measures: which.

    Returns:
        one row per example, ascending: ``example`` (or ``example_id``, as in the frame), ``n_tokens``, the measures.

    Raises:
        InputError: a column is missing, or no token has all measures.
    """
    columns, examples, _ = usable_tokens(frame, measures)
    means = {name: examples.sums(value_N) / examples.n_tokens_D for name, value_N in columns.items()}
    named = {example_column(frame): examples.names_D, "n_tokens": examples.n_tokens_D}
    return pd.DataFrame(named | means)


def level_histograms(frame: pd.DataFrame, measures: tuple[str, ...] = LEVEL_MEASURES, n_bins: int = 60) -> pd.DataFrame:
    """Histograms of each measure over tokens and over examples in the same bins (fig 9).

    Args:
        frame: as ``level_quantiles``.
        measures: which.
        n_bins: bins of equal width up to the 99.5th percentile of the tokens; one more holds the rest.

    Returns:
        one row per measure, level and bin; columns ``HISTOGRAM_COLUMNS``. Infinite values are in no bin.

    Raises:
        InputError: a column is missing, no measure has a value, or n_bins is below 1.
    """
    if n_bins < 1:
        raise InputError(f"n_bins is {n_bins}; it must be at least 1")
    rows = []
    for one in _by_measure(frame, measures):
        edges = _edges(one.value_N, n_bins)
        for level, values in one.levels:
            count = np.histogram(values, edges)[0]
            density = count / (max(count.sum(), 1) * np.diff(edges))
            columns = {"left": edges[:-1], "right": edges[1:], "count": count, "density": density}
            rows.append(pd.DataFrame({"measure": one.measure, "level": level} | columns))
    return pd.concat(rows, ignore_index=True)[list(HISTOGRAM_COLUMNS)]


@dataclass(frozen=True, eq=False)
class _Measure:
    """One measure over the tokens that have it."""

    measure: str
    value_N: np.ndarray
    examples: Examples

    @property
    def levels(self) -> tuple[tuple[str, np.ndarray], ...]:
        mean_D = self.examples.sums(self.value_N) / np.maximum(self.examples.n_tokens_D, 1)
        return (("token", self.value_N), ("example", mean_D))


def _by_measure(frame: pd.DataFrame, measures: tuple[str, ...]) -> Iterator[_Measure]:
    """Each measure by itself, over the tokens that have it: one may be missing where others are there."""
    empty = [name for name in measures if name in frame.columns and frame[name].isna().all()]
    if len(empty) == len(measures):
        raise InputError(f"no token has a value in any of {', '.join(measures)}")
    for name in measures:
        if name in empty:
            none = np.zeros(0, dtype=np.int64)
            yield _Measure(name, np.zeros(0), Examples(none, none, none))
        else:
            columns, examples, _ = usable_tokens(frame, [name])
            yield _Measure(name, columns[name], examples)


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {"n": 0}
    value = values.astype(np.float64) + 0.0  # -0.0 would be printed with its sign
    with np.errstate(invalid="ignore"):  # an infinite value makes sd NaN, as it should be
        sd = float(np.std(value, ddof=1)) if len(value) > 1 else float("nan")
        quantiles = np.quantile(value, QUANTILES)
    row = {"n": len(value), "mean": float(value.mean()), "sd": sd, "min": float(value.min()), "max": float(value.max())}
    return row | {f"q{100 * q:02.0f}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}


def _variance_row(one: _Measure, confidence: float) -> dict[str, object]:
    examples, value_N = one.examples, one.value_N.astype(np.float64)
    row: dict[str, object] = {"measure": one.measure, **(examples.counts() if len(value_N) else {"n_tokens": 0})}
    if not len(value_N):
        return row | {"n_examples": 0, "warning": "undefined: no token has a value"}
    if not np.isfinite(value_N).all():
        return row | {"warning": f"undefined: infinite for {int(np.sum(~np.isfinite(value_N)))} tokens"}
    if value_N.min() == value_N.max():
        zero = {"total_variance": 0.0, "within_variance": 0.0, "between_variance": 0.0}
        return row | zero | {"warning": f"undefined: {one.measure} is constant"}
    value_N -= value_N.mean()
    n_D, sum_D, square_D = examples.n_tokens_D.astype(np.float64), examples.sums(value_N), examples.sums(value_N**2)
    total = float(square_D.sum() / examples.n_tokens)
    between = float((sum_D**2 / n_D).sum() / examples.n_tokens)
    split = {"total_variance": total, "within_variance": total - between, "between_variance": between}
    row |= split | {"between_share": between / total}
    if examples.n_examples < 2 or examples.n_tokens == examples.n_examples:
        needed = "two examples" if examples.n_examples < 2 else "an example of two tokens"
        return row | {"warning": f"no intraclass correlation: it takes {needed}"}
    icc, without_D = _intraclass(n_D, sum_D, square_D)
    # The jackknife's pseudo-influences, in the units that t_interval divides by N.
    shift = examples.n_tokens * (examples.n_examples - 1) / examples.n_examples
    interval = t_interval(icc, shift * (without_D.mean() - without_D), examples, confidence, "plain")
    high = min(interval.high, 1.0) if interval.high == interval.high else interval.high
    return row | {"icc": icc, "icc_low": interval.low, "icc_high": high, "warning": interval.warning}


def _intraclass(n_D: np.ndarray, sum_D: np.ndarray, square_D: np.ndarray) -> tuple[float, np.ndarray]:
    """The intraclass correlation from sums by example, and as it would be without each example in turn (D)."""
    everyone = np.append(0.0, np.ones(len(n_D)))  # leave nobody out, then each

    def without(by_example_D: np.ndarray) -> np.ndarray:
        return by_example_D.sum() - everyone * np.append(0.0, by_example_D)

    n_tokens, n_examples = without(n_D), len(n_D) - everyone
    across = without(sum_D**2 / n_D)
    with np.errstate(invalid="ignore", divide="ignore"):  # left without a pair of tokens: NaN
        within = (without(square_D) - across) / (n_tokens - n_examples)
        between = (across - without(sum_D) ** 2 / n_tokens) / (n_examples - 1)
        n_typical = (n_tokens - without(n_D**2) / n_tokens) / (n_examples - 1)
        value = (between - within) / (between + (n_typical - 1) * within)
    return float(value[0]), value[1:]


def _edges(value_N: np.ndarray, n_bins: int) -> np.ndarray:
    finite_N = value_N[np.isfinite(value_N)].astype(np.float64)
    if not len(finite_N):
        return np.array([0.0, 1.0])
    low, shoulder, high = float(finite_N.min()), float(np.quantile(finite_N, 0.995)), float(finite_N.max())
    if low == high:
        return np.array([low - 0.5, high + 0.5])
    if low == shoulder:
        shoulder = high
    edges = np.linspace(low, shoulder, n_bins + 1)
    return np.append(edges, high) if shoulder < high else edges
