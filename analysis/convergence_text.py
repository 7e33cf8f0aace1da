"""Convergence in a screenful: the table, and the sentences that say how many passes are needed. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.convergence import ESTIMATES, MEASURED
from analysis.convergence_needs import COLUMN, Need
from analysis.number_text import number, percent

_FARTHEST = 20  # times the passes of the run: an extrapolation beyond says no more than "many"


def table_text(table: pd.DataFrame, top: float) -> str:
    """The table of the plug-in estimate, and the mean of the corrected one beside it.

    Args:
        table: ``convergence.convergence_table(...)``.
        top: fraction of the tokens that a selection takes.
    """
    plain = table[table["estimate"] == ESTIMATES[0]]
    corrected = table[table["estimate"] == ESTIMATES[1]].set_index("passes")["mean"]
    share = f"top {100 * top:g} %"
    widths = (8, 12, 12, 11, 26, 26, 11, 11)
    heads = (
        ("", "passes"), ("mean", "epistemic"), ("mean", "corrected"), ("noise of", "the mean"),
        ("ranks: Spearman of", "two independent runs"), (f"{share}: in common", "by two independent runs"),
        ("ranks", "with all*"), (share, "with all*"),
    )  # fmt: skip
    lines = ["".join(f"{head[row]:>{width}}" for head, width in zip(heads, widths, strict=True)) for row in (0, 1)]
    for _, row in plain.iterrows():
        cells = [
            f"{int(row['passes']):,}",
            number(row["mean"]),
            number(corrected.get(row["passes"])),
            percent(row["noise"], 1),
            _estimate(row, "agreement"),
            _estimate(row, "overlap"),
            f"{row['agreement_with_all']:.3f}",
            f"{row['overlap_with_all']:.3f}",
        ]
        lines.append("".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    last = plain.iloc[-1]
    if last["from_passes"] not in (0, last["passes"]):
        lines.append(f"~ predicted from two runs of {int(last['from_passes']):,} passes and the trend up to there")
    lines.append(
        "* the first passes with the whole run that holds them: not what two runs have in common, too good near its end"
    )
    return "\n".join(lines)


def _estimate(row: pd.Series, name: str) -> str:
    if math.isnan(row[name]):
        return "–"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = f" [{low:.3f}, {high:.3f}]" if math.isfinite(low) else ""
    return f"{'' if row['how'] == MEASURED else '~'}{row[name]:.3f}{interval}"


def needs_text(table: pd.DataFrame, found: Sequence[Need], top: float) -> str:
    """The sentences: for each purpose, how many passes, and what that rests on.

    Args:
        table: the rows that they come from.
        found: from ``needs``.
        top: fraction of the tokens that a selection takes.
    """
    lines = []
    for need in found:
        to = {
            "ranking": f"rank tokens by epistemic as a second run would (Spearman {need.purpose.threshold:g} or more)",
            "selection": f"select the top {percent(top)} of them as a second run would "
            f"({percent(need.purpose.threshold)} in common or more)",
            "level": f"know the mean of {need.estimate} within {percent(need.purpose.threshold)}",
        }[need.purpose.name]
        lines.append(f"To {to}: {_passes_text(need, table)}.")
    return "\n".join(lines)


def _passes_text(need: Need, table: pd.DataFrame) -> str:
    rows = table[table["estimate"] == need.estimate]
    most = int(rows["passes"].max())
    if math.isnan(need.passes):
        return "cannot be told from this run; give more --passes or more examples"
    at = rows[rows["how"] == MEASURED].tail(1) if need.purpose.name != "level" else rows.tail(1)
    basis = f" ({_basis(need, at.iloc[0])})" if len(at) else ""
    if need.passes > _FARTHEST * most:
        return f"{about_passes(need.passes, most)} passes{basis}"
    if need.measured:
        return f"{int(need.passes):,} passes are enough{basis}"
    bounds = ""
    if math.isfinite(need.low) and not math.isnan(need.high):
        bounds = f", {round_up(need.low):,} to {about_passes(need.high, most, '')} by the interval"
    return f"{about_passes(need.passes, most)} passes, extrapolated{bounds}{basis}"


def about_passes(passes: float, most: float, about: str = "about ") -> str:
    """A number of passes that a run of ``most`` leads to expect, to two digits, upwards.

    >>> about_passes(341, 100), about_passes(341, 100, ""), about_passes(2100, 100)
    ('about 350', '350', 'more than 2,000')
    """
    farthest = int(_FARTHEST * most)
    return f"{about}{round_up(passes):,}" if passes <= farthest else f"more than {farthest:,}"


def round_up(passes: float) -> int:
    """To two digits, upwards.

    >>> round_up(341.2), round_up(1.2)
    (350, 2)
    """
    unit = 10 ** max(0, math.floor(math.log10(max(passes, 1.0))) - 1)
    return max(2, math.ceil(passes / unit - 1e-9) * unit)


def _basis(need: Need, row: pd.Series) -> str:
    if need.purpose.name == "level":
        noise = f"{percent(row['noise'], 1)} of noise"
        bias = f", {number(100 * row['bias'], 2)} % of bias" if need.estimate == ESTIMATES[0] else ""
        return f"{noise}{bias} at {int(row['passes']):,}"
    name = COLUMN[need.purpose.name]
    low, value, high = (row[f"{name}{end}"] for end in ("_low", "", "_high"))
    interval = f" [{low:.3f}, {high:.3f}]" if math.isfinite(low) else ""
    return f"measured at {int(row['passes']):,}: {value:.3f}{interval}"
