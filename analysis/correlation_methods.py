"""Spearman, Pearson and Kendall over all usable tokens: the rows of the correlation table, one method at a time.

Dimension key: P measures, N tokens, D examples, R replicates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.by_example import FEWEST_EXAMPLES, Examples, Scale, number_examples, t_interval
from analysis.correlation_statistics import Pair, Statistic, bootstrap_limits, value_and_influence
from analysis.kendall import kendall
from analysis.moments import Moments, less_noise, rank_moments, resampled_covariances, value_moments
from analysis.ranks import Ranks, rank
from analysis.reliability import Reliability, rank_reliability, value_reliability
from analysis.row_draws import row_uniforms


@dataclass(frozen=True)
class CorrelationSettings:
    """What decides the numbers beside the frame.

    Attributes:
        methods: any of "spearman", "pearson", "kendall".
        confidence: coverage asked of the intervals, between 0 and 1.
        replicates: resamplings of the examples for the bootstrap interval; 0 leaves it out.
        kendall_tokens: above so many tokens Kendall's tau is computed on a random subset of this size.
        seed: of the bootstrap, of the subset and of the simulated noise.
    """

    methods: tuple[str, ...] = ("spearman", "pearson", "kendall")
    confidence: float = 0.95
    replicates: int = 1000
    kendall_tokens: int = 50_000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Tokens:
    """The usable tokens: their measures, whose they are, epistemic's standard errors if there, and the ranks."""

    columns: dict[str, np.ndarray]
    examples: Examples
    se_N: np.ndarray | None

    @cached_property
    def ranks(self) -> dict[str, Ranks]:
        """Every measure ranked, once."""
        return {name: rank(value_N) for name, value_N in self.columns.items()}


@dataclass(frozen=True)
class Found:
    """What one method yields."""

    rows: list[dict[str, object]]
    reliability: Reliability | None = None
    notes: list[str] = field(default_factory=list)


def _spearman(tokens: Tokens, statistics: list[Statistic], settings: CorrelationSettings) -> Found:
    moments = rank_moments(tokens.ranks, tokens.examples)
    if tokens.se_N is None:
        return Found(_rows("spearman", moments, None, statistics, tokens, settings))
    reliability = rank_reliability(
        tokens.columns["epistemic"], tokens.se_N, tokens.ranks["epistemic"], tokens.examples, settings.seed
    )
    corrected = less_noise(moments, "epistemic", reliability.value) if reliability.is_correctable else None
    return Found(_rows("spearman", moments, corrected, statistics, tokens, settings), reliability)


def _pearson(tokens: Tokens, statistics: list[Statistic], settings: CorrelationSettings) -> Found:
    moments = value_moments(tokens.columns, tokens.examples)
    if tokens.se_N is None:
        return Found(_rows("pearson", moments, None, statistics, tokens, settings))
    reliability = value_reliability(tokens.columns["epistemic"], tokens.se_N)
    corrected = None
    if reliability.is_correctable:
        noise_D = tokens.examples.sums(tokens.se_N.astype(np.float64) ** 2)
        noise_D /= np.var(tokens.columns["epistemic"], dtype=np.float64)
        corrected = less_noise(moments, "epistemic", reliability.value, noise_D)
    return Found(_rows("pearson", moments, corrected, statistics, tokens, settings), reliability)


