"""All numbers of a report, computed once: per run its levels, correlations, claims, audit, strata and extremes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.claims import judge_claims
from analysis.correlation import Correlations, CorrelationSettings, correlate
from analysis.curriculum import check_same_tokens, class_shares, overlaps
from analysis.extremes import extreme_rows, in_context
from analysis.levels import example_means, level_quantiles, variance_split
from analysis.proxy import ProxyAudit, audit_proxies
from analysis.report_costs import Costs, costs_of
from analysis.report_data import RunData, texts_of
from analysis.report_settings import ReportSettings
from analysis.strata import STRATA, stratum_table, token_classes
from uncertainty.errors import InputError
from uncertainty.scores import measures_among

STRATUM_MEASURES = ("loss", "entropy", "aleatoric", "epistemic")
CURRICULUM_MEASURES = ("loss", "entropy", "epistemic")


@dataclass(frozen=True, eq=False)
class Results:
    """The numbers of one run.

    Attributes:
        quantiles: ``levels.level_quantiles`` of every measure.
        variance: ``levels.variance_split``.
        means: ``levels.example_means`` of every measure.
        correlations: ``correlation.correlate``.
        claims: ``claims.judge_claims``.
        audit: ``proxy.audit_proxies``.
        strata: name of a stratum -> ``strata.stratum_table``.
        extremes: ``extremes.in_context``.
        accuracy: share of the predicted tokens that are the most probable one.
        costs: ``report_costs.costs_of``: what its errors cost.
    """

    quantiles: pd.DataFrame
    variance: pd.DataFrame
    means: pd.DataFrame
    correlations: Correlations
    claims: pd.DataFrame
    audit: ProxyAudit
    strata: dict[str, pd.DataFrame]
    extremes: pd.DataFrame
    accuracy: float
    costs: Costs


@dataclass(frozen=True, eq=False)
class Comparison:
    """What changes between runs of the same tokens; ``why_not`` says why there is none."""

    shares: pd.DataFrame
    overlaps: pd.DataFrame
    why_not: str = ""


def results_of(run: RunData, settings: ReportSettings, tell: Callable[[str], None]) -> Results:
    """Compute everything about one run.

    Args:
        run: the run, read.
        settings: what decides the numbers beside it.
        tell: called with a few words before each step.
    """
    # What few passes, or passes that hang together, leave without a value says nothing.
    measures = tuple(name for name in measures_among(run.tokens.columns) if run.tokens[name].notna().any())
    columns = ["example", *measures, *(["rho"] if "rho" in run.tokens else [])]
    frame = run.tokens[columns]
    tell("levels")
    quantiles = level_quantiles(frame, measures)
    variance = variance_split(frame, confidence=settings.confidence)
    means = example_means(frame, measures)
    tell("correlations")
    asked = CorrelationSettings(
        confidence=settings.confidence,
        replicates=settings.replicates,
        kendall_tokens=settings.kendall_tokens,
        seed=settings.seed,
    )
    correlations = correlate(frame, settings=asked)
    tell("proxy audit")
    audit = audit_proxies(frame, confidence=settings.confidence, seed=settings.seed)
    tell("kinds of tokens")
    strata = {
        name: stratum_table(run.tokens, kind(run.tokens), STRATUM_MEASURES, confidence=settings.confidence)
        for name, kind in STRATA.items()
    }
    tell("tokens in context")
    predicted = run.tokens["loss"].notna().to_numpy()
    accuracy = float(run.tokens["is_best"].to_numpy()[predicted].mean()) if predicted.any() else float("nan")
    claims = judge_claims(correlations.table)
    costs = costs_of(run, settings)
    return Results(quantiles, variance, means, correlations, claims, audit, strata, _extremes(run), accuracy, costs)


def compare_runs(runs: list[RunData], settings: ReportSettings, *, required: bool) -> Comparison:
    """Compare several runs token by token, if they are of the same tokens.

    Args:
        runs: two or more.
        settings: confidence.
        required: refuse runs of different tokens instead of saying why there is no comparison.

    Raises:
        InputError: ``required``, and the tokens are not the same.
    """
    first = runs[0]
    try:
        for other in runs[1:]:
            check_same_tokens(first.tokens, other.tokens, (first.name, other.name), (first.ids, other.ids))
    except InputError as error:
        if required:
            raise
        return Comparison(pd.DataFrame(), pd.DataFrame(), why_not=str(error))
    names = [run.name for run in runs]
    classes = token_classes(first.tokens)
    shares, pairs = [], []
    for measure in CURRICULUM_MEASURES:
        values = [run.tokens[measure].to_numpy() for run in runs]
        shares.append(class_shares(names, values, classes, measure))
        pairs.append(overlaps(names, values, first.tokens["example"], measure, confidence=settings.confidence))
    return Comparison(pd.concat(shares, ignore_index=True), pd.concat(pairs, ignore_index=True))


def drawn(run: RunData, settings: ReportSettings) -> pd.DataFrame:
    """The tokens behind a cloud of points: all predicted ones, or a random subset in the order of the run."""
    predicted = np.flatnonzero(run.tokens["loss"].notna().to_numpy())
    if len(predicted) > settings.drawn_tokens:
        rng = np.random.default_rng([settings.seed, len(predicted)])
        predicted = np.sort(rng.choice(predicted, settings.drawn_tokens, replace=False))
    return run.tokens[list(measures_among(run.tokens.columns))].iloc[predicted]


def _extremes(run: RunData) -> pd.DataFrame:
    chosen = extreme_rows(run.tokens)
    if chosen.empty:
        return chosen
    named = run.tokens.iloc[chosen["row"].to_numpy()].copy()
    named["example_id"] = [run.ids[example] for example in named["example"]]
    return in_context(named, chosen.assign(row=np.arange(len(chosen))), texts_of(run, list(named["example_id"]))).drop(
        columns="row"
    )
