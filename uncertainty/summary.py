"""A score table in a screenful: counts, the spread of each measure, rank correlations. Pure functions on frames."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from scipy import stats

from uncertainty.scores import ALL_COLUMNS, measures_among
from uncertainty.stopping import SHARE, TargetError, is_enough

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def spread(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and quantiles of each measure over the predicted tokens.

    Args:
        scores: a token table; rows without a prediction are NaN and left out.

    Returns:
        one row per measure that the table has, columns ``mean`` and the quantiles in percent, in the measure's unit.
    """
    values = scores[list(measures_among(scores.columns))].astype("float64")
    table = values.quantile(list(QUANTILES)).T
    table.columns = [f"{100 * q:g}%" for q in QUANTILES]
    table.insert(0, "mean", values.mean())
    return table


def rank_correlations(scores: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation over all predicted tokens of epistemic and aleatoric with loss and entropy.

    Tokens of one example hang together, so no interval is given here: one that treats tokens as independent would be
    several times too narrow.

    Returns:
        rows ``epistemic`` and ``aleatoric``, columns ``loss`` and ``entropy``; NaN where a column is constant.
    """
    rows, columns = ["epistemic", "aleatoric"], ["loss", "entropy"]
    ranks = scores[rows + columns].dropna().rank()
    table = pd.DataFrame(index=rows, columns=columns, dtype="float64")
    for row in rows:
        for column in columns:
            constant = ranks[row].nunique() < 2 or ranks[column].nunique() < 2
            table.loc[row, column] = float("nan") if constant else stats.pearsonr(ranks[row], ranks[column])[0]
    return table


def passes_text(scores: pd.DataFrame, target: TargetError, most: int) -> str:
    """What a target saved against ``most`` passes for all, which is what it takes for those that needed them.

    Args:
        scores: the token table with ``n_passes``, ``epistemic`` and ``epistemic_se``.
        target: of the run.
        most: the most passes that an example gets.
    """
    predicted = scores[scores["loss"].notna()]
    reached = target.reached(predicted["epistemic"], predicted["epistemic_se"])
    owner = predicted["example_id"]
    passes = predicted["n_passes"].groupby(owner).first()
    n_reached, n_tokens = reached.groupby(owner).sum(), reached.groupby(owner).count()
    done = sum(is_enough(int(some), int(all_)) for some, all_ in zip(n_reached, n_tokens, strict=True))
    mean = passes.mean()
    return (
        f"passes: {passes.min()} to {passes.max()} of an example, {mean:.1f} on average: {1 - mean / most:.0%} fewer "
        f"than {most} of each\n"
        f"target {target.text} reached at {SHARE} % of their tokens by {done:,} of {len(passes):,} examples "
        f"({reached.mean():.1%} of all tokens)"
    )


def summary_text(scores: pd.DataFrame, skipped: Mapping[str, int]) -> str:
    """The summary that a command prints.

    Args:
        scores: the token table.
        skipped: rows left out, by reason.
    """
    predicted = int(scores["loss"].notna().sum())
    lines = [
        f"{scores['example_id'].nunique():,} examples, {len(scores):,} completion tokens ({predicted:,} predicted)"
    ]
    if skipped:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(skipped.items()))
        lines.append(f"skipped rows: {reasons} (listed in skipped.jsonl)")
    table = spread(scores)
    in_nats = [name for name in table.index if ALL_COLUMNS[name].unit == "nats"]
    lines += ["", "measure, nats", table.loc[in_nats].to_string(float_format="{:.4f}".format)]
    lines += ["", "measure, 0 to 1", table.drop(index=in_nats).to_string(float_format="{:.4f}".format)]
    lines += ["", "rank correlation over tokens (Spearman)"]
    lines.append(rank_correlations(scores).to_string(float_format="{:.3f}".format, na_rep="undefined (constant)"))
    return "\n".join(lines)
