"""Correlations against scipy, closed forms and brute force; intervals by simulation; what is undefined says so."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from clustered_frames import clustered, kendall_of, matrix, scores, shuffled, spearman_of
from scipy import stats

from analysis.correlation import (
    CORRELATION_COLUMNS,
    RELIABILITY_COLUMNS,
    Correlations,
    CorrelationSettings,
    correlate,
    correlation_matrix,
)
from uncertainty.errors import InputError

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


@pytest.mark.parametrize("tied", [False, True])
def test_estimates_agree_with_scipy_with_and_without_ties(tied: bool) -> None:
    frame = scores(tied=tied)
    found = correlate(frame, settings=settings())
    for method, oracle in zip(METHODS, (stats.spearmanr, stats.pearsonr, stats.kendalltau), strict=True):
        of_method = found.table[(found.table["method"] == method) & (found.table["kind"] == "correlation")]
        measured = of_method[~of_method["corrected"]]
        assert len(measured) == 8
        for one in measured.to_dict("records"):
            expected = oracle(frame[one["x"]].astype(float), frame[one["y"]].astype(float))[0]
            assert one["estimate"] == pytest.approx(expected, abs=1e-9)


def test_estimates_reach_the_closed_forms_of_a_gaussian_copula() -> None:
    frame = clustered(6_000, share=0.0, mean=10, within=matrix(0.6, -0.3, 0.0), seed=1)
    # Spearman and Kendall see the copula only, so any increasing margins will do.
    frame["loss"] = np.exp(frame["loss"])
    found = correlate(frame, pairs=(LOSS, ENTROPY), **ALONE, settings=settings(kendall_tokens=20_000))
    for measure, rho in (("loss", 0.6), ("entropy", -0.3)):
        assert row(found, y=measure)["estimate"] == pytest.approx(spearman_of(rho), abs=0.01)
        assert row(found, method="kendall", y=measure)["estimate"] == pytest.approx(kendall_of(rho), abs=0.015)
    assert row(found, method="pearson", y="entropy")["estimate"] == pytest.approx(-0.3, abs=0.01)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
@pytest.mark.parametrize("given", [("entropy",), ("entropy", "aleatoric")])
def test_partial_correlation_is_the_correlation_of_residuals(method: str, given: tuple[str, ...]) -> None:
    frame = scores(tied=True)
    values = frame.rank() if method == "spearman" else frame.astype(float)
    fixed = np.column_stack([np.ones(len(frame)), *(values[name] for name in given)])
    residual = [values[name] - fixed @ np.linalg.lstsq(fixed, values[name], rcond=None)[0] for name in LOSS]
    found = correlate(frame, pairs=(), partials=((*LOSS, given),), differences=(), settings=settings(method))
    expected = np.corrcoef(*residual)[0, 1]
    assert row(found, "partial", method, given=" + ".join(given))["estimate"] == pytest.approx(expected, abs=1e-9)


def test_difference_is_that_of_the_two_correlations() -> None:
    found = correlate(scores(), settings=settings())
    for method in METHODS:
        first, second = row(found, method=method), row(found, method=method, y="entropy")
        difference = row(found, "difference", method, minus_x="epistemic", minus_y="entropy")
        assert difference["estimate"] == pytest.approx(first["estimate"] - second["estimate"], abs=1e-12)
        assert difference["low"] < difference["estimate"] < difference["high"]


ORACLES = {"spearman": stats.spearmanr, "pearson": stats.pearsonr, "kendall": stats.kendalltau}


def test_tokens_without_a_prediction_are_left_out_and_counted() -> None:
    frame = scores()
    holes = frame.copy()
    holes.loc[holes.index % 7 == 0, "loss"] = np.nan
    found = correlate(holes, settings=settings(replicates=50))
    kept = correlate(frame[frame.index % 7 != 0], settings=settings(replicates=50))
    pd.testing.assert_frame_equal(found.table, kept.table)
    n_dropped = int((holes.index % 7 == 0).sum())
    assert found.notes[0] == f"{n_dropped} tokens without a prediction are left out."


def test_neither_row_order_nor_shards_nor_names_of_examples_change_anything() -> None:
    frame = scores(tied=True)
    asked = settings(replicates=50, kendall_tokens=300)
    named = frame.assign(example_id=[f"id-{code:03d}" for code in frame["example"]]).drop(columns="example")
    shards = pd.concat([frame[frame["example"] >= 20], frame[frame["example"] < 20]], ignore_index=True)
    expected = correlate(frame, settings=asked)
    for other in (shuffled(frame), shards, shuffled(named)):
        found = correlate(other, settings=asked)
        pd.testing.assert_frame_equal(found.table, expected.table, rtol=1e-9, atol=1e-9)
        pd.testing.assert_frame_equal(found.reliability, expected.reliability, rtol=1e-9)
        assert found.notes == expected.notes


def test_the_seed_decides_the_subset_the_bootstrap_and_nothing_else() -> None:
    frame = scores()
    first, again, other = (
        correlate(frame, settings=settings(replicates=50, kendall_tokens=300, seed=seed)).table for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    kendall = (first["method"] == "kendall").to_numpy()
    assert (first["estimate"] != other["estimate"])[kendall].all()
    measured = ~kendall & ~first["corrected"].to_numpy(bool)
    assert (first["estimate"] == other["estimate"])[measured].all()
    assert (first["bootstrap_low"] != other["bootstrap_low"])[measured].all()


def test_kendall_on_a_subset_says_so_and_covers_the_whole() -> None:
    frame = clustered(400, seed=2)
    whole = row(correlate(frame, pairs=(LOSS,), **ALONE, settings=settings("kendall")), method="kendall")
    found = correlate(frame, pairs=(LOSS,), **ALONE, settings=settings("kendall", kendall_tokens=5000))
    part = row(found, method="kendall")
    assert part["n_tokens"] == 5000
    assert whole["n_tokens"] == len(frame)
    assert part["low"] < whole["estimate"] < part["high"]
    assert found.notes == (
        f"Kendall's tau is computed on 5,000 of {len(frame):,} tokens, chosen at random with seed 0.",
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_measure_is_undefined_and_says_so(method: str) -> None:
    found = correlate(scores().assign(loss=np.float32(0.3)), settings=settings(method, replicates=20))
    one = row(found, method=method)
    assert math.isnan(one["estimate"])
    assert math.isnan(one["low"])
    assert one["warning"] == "undefined: loss is constant"
    assert row(found, "difference", method, minus_y="entropy")["warning"] == "undefined: loss is constant"
    fine = row(found, method=method, y="entropy")
    assert fine["low"] < fine["estimate"] < fine["high"]
    assert fine["warning"] == ""


def test_an_infinite_loss_is_ranked_but_leaves_pearson_undefined() -> None:
    frame = scores()
    frame.loc[3, "loss"] = np.inf
    found = correlate(frame, settings=settings())
    assert row(found)["estimate"] == pytest.approx(stats.spearmanr(frame["epistemic"], frame["loss"])[0], abs=1e-9)
    assert row(found, method="pearson")["warning"] == "undefined: loss is infinite for 1 tokens"


def test_measures_that_are_the_same_correlate_perfectly_without_an_interval() -> None:
    frame = scores()
    frame["loss"] = frame["epistemic"]
    found = correlate(frame, settings=settings())
    for method in METHODS:
        one = row(found, method=method)
        assert one["estimate"] == pytest.approx(1)
        assert math.isnan(one["low"])
        assert one["warning"] == "no interval: the estimate is at the edge of its range"
    partial = row(found, "partial", y="entropy", given="loss")
    assert partial["warning"] == "undefined: the measures held fixed leave nothing to vary"


def noisy(relative: float, n_tokens: int = 60_000) -> tuple[pd.DataFrame, pd.Series]:
    """Scores whose epistemic carries noise of a known relative size, and the epistemic without it."""
    rng = np.random.default_rng(7)
    log_loss, own, noise = rng.standard_normal((3, n_tokens))
    true = np.exp(0.5 * (0.7 * log_loss + math.sqrt(1 - 0.49) * own))
    measured = true * (1 + relative * noise)
    frame = pd.DataFrame({"example": np.arange(n_tokens) // 20, "epistemic": measured, "loss": np.exp(0.5 * log_loss)})
    frame["entropy"] = np.exp(0.5 * (0.5 * log_loss + rng.standard_normal(n_tokens)))
    return frame.assign(epistemic_se=relative * true), pd.Series(true)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_monte_carlo_noise_is_measured_and_taken_out(method: str) -> None:
    frame, true = noisy(0.2)
    found = correlate(
        frame,
        pairs=(LOSS, ENTROPY),
        partials=((*LOSS, ("entropy",)),),
        differences=((LOSS, ENTROPY),),
        settings=settings(method, replicates=50),
    )
    clean = correlate(
        frame.assign(epistemic=true),
        pairs=(LOSS, ENTROPY),
        partials=((*LOSS, ("entropy",)),),
        differences=((LOSS, ENTROPY),),
        settings=settings(method),
    )
    again, _ = noisy(0.2)
    again["epistemic"] = true * (1 + 0.2 * np.random.default_rng(8).standard_normal(len(true)))
    split = ORACLES[method](frame["epistemic"], again["epistemic"])[0]
    assert found.reliability["reliability"].iloc[0] == pytest.approx(split, abs=0.02)
    assert 0.8 < split < 0.93
    for kind, labels in (("correlation", {}), ("correlation", {"y": "entropy"}), ("partial", {}), ("difference", {})):
        target = row(clean, kind, method, **labels)["estimate"]
        measured, corrected = row(found, kind, method, **labels), row(found, kind, method, corrected=True, **labels)
        assert abs(corrected["estimate"] - target) < 0.012
        assert abs(corrected["estimate"] - target) < 0.4 * abs(measured["estimate"] - target)
        assert corrected["low"] < corrected["estimate"] < corrected["high"]
        assert corrected["bootstrap_low"] < corrected["estimate"] < corrected["bootstrap_high"]


def test_only_measures_that_do_not_share_the_passes_are_corrected() -> None:
    found = correlate(scores(), settings=settings()).table
    corrected = found[found["corrected"]]
    assert set(corrected["method"]) == {"spearman", "pearson"}
    assert set(corrected["x"]) <= {"epistemic"}
    assert set(corrected["y"]) == {"loss", "entropy"}
    assert "aleatoric" not in set(corrected["given"])
    assert ("aleatoric", "loss") in set(zip(corrected["minus_x"], corrected["minus_y"], strict=True))


def test_without_standard_errors_nothing_is_corrected() -> None:
    bare = correlate(scores().drop(columns="epistemic_se"), settings=settings())
    assert not bare.table["corrected"].any()
    assert bare.reliability.empty
    holes = scores()
    holes.loc[5, "epistemic_se"] = np.nan
    found = correlate(holes, settings=settings())
    pd.testing.assert_frame_equal(found.table, bare.table)
    assert found.notes == ("Some tokens have no epistemic_se: nothing is corrected for Monte Carlo noise.",)


def test_noise_that_drowns_epistemic_is_not_corrected_but_named() -> None:
    frame = scores()
    found = correlate(frame.assign(epistemic_se=3 * frame["epistemic"]), settings=settings())
    assert not found.table["corrected"].any()
    assert found.reliability["warning"].str.contains("score with more passes").all()


def test_columns_are_the_documented_ones() -> None:
    found = correlate(scores(), settings=settings(replicates=10))
    assert tuple(found.table.columns) == CORRELATION_COLUMNS
    assert tuple(found.reliability.columns) == RELIABILITY_COLUMNS
    assert found.table["corrected"].dtype == bool


def test_matrix_holds_the_correlations_of_one_method() -> None:
    found = correlate(scores(), settings=settings())
    table = correlation_matrix(found.table, "pearson")
    assert list(table.index) == ["epistemic", "aleatoric", "total", "loss"]
    assert table.loc["aleatoric", "entropy"] == row(found, method="pearson", x="aleatoric", y="entropy")["estimate"]
    assert math.isnan(table.loc["loss", "loss"])
    assert list(correlation_matrix(found.table, corrected=True).index) == ["epistemic"]


@pytest.mark.parametrize(
    ("frame", "asked", "message"),
    [
        (
            scores(),
            settings("spearmann"),
            "no correlation method 'spearmann'; it must be one of spearman, pearson, kendall",
        ),
        (scores(), CorrelationSettings(confidence=95), "confidence is 95; it must lie between 0 and 1"),
        (scores(), settings(replicates=-1), "replicates is -1"),
        (scores().drop(columns="loss"), settings(), "the frame has no column 'loss'"),
        (scores().drop(columns="example"), settings(), "neither a column 'example' nor 'example_id'"),
        (scores().assign(loss=np.nan), settings(), "no token has a value in all of"),
        (scores().iloc[:0], settings(), "no token has a value in all of"),
        (scores().assign(loss="high"), settings(), "column 'loss' holds"),
        (scores().assign(example=np.nan), settings(), "tokens have no example"),
    ],
)
def test_bad_input_is_named(frame: pd.DataFrame, asked: CorrelationSettings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        correlate(frame, settings=asked)
