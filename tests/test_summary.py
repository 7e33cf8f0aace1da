"""The summary's figures against pandas and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from uncertainty.scores import MEASURE_COLUMNS
from uncertainty.summary import rank_correlations, spread, summary_text


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
