"""How much of an amount the top fraction of the tokens by a signal holds: its captured share, with intervals.

Where the amount is each token's reducible error, this is what selecting tokens by a signal is for: the share of all
that is left to learn which stands in the tokens that are trained on. It takes a known amount, so a known truth.

Intervals are by example. In simulations with 50 to 128 examples they covered 91-97 % at a nominal 95 %, and 88-94 %
where the levels of examples differed so much (standard deviation of their logarithm 1) that a few decide most of it.

Dimension key: N tokens, D examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.by_example import NO_INTERVAL, Examples, Scale, check_confidence, t_interval, usable_tokens
from analysis.ranks import Ranks, rank
from analysis.top_sets import Found, TopSet
from uncertainty.errors import InputError

CAPTURED_COLUMNS = (
    "signal",  # a column, or "ideal" (the amount itself: no signal can do better), or "random" (its exact expectation)
    "minus",  # "" for a captured share; a difference: the signal whose share is subtracted
    "fraction",  # of the tokens, that are taken
    "estimate",  # 0 to 1 (difference: -1 to 1)
    "low",  # cluster influence-function t interval (share: arc sine of its root; difference: plain)
    "high",
    "n_tokens",
    "n_examples",
    "n_effective",
    "warning",  # "" or why there is no interval, or one not to be leaned on
)


def captured_shares(
    frame: pd.DataFrame,
    amount: str,
    signals: Sequence[str],
    *,
    fraction: float = 0.25,
    minus: str | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The share of an amount that the top fraction of the tokens by each signal captures.

    Args:
        frame: one row per token: the amount, the signals, and an integer column ``example`` (or ``example_id``). Any
            order of rows; rows with a NaN in one of these are left out.
        amount: a column of finite numbers >= 0, not all 0.
        signals: columns; large values are taken first, ties at the edge are shared evenly.
        fraction: of the tokens, to take; strictly between 0 and 1.
        minus: one of the signals, which is subtracted from each of the others in further rows.
        confidence: coverage asked of the intervals.

    Returns:
        one row per signal, then "ideal" and "random", then the differences; columns ``CAPTURED_COLUMNS``.

    Raises:
        InputError: a column is missing, the amount cannot be shared out, fewer than two tokens, or a setting is out of
            range.
    """
    check_confidence(confidence)
    if not 0 < fraction < 1:
        raise InputError(f"fraction is {fraction}; it must lie between 0 and 1, such as 0.25")
    if minus is not None and minus not in signals:
        raise InputError(f"minus is {minus!r}; it must be one of the signals, {', '.join(signals)}")
    columns, examples, _ = usable_tokens(frame, tuple(dict.fromkeys((amount, *signals))))
    amount_N = columns[amount].astype(np.float64)
    _check_amount(amount, amount_N)
    ranks = {name: rank(columns[name]) for name in signals} | {"ideal": rank(amount_N)}
    found = {name: captured_share(amount_N, one, fraction) for name, one in ranks.items()}
    constant = {name: f"{name} is constant" if one.n_distinct < 2 else "" for name, one in ranks.items()}
    common = {"fraction": fraction, **examples.counts()}
    rows = [
        {"signal": name, "minus": ""} | _row(one, examples, confidence, "share", constant[name]) | common
        for name, one in found.items()
    ]
    taken = TopSet(ranks["ideal"], fraction).fraction
    rows.append({"signal": "random", "minus": "", "estimate": taken, "warning": ""} | common)
    if minus is not None:
        for name in signals:
            if name != minus:
                one, other = found[name], found[minus]
                difference = Found(one.value - other.value, one.influence_N - other.influence_N)
                row = _row(difference, examples, confidence, "plain", constant[name] or constant[minus])
                rows.append({"signal": name, "minus": minus} | row | common)
    return pd.DataFrame(rows, columns=list(CAPTURED_COLUMNS))


def captured_share(amount_N: np.ndarray, signal: Ranks, fraction: float) -> Found:
    """``sum_i w_i a_i / sum_i a_i``, with w_i = 1 in the top fraction by the signal and 0 outside.

    Args:
        amount_N: a, finite and >= 0, with a sum above 0.
        signal: ranks of the signal, largest values first.
        fraction: of the tokens, strictly between 0 and 1.

    Returns:
        the share, 0 to 1, and the influence of each token on it: what its own amount adds, less what it costs by
        pushing a token at the edge out of the top, less its part in the whole.
    """
    top = TopSet(signal, fraction)
    part_N = top.weights * amount_N
    share = float(part_N.sum() / amount_N.sum())
    influence_N = (part_N - top.moved_by(amount_N) - share * amount_N) / amount_N.mean()
    return Found(share, influence_N - influence_N.mean())


def _check_amount(name: str, amount_N: np.ndarray) -> None:
    if len(amount_N) < 2:
        raise InputError(f"column {name!r} has {len(amount_N)} token; a top fraction takes at least 2")
    if not np.isfinite(amount_N).all() or (amount_N < 0).any():
        raise InputError(f"column {name!r} holds values that are negative or infinite; it must be an amount to share")
    if not amount_N.sum() > 0:
        raise InputError(f"column {name!r} is 0 for every token; there is nothing to capture")


def _row(one: Found, examples: Examples, confidence: float, scale: Scale, constant: str) -> dict[str, object]:
    """The estimate and its interval; none, and why, where a signal is constant."""
    interval, warning = NO_INTERVAL, constant
    if not constant:
        interval = t_interval(one.value, examples.sums(one.influence_N), examples, confidence, scale)
        warning = interval.warning
    return {"estimate": one.value, "low": interval.low, "high": interval.high, "warning": warning}
