"""The first screen of a report: is loss a valid proxy for epistemic uncertainty here, how sure is that, what to use.

The words for how good a proxy is come from ``proxy_advice``, the numbers from the audit and the correlations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.family_words import family_words
from analysis.number_text import count, fixed, percent, with_interval
from analysis.proxy import SIGNALS
from analysis.proxy_advice import LEVELS, USUAL_FRACTION, way_to_perfect
from analysis.report_costs import cost_line
from analysis.report_data import RunData
from analysis.report_parts import Card, Tone
from analysis.report_results import Results
from analysis.report_settings import ReportSettings
from analysis.report_words import HEADLINE_METHOD, few_examples_warning

VALID = "Is loss a valid proxy for epistemic uncertainty here?"
SURE = "How sure is that?"
USE = "What do I select tokens by?"

_WORSE = "worse than a random choice"
_ANSWERS: dict[str, tuple[str, Tone]] = {
    "a close stand-in": ("Yes: a close stand-in", "good"),
    "a usable stand-in": ("Roughly: a usable stand-in, not a close one", "good"),
    "a weak stand-in": ("Hardly: a weak stand-in", "bad"),
    "not a stand-in": ("No: not a stand-in", "bad"),
    _WORSE: ("No: it finds fewer of the uncertain tokens than a random choice would", "bad"),
}
_VERDICTS = {"holds": "yes", "fails": "no", "not resolved": "not resolved", "undefined": "undefined"}


@dataclass(frozen=True)
class Answer:
    """What one run says of loss as a proxy.

    Attributes:
        level: a word of ``proxy_advice.LEVELS``, or that it is worse than chance; "" where it is undefined.
        lowest: the word at the lower limit of precision; "" where there is no interval.
        highest: the word at its upper limit.
        selector: what the audit advises, or "".
    """

    level: str
    lowest: str
    highest: str
    selector: str

    @property
    def word(self) -> str:
        """Yes, Roughly, Hardly or No; "" where it is undefined."""
        return _word(self.level)

    @property
    def is_settled(self) -> bool:
        """Whether the whole interval gives the same word."""
        return bool(self.lowest) and _word(self.lowest) == _word(self.highest)


def answer_of(results: Results) -> Answer:
    """How good a proxy loss is, by its precision at the top quarter, at both ends of its interval."""
    row = _audited(results, "loss", "precision")
    if row is None or not np.isfinite(row["estimate"]):
        return Answer("", "", "", results.audit.selector)
    ceiling = _audited(results, "ceiling", "precision")
    perfect = 1.0 if ceiling is None else float(ceiling["estimate"])
    level, lowest, highest = (_level(float(row[name]), perfect) for name in ("estimate", "low", "high"))
    return Answer(level, lowest, highest, results.audit.selector)


def answer_cards(
    runs: Sequence[RunData], results: Sequence[Results], settings: ReportSettings, of_masks: Sequence[str] = ()
) -> tuple[Card, ...]:
    """The three questions of the first screen; with several runs each has a line per run.

    ``of_masks``: what runs that differ in their masks say of equal error.
    """
    if len(runs) == 1:
        run, found = runs[0], results[0]
        answer = answer_of(found)
        return (_valid(found, answer, settings), _sure(run, found, answer, settings), _use(run, found, answer))
    answers = [answer_of(found) for found in results]
    named = list(zip(runs, results, answers, strict=True))
    valid = _valid_words(answers[0]) if len(set(answers)) == 1 else ("It depends on the run", "open")
    if len({answer.word for answer in answers}) == 1 and answers[0].word:
        valid = (f"{answers[0].word}, in every run", _valid_words(answers[0])[1])
    settled = all(answer.is_settled for answer in answers)
    sure: tuple[str, Tone] = ("Sure, in every run", "good") if settled else ("Not equally in every run", "open")
    same = len({answer.selector for answer in answers}) == 1
    selectors = _selector_words(answers[0].selector) if same else "It depends on the run"
    return (
        Card(VALID, *valid, tuple(f"{run.name}: {_valid_words(a)[0]}. {_loss_line(found)}" for run, found, a in named)),
        Card(
            SURE,
            *sure,
            (*(_sure_line(run, found, a) for run, found, a in named), *of_masks),
        ),
        Card(USE, selectors, "open", tuple(_use_line(run, found, a) for run, found, a in named)),
    )


def _valid(results: Results, answer: Answer, settings: ReportSettings) -> Card:
    words, tone = _valid_words(answer)
    lines = [_loss_line(results)]
    rho, given = _correlation(results, "correlation", ""), _correlation(results, "partial", "entropy")
    if rho is not None:
        line = f"Rank correlation of epistemic with loss: {with_interval(rho)}"
        lines.append(line + (f"; among tokens of equal entropy: {with_interval(given)}." if given is not None else "."))
    said = [f"{_READINGS[row['claim']]}: {_VERDICTS[row['verdict']]}" for _, row in _headlines(results).iterrows()]
    if said:
        lines.append(f"The paper's claim, read as “epistemic goes with loss more than …”: {'; '.join(said)}.")
    return Card(VALID, words, tone, tuple(lines))


def _sure(run: RunData, results: Results, answer: Answer, settings: ReportSettings) -> Card:
    answered, tone = _sure_words(run, answer)
    lines = [_counts_line(run, results)]
    if answer.lowest:
        lines.append(
            f"{percent(settings.confidence)} intervals, by example: tokens of one example hang together, and intervals "
            "that ignore it are several times too narrow."
        )
    reliability, words = results.correlations.reliability, family_words(run.info)
    again = "With as many other members" if words.is_given else "Scored again"
    for _, row in reliability[reliability["method"] == HEADLINE_METHOD].iterrows():
        if np.isfinite(row["reliability"]):
            lines.append(
                f"{again}, the ranks of epistemic would correlate at {fixed(row['reliability'], 3)} with these: "
                f"{words.noise} {'hardly matters' if row['attenuation'] > 0.97 else 'weakens what is seen here'}."
            )
    if cost := cost_line(run, results.costs):
        lines.append(cost)
    if warning := few_examples_warning(len(run.ids)):
        lines.append(warning)
    return Card(SURE, answered, tone, tuple(lines))


def _sure_line(run: RunData, results: Results, answer: Answer) -> str:
    said = f"{run.name}: {_sure_words(run, answer)[0]}. {_counts_line(run, results)}"
    return f"{said} {cost_line(run, results.costs)}".rstrip()


def _use(run: RunData, results: Results, answer: Answer) -> Card:
    lines, words = [], family_words(run.info)
    selector = SIGNALS.get(answer.selector)
    if answer.selector == "epistemic":
        lines.append(f"It costs the {words.over}; what a cheap signal selects here is mostly something else.")
    if selector is not None and selector.label_free:
        lines.append("It does not look at the label, so selecting by it does not bias what is learnt.")
    if selector is not None and not selector.label_free:
        lines.append(
            "It looks at the label: noisy labels are selected first. With noisy labels prefer one that does not."
        )
    lines += _picked(results, tuple(dict.fromkeys(("loss", "entropy", answer.selector))))
    lines.append("This is about finding uncertain tokens; whether training on them helps, a training run must show.")
    return Card(USE, _selector_words(answer.selector), "open", tuple(lines))


def _use_line(run: RunData, results: Results, answer: Answer) -> str:
    said = [f"{run.name}: {_selector_words(answer.selector)}."]
    return " ".join([*said, *_picked(results, tuple(dict.fromkeys(("loss", answer.selector))))])


def _picked(results: Results, names: Sequence[str]) -> list[str]:
    """How much of what each signal selects is uncertain."""
    lines = []
    for name in names:
        row = _audited(results, name, "precision")
        if row is not None and np.isfinite(row["estimate"]):
            share = with_interval(row, percent)
            lines.append(f"Of the quarter that {name} selects, {share} is in the most uncertain quarter.")
    return lines


def _valid_words(answer: Answer) -> tuple[str, Tone]:
    return _ANSWERS.get(answer.level, ("Undefined: epistemic uncertainty or loss is the same for every token", "open"))


def _sure_words(run: RunData, answer: Answer) -> tuple[str, Tone]:
    if not answer.level:
        return "There is nothing to be sure of", "open"
    if not answer.lowest:
        return f"Not known: {len(run.ids):,} examples are too few for an interval", "bad"
    if answer.is_settled:
        return f"Sure: the whole interval says “{answer.word.lower()}”", "good"
    return f"Not settled: the interval runs from “{answer.lowest}” to “{answer.highest}”", "open"


def _selector_words(selector: str) -> str:
    return _SELECTORS.get(selector, f"By {selector}" if selector else "Nothing to select by: epistemic is constant")


def _word(level: str) -> str:
    return _ANSWERS[level][0].partition(":")[0] if level else ""


def _loss_line(results: Results) -> str:
    row, ceiling = _audited(results, "loss", "precision"), _audited(results, "ceiling", "precision")
    if row is None or not np.isfinite(row["estimate"]):
        return "Loss could not be audited."
    quarter = percent(row["fraction"])
    best = f", a perfect proxy {percent(ceiling['estimate'])}" if ceiling is not None else ""
    return (
        f"Of the top {quarter} of tokens by loss, {with_interval(row, percent)} are in the top {quarter} by epistemic "
        f"uncertainty. A random choice reaches {quarter}{best}."
    )


def _counts_line(run: RunData, results: Results) -> str:
    row = _audited(results, "loss", "precision")
    even = ""
    if row is not None and row["n_effective"] < 0.95 * row["n_examples"]:
        even = f" (as uneven in length as {row['n_effective']:,.0f} equal ones)"
    return f"{count(len(run.ids))} examples{even}, {count(run.n_predicted)} predicted tokens."


def _audited(results: Results, signal: str, metric: str) -> pd.Series | None:
    table = results.audit.table
    use = (table["signal"] == signal) & (table["metric"] == metric) & (table["fraction"] == USUAL_FRACTION)
    return table[use].iloc[0] if use.any() else None


def _correlation(results: Results, kind: str, given: str) -> pd.Series | None:
    table = results.correlations.table
    use = (table["kind"] == kind) & (table["method"] == HEADLINE_METHOD) & ~table["corrected"].astype(bool)
    use &= (table["x"] == "epistemic") & (table["y"] == "loss") & (table["given"] == given)
    return table[use].iloc[0] if use.any() else None


def _headlines(results: Results) -> pd.DataFrame:
    claims = results.claims
    return claims[(claims["method"] == HEADLINE_METHOD) & ~claims["corrected"].astype(bool)]


def _level(precision: float, perfect: float) -> str:
    """The audit's word for a precision: by its share of the way from a random choice to a perfect proxy."""
    if not np.isfinite(precision):
        return ""
    way = way_to_perfect(precision, perfect, USUAL_FRACTION)
    return next((word for least, word in LEVELS if way >= least), _WORSE)


_READINGS = {"over_entropy": "than with entropy", "over_aleatoric": "than aleatoric does"}
_SELECTORS = {
    "epistemic": "Epistemic uncertainty itself: no cheap signal finds these tokens",
    "rho": "By RHO (loss minus the reference's loss)",
}
