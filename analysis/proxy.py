"""Proxy audit: how well cheap signals find the tokens of highest epistemic uncertainty, and which to select by.

A signal "finds" tokens by being large. The target is the top fraction of the tokens by epistemic; a tie at an edge is
shared evenly among the tied, so that no measure depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.by_example import NO_INTERVAL, Examples, check_confidence, t_interval, usable_tokens
from analysis.proxy_advice import Finding, advise, difference
from analysis.ranks import rank
from analysis.reliability import noisy_copy
from analysis.top_sets import METRICS, TopSet, chance, find
from uncertainty.errors import InputError


@dataclass(frozen=True)
class Signal:
    """A cheap signal.

    Attributes:
        column: column of the frame.
        sign: 1 where large values mean uncertain, -1 where small ones do.
        label_free: computed without looking at the label. Selecting by a label-dependent signal conditions the
            training target on the label.
        meaning: a few words for the report.
    """

    column: str
    sign: int
    label_free: bool
    meaning: str


SIGNALS: dict[str, Signal] = {
    "loss": Signal("loss", 1, False, "-log p(token)"),
    "entropy": Signal("entropy", 1, True, "entropy of the prediction"),
    "label_prob": Signal("label_prob", -1, False, "p(token), small first"),
    "margin": Signal("margin", -1, True, "p(best) - p(second best), small first"),
    "rho": Signal("rho", 1, False, "loss - reference loss"),
}
FRACTIONS = (0.10, 0.25, 0.50)
NOTABLE_TIE = 0.01  # a note from this share of tokens tied at a target's edge on

PROXY_COLUMNS = (
    "signal",  # key of SIGNALS, or "random" (its exact expectation), or "ceiling"
    "label_free",  # bool
    "fraction",  # of the tokens, that are the target (and, for precision and jaccard, that are selected)
    "metric",  # one of METRICS, each 0 to 1
    "estimate",
    "low",  # cluster influence-function t interval on the scale of the arc sine of its root
    "high",
    "n_tokens",
    "n_examples",
    "n_effective",
    "warning",
)
PROXY_DIFFERENCE_COLUMNS = (
    "signal",
    "minus",  # the signal subtracted: the paper's "loss"
    "fraction",
    "metric",
    "estimate",  # metric of ``signal`` minus metric of ``minus``, on the same tokens
    "low",
    "high",
    "n_tokens",
    "n_examples",
    "n_effective",
    "warning",
)


@dataclass(frozen=True, eq=False)
class ProxyAudit:
    """What ``audit_proxies`` finds.

    Attributes:
        table: one row per signal, fraction and metric; columns ``PROXY_COLUMNS``. The signal "random" is the exact
            expectation of a random choice; "ceiling" (only with ``epistemic_se``) is what the noise in the target
            leaves to a perfect proxy.
        differences: each signal minus loss, on the same tokens; columns ``PROXY_DIFFERENCE_COLUMNS``.
        selector: name of the signal to select by; "epistemic" where no cheap signal will do; "" where epistemic is
            constant.
        verdict: one paragraph that says what was found and what to use.
        notes: sentences: tokens left out, signals that are not in the frame, ties.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    selector: str
    verdict: str
    notes: tuple[str, ...]


def audit_proxies(
    frame: pd.DataFrame,
    *,
    signals: Mapping[str, Signal] = SIGNALS,
    fractions: tuple[float, ...] = FRACTIONS,
    confidence: float = 0.95,
    seed: int = 0,
) -> ProxyAudit:
    """How well each cheap signal finds the tokens of highest epistemic uncertainty.

    Args:
        frame: one row per token: ``epistemic``, the signals' columns (those that are missing are left out), an
            integer column ``example`` (or ``example_id``), and ``epistemic_se`` for the ceiling. Any order of rows;
            rows with a NaN in one of these are left out.
        signals: name -> signal; ``SIGNALS | {"mine": Signal(...)}`` adds a column of your own.
        fractions: the targets, each between 0 and 1.
        confidence: coverage asked of the intervals.
        seed: of the simulated noise behind the ceiling.

    Raises:
        InputError: no ``epistemic`` column, no signal at all, no token left, a fraction or the confidence out of range.
    """
    check_confidence(confidence)
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise InputError(f"fractions are {fractions}; each must lie between 0 and 1, such as 0.25")
    present, notes = _present(frame, signals)
    wanted = ["epistemic", *(signal.column for signal in present.values())]
    columns, examples, n_dropped = usable_tokens(frame, wanted, optional=("epistemic_se",))
    if n_dropped:
        notes.append(f"{n_dropped:,} tokens without a prediction are left out.")
    target = rank(columns["epistemic"])
    if target.n_distinct < 2:
        return _undefined(present, fractions, examples, notes)
    targets = [TopSet(target, fraction) for fraction in fractions]
    notes += [
        f"{one.tied_share:.1%} of the tokens tie at the edge of the top {one.asked:.0%} by epistemic; they share it."
        for one in targets
        if one.tied_share > NOTABLE_TIE
    ]
    findings = []
    for name, values_N in _signal_values(columns, examples, present, seed, notes):
        ranks = rank(values_N)
        warning = f"{name} is constant" if ranks.n_distinct < 2 else ""
        free = name == "ceiling" or present[name].label_free
        findings += [
            Finding(name, free, one.asked, metric, found.value, examples.sums(found.influence_N), warning)
            for one in targets
            for metric, found in find(one, ranks).items()
        ]
    table = pd.DataFrame(
        [*(_table_row(finding, examples, confidence) for finding in findings), *_random_rows(fractions, examples)],
        columns=list(PROXY_COLUMNS),
    )
    differences = _differences(findings, examples, confidence)
    advice = advise(findings, table, fractions, examples, confidence)
    return ProxyAudit(table, differences, advice.selector, advice.verdict, tuple(notes))


