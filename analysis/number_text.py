"""How numbers are written for a reader: nats, correlations, shares, counts, estimates with their intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd


def number(value: Any, digits: int = 3) -> str:
    """A value in nats or other units, with so many significant digits; an en dash where there is none.

    >>> number(0.012345), number(1234.5), number(3.2e-07), number(float("nan")), number(-0.5)
    ('0.0123', '1,230', '3.20e−7', '–', '−0.500')
    """
    if value is None or not np.isfinite(value):
        return "–"
    value = float(value)
    if not value:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        head, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{head}e{int(exponent)}".replace("-", "−")
    rounded = float(f"{value:.{digits}g}")
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(rounded)))))
    return f"{rounded:,.{decimals}f}".replace("-", "−")


def fixed(value: Any, decimals: int = 2) -> str:
    """A correlation or another number without unit.

    >>> fixed(0.456), fixed(-0.04), fixed(float("nan"))
    ('0.46', '−0.04', '–')
    """
    if value is None or not np.isfinite(value):
        return "–"
    text = f"{float(value):.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def percent(value: Any, decimals: int = 0) -> str:
    """A share as a percentage.

    >>> percent(0.256), percent(0.0031, 1)
    ('26 %', '0.3 %')
    """
    return "–" if value is None or not np.isfinite(value) else f"{fixed(100 * float(value), decimals)} %"


def count(value: Any) -> str:
    """A count with thousands separated."""
    return f"{int(value):,}"


def with_interval(
    row: pd.Series, how: Callable[..., str] = fixed, names: tuple[str, str, str] = ("estimate", "low", "high")
) -> str:
    """An estimate with its interval; the estimate alone where there is none.

    Narrow intervals of shares and correlations get one more decimal, so that their ends differ.

    Args:
        row: with the three columns.
        how: ``fixed``, ``percent``, ``number``.
        names: of estimate and limits.

    >>> with_interval(pd.Series({"estimate": 0.456, "low": 0.39, "high": 0.52}))
    '0.46 [0.39, 0.52]'
    >>> with_interval(pd.Series({"estimate": 0.456, "low": 0.452, "high": 0.459}), percent)
    '45.6 % [45.2, 45.9]'
    """
    estimate, low, high = (float(row[name]) for name in names)
    finer = _FINER[how] if how in _FINER and 0 <= high - low < _NARROW else ()
    if not np.isfinite(low) or not np.isfinite(estimate):
        return how(estimate)
    limits = (how(value, *finer).removesuffix(" %") for value in (low, high))
    return f"{how(estimate, *finer)} [{', '.join(limits)}]"


_NARROW = 0.03
_FINER: dict[Callable[..., str], tuple[int]] = {fixed: (3,), percent: (1,)}
