"""Intervals whose unit is the example: tokens of one example hang together, examples do not.

An estimate over N tokens that is differentiable in their distribution moves by the mean of its *influence* on each
token. The influences summed by example are D independent numbers, so their spread gives the standard error whatever
the tokens of one example do together. Intervals from tokens taken as independent covered 34-61 % of the time at a
nominal 95 % in simulations; these cover about 95 % at 200 examples and 85-94 % at 15 to 50.

Dimension key: N tokens, D examples.

Source: Liang and Zeger (1986), the sandwich variance by cluster; Kish (1965) for the effective number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special

from uncertainty.errors import InputError

Scale = Literal["fisher", "share", "plain"]

FEWEST_EXAMPLES = 10  # below: no interval
FEW_EXAMPLES = 30  # below: an interval with a warning


@dataclass(frozen=True, eq=False)
class Examples:
    """Which example each token belongs to.

    Attributes:
        code_N: int64, 0 to D-1; ascending codes are ascending ids, so row order changes nothing.
        names_D: the frame's own code or id of each example.
        n_tokens_D: tokens of each, at least 1.
    """

    code_N: np.ndarray
    names_D: np.ndarray
    n_tokens_D: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Number of tokens N."""
        return len(self.code_N)

    @property
    def n_examples(self) -> int:
        """Number of examples D."""
        return len(self.n_tokens_D)

    @property
    def n_effective(self) -> float:
        """How many examples of equal length would weigh as much: (sum n)^2 / sum n^2, from 1 to D."""
        return float(self.n_tokens_D.sum() ** 2 / (self.n_tokens_D.astype(np.float64) ** 2).sum())

    def sums(self, values_N: np.ndarray) -> np.ndarray:
        """Sum of values over the tokens of each example, float64 D."""
        return np.bincount(self.code_N, weights=values_N, minlength=self.n_examples)

    def counts(self) -> dict[str, float]:
        """The columns that every table carries: ``n_tokens``, ``n_examples``, ``n_effective``."""
        return {"n_tokens": self.n_tokens, "n_examples": self.n_examples, "n_effective": round(self.n_effective, 1)}


@dataclass(frozen=True)
class Interval:
    """Limits of a confidence interval, NaN where there is none, and what to think of it."""

    low: float
    high: float
    warning: str = ""


NO_INTERVAL = Interval(math.nan, math.nan)


def usable_tokens(
    frame: pd.DataFrame, columns: Sequence[str], optional: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], Examples, int]:
    """The columns over the tokens that have them all, who owns these tokens, and how many were left out.

    Args:
        frame: the columns and ``example`` (integers) or ``example_id`` (anything sortable); ``example`` goes first.
        columns: names of numeric columns; NaN or null means no prediction.
        optional: columns that come along where the frame has them, NaN or not.

    Returns:
        column -> values of the N usable tokens (float32 where the frame has it so, else float64); their examples; the
        number of tokens left out.

    Raises:
        InputError: a column is missing, a token has no example, or no token is left.
    """
    values = {name: _numbers(frame, name) for name in columns}
    keep_N = np.ones(len(frame), dtype=bool)
    for value_N in values.values():
        keep_N &= ~np.isnan(value_N)
    if not keep_N.any():
        raise InputError(f"no token has a value in all of {', '.join(values)}; check the rows")
    n_dropped = int(len(frame) - keep_N.sum())
    owner = frame[example_column(frame)]
    values |= {name: _numbers(frame, name) for name in optional if name in frame.columns}
    if n_dropped:
        values = {name: column[keep_N] for name, column in values.items()}
        owner = owner[keep_N]
    return values, number_examples(owner), n_dropped


def example_column(frame: pd.DataFrame) -> str:
    """Name of the column that says which example a token belongs to.

    Raises:
        InputError: there is none.
    """
    for name in ("example", "example_id"):
        if name in frame.columns:
            return name
    raise InputError(
        "the frame has neither a column 'example' nor 'example_id'; intervals need to know whose a token is"
    )


def number_examples(owner: pd.Series) -> Examples:
    """Number the examples from 0 in ascending order of their code or id.

    Raises:
        InputError: a token has no example.
    """
    if owner.isna().any():
        raise InputError(f"column {owner.name!r}: {int(owner.isna().sum())} tokens have no example")
    raw_N = owner.to_numpy()
    if raw_N.dtype.kind in "iu" and raw_N.min() >= 0 and raw_N.max() < 10 * len(raw_N) + 1000:
        # Small integers are counted, not sorted: a tenth of the time on millions of tokens.
        count = np.bincount(raw_N)
        names_D = np.flatnonzero(count)
        place = np.zeros(len(count), dtype=np.int64)
        place[names_D] = np.arange(len(names_D))
        return Examples(place[raw_N], names_D, count[names_D])
    code_N, names = pd.factorize(owner, sort=True)
    return Examples(code_N.astype(np.int64), np.asarray(names), np.bincount(code_N))


