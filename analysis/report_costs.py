"""What a report says of costs: the passes that an error of epistemic takes, and with which masks they are fewer."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.convergence_text import about_passes
from analysis.family_words import FamilyWords, family_words, masks_of
from analysis.number_text import percent
from analysis.pass_costs import (
    cost_table,
    enough_passes,
    groups_of_run,
    pass_errors,
    rare_share,
    typical_error,
)
from analysis.report_data import RunData
from analysis.report_parts import Column, Paragraph, Part, Section, Table
from analysis.report_settings import ReportSettings
from analysis.report_words import warning_paragraphs

FEW_ROWS = 50  # examples that are enough to compare masks by

# What docs/masks.md found, and when: iid passes of the error of one balanced pass, smallest and largest of its rates
# and numbers of passes (tests/analysis/test_report_costs.py holds this against its table).
MEASURED = (("tinystories-656k", 2, 1.7, 9.7), ("stories260K", 5, 1.0, 3.0), ("the demo model", 4, 1.0, 1.9))
MEASURED_ON = "22 November 2026"


@dataclass(frozen=True, eq=False)
class Costs:
    """What one run says of its errors.

    Attributes:
        table: ``pass_costs.cost_table``; no row where there is no token to tell it from.
        typical: standard error over value at a typical token; NaN likewise.
        rare: share of the tokens whose error is above half of their value.
    """

    table: pd.DataFrame
    typical: float
    rare: float


def costs_of(run: RunData, settings: ReportSettings) -> Costs:
    """Compute what the errors of a run cost."""
    errors = pass_errors(run.tokens, run.info)
    table = cost_table(errors, settings.confidence)
    return Costs(table, np.nan, np.nan) if errors is None else Costs(table, typical_error(errors), rare_share(errors))


def cost_line(run: RunData, costs: Costs) -> str:
    """The same in a line for the first screen; "" where it is not known."""
    if not len(costs.table):
        return ""
    row, words = costs.table.iloc[1], family_words(run.info)
    passes = about_passes(row["passes"], most_passes(run))
    most = "at most " if groups_of_run(run.info) == 1 else ""  # then the errors are bounds, and so is what they cost
    return (
        f"One standard error of epistemic is {most}{percent(costs.typical)} of the value at a typical token; "
        f"{percent(row['relative_error'])} would take {most}{passes} {words.passes}."
    )


def cost_section(run: RunData, costs: Costs, *, advise: bool) -> Section:
    """What an error costs by this run alone.

    Args:
        run: the run.
        costs: ``costs_of`` it.
        advise: say how the other masks are measured; not where another run of the report has them.
    """
    words = family_words(run.info)
    title = f"What an error costs in {words.passes}"
    parts: list[Part] = [Paragraph(_own(run, costs))]
    if len(costs.table):
        most = most_passes(run)
        columns = (
            Column("standard error over value, at most", lambda row: percent(row["relative_error"])),
            Column(f"{words.passes}, a typical token", lambda row: about_cell(row, most)),
            Column(f"{words.passes}, nine tokens in ten", lambda row: about_passes(row["passes_nine_in_ten"], most)),
            Column("tokens that this run knows so well", lambda row: percent(row["share_within"])),
        )
        parts.append(Table("pass_costs", "", costs.table, columns, run=run.name))
        parts.append(Paragraph(_beside(run), "note"))
        if costs.rare >= 0.01:
            parts.append(Paragraph(_rare(costs, words), "warning" if costs.rare >= 0.1 else "note"))
    if advise and masks_of(run.info):
        parts.append(Paragraph(_other_masks(run)))
    return Section("cost", title, (*parts, *warning_paragraphs(costs.table)))


def other_command(run: RunData) -> tuple[str, str]:
    """The command that scores the same with the other masks, and the one that compares the two runs.

    Where the run does not say how it was made by ``unc-score``, its options are left to the reader.
    """
    other = "iid" if masks_of(run.info) == "balanced" else "balanced"
    out = f"{run.path}-{other}"
    command = run.info.record.get("command")
    words = list(map(str, command)) if isinstance(command, list) else []
    known = bool(words) and Path(words[0]).name == "unc-score"
    options = _without(words[1:]) if known else ["..."]
    if known and len(run.ids) > 2 * FEW_ROWS:
        options = [*_without(options, ("--limit",)), "--limit", str(FEW_ROWS)]
    return (
        shlex.join(["unc-score", *options, "--masks", other, "--out", out]).replace("'...'", "..."),
        shlex.join(["unc-report", str(run.path), out]),
    )


def _without(options: list[str], names: tuple[str, ...] = ("--out", "--masks", "--rng")) -> list[str]:
    """Options less some, whether their value stands behind a blank or an equals sign."""
    kept, skip = [], False
    for option in options:
        if skip:
            skip = False
        elif option in names:
            skip = True
        elif option.partition("=")[0] not in names:
            kept.append(option)
    return kept


def _own(run: RunData, costs: Costs) -> str:
    words = family_words(run.info)
    if not len(costs.table):
        return (
            "No token has both a standard error of epistemic and a value of 0.001 nats or more, so there is no error "
            "to speak of."
        )
    n_tokens, passes = int(costs.table["n_tokens"].iloc[0]), said_passes(run)
    over = f"(geometric mean over the {n_tokens:,} tokens of 0.001 nats or more)"
    if groups_of_run(run.info) == 1:
        return (
            f"All {passes} passes are one group of balanced masks, and nothing within a group tells its error. The "
            "errors here are those of as many independent passes, so the true ones are at most so large: one standard "
            f"error of epistemic is at most {percent(costs.typical, 1)} of its value at a typical token {over}. A run "
            f"of {enough_passes(run.info):,} passes would know."
        )
    said = f"one standard error of epistemic is {percent(costs.typical, 1)} of its value at a typical token {over}."
    if words.is_given:
        return (
            f"With these {passes} members {said} They are given, not drawn: the error says how far the value would "
            "move with as many other members of the same kind, and only more members make it smaller, with the root of "
            "their number."
        )
    of_groups = (
        " Groups of balanced passes are independent of each other, so this holds for them too (20 and 100 passes "
        "gained the same, docs/masks.md)."
        if masks_of(run.info) == "balanced"
        else ""
    )
    return (
        f"After these {passes} passes {said} The error falls with the root of the number of passes: half of it takes "
        f"four times as many.{of_groups}"
    )


def _beside(run: RunData) -> str:
    words = family_words(run.info)
    said = (
        f"Foretold from the run's own errors, not measured at other numbers of {words.passes}. This is noise alone: "
        f"the value is also too low by its bias, which falls as 1 / {words.passes} and which "
        "--measures epistemic_corrected takes off."
    )
    if words.is_given:
        return said
    more = ["--passes", str(enough_passes(run.info))] if groups_of_run(run.info) == 1 else []
    command = shlex.join(["unc-convergence", str(run.path), *more])
    return f"{said} How many passes a ranking, a selection or the mean level takes is measured by: {command}"


def _rare(costs: Costs, words: FamilyWords) -> str:
    said = f"At {percent(costs.rare)} of these tokens the error is above half of the value"
    if words.is_given:
        return f"{said}: so few members hardly know the error itself there, and so not what it takes."
    return (
        f"{said}: a few of the {words.passes} make it, the error itself is hardly known there, and so is what it takes."
    )


def _other_masks(run: RunData) -> str:
    score, report = other_command(run)
    found = ", ".join(f"{low:.1f} to {high:.1f} in {name} ({layers} layers)" for name, layers, low, high in MEASURED)
    fewer = "" if len(run.ids) <= 2 * FEW_ROWS else f" ({FEW_ROWS} rows will do)"
    if masks_of(run.info) == "balanced":
        said = (
            "These are balanced masks: every unit is dropped equally often. How many more passes iid masks, the "
            "paper's, would take for the same error, one run cannot tell."
        )
    else:
        said = (
            "These are iid masks, the paper's. Balanced masks, which drop every unit equally often, may take fewer "
            "passes for the same error; how many fewer here, one run cannot tell."
        )
    return (
        f"{said} Measured elsewhere ({MEASURED_ON}, attention dropout at rates 0.05 to 0.3, docs/masks.md), one "
        f"balanced pass was worth so many iid ones for epistemic: {found}; the more the lower the rate. To measure it "
        f"here{fewer}: {score} and then: {report}"
    )


def about_cell(row: pd.Series, most: float) -> str:
    """The passes of a row of ``cost_table`` with their interval, in a run of ``most`` passes."""
    said = about_passes(row["passes"], most)
    if not np.isfinite(row["low"]) or said.startswith("more"):
        return said
    return f"{said} [{about_passes(row['low'], most, '')}, {about_passes(row['high'], most, '')}]"


def most_passes(run: RunData) -> float:
    """The most passes that a token of the run had."""
    return float(run.tokens["n_passes"].max())


def said_passes(run: RunData) -> str:
    """How many passes the tokens of a run had: ``100``, or ``20 to 100`` with a target."""
    had = run.tokens["n_passes"][run.tokens["n_passes"] > 0]
    low, high = int(had.min()), int(had.max())
    return f"{high:,}" if low == high else f"{low:,} to {high:,}"
