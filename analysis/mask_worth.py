"""How many iid passes one balanced pass is worth, from two runs that differ in the masks.

At tokens that both runs scored:

    worth    exp(mean over tokens of log(error^2 * passes, iid / error^2 * passes, balanced))

so two runs need not have the same number of passes, nor of examples. Why a geometric mean: see ``pass_costs.py``.

Suffix N: tokens above ``stopping.NEGLIGIBLE`` nats.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.by_example import number_examples
from analysis.family_words import masks_of
from analysis.pass_costs import RARE, PassErrors, mean_by_example, pass_errors
from uncertainty.scores import RunInfo

WORTH_COLUMNS = (
    "tokens",  # "resolved": relative error at most 0.5 in the two runs together; or "all"
    "worth",  # iid passes that have the error of one balanced pass
    "low",  # interval by example
    "high",
    "n_tokens",
    "n_examples",
    "n_effective",
    "warning",
)


def is_mask_pair(iid: RunInfo, balanced: RunInfo) -> bool:
    """Whether two runs differ in the masks, and in nothing else that an error per pass hangs on."""
    if (masks_of(iid), masks_of(balanced)) != ("iid", "balanced"):
        return False
    return _same_draws(iid.settings) == _same_draws(balanced.settings)


def same_tokens(
    first: tuple[pd.DataFrame, tuple[str, ...]], second: tuple[pd.DataFrame, tuple[str, ...]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of two token tables that are of the same token of the same example, in the first one's order.

    Args:
        first: tokens with ``example`` and ``position``, and the ids behind ``example``.
        second: likewise; one may hold fewer examples than the other.
    """
    place = {name: code for code, name in enumerate(first[1])}
    code = np.array([place.get(name, -1) for name in second[1]], dtype=np.int64)
    other = second[0].assign(example=code[second[0]["example"].to_numpy()])
    other = other[other["example"] >= 0]
    keys = [pd.MultiIndex.from_frame(frame[["example", "position"]]) for frame in (first[0], other)]
    at = keys[1].get_indexer(keys[0])
    return first[0][at >= 0], other.iloc[at[at >= 0]]


def paired_errors(
    first: tuple[pd.DataFrame, RunInfo], second: tuple[pd.DataFrame, RunInfo]
) -> tuple[PassErrors, PassErrors] | None:
    """The errors of the same tokens in two runs, relative to the mean of their two values; None where there are none.

    Args:
        first: rows of ``same_tokens`` and what is known of their run.
        second: likewise.
    """
    if any("epistemic_se" not in frame for frame, _ in (first, second)):
        return None
    means_N = (first[0]["epistemic"].to_numpy(np.float64) + second[0]["epistemic"].to_numpy(np.float64)) / 2
    known = (first[0]["epistemic_se"].to_numpy() > 0) & (second[0]["epistemic_se"].to_numpy() > 0)
    both = [pass_errors(frame.assign(epistemic=means_N)[known], info) for frame, info in (first, second)]
    return None if both[0] is None or both[1] is None else (both[0], both[1])


def worth_table(iid: PassErrors, balanced: PassErrors, confidence: float) -> pd.DataFrame:
    """How many iid passes one balanced pass is worth, over the resolved tokens and over all.

    Args:
        iid: errors of the tokens.
        balanced: of the same tokens, from ``paired_errors``.
        confidence: of the intervals by example.
    """
    rows = []
    for name, use_N in (("resolved", resolved(iid, balanced)), ("all", np.ones(len(iid.error_N), dtype=bool))):
        if not use_N.any():
            continue
        owner = number_examples(pd.Series(iid.owner.code_N[use_N], name="example"))
        mean, interval = mean_by_example((iid.one_pass - balanced.one_pass)[use_N], owner, confidence)
        ends = {"worth": mean, "low": interval.low, "high": interval.high}
        rows.append(
            {"tokens": name}
            | {end: math.exp(value) for end, value in ends.items()}
            | owner.counts()
            | {"warning": interval.warning}
        )
    return pd.DataFrame(rows, columns=list(WORTH_COLUMNS))


def resolved(first: PassErrors, second: PassErrors) -> np.ndarray:
    """Which tokens' errors are at most half of the value, in two runs together: neither run decides alone."""
    return np.sqrt((first.relative**2 + second.relative**2) / 2) <= RARE


def some_tokens(errors: PassErrors, use_N: np.ndarray) -> PassErrors:
    """The errors of some of the tokens."""
    owner = number_examples(pd.Series(errors.owner.code_N[use_N], name="example"))
    parts = {name: getattr(errors, name)[use_N] for name in ("epistemic_N", "error_N", "passes_N", "degrees_N")}
    return replace(errors, owner=owner, **parts)


def _same_draws(settings: dict[str, Any]) -> dict[str, Any]:
    """Model, data, sites and rate: what decides how much one pass differs from another."""
    family = settings.get("family")
    family = family if isinstance(family, dict) else {}
    model = settings.get("model")
    return {
        "model": {name: value for name, value in model.items() if name != "device"}
        if isinstance(model, dict)
        else model,
        "data": settings.get("data"),
        "vocabulary": settings.get("vocabulary"),
        "rate": family.get("rate", settings.get("rate")),
        "sites": [site.get("name") for site in family.get("sites", []) if isinstance(site, dict)],
    }
