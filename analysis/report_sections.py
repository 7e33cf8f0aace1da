"""The sections of a report on one run: its numbers as sentences, tables and pictures."""

from __future__ import annotations

import pandas as pd

from analysis import report_figures as figures
from analysis.family_words import family_words
from analysis.levels import QUANTILES
from analysis.measure_names import names_of
from analysis.number_text import count, fixed, percent, with_interval
from analysis.plots import METHOD_NAMES, SIGNAL_NAMES
from analysis.report_columns import (
    METRICS,
    as_measured,
    count_column,
    number_column,
    of_method,
    of_metric,
    statistic,
    text_column,
    three_decimals,
)
from analysis.report_costs import cost_section
from analysis.report_data import RunData, run_facts_table
from analysis.report_parts import Column, Paragraph, Part, Picture, Section, Table, visible
from analysis.report_results import Results, drawn
from analysis.report_settings import ReportSettings
from analysis.report_tokens import extremes_section, strata_section
from analysis.report_words import claim_sentences, noise_sentence, warning_paragraphs

_SHOWN_QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95, 0.99)


def run_sections(
    run: RunData, results: Results, settings: ReportSettings, *, several: bool, advise_masks: bool = True
) -> list[Section]:
    """All sections of one run; with several runs they stand one level lower and carry the run's name.

    ``advise_masks``: say how the other masks are measured.
    """
    sections = [make(run, results, settings) for make in _SECTIONS]
    sections.insert(_SECTIONS.index(_noise) + 1, cost_section(run, results.costs, advise=advise_masks))
    if not several:
        return sections
    head = Section(run.slug, f"Run {run.name}", ())
    lower = [Section(f"{run.slug}-{one.anchor}", one.title, one.parts, level=3) for one in sections]
    return [head, *lower]


def lead_picture(run: RunData, results: Results, settings: ReportSettings) -> Picture:
    """The picture of the first screen."""
    points = drawn(run, settings)
    caption = (
        "Epistemic uncertainty against loss; lines mark the top 25 % of each. Right of the upright line and below the "
        f"other: tokens that loss selects and epistemic does not.{_subset_note(run, points)}"
    )
    return Picture(run.picture("epistemic-against-loss"), caption, figures.lead_figure(points, results.correlations))


def _run(run: RunData, results: Results, settings: ReportSettings) -> Section:
    facts = pd.DataFrame(run_facts_table(run), columns=["what", "value"])
    rows = [
        ("examples", count(len(run.ids)) + (f", {run.n_truncated:,} cut at the end" if run.n_truncated else "")),
        ("completion tokens", count(len(run.tokens))),
        ("of these predicted", f"{run.n_predicted:,} (the first token of a sequence has no prediction)"),
        ("most probable token is right", percent(results.accuracy, 1)),
    ]
    table = pd.concat([facts, pd.DataFrame(rows, columns=["what", "value"])], ignore_index=True)
    columns = (text_column("", "what"), Column("", lambda row: visible(row["value"]), is_number=False, kind="long"))
    return Section("run", "What was run", (Table("facts", "", table, columns, run=run.name),))


