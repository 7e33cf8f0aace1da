"""The paper's claim that loss goes with epistemic uncertainty, in its two readings, judged on one run's correlations.

The paper (arXiv:2503.16511, figure 2B) does not say which comparison carries the claim, nor which correlation; we
judge both readings under every method, because they disagree in practice.
"""

from __future__ import annotations

import math

import pandas as pd

from analysis.correlation_statistics import Pair

# claim -> the pair said to have the larger correlation, and the pair it is compared with
CLAIMS: dict[str, tuple[Pair, Pair]] = {
    "over_entropy": (("epistemic", "loss"), ("epistemic", "entropy")),
    "over_aleatoric": (("epistemic", "loss"), ("aleatoric", "loss")),
}
CLAIM_COLUMNS = (
    "claim",  # key of CLAIMS: "over_entropy" or "over_aleatoric"
    "statement",  # e.g. "rho(epistemic, loss) > rho(epistemic, entropy)"
    "method",
    "corrected",  # bool, as in the correlation table
    "left",  # the correlation that the claim says is larger
    "right",
    "difference",  # left - right
    "low",
    "high",
    "verdict",  # "holds", "fails", "not resolved" or "undefined"
    "warning",
)


def judge_claims(table: pd.DataFrame) -> pd.DataFrame:
    """Verdicts on both readings, per method and correction.

    "holds": the interval of the difference lies above 0. "fails": it lies below 0. "not resolved": it covers 0, or
    there are too few examples for an interval. "undefined": a measure is constant.

    A claim can hold between two negative correlations; then the warning says that it means nothing.

    The corrected rows take epistemic's Monte Carlo noise out and leave aleatoric, whose noise no column tells, as it
    was measured.

    Args:
        table: ``correlate(...).table``.

    Returns:
        one row per claim, method and correction; columns ``CLAIM_COLUMNS``.
    """
    rows = []
    for claim, (left, right) in CLAIMS.items():
        compared = table[(table["kind"] == "difference") & _is_pair(table, left) & _is_pair(table, right, "minus_")]
        for row in compared.to_dict("records"):
            same = table[(table["method"] == row["method"]) & (table["kind"] == "correlation")]
            (left_value, left_low), (right_value, _) = (_found(same, pair, row["corrected"]) for pair in (left, right))
            verdict = _verdict(row["estimate"], row["low"], row["high"])
            is_empty = verdict == "holds" and not left_low > 0
            rows.append(
                {
                    "claim": claim,
                    "statement": f"rho({left[0]}, {left[1]}) > rho({right[0]}, {right[1]})",
                    "method": row["method"],
                    "corrected": row["corrected"],
                    "left": left_value,
                    "right": right_value,
                    "difference": row["estimate"],
                    "low": row["low"],
                    "high": row["high"],
                    "verdict": verdict,
                    "warning": row["warning"] or (_empty(left) if is_empty else ""),
                }
            )
    return pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))


def claims_paragraph(claims: pd.DataFrame) -> str:
    """A paragraph of plain sentences that states the verdicts with their numbers, uncorrected and corrected."""
    if claims.empty:
        return "Neither reading of the claim was judged: the correlations that it compares were not computed."
    sentences = []
    for claim in claims["claim"].unique():
        of_claim = claims[claims["claim"] == claim]
        measured = of_claim[~of_claim["corrected"].astype(bool)]
        verdicts = "; ".join(_phrase(row) for row in measured.to_dict("records"))
        sentences.append(f"{of_claim['statement'].iloc[0]}: {verdicts}.")
        changed = [
            f"{row['verdict']} by {row['method'].capitalize()}"
            for row in of_claim[of_claim["corrected"].astype(bool)].to_dict("records")
            if row["verdict"] not in set(measured.loc[measured["method"] == row["method"], "verdict"])
        ]
        if changed:
            sentences.append(f"With epistemic's Monte Carlo noise taken out: {'; '.join(changed)}.")
    warnings = [warning for warning in claims["warning"].unique() if warning]
    return " ".join([*sentences, *(f"Note: {warning}." for warning in warnings)])


def _phrase(row: dict[str, object]) -> str:
    """E.g. "holds by Spearman (difference 0.120, interval 0.080 to 0.160)"."""
    name = f"{row['verdict']} by {str(row['method']).capitalize()}"
    if math.isnan(float(str(row["difference"]))):
        return name
    if math.isnan(float(str(row["low"]))):
        return f"{name} (difference {row['difference']:.3f}, no interval)"
    return f"{name} (difference {row['difference']:.3f}, interval {row['low']:.3f} to {row['high']:.3f})"


def _verdict(difference: float, low: float, high: float) -> str:
    if math.isnan(difference):
        return "undefined"
    if low > 0:
        return "holds"
    return "fails" if high < 0 else "not resolved"


def _is_pair(table: pd.DataFrame, pair: Pair, prefix: str = "") -> pd.Series:
    return (table[f"{prefix}x"] == pair[0]) & (table[f"{prefix}y"] == pair[1])


def _found(table: pd.DataFrame, pair: Pair, is_corrected: bool) -> tuple[float, float]:
    """The correlation of a pair and its lower limit: corrected where asked and there, else as measured; NaN if not."""
    rows = table[_is_pair(table, pair)]
    for corrected in [True, False] if is_corrected else [False]:
        found = rows[rows["corrected"] == corrected]
        if len(found):
            return float(found["estimate"].iloc[0]), float(found["low"].iloc[0])
    return math.nan, math.nan


def _empty(left: Pair) -> str:
    return f"rho({left[0]}, {left[1]}) is the larger one but not above 0: the claim holds without its meaning"
