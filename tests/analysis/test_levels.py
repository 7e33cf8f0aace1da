"""Token and example level: hand-worked cases, the law of total variance, planted intraclass correlations."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from clustered_frames import clustered, scores, shuffled
from scipy import stats

from analysis.levels import (
    HISTOGRAM_COLUMNS,
    LEVEL_MEASURES,
    QUANTILE_COLUMNS,
    VARIANCE_COLUMNS,
    example_means,
    level_histograms,
    level_quantiles,
    variance_split,
)
from uncertainty.errors import InputError


def frame(*examples: list[float]) -> pd.DataFrame:
    """One example per list of losses."""
    return pd.DataFrame(
        {
            "example": np.repeat(np.arange(len(examples)), [len(one) for one in examples]),
            "loss": np.concatenate(examples),
        }
    )


LOSS = ("loss",)


def test_a_case_worked_by_hand() -> None:
    """Means 2 and 5 around 3.2: between (3 * 1.44 + 2 * 3.24) / 5, within (1 + 0 + 1 + 1 + 1) / 5."""
    one = variance_split(frame([1, 2, 3], [4, 6]), LOSS).iloc[0]
    assert one["between_variance"] == pytest.approx(2.16)
    assert one["within_variance"] == pytest.approx(0.8)
    assert one["total_variance"] == pytest.approx(2.96)
    assert one["between_share"] == pytest.approx(2.16 / 2.96)
    # MSB = 10.8 / 1, MSW = 4 / 3, n0 = 5 - 13/5
    assert one["icc"] == pytest.approx((10.8 - 4 / 3) / (10.8 + 1.4 * 4 / 3))
    assert (one["n_tokens"], one["n_examples"]) == (5, 2)
    assert one["n_effective"] == pytest.approx(1.9)
    assert one["warning"] == "no interval: 2 examples; it takes 10"


def test_law_of_total_variance_holds_for_every_measure() -> None:
    table = variance_split(scores())
    assert tuple(table.columns) == VARIANCE_COLUMNS
    assert list(table["measure"]) == list(LEVEL_MEASURES)
    by_example = scores().groupby("example")
    for one in table.to_dict("records"):
        values = scores()[one["measure"]].astype(float)
        assert one["total_variance"] == pytest.approx(values.var(ddof=0))
        assert one["within_variance"] + one["between_variance"] == pytest.approx(one["total_variance"])
        own_mean = by_example[one["measure"]].transform(lambda part: part.astype(float).mean())
        assert one["within_variance"] == pytest.approx(((values - own_mean) ** 2).mean())
        assert 0 < one["between_share"] < 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_intraclass_correlation_finds_the_planted_share(share: float) -> None:
    table = variance_split(clustered(300, share=share, seed=2), ("epistemic", "loss", "entropy"), confidence=0.999)
    assert table["icc"].to_numpy() == pytest.approx(share, abs=0.06)
    assert ((table["icc_low"] < share) & (share < table["icc_high"])).all()
    assert (table["icc_high"] <= 1).all()


def test_without_any_effect_of_the_example_the_plain_share_is_not_zero_but_icc_is() -> None:
    one = variance_split(clustered(400, share=0.0, mean=5, seed=1), LOSS).iloc[0]
    assert one["between_share"] == pytest.approx(one["n_examples"] / one["n_tokens"], abs=0.03)
    assert one["icc"] == pytest.approx(0, abs=0.05)


def test_interval_is_the_jackknife_over_examples() -> None:
    data = clustered(25, mean=10, seed=3)
    one = variance_split(data, LOSS).iloc[0]
    codes = data["example"].unique()
    without = np.array([variance_split(data[data["example"] != code], LOSS)["icc"].iloc[0] for code in codes])
    se = math.sqrt(24 / 25 * np.sum((without - without.mean()) ** 2))
    half = stats.t.ppf(0.975, (data.groupby("example").size().pipe(lambda n: n.sum() ** 2 / (n**2).sum())) - 1) * se
    assert one["icc_low"] == pytest.approx(one["icc"] - half, rel=1e-9)
    assert one["icc_high"] == pytest.approx(min(one["icc"] + half, 1), rel=1e-9)


@pytest.mark.slow
def test_interval_covers_on_clustered_data() -> None:
    """300 data sets: one standard error of a coverage of .95 is .013."""
    hits = 0
    for seed in range(300):
        one = variance_split(clustered(60, share=0.3, mean=20, seed=seed), LOSS).iloc[0]
        hits += one["icc_low"] <= 0.3 <= one["icc_high"]
    assert 0.88 <= hits / 300 <= 0.985


@pytest.mark.parametrize(
    ("data", "warning"),
    [
        (frame([1, 1], [1, 1]), "undefined: loss is constant"),
        (frame([1, math.inf], [1, 2]), "undefined: infinite for 1 tokens"),
        (frame([1, 2, 3]), "no intraclass correlation: it takes two examples"),
        (frame([1], [2], [3]), "no intraclass correlation: it takes an example of two tokens"),
    ],
)
def test_what_is_undefined_says_so(data: pd.DataFrame, warning: str) -> None:
    one = variance_split(data, LOSS).iloc[0]
    assert one["warning"] == warning
    assert math.isnan(one["icc"])
    assert math.isnan(one["icc_low"])


def test_quantiles_are_those_of_tokens_and_of_example_means() -> None:
    data = scores()
    table = level_quantiles(data)
    assert tuple(table.columns) == QUANTILE_COLUMNS
    assert len(table) == 2 * len(LEVEL_MEASURES)
    means = data.groupby("example")["loss"].mean()
    for level, values in (("token", data["loss"]), ("example", means)):
        one = table[(table["measure"] == "loss") & (table["level"] == level)].iloc[0]
        values = values.astype(float)
        expected = {
            "n": len(values),
            "mean": values.mean(),
            "sd": values.std(),
            "min": values.min(),
            "max": values.max(),
        }
        expected |= {"q01": values.quantile(0.01), "q50": values.median(), "q99": values.quantile(0.99)}
        assert {name: one[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_example_means_are_one_row_per_example_under_the_name_of_the_frame() -> None:
    data = scores()
    table = example_means(data)
    assert list(table.columns) == ["example", "n_tokens", *LEVEL_MEASURES]
    expected = data.astype({"loss": float}).groupby("example")["loss"].agg(["size", "mean"])
    assert table["n_tokens"].tolist() == expected["size"].tolist()
    assert table["loss"].to_numpy() == pytest.approx(expected["mean"].to_numpy())
    named = data.assign(example_id="id-" + data["example"].astype(str).str.zfill(3)).drop(columns="example")
    assert example_means(named)["example_id"].tolist()[:2] == ["id-000", "id-001"]


def test_histograms_of_both_levels_share_their_bins_and_have_area_one() -> None:
    data = scores()
    table = level_histograms(data, n_bins=20)
    assert tuple(table.columns) == HISTOGRAM_COLUMNS
    for measure in LEVEL_MEASURES:
        token, example = (
            table[(table["measure"] == measure) & (table["level"] == one)] for one in ("token", "example")
        )
        assert token["left"].tolist() == example["left"].tolist()
        assert token["count"].sum() == len(data)
        assert example["count"].sum() == data["example"].nunique()
        for level in (token, example):
            assert (level["density"] * (level["right"] - level["left"])).sum() == pytest.approx(1)
            assert (level["left"].iloc[1:].to_numpy() == level["right"].iloc[:-1].to_numpy()).all()
        assert len(token) == 21
        assert token["count"].iloc[-1] == pytest.approx(0.005 * len(data), abs=2)


def test_a_constant_measure_has_one_bin() -> None:
    table = level_histograms(frame([2, 2], [2]), LOSS)
    assert table[["left", "right", "count", "density"]].to_numpy().tolist() == [[1.5, 2.5, 3, 1], [1.5, 2.5, 2, 1]]


def test_tokens_without_a_prediction_are_left_out_measure_by_measure() -> None:
    data = scores()
    holes = data.assign(loss=data["loss"].where(data.index % 3 > 0), entropy=np.nan)
    kept = data[data.index % 3 > 0]
    pd.testing.assert_frame_equal(variance_split(holes, LOSS), variance_split(kept, LOSS))
    pd.testing.assert_frame_equal(level_quantiles(holes, LOSS), level_quantiles(kept, LOSS))
    table = level_quantiles(holes, ("loss", "entropy", "epistemic")).set_index(["measure", "level"])
    assert table["n"].tolist() == [len(kept), kept["example"].nunique(), 0, 0, len(data), data["example"].nunique()]
    empty = variance_split(holes, ("loss", "entropy")).iloc[1]
    assert (empty["n_tokens"], empty["warning"]) == (0, "undefined: no token has a value")
    assert level_histograms(holes, ("loss", "entropy")).query("measure == 'entropy'")["count"].sum() == 0


def test_row_order_changes_nothing() -> None:
    data = scores(tied=True)
    for function in (level_quantiles, variance_split, example_means, level_histograms):
        pd.testing.assert_frame_equal(function(shuffled(data)), function(data), rtol=1e-9)


@pytest.mark.parametrize("function", [level_quantiles, variance_split, example_means, level_histograms])
def test_bad_input_is_named(function: object) -> None:
    with pytest.raises(InputError, match="no column 'loss'"):
        function(scores().drop(columns="loss"))  # type: ignore[operator]
    with pytest.raises(InputError, match="no token has a value"):
        function(scores().assign(loss=np.nan), LOSS)  # type: ignore[operator]
    with pytest.raises(InputError, match="neither a column 'example' nor 'example_id'"):
        function(scores().drop(columns="example"))  # type: ignore[operator]


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(InputError, match="confidence is 0"):
        variance_split(scores(), LOSS, confidence=0)
    with pytest.raises(InputError, match="n_bins is 0"):
        level_histograms(scores(), LOSS, n_bins=0)
