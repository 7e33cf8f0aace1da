"""What a report says of runs that differ in their masks: what equal error costs with either."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import report_figures as figures
from analysis.convergence_text import about_passes
from analysis.mask_worth import is_mask_pair, paired_errors, resolved, same_tokens, some_tokens, worth_table
from analysis.number_text import count, fixed, percent, with_interval
from analysis.pass_costs import cost_table, enough_passes, groups_of_run
from analysis.report_costs import MEASURED_ON, about_cell, most_passes, said_passes
from analysis.report_data import RunData
from analysis.report_parts import Column, Paragraph, Part, Picture, Section, Table, Tone
from analysis.report_settings import ReportSettings
from analysis.report_words import warning_paragraphs


def masks_section(runs: Sequence[RunData], settings: ReportSettings) -> Section | None:
    """What equal error costs with either masks, from runs that differ in the masks; None where there are no such."""
    parts: list[Part] = []
    for iid, balanced in mask_pairs(runs):
        parts += _pair(iid, balanced, settings)
    return Section("masks", "What equal error costs with either masks", tuple(parts)) if parts else None


def mask_lines(section: Section | None) -> tuple[str, ...]:
    """The verdicts of the section, for the first screen."""
    parts = () if section is None else section.parts
    return tuple(part.text for part in parts if isinstance(part, Paragraph) and part.tone in ("good", "bad", "open"))


def mask_pairs(runs: Sequence[RunData]) -> list[tuple[RunData, RunData]]:
    """The pairs of an iid and a balanced run of one model on the same data, at the same rate and sites."""
    return [(one, other) for one in runs for other in runs if is_mask_pair(one.info, other.info)]


def _pair(iid: RunData, balanced: RunData, settings: ReportSettings) -> list[Part]:
    names = f"{iid.name} (iid) and {balanced.name} (balanced)"
    if groups_of_run(balanced.info) == 1:
        said = (
            f"{names}: the {said_passes(balanced)} balanced passes are one group, and nothing within a group tells "
            f"its error. Score with {enough_passes(balanced.info):,} passes to compare."
        )
        return [Paragraph(said, "note")]
    first, second = same_tokens((iid.tokens, iid.ids), (balanced.tokens, balanced.ids))
    both = paired_errors((first, iid.info), (second, balanced.info))
    if both is None:
        return [Paragraph(f"{names} share no token of 0.001 nats or more with a standard error in both.", "note")]
    worth = worth_table(*both, settings.confidence).assign(run_iid=iid.name, run_balanced=balanced.name)
    known = worth[worth["tokens"] == "resolved"]
    if not len(known):
        said = f"{names}: at every token the error is above half of the value; rare masks make it, more passes help."
        return [Paragraph(said, "note")]
    use_N = resolved(*both)
    tables = {
        "iid": cost_table(some_tokens(both[0], use_N), settings.confidence),
        "balanced": cost_table(some_tokens(both[1], use_N), settings.confidence),
    }
    most = {"iid": most_passes(iid), "balanced": most_passes(balanced)}
    shown = [
        Column("standard error over value, at most", lambda row: percent(row["relative_error"])),
        *(
            Column(f"{name} passes", lambda row, name=name: about_cell(row[name], most[name]))  # type: ignore[misc]
            for name in tables
        ),
    ]
    rows = pd.DataFrame(
        [
            {"relative_error": row["relative_error"], "iid": row, "balanced": tables["balanced"].iloc[place]}
            for place, (_, row) in enumerate(tables["iid"].iterrows())
        ]
    )
    each = pd.concat([table.assign(masks=name) for name, table in tables.items()], ignore_index=True)
    n_all = int(worth["n_tokens"].max())
    text, tone = _verdict(known.iloc[0], n_all, iid, balanced)
    counted = (
        Column("tokens", lambda row: _COUNTED[row["tokens"]], is_number=False),
        Column("", lambda row: count(row["n_tokens"])),
        Column("examples", lambda row: count(row["n_examples"])),
        Column("iid passes that one balanced pass is worth", lambda row: _worth(row)),
    )
    return [
        Paragraph(f"{names}. {text}", tone),
        Table("masks_pass_costs", "Passes of equal error, a typical token", each, tuple(shown), shown=rows),
        Picture(
            f"masks-{iid.slug}-{balanced.slug}",
            "Standard error of epistemic over its value at a typical token: dots are the two runs, dashes what other "
            "numbers of passes would have. At equal height, the distance to the right is what the error costs.",
            figures.cost_figure(tables, list(most.values())),
            width=0.6,
        ),
        Table("masks_worth", "", worth, counted),
        Paragraph(_MASKS_NOTE, "note"),
        *warning_paragraphs(worth[worth["tokens"] == "resolved"]),
    ]


def _verdict(row: pd.Series, n_all: int, iid: RunData, balanced: RunData) -> tuple[str, Tone]:
    """What the ratio says, and how sure it is."""
    worth, n = float(row["worth"]), most_passes(balanced)
    equal = (
        f"One balanced pass is worth {_worth(row)} iid passes: for the error of epistemic that {n:,.0f} balanced "
        f"passes have, iid masks take {about_passes(worth * n, max(n, most_passes(iid)))}."
    )
    if row["n_tokens"] < n_all / 2:
        return (
            f"At only {int(row['n_tokens']):,} of {n_all:,} tokens is the error at most half of the value; at the "
            f"others rare masks make it, and only more passes help. Of those few: {equal[0].lower()}{equal[1:]}",
            "open",
        )
    if not np.isfinite(row["low"]):
        return f"The examples are too few to be sure. {equal}", "open"
    if row["low"] > 1:
        return f"Balanced masks take fewer passes for the same error. {equal}", "good"
    if row["high"] < 1:
        return f"Balanced masks take more passes for the same error here. {equal}", "bad"
    return f"These runs do not tell the masks apart. {equal}", "open"


def _worth(row: pd.Series) -> str:
    return with_interval(row, fixed, ("worth", "low", "high"))


_COUNTED = {"resolved": "error at most half of the value", "all": "all of 0.001 nats or more"}
_MASKS_NOTE = (
    "From both runs' own standard errors at the same tokens (geometric mean of the squared errors times passes, "
    "interval by example). Where such errors were held against runs with other seeds they were within 14 % of the "
    f"true ones (docs/masks.md, {MEASURED_ON}, pretrained models), so a ratio is right to about a third. Tokens whose "
    "error is above half of their value are left out of the first line: rare masks make it, and balance does not help "
    "there. Epistemic only: total, aleatoric and mc_loss have no error in the table of scores."
)
