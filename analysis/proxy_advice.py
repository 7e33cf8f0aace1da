"""What to select tokens by, given how well each cheap signal finds those of highest epistemic uncertainty.

The words and the lines between them are conventions of ours, stated here once; the numbers behind them are in the
audit's tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.by_example import Examples, Interval, t_interval

USUAL_FRACTION = 0.25  # the paper trains on the top quarter of the tokens
EQUAL_WITHIN = 0.02  # precisions closer than this are alike in practice, however many tokens tell them apart
# Share of the way from a random choice to a perfect proxy, from which on a signal is called so. Not AUROC: on a small
# model's scores loss had an AUROC of .71 and found fewer of the top quarter than a random choice would.
LEVELS = ((0.75, "a close stand-in"), (0.5, "a usable stand-in"), (0.25, "a weak stand-in"), (0.0, "not a stand-in"))
LEAST_WAY = 0.25


@dataclass(frozen=True, eq=False)
class Finding:
    """One metric of one signal against one target.

    Attributes:
        signal: its name.
        label_free: computed without the label.
        fraction: of the tokens that are the target.
        metric: its name.
        value: 0 to 1.
        influence_D: summed by example.
        warning: "" or why there is no interval.
    """

    signal: str
    label_free: bool
    fraction: float
    metric: str
    value: float
    influence_D: np.ndarray
    warning: str


@dataclass(frozen=True)
class Advice:
    """The signal to select by, and the paragraph that says why."""

    selector: str
    verdict: str


def difference(finding: Finding, minus: Finding, examples: Examples, confidence: float) -> tuple[float, Interval]:
    """One finding minus another of the same metric and target, on the same tokens."""
    value = finding.value - minus.value
    if warning := finding.warning or minus.warning:
        return value, Interval(math.nan, math.nan, warning)
    return value, t_interval(value, finding.influence_D - minus.influence_D, examples, confidence, "plain")


def advise(
    findings: list[Finding], table: pd.DataFrame, fractions: tuple[float, ...], examples: Examples, confidence: float
) -> Advice:
    """Choose the selector and say why.

    Precision at the top quarter (or the nearest fraction audited) decides, because that is the set that is trained
    on. Signals that are not told apart from the best one, or are within .02 of it, count as alike; among these one that
    does not look at the label goes first, then the order of the signals. Where the best is less than a quarter of the
    way from a random choice to a perfect proxy, no cheap signal is advised.
    """
    fraction = min(fractions, key=lambda one: abs(one - USUAL_FRACTION))
    precision = {one.signal: one for one in findings if one.fraction == fraction and one.metric == "precision"}
    ceiling = precision.pop("ceiling").value if "ceiling" in precision else None
    best = max(precision.values(), key=lambda one: one.value)
    alike = [one for one in precision.values() if one is best or _is_alike(one, best, examples, confidence)]
    chosen = next((one for one in alike if one.label_free), alike[0])
    shown = _Numbers(table[table["fraction"] == fraction], fraction, ceiling)
    enough = shown.way(chosen.value) >= LEAST_WAY
    sentences = [
        shown.judged(name) for name in dict.fromkeys(("loss", best.signal, chosen.signal)) if name in precision
    ]
    sentences += shown.bounds()
    if not enough:
        sentences.append("No cheap signal finds these tokens: to train on them, select by epistemic itself.")
    else:
        sentences.append(_recommended(chosen, best, [one.signal for one in alike]))
    sentences += sorted({f"Note: {one.warning}." for one in precision.values() if one.warning})
    sentences += shown.few_examples()
    return Advice(chosen.signal if enough else "epistemic", " ".join(sentences))


def _is_alike(one: Finding, best: Finding, examples: Examples, confidence: float) -> bool:
    value, interval = difference(best, one, examples, confidence)
    # Without an interval (NaN) nothing is told apart.
    return value <= EQUAL_WITHIN or not interval.low > 0


def _recommended(chosen: Finding, best: Finding, alike: list[str]) -> str:
    others = [name for name in alike if name != chosen.signal]
    why = f", as good as {' and '.join(others)} within the uncertainty or {EQUAL_WITHIN:g}" if others else ""
    if chosen.label_free:
        return f"Select by {chosen.signal}{why}; it does not look at the label, so selecting does not bias the target."
    return (
        f"Select by {chosen.signal}{why}. It looks at the label: training is drawn towards improbable labels, "
        "and label noise is selected first; with noisy labels prefer a signal that does not."
    )


def way_to_perfect(precision: float, ceiling: float, fraction: float) -> float:
    """Share of the way from a random choice (0) to a perfect proxy (1) of precision ``ceiling``."""
    room = ceiling - fraction
    return (precision - fraction) / room if room > 0 else 0.0


@dataclass(frozen=True, eq=False)
class _Numbers:
    """The rows at one fraction, put in words."""

    table: pd.DataFrame
    fraction: float
    ceiling: float | None

    def way(self, precision: float) -> float:
        """``way_to_perfect`` at this fraction; a ceiling that is not known counts as 1."""
        return way_to_perfect(precision, 1.0 if self.ceiling is None else self.ceiling, self.fraction)

    def judged(self, signal: str) -> str:
        """E.g. "Loss is a usable stand-in here: of the top 25% by loss, 61% (interval 58 to 64%) are ..."."""
        auroc, precision = self._row(signal, "auroc"), self._row(signal, "precision")
        way = self.way(precision["estimate"])
        word = next((word for least, word in LEVELS if way >= least), "worse than a random choice as a stand-in")
        top = f"the top {self.fraction:.0%}"
        return (
            f"{signal.capitalize()} is {word} for epistemic uncertainty here: of {top} of tokens by {signal}, "
            f"{_percent(precision)} are in {top} by epistemic (AUROC {_plain(auroc)})."
        )

    def bounds(self) -> list[str]:
        """What chance reaches, and what the noise in the target allows."""
        chance = f"A random choice would reach {self.fraction:.0%}"
        if self.ceiling is None:
            return [f"{chance}."]
        return [f"{chance}, a perfect proxy {self.ceiling:.0%}, because epistemic itself carries Monte Carlo noise."]

    def few_examples(self) -> list[str]:
        """The warning about the number of examples, once."""
        return [f"Note: {text}." for text in self.table["warning"].unique() if "examples" in text]

    def _row(self, signal: str, metric: str) -> pd.Series:
        return self.table[(self.table["signal"] == signal) & (self.table["metric"] == metric)].iloc[0]


def _percent(row: pd.Series) -> str:
    if math.isnan(row["low"]):
        return f"{row['estimate']:.0%}"
    return f"{row['estimate']:.0%} (interval {100 * row['low']:.0f} to {row['high']:.0%})"


def _plain(row: pd.Series) -> str:
    if math.isnan(row["low"]):
        return f"{row['estimate']:.2f}"
    return f"{row['estimate']:.2f}, interval {row['low']:.2f} to {row['high']:.2f}"
