"""How many passes a model and its data need for a stated purpose.

From the rows of ``convergence.convergence_table``: the smallest number of passes that was measured to do, or, where
none was, the number at which the formulas of ``convergence`` reach the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.convergence import ESTIMATES, MEASURED, TRENDS


@dataclass(frozen=True)
class Purpose:
    """What the passes are for.

    Attributes:
        name: ``ranking``, ``selection`` or ``level``.
        threshold: agreement or overlap of two runs at least, error of the mean at most.
    """

    name: str
    threshold: float


@dataclass(frozen=True)
class Need:
    """How many passes a purpose takes.

    Attributes:
        purpose: and its threshold.
        estimate: of epistemic uncertainty.
        passes: that are needed; NaN where it cannot be told.
        low: the same at the better end of the interval by example; NaN where there is none.
        high: at the worse end.
        measured: they are one of the numbers that were measured; else extrapolated.
    """

    purpose: Purpose
    estimate: str
    passes: float
    low: float
    high: float
    measured: bool


def purposes(*, agreement: float = 0.95, overlap: float = 0.9, level: float = 0.02) -> tuple[Purpose, ...]:
    """The three purposes with their thresholds."""
    return Purpose("ranking", agreement), Purpose("selection", overlap), Purpose("level", level)


def needs(table: pd.DataFrame, what: Sequence[Purpose]) -> list[Need]:
    """How many passes each purpose takes: ranking and selection by the plug-in value, the level by both estimates.

    Args:
        table: ``convergence.convergence_table(...)``.
        what: purposes.
    """
    found = []
    for purpose in what:
        for estimate in ESTIMATES if purpose.name == "level" else ESTIMATES[:1]:
            rows = table[table["estimate"] == estimate].sort_values("passes")
            found.append(_level_need(rows, purpose, estimate) if purpose.name == "level" else _need(rows, purpose))
    return found


def needs_record(need: Need) -> dict[str, Any]:
    """A need as plain JSON; None for what cannot be told."""
    passes, low, high = (value if math.isfinite(value) else None for value in (need.passes, need.low, need.high))
    return {
        "purpose": need.purpose.name,
        "threshold": need.purpose.threshold,
        "estimate": need.estimate,
        "passes": passes,
        "low": low,
        "high": high,
        "measured": need.measured,
    }


def _need(rows: pd.DataFrame, purpose: Purpose) -> Need:
    """The smallest measured number from which on all reach the threshold, or the formula's."""
    name = COLUMN[purpose.name]
    measured = rows[rows["how"] == MEASURED]
    if not len(measured) or math.isnan(measured[name].iloc[-1]):
        return Need(purpose, ESTIMATES[0], math.nan, math.nan, math.nan, measured=False)
    last = measured.iloc[-1]

    def solve(value: float) -> float:
        return float(last["passes"]) * TRENDS[name].times(value, purpose.threshold, last[f"{name}_power"])

    low, high = (solve(float(last[f"{name}_{end}"])) for end in ("high", "low"))
    reach = (measured[name] >= purpose.threshold).to_numpy()
    if reach[-1]:
        first = len(reach) - int(np.argmin(reach[::-1])) if not reach.all() else 0
        return Need(purpose, ESTIMATES[0], float(measured["passes"].iloc[first]), low, high, measured=True)
    return Need(purpose, ESTIMATES[0], solve(float(last[name])), low, high, measured=False)


def _level_need(rows: pd.DataFrame, purpose: Purpose, estimate: str) -> Need:
    """The same for the mean: bias falls with the passes, noise with their root.

    The corrected mean of all passes is what bias is counted from, so it has none that could be seen.
    """
    nothing = Need(purpose, estimate, math.nan, math.nan, math.nan, measured=False)
    if not len(rows) or math.isnan(rows["noise"].iloc[-1]) or math.isnan(rows["bias"].iloc[-1]):
        return nothing
    counted = 1.0 if estimate == ESTIMATES[0] else 0.0
    error = np.hypot(counted * rows["bias"].to_numpy(), rows["noise"].to_numpy())
    reach = error <= purpose.threshold
    if reach[-1]:
        first = len(reach) - int(np.argmin(reach[::-1])) if not reach.all() else 0
        return Need(purpose, estimate, float(rows["passes"].iloc[first]), math.nan, math.nan, measured=True)
    last = rows.iloc[-1]
    bias = 0.0 if estimate == ESTIMATES[1] else abs(last["bias"])
    # (bias / n)^2 + noise^2 / n = threshold^2 for n times the passes
    square = last["noise"] ** 2
    times = (square + math.sqrt(square**2 + 4 * purpose.threshold**2 * bias**2)) / (2 * purpose.threshold**2)
    return Need(purpose, estimate, float(last["passes"] * times), math.nan, math.nan, measured=False)


COLUMN = {"ranking": "agreement", "selection": "overlap"}