def _levels(run: RunData, results: Results, settings: ReportSettings) -> Section:
    quantiles = results.quantiles
    shown = [
        text_column("measure", "measure"),
        text_column("level", "level"),
        count_column("n", "n"),
        number_column("mean", "mean"),
    ]
    shown += [number_column(f"{100 * q:.0f} %", f"q{100 * q:02.0f}") for q in _SHOWN_QUANTILES if q in QUANTILES]
    shown.append(number_column("largest", "max"))
    variance = [
        text_column("measure", "measure"),
        number_column("variance, nats²", "total_variance"),
        Column("between examples, plain", lambda row: percent(row["between_share"])),
        Column("chance part taken out (ICC)", lambda row: with_interval(row, names=("icc", "icc_low", "icc_high"))),
    ]
    parts: list[Part] = [
        Paragraph(
            "Tokens of one example are alike to some degree, so an example's mean says something of its tokens, and "
            "tokens do not count as independent observations. The intraclass correlation (ICC) is the share of a "
            "measure's variance that lies between examples: near 0, whole examples are a poor unit for choosing what "
            "to train on; near 1, single tokens are no better than examples."
        ),
        Picture(
            run.picture("distributions"),
            "Every measure over tokens (filled) and over the means of examples (line). Logarithmic axes in nats; what "
            "lies below the left end, zeros included, is in the first bin. Each histogram has its own height; "
            "where a bin at the edge is cut, the share of the tokens in it is written.",
            figures.distributions_figure(run.tokens, results.means, results.variance, names_of(family_words(run.info))),
        ),
        Table("variance", "Variance within and between examples", results.variance, tuple(variance), run=run.name),
        Table(
            "levels",
            "Quantiles over tokens and over examples, nats",
            quantiles,
            tuple(shown),
            run=run.name,
            is_folded=True,
        ),
        *warning_paragraphs(results.variance),
    ]
    return Section("levels", "How high, and where the variance lies", tuple(parts))


def _correlations(run: RunData, results: Results, settings: ReportSettings) -> Section:
    table, points = results.correlations.table, drawn(run, settings)
    measured = table[~table["corrected"].astype(bool)]
    per_method = [
        Column(METHOD_NAMES[method], of_method(table, method), is_number=True)
        for method in METHOD_NAMES
        if (table["method"] == method).any()
    ]
    pairs = measured[measured["kind"] == "correlation"].drop_duplicates(["x", "y"])
    partials = measured[measured["kind"] == "partial"].drop_duplicates(["x", "y", "given"])
    differences = measured[measured["kind"] == "difference"].drop_duplicates(["x", "y", "minus_x", "minus_y"])
    name = Column("", statistic, is_number=False)
    not_kendall = tuple(column for column in per_method if column.head != METHOD_NAMES["kendall"])
    parts: list[Part] = [
        Paragraph(
            f"All intervals are {percent(settings.confidence)} intervals that take the examples, not the tokens, as "
            "independent. Intervals that take tokens as independent are several times too narrow."
        ),
        Picture(
            run.picture("correlations"),
            "Correlations of each kind of uncertainty with the two single-pass signals, with intervals by example.",
            figures.correlations_figure(table),
        ),
        Picture(
            run.picture("uncertainty-against-signals"),
            "Each kind of uncertainty against each signal, tokens counted by colour (after figure 2B of the paper); "
            f"lines mark the top 25 %.{_subset_note(run, points)}",
            figures.density_figure(points, results.correlations),
        ),
        Table("correlations", "", table, (name, *per_method), shown=pairs, run=run.name),
        Table(
            "",
            "Partial: the correlation among tokens that are alike in the third measure",
            table,
            (name, *not_kendall),
            shown=partials,
        ),
        Table("", "Differences of correlations", table, (name, *per_method), shown=differences),
        *(Paragraph(note, "note") for note in results.correlations.notes),
        *warning_paragraphs(table),
    ]
    return Section("correlations", "Correlations", tuple(parts))


def _claims(run: RunData, results: Results, settings: ReportSettings) -> Section:
    claims = results.claims
    columns = (
        text_column("reading", "statement"),
        Column("method", lambda row: METHOD_NAMES[row["method"]] + (", corrected" if row["corrected"] else ""), False),
        Column("left", lambda row: fixed(row["left"])),
        Column("right", lambda row: fixed(row["right"])),
        Column("difference", lambda row: with_interval(row, three_decimals, ("difference", "low", "high"))),
        text_column("verdict", "verdict"),
    )
    parts: list[Part] = [
        Paragraph(
            "The paper (arXiv:2503.16511) says that loss goes with epistemic uncertainty. It does not say which "
            "comparison carries the claim, so both readings are judged, under every correlation."
        ),
        *(Paragraph(text, tone) for text, tone in claim_sentences(claims)),
    ]
    if len(claims):
        caption = "The difference of correlations behind each reading: right of the line the claim holds."
        parts.append(Picture(run.picture("claims"), caption, figures.claims_figure(claims)))
    parts += [
        Table("claims", "Both readings under every correlation", claims, columns, run=run.name, is_folded=True),
        *warning_paragraphs(claims),
    ]
    return Section("claim", "The paper's claim, in its two readings", tuple(parts))


