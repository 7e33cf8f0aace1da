"""The summary's figures against pandas and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from uncertainty.scores import MEASURE_COLUMNS
from uncertainty.stopping import TargetError
from uncertainty.summary import passes_text, rank_correlations, spread, summary_text


@pytest.fixture
def frame():
    generator = np.random.default_rng(0)
    table = pd.DataFrame({name: generator.gamma(1.0, size=200).astype(np.float32) for name in MEASURE_COLUMNS})
    table["example_id"] = [f"e{i // 20}" for i in range(200)]
    table.loc[5, list(MEASURE_COLUMNS)] = np.nan  # a token without a prediction
    return table


def test_mean_and_quantiles_leave_out_tokens_without_a_prediction(frame):
    table = spread(frame)
    assert list(table.columns) == ["mean", "5%", "25%", "50%", "75%", "95%", "99%"]
    values = frame["loss"].dropna().astype(float)
    assert table.loc["loss", "mean"] == pytest.approx(values.mean())
    assert table.loc["loss", "95%"] == pytest.approx(np.quantile(values, 0.95))


def test_rank_correlations_are_spearmans(frame):
    table, whole = rank_correlations(frame), frame.dropna()
    for row in ("epistemic", "aleatoric"):
        for column in ("loss", "entropy"):
            assert table.loc[row, column] == pytest.approx(stats.spearmanr(whole[row], whole[column])[0])


def test_a_constant_measure_has_no_correlation(frame):
    frame["epistemic"] = 0.0
    table = rank_correlations(frame)
    assert table.loc["epistemic"].isna().all()
    assert table.loc["aleatoric"].notna().all()
    assert "undefined (constant)" in summary_text(frame, {})


def test_the_text_counts_examples_tokens_and_skipped_rows(frame):
    text = summary_text(frame, {"empty_completion": 3})
    assert "10 examples, 200 completion tokens (199 predicted)" in text
    assert "skipped rows: empty_completion 3" in text


def test_what_a_target_saved_is_told_by_example():
    """Two examples of 20 tokens: one stopped at 20 with 19 tokens there, one went on to 100 with 18."""
    error = np.full(40, 0.001)
    error[[0, 20, 21]] = 0.5
    table = pd.DataFrame({"example_id": ["a"] * 20 + ["b"] * 20, "n_passes": [20] * 20 + [100] * 20})
    table = table.assign(loss=1.0, epistemic=0.1, epistemic_se=error)
    first = pd.DataFrame([{"example_id": "a", "n_passes": 0, "loss": np.nan}])
    said = passes_text(pd.concat([first, table]), TargetError(0.01), 100)
    assert said.splitlines() == [
        "passes: 20 to 100 of an example, 60.0 on average: 40% fewer than 100 of each",
        "target 0.01 nats reached at 95 % of their tokens by 1 of 2 examples (92.5% of all tokens)",
    ]