def t_interval(
    estimate: float, influence_D: np.ndarray, examples: Examples, confidence: float, scale: Scale
) -> Interval:
    """Student's t interval from influences summed by example.

    se^2 = D / (D - 1) * sum_d (influence_d / N)^2, carried to the scale on which the interval is taken. Degrees of
    freedom: the effective number of examples - 1, because one long example counts for many terms of that sum.
    In simulations with 15 examples of negative binomial length this raised coverage from .85-.91 to .86-.94.

    Args:
        estimate: the statistic.
        influence_D: sums by example of its influence on the tokens (their total is 0 but for rounding).
        examples: who owns the tokens.
        confidence: between 0 and 1.
        scale: "fisher" for correlations, "share" (arc sine of the root) for shares from 0 to 1, "plain" for the rest.

    Returns:
        the limits; none, and why, with fewer than 10 examples, for an undefined estimate and for one at the edge of
        its range; a warning below 30 effective examples.
    """
    if math.isnan(estimate):
        return NO_INTERVAL
    warning = few_examples(examples)
    if examples.n_examples < FEWEST_EXAMPLES:
        return Interval(math.nan, math.nan, warning)
    forward, back, slope = _SCALES[scale]
    if not np.isfinite(slope(estimate)):
        return Interval(math.nan, math.nan, "no interval: the estimate is at the edge of its range")
    n_examples = examples.n_examples
    se = math.sqrt(n_examples / (n_examples - 1) * float(np.sum((influence_D / examples.n_tokens) ** 2)))
    half = float(special.stdtrit(examples.n_effective - 1, (1 + confidence) / 2)) * se * slope(estimate)
    return Interval(back(forward(estimate) - half), back(forward(estimate) + half), warning)


def few_examples(examples: Examples) -> str:
    """The warning that goes with the number of examples; "" from 30 effective ones on.

    Examples of unequal length count as fewer: one that holds most tokens decides most of the estimate.
    """
    n_examples, n_effective = examples.n_examples, examples.n_effective
    if n_examples < FEWEST_EXAMPLES:
        return f"no interval: {n_examples} example{'' if n_examples == 1 else 's'}; it takes {FEWEST_EXAMPLES}"
    if n_effective >= FEW_EXAMPLES:
        return ""
    uneven = f", as uneven in length as {n_effective:.1f} equal ones" if n_effective < 0.95 * n_examples else ""
    return f"only {n_examples} examples{uneven}: below {FEW_EXAMPLES} the interval may be too narrow"


def check_confidence(confidence: float) -> None:
    """Raise InputError unless the confidence lies strictly between 0 and 1."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """A column as floats, null as NaN; single precision stays what it is."""
    if column not in frame.columns:
        raise InputError(f"the frame has no column {column!r}; it has {', '.join(map(str, frame.columns))}")
    series = frame[column]
    if not pd.api.types.is_numeric_dtype(series):
        raise InputError(f"column {column!r} holds {series.dtype}, not numbers")
    precision = np.float32 if str(series.dtype).lower() == "float32" else np.float64
    return series.to_numpy(dtype=precision, na_value=np.nan)


def _fisher_slope(correlation: float) -> float:
    return 1 / (1 - correlation**2) if abs(correlation) < 1 - _EDGE else math.inf


def _share_slope(share: float) -> float:
    return 0.5 / math.sqrt(share * (1 - share)) if _EDGE < share < 1 - _EDGE else math.inf


def _share_at(angle: float) -> float:
    return math.sin(min(max(angle, 0.0), math.pi / 2)) ** 2


_EDGE = 1e-12  # so near to the end of a range is at it, but for rounding
# scale -> there, back, and its derivative at the estimate. For shares not the logit: near 0 and 1 its delta method
# stretches a narrow interval over the whole range.
_SCALES: dict[Scale, tuple[Callable[[float], float], Callable[[float], float], Callable[[float], float]]] = {
    "fisher": (math.atanh, math.tanh, _fisher_slope),
    "share": (lambda share: math.asin(math.sqrt(share)), _share_at, _share_slope),
    "plain": (float, float, lambda value: 1.0),
}
