"""Which dropout sites epistemic uncertainty (BALD) is most sensitive to: the sets of sites of a sweep, compared.

The paper explains that models differ in their sensitivity to the rate by the number of their dropout modules
(arXiv:2503.16511, figure 10); here the sites of one model are compared, alone and together.

Dimension key: N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.by_example import few_examples
from analysis.correlation import CorrelationSettings, correlate
from analysis.sweep import CONFIDENCE, examples_of, mean_with_interval
from analysis.sweep_runs import RateSeries
from uncertainty.errors import InputError

SITE_COLUMNS = (
    *("model", "dataset", "sites", "rate", "n_sites"),
    *("mean", "low", "high"),  # nats
    "reference",  # the set that it is compared with
    "ratio",  # mean / the reference's mean
    *("rank_agreement", "agreement_low", "agreement_high"),  # Spearman over tokens, -1 to 1; interval by example
    "warning",
)


def site_table(series: Sequence[RateSeries]) -> pd.DataFrame:
    """How sensitive each model is to dropout at each set of sites, compared at the same rate.

    Everything is held against the set with the most sites (of equals the first): ``ratio`` says how much of its
    uncertainty a set gives, ``rank_agreement`` whether it finds the same tokens uncertain.

    Returns:
        one row per model, data set, rate and set of sites, ``SITE_COLUMNS``; none for a model with a single set.

    Raises:
        InputError: two sets of sites of one model do not have the same tokens.
    """
    rows = []
    models = dict.fromkeys((one.model, one.dataset) for one in series)
    for model, dataset in models:
        sets = [one for one in series if (one.model, one.dataset) == (model, dataset)]
        if len(sets) < 2:
            continue
        reference = max(sets, key=lambda one: one.runs[0].n_sites)
        for rate in sorted({rate for one in sets for rate in one.rates}):
            rows += [_site_row(one, reference, rate) for one in sets if rate in one.rates]
    return pd.DataFrame(rows, columns=SITE_COLUMNS)


def _site_row(one: RateSeries, reference: RateSeries, rate: float) -> dict[str, object]:
    examples = examples_of(one)
    row = one.label | {"rate": rate, "n_sites": one.runs[0].n_sites}
    row |= mean_with_interval("mean", one.epistemic[rate].to_numpy(), examples)
    row |= {"reference": reference.sites, "ratio": math.nan, "rank_agreement": math.nan}
    row |= {"agreement_low": math.nan, "agreement_high": math.nan, "warning": few_examples(examples)}
    if rate not in reference.rates:
        return row
    if not one.epistemic.index.equals(reference.epistemic.index):
        raise InputError(f"sites {one.sites} and {reference.sites} of {one.model} were not scored on the same tokens")
    whole_N = reference.epistemic[rate].to_numpy()
    row["ratio"] = float(one.epistemic[rate].mean() / whole_N.mean())
    if one is reference:
        return row | {"rank_agreement": 1.0}
    frame = pd.DataFrame({"example": one.epistemic.index, "part": one.epistemic[rate].to_numpy(), "whole": whole_N})
    settings = CorrelationSettings(methods=("spearman",), confidence=CONFIDENCE, replicates=0)
    found = correlate(frame, pairs=(("part", "whole"),), partials=(), differences=(), settings=settings).table.iloc[0]
    return row | {
        "rank_agreement": float(found["estimate"]),
        "agreement_low": float(found["low"]),
        "agreement_high": float(found["high"]),
    }