def _present(frame: pd.DataFrame, signals: Mapping[str, Signal]) -> tuple[dict[str, Signal], list[str]]:
    """The signals whose column is there and not empty, and a note on the others."""
    reserved = sorted({"random", "ceiling"} & set(signals))
    if reserved:
        raise InputError(f"a signal cannot be named {reserved[0]!r}: the table has a row of that name")
    present = {
        name: signal
        for name, signal in signals.items()
        if signal.column in frame.columns and not frame[signal.column].isna().all()
    }
    if not present:
        raise InputError(f"the frame has none of the signals' columns: {', '.join(s.column for s in signals.values())}")
    missing = [name for name in signals if name not in present]
    return present, [f"Not in these scores, so not audited: {', '.join(missing)}."] if missing else []


def _signal_values(
    columns: dict[str, np.ndarray], examples: Examples, present: dict[str, Signal], seed: int, notes: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Every signal with large values meaning uncertain; the ceiling last, where the standard errors are there."""
    for name, signal in present.items():
        yield name, columns[signal.column] * signal.sign
    se_N = columns.get("epistemic_se")
    if se_N is None or np.isnan(se_N).any():
        notes.append("Without epistemic_se for every token the ceiling is not known.")
        return
    yield "ceiling", noisy_copy(columns["epistemic"], se_N, examples, seed)


def _table_row(finding: Finding, examples: Examples, confidence: float) -> dict[str, object]:
    interval = NO_INTERVAL
    if not finding.warning:
        interval = t_interval(finding.value, finding.influence_D, examples, confidence, "share")
    return {
        "signal": finding.signal,
        "label_free": finding.label_free,
        "fraction": finding.fraction,
        "metric": finding.metric,
        "estimate": finding.value,
        "low": interval.low,
        "high": interval.high,
        **examples.counts(),
        "warning": finding.warning or interval.warning,
    }


def _random_rows(fractions: tuple[float, ...], examples: Examples) -> list[dict[str, object]]:
    row = {"signal": "random", "label_free": True, **examples.counts(), "warning": ""}
    return [
        row | {"fraction": fraction, "metric": metric, "estimate": value}
        for fraction in fractions
        for metric, value in chance(fraction).items()
    ]


def _differences(findings: list[Finding], examples: Examples, confidence: float) -> pd.DataFrame:
    """Each signal minus loss, and the ceiling minus loss."""
    of_loss = {(one.fraction, one.metric): one for one in findings if one.signal == "loss"}
    rows = []
    for one in findings:
        loss = of_loss.get((one.fraction, one.metric))
        if loss is None or one is loss:
            continue
        value, interval = difference(one, loss, examples, confidence)
        named = {"signal": one.signal, "minus": "loss", "fraction": one.fraction, "metric": one.metric}
        limits = {"estimate": value, "low": interval.low, "high": interval.high, "warning": interval.warning}
        rows.append(named | limits | examples.counts())
    return pd.DataFrame(rows, columns=list(PROXY_DIFFERENCE_COLUMNS))


def _undefined(
    present: dict[str, Signal], fractions: tuple[float, ...], examples: Examples, notes: list[str]
) -> ProxyAudit:
    reason = "undefined: epistemic is constant"
    rows = [
        {"signal": name, "label_free": signal.label_free, "fraction": fraction, "metric": metric, "warning": reason}
        | examples.counts()
        for name, signal in present.items()
        for fraction in fractions
        for metric in METRICS
    ]
    verdict = "Epistemic uncertainty is the same for every token: there is nothing for a signal to find."
    differences = pd.DataFrame(columns=list(PROXY_DIFFERENCE_COLUMNS))
    return ProxyAudit(pd.DataFrame(rows, columns=list(PROXY_COLUMNS)), differences, "", verdict, tuple(notes))