def _kendall(tokens: Tokens, statistics: list[Statistic], settings: CorrelationSettings) -> Found:
    notes: list[str] = []
    if tokens.examples.n_tokens <= settings.kendall_tokens:
        ranks, examples = tokens.ranks, tokens.examples
    else:
        # Chosen by contents, so that neither the order of rows nor the shards decide who is in.
        turn_N = row_uniforms(tokens.columns.values(), tokens.examples.code_N, settings.seed)
        chosen = np.argpartition(turn_N, settings.kendall_tokens)[: settings.kendall_tokens]
        ranks = {name: rank(value_N[chosen]) for name, value_N in tokens.columns.items()}
        examples = number_examples(pd.Series(tokens.examples.code_N[chosen], name="example"))
        notes.append(
            f"Kendall's tau is computed on {settings.kendall_tokens:,} of {tokens.examples.n_tokens:,} tokens, "
            f"chosen at random with seed {settings.seed}."
        )
    taus: dict[Pair, tuple[float, np.ndarray]] = {}
    rows = []
    for statistic in statistics:
        if statistic.kind == "partial":
            continue
        value, influence_D = 0.0, np.zeros(examples.n_examples)
        for sign, term in statistic.terms:
            if (term.x, term.y) not in taus:
                tau, influence_N = kendall(ranks[term.x], ranks[term.y])
                taus[term.x, term.y] = tau, examples.sums(influence_N)
            value += sign * taus[term.x, term.y][0]
            influence_D += sign * taus[term.x, term.y][1]
        constant = [name for name in statistic.measures if ranks[name].n_distinct < 2]
        reason = "; ".join(f"undefined: {name} is constant" for name in constant)
        rows.append(_row("kendall", statistic, value, influence_D, examples, settings, reason))
    return Found(rows, None, notes)


def _rows(
    method: str,
    moments: Moments,
    corrected: Moments | None,
    statistics: list[Statistic],
    tokens: Tokens,
    settings: CorrelationSettings,
) -> list[dict[str, object]]:
    """The rows of all statistics as measured, each followed by its corrected row where there is one."""
    examples = tokens.examples
    replicates = settings.replicates if examples.n_examples >= FEWEST_EXAMPLES else 0
    covariance_RPP = resampled_covariances(moments, replicates, settings.seed)
    versions = [(False, moments, covariance_RPP)]
    if corrected is not None:
        k = moments.names.index("epistemic")
        corrected_RPP = covariance_RPP.copy()
        corrected_RPP[:, k, k] *= corrected.covariance_PP[k, k] / moments.covariance_PP[k, k]
        versions.append((True, corrected, corrected_RPP))
    rows = []
    for statistic in statistics:
        for is_corrected, its_moments, its_RPP in versions:
            if is_corrected and not _can_be_corrected(statistic):
                continue
            value, influence_D = value_and_influence(statistic, its_moments)
            limits = bootstrap_limits(statistic, its_RPP, its_moments.names, settings.confidence)
            reason = _why_undefined(statistic, its_moments, is_corrected) if np.isnan(value) else ""
            row = _row(method, statistic, value, influence_D, examples, settings, reason)
            rows.append(row | {"corrected": is_corrected, "bootstrap_low": limits[0], "bootstrap_high": limits[1]})
    return rows


def _row(
    method: str,
    statistic: Statistic,
    value: float,
    influence_D: np.ndarray,
    examples: Examples,
    settings: CorrelationSettings,
    reason: str,
) -> dict[str, object]:
    """One row of the table; ``reason`` says why the value is undefined."""
    scale: Scale = "plain" if statistic.kind == "difference" else "fisher"
    interval = t_interval(value, influence_D, examples, settings.confidence, scale)
    row = {"kind": statistic.kind, "method": method, "corrected": False, **statistic.labels, "estimate": value}
    row |= {"low": interval.low, "high": interval.high, "bootstrap_low": np.nan, "bootstrap_high": np.nan}
    return row | examples.counts() | {"warning": reason or interval.warning}


def _can_be_corrected(statistic: Statistic) -> bool:
    """Whether epistemic's noise enters by its variance alone: no partner that is measured on the same passes."""
    noisy = [term for _, term in statistic.terms if "epistemic" in term.measures]
    return bool(noisy) and not any(name in _FROM_PASSES for term in noisy for name in term.measures)


def _why_undefined(statistic: Statistic, moments: Moments, is_corrected: bool) -> str:
    if reason := moments.why_undefined(statistic.measures):
        return reason
    if is_corrected:
        return "undefined: with the noise taken out the value lies beyond 1; score with more passes"
    return "undefined: the measures held fixed leave nothing to vary"


# Computed from the same members as epistemic: their noise goes together with its noise, so no correction is known.
_FROM_PASSES = ("total", "aleatoric", "mc_loss")
METHODS: dict[str, Callable[[Tokens, list[Statistic], CorrelationSettings], Found]] = {
    "spearman": _spearman,
    "pearson": _pearson,
    "kendall": _kendall,
}