def _noise(run: RunData, results: Results, settings: ReportSettings) -> Section:
    reliability, table = results.correlations.reliability, results.correlations.table
    words = family_words(run.info)
    corrected = table[table["corrected"].astype(bool) & (table["kind"] == "correlation")]
    columns = (
        Column(
            "on the scale of",
            lambda row: "ranks (Spearman)" if row["method"] == "spearman" else "nats (Pearson)",
            False,
        ),
        Column("reliability", lambda row: fixed(row["reliability"], 3)),
        Column("factor on correlations", lambda row: fixed(row["attenuation"], 3)),
        Column("median relative error", lambda row: percent(row["median_relative_se"])),
    )
    both = (
        Column("", statistic, is_number=False),
        Column("method", lambda row: METHOD_NAMES[row["method"]], is_number=False),
        Column("as measured", lambda row: as_measured(table, row)),
        Column("noise taken out", with_interval),
    )
    parts: list[Part] = [Paragraph(noise_sentence(results.correlations, words))]
    if len(reliability):
        caption = "Monte Carlo standard error of epistemic over its value: median and the band of 80 % of the tokens."
        picture = Picture(
            run.picture("noise"), caption, figures.noise_figure(run.tokens, results.correlations), width=0.6
        )
        parts += [picture, Table("reliability", "", reliability, columns, run=run.name)]
    if len(corrected):
        parts.append(Table("", "Correlations with the noise of epistemic taken out", table, both, shown=corrected))
    return Section("noise", words.noise_title, (*parts, *warning_paragraphs(reliability, words)))


def _audit(run: RunData, results: Results, settings: ReportSettings) -> Section:
    audit = results.audit
    table = audit.table
    wide = table.drop_duplicates(["signal", "fraction"])
    columns = [
        Column("signal", lambda row: SIGNAL_NAMES.get(row["signal"], row["signal"]), is_number=False),
        Column("label-free", lambda row: "yes" if row["label_free"] else "no", is_number=False),
        Column("top", lambda row: percent(row["fraction"])),
    ]
    columns += [Column(head, of_metric(table, metric)) for metric, head in METRICS.items()]
    against = (
        Column("signal", lambda row: SIGNAL_NAMES.get(row["signal"], row["signal"]), is_number=False),
        Column("top", lambda row: percent(row["fraction"])),
        Column("metric", lambda row: METRICS[row["metric"]], is_number=False),
        Column("signal − loss", lambda row: with_interval(row, three_decimals)),
    )
    parts: list[Part] = [
        Paragraph(audit.verdict),
        Picture(
            run.picture("proxy-audit"),
            "How well each cheap signal finds the tokens of highest epistemic uncertainty. AUROC: how often it ranks a "
            "token of the top above one that is not. Precision: share of the tokens it picks that belong there.",
            figures.audit_figure(table),
        ),
        Table("proxy_audit", "", table, tuple(columns), shown=wide, run=run.name),
        Table(
            "proxy_differences",
            "Each signal against loss, on the same tokens",
            audit.differences,
            against,
            run=run.name,
            is_folded=True,
        ),
        *(Paragraph(note, "note") for note in audit.notes),
        *warning_paragraphs(table),
    ]
    return Section("audit", "Proxy audit: which cheap signal finds the uncertain tokens", tuple(parts))


def _subset_note(run: RunData, points: pd.DataFrame) -> str:
    if len(points) == run.n_predicted:
        return ""
    return f" Drawn from a random {len(points):,} of the {run.n_predicted:,} predicted tokens."


_SECTIONS = (_run, _correlations, _claims, _noise, _audit, _levels, strata_section, extremes_section)
