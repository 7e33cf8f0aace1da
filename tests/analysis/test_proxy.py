"""The proxy audit on scores where the right answer is known: what it measures, what it advises, what it leaves out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from clustered_frames import lengths, scores, shuffled
from scipy import stats

from analysis.proxy import (
    METRICS,
    PROXY_COLUMNS,
    PROXY_DIFFERENCE_COLUMNS,
    SIGNALS,
    ProxyAudit,
    Signal,
    audit_proxies,
)
from uncertainty.errors import InputError


def row(audit: ProxyAudit, signal: str, metric: str = "precision", fraction: float = 0.25) -> pd.Series:
    table = audit.table
    chosen = table[(table["signal"] == signal) & (table["metric"] == metric) & (table["fraction"] == fraction)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def with_noise(frame: pd.DataFrame, column: str, size: float, seed: int = 5) -> np.ndarray:
    noise = np.exp(size * np.random.default_rng(seed).standard_normal(len(frame)))
    return (frame[column] * noise).to_numpy(np.float32)


def test_every_signal_fraction_and_metric_has_its_row() -> None:
    audit = audit_proxies(scores())
    names = ["loss", "entropy", "label_prob", "margin", "ceiling", "random"]
    assert list(audit.table["signal"].unique()) == names
    assert len(audit.table) == len(names) * 3 * len(METRICS)
    assert tuple(audit.table.columns) == PROXY_COLUMNS
    assert tuple(audit.differences.columns) == PROXY_DIFFERENCE_COLUMNS
    measured = audit.table[audit.table["signal"] != "random"]
    assert ((measured["low"] < measured["estimate"]) & (measured["estimate"] < measured["high"])).all()
    assert measured["estimate"].between(0, 1).all()
    assert audit.table["n_tokens"].eq(len(scores())).all()


def test_values_are_those_of_the_top_sets_of_the_frame() -> None:
    frame = scores()
    audit = audit_proxies(frame)
    k = round(0.25 * len(frame))
    inside = frame["epistemic"].rank(ascending=False) <= k
    selected = frame["entropy"].rank(ascending=False) <= k
    assert row(audit, "entropy")["estimate"] == pytest.approx((inside & selected).sum() / k, abs=2 / k)
    statistic = stats.mannwhitneyu(frame["entropy"][inside], frame["entropy"][~inside]).statistic
    auroc = statistic / inside.sum() / (~inside).sum()
    assert row(audit, "entropy", "auroc")["estimate"] == pytest.approx(auroc, abs=2 / k)


def test_small_probability_is_large_loss() -> None:
    audit = audit_proxies(scores())
    same = audit.differences[audit.differences["signal"] == "label_prob"]
    assert same["estimate"].to_numpy() == pytest.approx(0, abs=1e-3)


def test_differences_are_those_of_the_table() -> None:
    audit = audit_proxies(scores())
    of_entropy = audit.differences[audit.differences["signal"] == "entropy"]
    assert len(of_entropy) == 3 * len(METRICS)
    for one in of_entropy.to_dict("records"):
        first, second = (row(audit, name, one["metric"], one["fraction"])["estimate"] for name in ("entropy", "loss"))
        assert one["estimate"] == pytest.approx(first - second, abs=1e-12)
        assert one["low"] < one["estimate"] < one["high"]


def test_the_random_rows_are_the_exact_expectation() -> None:
    audit = audit_proxies(scores(), fractions=(0.1,))
    expected = {"auroc": 0.5, "average_precision": 0.1, "precision": 0.1, "jaccard": 0.1 / 1.9}
    assert {name: row(audit, "random", name, 0.1)["estimate"] for name in METRICS} == pytest.approx(expected)


def test_the_ceiling_is_what_the_true_epistemic_reaches() -> None:
    rng = np.random.default_rng(2)
    frame = scores(400)
    true = frame["epistemic"].to_numpy(float)
    frame["epistemic"] = true * np.exp(0.25 * rng.standard_normal(len(frame)))
    frame["epistemic_se"] = 0.25 * frame["epistemic"]
    audit = audit_proxies(frame.assign(truth=true), signals={"truth": Signal("truth", 1, True, "")})
    for metric in METRICS:
        assert row(audit, "ceiling", metric)["estimate"] == pytest.approx(
            row(audit, "truth", metric)["estimate"], abs=0.02
        )
    assert row(audit, "ceiling")["estimate"] < 0.95


def test_neither_row_order_nor_shards_nor_names_of_examples_change_anything() -> None:
    frame = scores(tied=True)
    named = frame.assign(example_id=[f"id-{code:03d}" for code in frame["example"]]).drop(columns="example")
    expected = audit_proxies(frame)
    for other in (shuffled(frame), shuffled(named)):
        audit = audit_proxies(other)
        pd.testing.assert_frame_equal(audit.table, expected.table, rtol=1e-9, atol=1e-9)
        pd.testing.assert_frame_equal(audit.differences, expected.differences, rtol=1e-9, atol=1e-9)
        assert (audit.selector, audit.verdict, audit.notes) == (expected.selector, expected.verdict, expected.notes)


def test_a_label_free_signal_as_good_as_loss_is_advised_first() -> None:
    frame = scores()
    frame["entropy"], frame["loss"] = with_noise(frame, "epistemic", 0.1, 1), with_noise(frame, "epistemic", 0.1, 2)
    audit = audit_proxies(frame)
    assert audit.selector == "entropy"
    assert (
        "Loss is a close stand-in for epistemic uncertainty here: of the top 25% of tokens by loss, 9" in audit.verdict
    )
    assert "Select by entropy, as good as loss" in audit.verdict
    assert "it does not look at the label" in audit.verdict


def test_loss_is_advised_with_a_warning_where_it_is_clearly_best() -> None:
    frame = scores().drop(columns="label_prob")
    frame["loss"] = with_noise(frame, "epistemic", 0.1)
    frame["entropy"] = with_noise(frame, "epistemic", 2.0)
    audit = audit_proxies(frame)
    assert audit.selector == "loss"
    assert "Select by loss. It looks at the label" in audit.verdict
    assert "with noisy labels prefer a signal that does not" in audit.verdict


def test_where_no_cheap_signal_will_do_epistemic_itself_is_advised() -> None:
    frame = scores()
    rng = np.random.default_rng(3)
    frame["loss"], frame["entropy"] = rng.exponential(1, (2, len(frame)))
    frame["label_prob"], frame["margin"] = np.exp(-frame["loss"]), np.exp(-frame["entropy"])
    audit = audit_proxies(frame)
    assert audit.selector == "epistemic"
    assert "No cheap signal finds these tokens: to train on them, select by epistemic itself." in audit.verdict


def test_a_high_auroc_does_not_hide_that_the_selected_tokens_are_the_wrong_ones() -> None:
    """Half of the tokens are easy for everyone; among the others the most uncertain have the smaller loss."""
    frame = scores(100)
    rng = np.random.default_rng(4)
    hard = rng.random(len(frame)) < 0.5
    frame["epistemic"] = np.where(hard, 1 + rng.random(len(frame)), 0.1 * rng.random(len(frame)))
    frame["loss"] = np.where(hard, 3 - frame["epistemic"] + 0.1 * rng.random(len(frame)), 0.1 * rng.random(len(frame)))
    frame["entropy"], frame["label_prob"] = frame["loss"], np.exp(-frame["loss"])
    audit = audit_proxies(frame.assign(epistemic_se=0.01 * frame["epistemic"]))
    assert row(audit, "loss", "auroc")["estimate"] > 0.6
    assert row(audit, "loss")["high"] < 0.25
    assert audit.verdict.startswith("Loss is worse than a random choice as a stand-in")
    assert audit.selector == "epistemic"


def test_constant_epistemic_is_undefined_and_says_so() -> None:
    audit = audit_proxies(scores().assign(epistemic=np.float32(0)))
    assert audit.selector == ""
    assert "the same for every token" in audit.verdict
    assert audit.table["estimate"].isna().all()
    assert (audit.table["warning"] == "undefined: epistemic is constant").all()
    assert tuple(audit.table.columns) == PROXY_COLUMNS


def test_a_constant_signal_is_named_and_has_no_interval() -> None:
    audit = audit_proxies(scores().assign(loss=np.float32(1)))
    one = row(audit, "loss", "auroc")
    assert (one["estimate"], one["warning"]) == (pytest.approx(0.5), "loss is constant")
    assert math.isnan(one["low"])
    assert "Note: loss is constant." in audit.verdict


def test_a_perfect_signal_has_no_interval_and_says_why() -> None:
    frame = scores()
    audit = audit_proxies(frame.assign(entropy=frame["epistemic"]))
    one = row(audit, "entropy", "auroc")
    assert one["estimate"] == pytest.approx(1)
    assert math.isnan(one["low"])
    assert one["warning"] == "no interval: the estimate is at the edge of its range"
    assert audit.selector == "entropy"


def test_few_examples_have_no_interval_and_the_verdict_says_so() -> None:
    frame = scores(60)
    audit = audit_proxies(frame[frame["example"] < 8])
    measured = audit.table[audit.table["signal"] != "random"]
    assert measured["low"].isna().all()
    assert (measured["warning"] == "no interval: 8 examples; it takes 10").all()
    assert audit.verdict.endswith("Note: no interval: 8 examples; it takes 10.")


def test_a_column_of_ones_own_and_rho_and_margin_are_audited_where_they_are() -> None:
    frame = scores()
    bare = audit_proxies(frame.drop(columns="margin"))
    assert bare.notes == ("Not in these scores, so not audited: margin, rho.",)
    assert audit_proxies(frame).notes == ("Not in these scores, so not audited: rho.",)
    frame = frame.assign(rho=frame["loss"] - 1, margin=1 / (1 + frame["entropy"]), mine=-frame["entropy"], empty=np.nan)
    mine = {"mine": Signal("mine", -1, True, "my own"), "empty": Signal("empty", 1, True, "")}
    audit = audit_proxies(frame, signals=SIGNALS | mine)
    assert audit.notes == ("Not in these scores, so not audited: empty.",)
    for metric in METRICS:
        assert row(audit, "rho", metric)["estimate"] == pytest.approx(row(audit, "loss", metric)["estimate"])
        for name in ("mine", "margin"):
            assert row(audit, name, metric)["estimate"] == pytest.approx(row(audit, "entropy", metric)["estimate"])


def test_tokens_without_a_prediction_and_ties_are_told() -> None:
    frame = scores()
    frame["epistemic"] = np.where(frame.index % 3 == 0, frame["epistemic"], 0)
    frame.loc[frame.index % 10 == 0, "loss"] = np.nan
    notes = audit_proxies(frame).notes
    assert f"{int((frame.index % 10 == 0).sum())} tokens without a prediction are left out." in notes
    assert any("tie at the edge of the top 50% by epistemic" in note for note in notes)
    assert not any("top 10% by" in note for note in notes)


def test_without_standard_errors_there_is_no_ceiling_and_a_note() -> None:
    audit = audit_proxies(scores().drop(columns="epistemic_se"))
    assert "ceiling" not in set(audit.table["signal"])
    assert "Without epistemic_se for every token the ceiling is not known." in audit.notes
    assert "perfect proxy" not in audit.verdict


@pytest.mark.slow
def test_intervals_cover_on_clustered_data() -> None:
    """The truth is the mean over many data sets; 200 of them, so one standard error of a coverage of .95 is .015."""
    audits = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        code_N = np.repeat(np.arange(60), lengths(60, 40, rng))
        shared = 0.6 * rng.standard_normal(60)[code_N]
        epistemic = shared + rng.standard_normal(len(code_N))
        frame = pd.DataFrame({"example": code_N, "epistemic": epistemic})
        frame["loss"] = epistemic + 0.6 * rng.standard_normal(60)[code_N] + rng.standard_normal(len(code_N))
        frame["entropy"] = epistemic + rng.standard_normal(len(code_N))
        audits.append(audit_proxies(frame, fractions=(0.25,)))
    tables = pd.concat([one.table[one.table["signal"] != "random"] for one in audits])
    for table, least in ((tables, 0.88), (pd.concat([one.differences for one in audits]), 0.88)):
        truth = table.groupby(["signal", "metric"])["estimate"].transform("mean")
        covered = (table["low"] <= truth) & (truth <= table["high"])
        coverage = covered.groupby([table["signal"], table["metric"]]).mean()
        assert coverage.min() >= least, coverage
        assert coverage.max() <= 0.99, coverage


@pytest.mark.parametrize(
    ("frame", "arguments", "message"),
    [
        (scores().drop(columns="epistemic"), {}, "the frame has no column 'epistemic'"),
        (scores()[["example", "epistemic"]], {}, "none of the signals' columns: loss, entropy"),
        (scores(), {"fractions": (0.25, 1.0)}, "each must lie between 0 and 1"),
        (scores(), {"fractions": ()}, "each must lie between 0 and 1"),
        (scores(), {"confidence": 1.0}, "confidence is 1.0"),
        (scores(), {"signals": {"random": SIGNALS["loss"]}}, "a signal cannot be named 'random'"),
    ],
)
def test_bad_input_is_named(frame: pd.DataFrame, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        audit_proxies(frame, **arguments)  # type: ignore[arg-type]
