"""The report on one run or several: read, compute, put into words, pictures and tables.

``make_report`` gives a ``Report``; ``report_files.write_report`` writes it. The parts are in ``report_*.py``: data
(what is read), results (all numbers), answers and words (what they mean), sections and figures (how they are shown).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from analysis import report_figures as figures
from analysis.claims import claims_paragraph
from analysis.family_words import family_words, masks_of
from analysis.heatmap import run_facts
from analysis.number_text import count, fixed, number, percent, with_interval
from analysis.plot_style import STYLE
from analysis.report_answers import answer_cards, answer_of
from analysis.report_costs import cost_line
from analysis.report_data import RunData, load_runs, run_facts_table
from analysis.report_masks import mask_lines, mask_pairs, masks_section
from analysis.report_parts import Column, Paragraph, Part, Picture, Report, Section, Table, visible
from analysis.report_results import Comparison, Results, compare_runs, results_of
from analysis.report_sections import lead_picture, run_sections
from analysis.report_settings import ReportSettings
from analysis.report_words import warning_paragraphs
from analysis.run_title import run_title


def make_report(
    paths: Sequence[Path],
    settings: ReportSettings,
    *,
    reference: Path | None = None,
    same_tokens: bool = False,
    tell: Callable[[str], None] = lambda step: None,
) -> Report:
    """Everything there is to say of some runs.

    Args:
        paths: run folders; those of the same tokens are compared token by token.
        settings: confidence, replicates, sizes of random subsets, seed.
        reference: a run of the same tokens by a reference model, for RHO.
        same_tokens: refuse runs of different tokens, instead of leaving their comparison out.
        tell: called with a few words before each step.

    Raises:
        InputError: not a finished run, a damaged file, or other tokens where the same are needed.
    """
    tell("reading")
    runs = load_runs(paths, reference)
    comparison = compare_runs(runs, settings, required=same_tokens) if len(runs) > 1 else None
    results = [results_of(run, settings, lambda step, run=run: tell(f"{run.name}: {step}")) for run in runs]  # type: ignore[misc]
    tell("figures")
    with matplotlib.rc_context(STYLE):
        masks = masks_section(runs, settings)
        sections = [] if comparison is None else _several(runs, results, comparison, masks)
        paired = {run.name for pair in mask_pairs(runs) for run in pair}
        for run, found in zip(runs, results, strict=True):
            advise = run.name not in paired
            sections += run_sections(run, found, settings, several=len(runs) > 1, advise_masks=advise)
        lead: tuple[Part, ...] = (lead_picture(runs[0], results[0], settings),)
        if len(runs) > 1:
            lead = (
                Picture(
                    "runs-lead",
                    _LEAD_CAPTION,
                    figures.runs_lead_figure([r.name for r in runs], [r.audit.table for r in results]),
                ),
            )
    names = ", ".join(run.name for run in runs)
    subtitle = run_facts(runs[0].info) if len(runs) == 1 else f"{len(runs)} runs: {names}"
    return Report(
        title=f"Uncertainty of {run_title(runs[0].info)}" if len(runs) == 1 else f"Uncertainty of {len(runs)} runs",
        subtitle=subtitle,
        cards=answer_cards(runs, results, settings, mask_lines(masks)),
        lead=lead,
        sections=(*sections, _reading(runs)),
        data=_data(runs, results, settings),
    )


def _several(
    runs: Sequence[RunData], results: Sequence[Results], comparison: Comparison, masks: Section | None
) -> list[Section]:
    """What only several runs show: side by side, and what changes from one to the next."""
    table = pd.DataFrame([_summary(run, found) for run, found in zip(runs, results, strict=True)])
    differ = table["drawn_by"].nunique() > 1
    columns = (
        Column("run", lambda row: row["run"], is_number=False),
        Column("model and data", lambda row: visible(row["scored"]), is_number=False),
        *((Column("drawn by", lambda row: visible(row["drawn_by"]), is_number=False),) if differ else ()),
        Column("examples", lambda row: count(row["n_examples"])),
        Column("tokens", lambda row: count(row["n_predicted"])),
        Column("select by", lambda row: row["selector"], is_number=False),
        Column(
            "ρ(epistemic, loss)", lambda row: with_interval(row, fixed, ("rho_loss", "rho_loss_low", "rho_loss_high"))
        ),
        Column("ρ(epistemic, entropy)", lambda row: with_interval(row, fixed, _RHO_ENTROPY)),
        *(Column(f"mean {name}", lambda row, name=name: number(row[f"mean_{name}"])) for name in _MEANS),  # type: ignore[misc]
        Column("top-1 right", lambda row: percent(row["accuracy"], 1)),
    )
    caption = "Spearman correlations of each kind of uncertainty with each signal, with intervals by example."
    figure = figures.runs_figure([run.name for run in runs], [found.correlations.table for found in results])
    side = Section("runs", "Side by side", (Table("runs", "", table, columns), Picture("runs", caption, figure)))
    return [side, *([] if masks is None else [masks]), _curriculum(comparison)]


def _curriculum(comparison: Comparison) -> Section:
    title = "What changes between the runs"
    if comparison.why_not:
        said = f"There is no comparison token by token: {comparison.why_not}."
        return Section("curriculum", title, (Paragraph(said, "note"),))
    overlap = (
        Column("top 25 % by", lambda row: row["measure"], is_number=False),
        Column("run", lambda row: row["run_a"], is_number=False),
        Column("and", lambda row: row["run_b"], is_number=False),
        Column("Jaccard", lambda row: with_interval(row, fixed, ("jaccard", "low", "high"))),
        Column("by chance", lambda row: fixed(row["chance"])),
        Column("of the first kept", lambda row: percent(row["kept"])),
    )
    share = (
        Column("top 25 % by", lambda row: row["measure"], is_number=False),
        Column("run", lambda row: row["run"], is_number=False),
        Column("kind of token", lambda row: row["class"], is_number=False),
        Column("of all tokens", lambda row: percent(row["share_of_tokens"], 1)),
        Column("of the high set", lambda row: percent(row["share_of_high_set"], 1)),
        Column("times chance", lambda row: fixed(row["enrichment"])),
    )
    parts: tuple[Part, ...] = (
        Paragraph(
            "The runs are of the same tokens, so their high sets can be compared: the top 25 % of the tokens by a "
            "measure, which is what selective training would train on. Where runs are checkpoints of one training, "
            "this is the curriculum that the selection follows (after figure 4 of the paper)."
        ),
        *(
            Picture(
                f"curriculum-{measure}",
                caption,
                figures.curriculum_figure(comparison.shares, comparison.overlaps, measure),
            )
            for measure, caption in _CURRICULUM_CAPTIONS.items()
        ),
        Table("curriculum_overlap", "Overlap of the high sets", comparison.overlaps, overlap),
        Table("curriculum_shares", "What the high sets hold", comparison.shares, share, is_folded=True),
        *warning_paragraphs(comparison.overlaps),
    )
    return Section("curriculum", title, parts)


def _reading(runs: Sequence[RunData]) -> Section:
    """What the measures mean, for each family that a run was drawn by."""
    families = list(dict.fromkeys(family_words(run.info) for run in runs))
    setting = " or ".join(words.setting for words in families)
    texts = [*(words.meaning for words in families), *(text.format(setting=setting) for text in _READING)]
    return Section("reading", "What these numbers are, and are not", tuple(Paragraph(text) for text in texts))


def _summary(run: RunData, results: Results) -> dict[str, Any]:
    """One row of the side-by-side table."""
    row: dict[str, Any] = {
        "run": run.name,
        "scored": run_title(run.info),
        "drawn_by": _drawn_by(run),
        "n_examples": len(run.ids),
        "n_predicted": run.n_predicted,
    }
    means = results.quantiles[results.quantiles["level"] == "token"].set_index("measure")["mean"]
    row |= {f"mean_{name}": float(means[name]) for name in _MEANS} | {"accuracy": results.accuracy}
    table = results.correlations.table
    use = (table["kind"] == "correlation") & (table["method"] == "spearman") & ~table["corrected"].astype(bool)
    for signal in ("loss", "entropy"):
        found = table[use & (table["x"] == "epistemic") & (table["y"] == signal)].iloc[0]
        row |= {
            f"rho_{signal}": found["estimate"],
            f"rho_{signal}_low": found["low"],
            f"rho_{signal}_high": found["high"],
        }
    answer = answer_of(results)
    return row | {"loss_is": answer.level, "selector": answer.selector}


def _drawn_by(run: RunData) -> str:
    """``100 dropout passes``, and the masks where they are not the paper's."""
    passes = run.info.settings.get("passes")
    masks = ", balanced masks" if masks_of(run.info) == "balanced" else ""
    return f"{'' if passes is None else f'{passes} '}{family_words(run.info).members}{masks}"


