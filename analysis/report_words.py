"""What the numbers of a report mean, in plain sentences: the claim's verdicts, the noise, the warnings.

The sentences are built from the tables alone, so that they cannot say anything that a table does not.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.by_example import FEW_EXAMPLES, FEWEST_EXAMPLES
from analysis.correlation import Correlations
from analysis.family_words import DROPOUT, FamilyWords
from analysis.number_text import fixed, percent, with_interval
from analysis.plots import METHOD_NAMES
from analysis.report_parts import Paragraph, Tone

HEADLINE_METHOD = "spearman"

_QUESTIONS = {
    "over_entropy": "Does loss follow epistemic uncertainty more closely than entropy does?",
    "over_aleatoric": "Does loss follow epistemic uncertainty more closely than it follows aleatoric uncertainty?",
}
_ANSWERS: dict[str, tuple[str, Tone]] = {
    "holds": ("Yes", "good"),
    "fails": ("No, the other way round", "bad"),
    "not resolved": ("Not resolved by this run", "open"),
    "undefined": ("Undefined: a measure is constant", "open"),
}
_BETWEEN = {"over_entropy": ("with loss", "with entropy"), "over_aleatoric": ("of epistemic", "of aleatoric")}


def claim_sentences(claims: pd.DataFrame) -> list[tuple[str, Tone]]:
    """One verdict per reading of the paper's claim, in plain words, with how it is to be set."""
    found: list[tuple[str, Tone]] = []
    for claim, question in _QUESTIONS.items():
        rows = claims[claims["claim"] == claim]
        if not len(rows):
            continue
        row = _headline(rows)
        answer, tone = _ANSWERS[row["verdict"]]
        left, right = _BETWEEN[claim]
        numbers = (
            f"{METHOD_NAMES[row['method']]} {fixed(row['left'])} {left} against {fixed(row['right'])} {right}, "
            f"difference {with_interval(row, _three, ('difference', 'low', 'high'))}"
        )
        others = rows[(rows["method"] != row["method"]) & ~rows["corrected"].astype(bool)]
        said = "; ".join(f"{METHOD_NAMES[other['method']]}: {other['verdict']}" for _, other in others.iterrows())
        corrected = rows[rows["corrected"].astype(bool) & (rows["method"] == row["method"])]
        if len(corrected):
            said += f"; with the Monte Carlo noise taken out: {corrected['verdict'].iloc[0]}"
        also = f" {said.removeprefix('; ')}." if said else ""
        found.append((f"{question} {answer}: {numbers}.{also}", tone))
    return found


def noise_sentence(correlations: Correlations, words: FamilyWords = DROPOUT) -> str:
    """How much the Monte Carlo noise of epistemic weakens its correlations, in the words of the run's family."""
    reliability = correlations.reliability
    if not len(reliability):
        return (
            f"The run has no standard error of epistemic (it takes at least three {words.passes}), so its noise is not "
            "known."
        )
    of_ranks = reliability[reliability["method"] == HEADLINE_METHOD]
    row = (of_ranks if len(of_ranks) else reliability).iloc[0]
    scale = "ranks" if row["method"] == "spearman" else "values"
    if not np.isfinite(row["reliability"]):
        return f"The reliability of epistemic's {scale} is undefined: {row['warning'] or 'a measure is constant'}."
    return (
        f"{words.repeated} would give {scale} of epistemic uncertainty that "
        f"correlate at {fixed(row['reliability'], 3)} with these, going by its standard errors. Noise alone so shrinks "
        f"its correlations by the factor {fixed(row['attenuation'], 3)}; below they are shown with that undone. The "
        f"median standard error of one token is {percent(row['median_relative_se'])} of its value."
    )


def warning_paragraphs(table: pd.DataFrame, words: FamilyWords = DROPOUT) -> list[Paragraph]:
    """The distinct warnings of a table, in the words of the run's family."""
    if "warning" not in table or not len(table):
        return []
    found = [warning for warning in dict.fromkeys(table["warning"]) if warning]
    found = [warning.replace("more passes", f"more {words.passes}") for warning in found]
    return [Paragraph(f"{warning[0].upper()}{warning[1:]}.", "warning") for warning in found]


def few_examples_warning(n_examples: int) -> str:
    """What the number of examples does to every interval; "" from 30 on."""
    if n_examples < FEWEST_EXAMPLES:
        return (
            f"Only {n_examples} examples: no intervals are given, because examples are what varies independently and "
            f"it takes {FEWEST_EXAMPLES}. Score more examples before you decide anything by this report."
        )
    if n_examples < FEW_EXAMPLES:
        return (
            f"Only {n_examples} examples: intervals are likely too narrow below {FEW_EXAMPLES}. Score more examples "
            "to be sure."
        )
    return ""


def _headline(rows: pd.DataFrame) -> pd.Series:
    """The row that the sentence is about: rank correlation as measured, or the first there is."""
    measured = rows[~rows["corrected"].astype(bool)]
    chosen = measured[measured["method"] == HEADLINE_METHOD]
    return (chosen if len(chosen) else measured if len(measured) else rows).iloc[0]


def _three(value: object) -> str:
    return fixed(value, 3)
