"""A dropout sweep in a screenful, from the tables of ``sweep`` and ``sweep_sites``. Pure functions on frames."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.sweep import RISES

_NEAR = 0.1  # the paper's rate: sites are compared at the rate nearest to it


def sweep_text(distribution: pd.DataFrame, steps: pd.DataFrame, trend: pd.DataFrame, sites: pd.DataFrame) -> str:
    """What a command prints of a sweep: for each series how uncertainty goes with the rate, then the sites compared.

    Args:
        distribution: ``sweep.distribution_table(...)``.
        steps: ``sweep.step_table(...)``.
        trend: ``sweep.trend_table(...)``.
        sites: ``sweep_sites.site_table(...)``, empty where no model has two sets of sites.
    """
    blocks = []
    for _, row in trend.iterrows():
        name = ["model", "dataset", "sites"]
        blocks.append(_series_text(row, *(_like(table, row, name) for table in (distribution, steps))))
    if len(sites):
        blocks += [_sites_text(part) for _, part in sites.groupby(["model", "dataset"], sort=False)]
    warnings = dict.fromkeys(f"note: {row['model']}: {row['warning']}" for _, row in trend.iterrows() if row["warning"])
    return "\n\n".join([*blocks, *(["\n".join(warnings)] if warnings else [])])


def _series_text(row: pd.Series, distribution: pd.DataFrame, steps: pd.DataFrame) -> str:
    first = distribution.iloc[0]
    lines = [
        f"{row['model']} on {row['dataset']}, dropout at {row['sites']} ({first['n_sites']} sites): "
        f"{row['n_examples']:,} examples, {row['n_tokens']:,} tokens, {first['passes']} passes",
        "  rate               " + "".join(f"{rate:>10g}" for rate in distribution["rate"]),
    ]
    for name, shown in (("mean", "mean epistemic"), ("q50", "median"), ("q95", "95th percentile")):
        lines.append(f"  {shown:<19}" + "".join(f"{value:>10.3g}" for value in distribution[name]) + "  nats")
    if len(steps):
        lines += [f"  mean: {_range_text(row, steps)}", f"  single tokens: {_trend_text(row, steps)}"]
    return "\n".join(lines)


def _range_text(row: pd.Series, steps: pd.DataFrame) -> str:
    if math.isnan(row["monotone_from"]):
        return "rises at no step"
    whole = row["monotone_from"] == steps["rate"].iloc[0] and row["monotone_to"] == steps["next_rate"].iloc[-1]
    inside = steps[(steps["rate"] >= row["monotone_from"]) & (steps["next_rate"] <= row["monotone_to"])]
    n_resolved = int((inside["verdict"] == RISES).sum())
    return (
        f"rises at every step from rate {row['monotone_from']:g} to {row['monotone_to']:g}"
        f"{' (all rates)' if whole else f'; highest at {row.peak_rate:g}'}, "
        f"{n_resolved} of {len(inside)} steps with an interval above 0"
    )


def _trend_text(row: pd.Series, steps: pd.DataFrame) -> str:
    tau = f"{row['tau']:.3f}"
    if math.isfinite(row["low"]):
        tau += f" [{row['low']:.3f}, {row['high']:.3f}]"
    text = f"{row['share_monotone']:.1%} rise at every step, Kendall's tau {tau}"
    falls = steps["share_falling_beyond_noise"].max()
    text += f", {f'at most {falls:.1%} fall' if falls else 'none falls'} beyond noise at a step"
    if math.isfinite(row["page_p"]):
        text += f"; Page's test over examples {_p_text(row['page_p'])}"
    return text


def _p_text(p: float) -> str:
    return "p < 1e-99" if p < 1e-99 else f"p = {p:.2g}"


def _sites_text(table: pd.DataFrame) -> str:
    rates = table["rate"].unique()
    rate = rates[np.argmin(np.abs(np.log(rates / _NEAR)))]
    at = table[table["rate"] == rate].sort_values("mean", ascending=False)
    width = max(len(sites) for sites in at["sites"])
    lines = [
        f"{at['model'].iloc[0]} on {at['dataset'].iloc[0]}: sensitivity by sites at rate {rate:g}",
        f"  {'sites':<{width}}  {'number':>6}  {'mean, nats':>10}  {'ratio':>6}  {'same tokens (Spearman)':>22}",
    ]
    for _, row in at.iterrows():
        agreement = "reference" if row["sites"] == row["reference"] else f"{row['rank_agreement']:.3f}"
        numbers = f"{row['n_sites']:>6}  {row['mean']:>10.3g}  {row['ratio']:>6.2f}"
        lines.append(f"  {row['sites']:<{width}}  {numbers}  {agreement:>22}")
    return "\n".join(lines)


def _like(table: pd.DataFrame, row: pd.Series, names: list[str]) -> pd.DataFrame:
    return table[(table[names] == row[names]).all(axis=1)]