def _data(runs: Sequence[RunData], results: Sequence[Results], settings: ReportSettings) -> dict[str, Any]:
    """What the JSON says beside the tables."""
    return {
        "settings": dataclasses.asdict(settings),
        "runs": [
            {
                "name": run.name,
                "fingerprint": run.info.fingerprint,
                "facts": dict(run_facts_table(run)),
                "n_examples": len(run.ids),
                "n_tokens": len(run.tokens),
                "n_predicted": run.n_predicted,
                "loss_as_proxy": dataclasses.asdict(answer_of(found)),
                "selector": found.audit.selector,
                "error_cost": cost_line(run, found.costs),
                "audit_verdict": found.audit.verdict,
                "claims": claims_paragraph(found.claims),
                "notes": [*found.correlations.notes, *found.audit.notes],
            }
            for run, found in zip(runs, results, strict=True)
        ],
    }


_MEANS = ("loss", "entropy", "aleatoric", "epistemic")
_RHO_ENTROPY = ("rho_entropy", "rho_entropy_low", "rho_entropy_high")
_LEAD_CAPTION = (
    "Of the top 25 % of tokens by each signal, the share that is in the top 25 % by epistemic uncertainty; the upright "
    "line is a random choice."
)
_CURRICULUM_CAPTIONS = {
    "loss": "By loss: what kinds of tokens the top 25 % holds in each run, and how much the sets of two runs overlap.",
    "epistemic": "The same by epistemic uncertainty.",
}
_READING = (
    "Loss depends on the label that stands in the data: a likely token has a low loss where the model is unsure, and a "
    "mislabelled one a high loss where it is sure. Entropy does not look at the label.",
    "An interval says how far the number could move if other examples of the same kind were scored. It does not cover "
    "another model, another data set or {setting}.",
)
