"""The sections of a report on its tokens: their kinds, and the ones to look at."""

from __future__ import annotations

import pandas as pd

from analysis import report_figures as figures
from analysis.extremes import EXTREMES
from analysis.number_text import fixed, percent
from analysis.report_columns import context, count_column, mean_column, number_column, short_id, text_column
from analysis.report_data import RunData
from analysis.report_parts import Column, Paragraph, Part, Picture, Section, Table, visible
from analysis.report_results import Results
from analysis.report_settings import ReportSettings
from analysis.report_words import warning_paragraphs
from uncertainty.token_classes import CLASS_MEANINGS

_STRATUM_TITLES = {
    "class": "By what the token spells",
    "position": "By place in the completion, counted from 0",
    "turn": "By message of the conversation, counted from 0",
    "frequency": "By how often the completions of this run have the token",
}


def strata_section(run: RunData, results: Results, settings: ReportSettings) -> Section:
    """How high the measures are by kind of token, and which kinds each signal would select."""
    columns = (
        text_column("", "stratum"),
        count_column("tokens", "n_tokens"),
        Column("share", lambda row: percent(row["share"], 1)),
        *(mean_column(measure) for measure in ("loss", "aleatoric", "epistemic")),
        Column("of top 25 % by loss", lambda row: percent(row["top_share_loss"])),
        Column("of top 25 % by epistemic", lambda row: percent(row["top_share_epistemic"])),
    )
    parts: list[Part] = [
        Picture(
            run.picture("strata"),
            "Mean epistemic uncertainty and mean loss by kind of token, with intervals by example, and how "
            "over-represented each kind is in the top 25 % by loss and by epistemic uncertainty. Where the two marks "
            "lie apart, the two select different kinds of tokens.",
            figures.strata_figure(results.strata),
        )
    ]
    for name, table in results.strata.items():
        parts.append(Table("strata", _STRATUM_TITLES[name], table.assign(by=name), columns, run=run.name))
    found = [kind for kind in CLASS_MEANINGS if kind in set(results.strata["class"]["stratum"])]
    parts.append(Paragraph("Kinds: " + "; ".join(f"{kind}: {CLASS_MEANINGS[kind]}" for kind in found) + ".", "note"))
    unsure = [
        {"warning": f"by {name}, {row['stratum']}: {row['warning']}"}
        for name, table in results.strata.items()
        for _, row in table[table["warning"] != ""].iterrows()
    ]
    parts += warning_paragraphs(pd.DataFrame(unsure))
    return Section("strata", "Kinds of tokens", tuple(parts))


def extremes_section(run: RunData, results: Results, settings: ReportSettings) -> Section:
    """The tokens to look at, in their context."""
    columns = (
        Column("token in its context", context, is_number=False, kind="context"),
        number_column("epistemic", "epistemic"),
        number_column("± s.e.", "epistemic_se"),
        number_column("aleatoric", "aleatoric"),
        number_column("loss", "loss"),
        Column("percentile of loss", lambda row: fixed(row["loss_percentile"], 1)),
        Column("of epistemic", lambda row: fixed(row["epistemic_percentile"], 1)),
        Column("example", lambda row: visible(short_id(row["example_id"])), is_number=False),
    )
    parts: list[Part] = [
        Paragraph(
            "At most two tokens of one example and two occurrences of one token in each list; nats. A dot is a space "
            "at the edge of a token, ↵ a line break.",
            "note",
        )
    ]
    extremes = results.extremes
    for kind, title in EXTREMES.items():
        chosen = extremes[extremes["kind"] == kind]
        if len(chosen):
            parts.append(Table("extremes", title, chosen, columns, run=run.name))
    return Section("extremes", "Tokens to look at", tuple(parts))
