"""Intervals of correlations by example: against leaving out one example at a time, re-ranking, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from clustered_frames import clustered, kendall_of, matrix, scores, spearman_of, true_correlations, two_kinds
from scipy import stats

from analysis.correlation import (
    Correlations,
    CorrelationSettings,
    correlate,
)

LOSS = ("epistemic", "loss")
ENTROPY = ("epistemic", "entropy")
METHODS = ("spearman", "pearson", "kendall")
ALONE = {"partials": (), "differences": ()}


def settings(*methods: str, replicates: int = 0, **others: int) -> CorrelationSettings:
    return CorrelationSettings(methods=methods or METHODS, replicates=replicates, **others)


def row(found: Correlations, kind: str = "correlation", method: str = "spearman", **labels: object) -> pd.Series:
    wanted = {"kind": kind, "method": method, "corrected": False, "x": "epistemic", "y": "loss"} | labels
    table = found.table
    for name, value in wanted.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


ORACLES = {"spearman": stats.spearmanr, "pearson": stats.pearsonr, "kendall": stats.kendalltau}


def left_out(frame: pd.DataFrame, statistic: object) -> float:
    """Standard error by leaving out one example at a time, everything computed anew."""
    codes = frame["example"].unique()
    values = np.array([statistic(frame[frame["example"] != code]) for code in codes])  # type: ignore[operator]
    return math.sqrt((len(codes) - 1) / len(codes) * np.sum((values - values.mean()) ** 2))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tied", [False, True])
def test_standard_errors_agree_with_leaving_out_one_example_at_a_time(method: str, tied: bool) -> None:
    """Ranks are taken anew each time: an influence without the moving ranks is a third too small on such data."""
    frame = two_kinds(45, seed=4)
    if tied:
        frame = frame.round({"epistemic": 0, "loss": 1, "entropy": 0})
    oracle = ORACLES[method]
    found = correlate(
        frame, pairs=(LOSS, ENTROPY), partials=(), differences=((LOSS, ENTROPY),), settings=settings(method)
    )
    difference = row(found, "difference", method)
    n_effective = frame.groupby("example").size().pipe(lambda n: n.sum() ** 2 / (n**2).sum())
    se = (difference["high"] - difference["low"]) / 2 / stats.t.ppf(0.975, n_effective - 1)

    def gap(part: pd.DataFrame) -> float:
        return oracle(part["epistemic"], part["loss"])[0] - oracle(part["epistemic"], part["entropy"])[0]

    assert se == pytest.approx(left_out(frame, gap), rel=0.08)
    one = row(found, method=method)
    on_z = (math.atanh(one["high"]) - math.atanh(one["low"])) / 2 / stats.t.ppf(0.975, n_effective - 1)
    expected = left_out(frame, lambda part: oracle(part["epistemic"], part["loss"])[0]) / (1 - one["estimate"] ** 2)
    assert on_z == pytest.approx(expected, rel=0.08)


def test_with_one_token_per_example_pearson_has_fishers_interval() -> None:
    frame = clustered(4000, share=0.0, mean=1, seed=5).drop_duplicates("example")
    found = row(correlate(frame, pairs=(LOSS,), **ALONE, settings=settings("pearson")), method="pearson")
    low, high = stats.pearsonr(frame["epistemic"], frame["loss"]).confidence_interval()
    assert found["high"] - found["low"] == pytest.approx(high - low, rel=0.06)


def test_bootstrap_agrees_with_the_influence_interval_on_many_examples() -> None:
    found = correlate(scores(300), settings=settings("spearman", "pearson", replicates=2000))
    table = found.table
    width, bootstrap = table["high"] - table["low"], table["bootstrap_high"] - table["bootstrap_low"]
    assert len(table) > 30
    assert np.allclose(bootstrap / width, 1, atol=0.12)


def test_bootstrap_ranks_move_as_if_ranked_anew() -> None:
    frame = two_kinds(60, seed=5)
    found = row(correlate(frame, pairs=(LOSS,), **ALONE, settings=settings("spearman", replicates=2000)))
    parts = [part[["epistemic", "loss"]].to_numpy() for _, part in frame.groupby("example")]
    rng = np.random.default_rng(1)
    anew = []
    for _ in range(500):
        drawn = np.concatenate([parts[code] for code in rng.integers(len(parts), size=len(parts))])
        anew.append(stats.spearmanr(drawn)[0])
    width = found["bootstrap_high"] - found["bootstrap_low"]
    assert width == pytest.approx(np.subtract(*np.quantile(anew, [0.975, 0.025])), rel=0.12)


def even(n_examples: int) -> pd.DataFrame:
    """Ten tokens each."""
    frame = clustered(n_examples, mean=80, seed=4)
    return frame.groupby("example").head(10).groupby("example").filter(lambda part: len(part) == 10)


@pytest.mark.parametrize(
    ("n_examples", "has_interval", "warning"),
    [
        (1, False, "no interval: 1 example; it takes 10"),
        (9, False, "no interval: 9 examples; it takes 10"),
        (10, True, "only 10 examples: below 30 the interval may be too narrow"),
        (29, True, "only 29 examples: below 30 the interval may be too narrow"),
        (30, True, ""),
    ],
)
def test_few_examples_warn_or_have_no_interval(n_examples: int, has_interval: bool, warning: str) -> None:
    frame = even(45)
    frame = frame[frame["example"].isin(frame["example"].unique()[:n_examples])]
    found = correlate(
        frame, pairs=(LOSS, ENTROPY), partials=(), differences=((LOSS, ENTROPY),), settings=settings(replicates=20)
    )
    assert (found.table["n_examples"] == n_examples).all()
    assert found.table["estimate"].notna().all()
    assert (found.table["low"].notna() == has_interval).all()
    assert (found.table.loc[found.table["method"] != "kendall", "bootstrap_low"].notna() == has_interval).all()
    assert (found.table["warning"] == warning).all()


def test_one_long_example_widens_the_interval_and_warns() -> None:
    frame = even(60)
    code_N = frame["example"].where(frame["example"].rank(method="dense") > 30, frame["example"].iloc[0])
    fused = frame.assign(example=code_N)
    found = row(correlate(fused, pairs=(LOSS,), **ALONE, settings=settings("spearman")))
    assert found["n_effective"] < 10 < found["n_examples"]
    assert "as uneven in length as" in found["warning"]
    alone = row(correlate(frame, pairs=(LOSS,), **ALONE, settings=settings("spearman")))
    assert found["high"] - found["low"] > alone["high"] - alone["low"]


def test_on_a_planted_null_a_token_level_interval_fails_and_ours_does_not() -> None:
    """The examples' effect is opposite to the tokens', so that nothing is left; tokens of one example hang together."""
    between, within = matrix(-0.7, 0, 0), matrix(0.3, 0, 0)
    assert true_correlations(0.3, between, within)[0, 1] == pytest.approx(0)
    ours, by_token = 0, 0
    for seed in range(40):
        frame = clustered(60, share=0.3, mean=40, between=between, within=within, seed=100 + seed)
        one = row(correlate(frame, pairs=(LOSS,), **ALONE, settings=settings("pearson")), method="pearson")
        ours += one["low"] <= 0 <= one["high"]
        limits = stats.pearsonr(frame["epistemic"], frame["loss"]).confidence_interval()
        by_token += limits.low <= 0 <= limits.high
    assert ours >= 34
    assert by_token <= 24


@pytest.mark.slow
@pytest.mark.parametrize(("n_examples", "least"), [(15, 0.84), (50, 0.88), (200, 0.91)])
def test_intervals_cover_on_clustered_data(n_examples: int, least: float) -> None:
    """200 data sets: one standard error of a coverage of .95 is .015."""
    truth = true_correlations()
    expected = {
        ("spearman", "correlation"): spearman_of(truth[0, 1]),
        ("spearman", "difference"): spearman_of(truth[0, 1]) - spearman_of(truth[0, 2]),
        ("pearson", "correlation"): truth[0, 1],
        ("pearson", "difference"): truth[0, 1] - truth[0, 2],
        ("pearson", "partial"): (truth[0, 1] - truth[0, 2] * truth[1, 2])
        / math.sqrt((1 - truth[0, 2] ** 2) * (1 - truth[1, 2] ** 2)),
        ("kendall", "correlation"): kendall_of(truth[0, 1]),
        ("kendall", "difference"): kendall_of(truth[0, 1]) - kendall_of(truth[0, 2]),
    }
    hits = dict.fromkeys(expected, 0)
    bootstrap = 0
    asked = settings(replicates=300, kendall_tokens=600)
    for seed in range(200):
        frame = clustered(n_examples, seed=seed)
        found = correlate(
            frame,
            pairs=(LOSS,),
            partials=((*LOSS, ("entropy",)),),
            differences=((LOSS, ENTROPY),),
            settings=asked,
        )
        for (method, kind), value in expected.items():
            one = row(found, kind, method)
            hits[method, kind] += one["low"] <= value <= one["high"]
        one = row(found)
        bootstrap += one["bootstrap_low"] <= expected["spearman", "correlation"] <= one["bootstrap_high"]
    coverage = {key: count / 200 for key, count in hits.items()}
    assert min(coverage.values()) >= least, coverage
    assert max(coverage.values()) <= 0.99, coverage
    assert bootstrap / 200 >= least - 0.06
