import doctest

import numpy as np
import pandas as pd
import pytest

from analysis import strata
from analysis.strata import frequency_bands, position_bands, stratum_table, token_classes, top_weights, turns


def frame(tokens, special=(), turn=None, example=None):
    return pd.DataFrame(
        {
            "example_id": example or ["a"] * len(tokens),
            "turn": turn or [1] * len(tokens),
            "token": tokens,
            "is_special": [token in special for token in tokens],
        }
    )


def classes(tokens, special=(), **columns):
    return list(token_classes(frame(tokens, special, **columns)))


def test_doctests_hold():
    assert doctest.testmod(strata).failed == 0


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (" cat", "word start"),
        ("12", "number"),
        (" 3.5", "number"),
        ("½", "number"),
        ("x2", "word start"),
        (".", "punctuation"),
        (" =", "punctuation"),
        ("\n", "structural"),
        ("   ", "structural"),
        ("", "structural"),
        ("\u200b", "structural"),
        ("<0xF0>", "word continuation"),
        ("漢", "word start"),
        ("é", "word start"),
    ],
)
def test_a_token_on_its_own_is_classed_by_what_it_spells(token, expected):
    assert classes([token]) == [expected]


def test_letters_after_letters_go_on_with_the_word():
    pieces = [" un", "certain", "ty", " is", "n", "'t", " 2", "nd", ".", "ok", "’s"]
    assert classes(pieces) == [
        "word start", "word continuation", "word continuation", "word start", "word continuation",
        "word continuation", "number", "word continuation", "punctuation", "word start", "word continuation",
    ]  # fmt: skip


def test_a_word_does_not_go_on_across_an_example_a_turn_or_a_special_token():
    assert classes(["ab", "cd"], example=["a", "b"]) == ["word start", "word start"]
    assert classes(["ab", "cd"], turn=[1, 3]) == ["word start", "word start"]
    assert classes(["ab", "END", "cd"], special=("END",)) == ["word start", "special", "word start"]


def test_an_opening_apostrophe_is_no_word():
    assert classes([" a", "'", "b"]) == ["word start", "punctuation", "word start"]


def test_positions_fall_into_doubling_bands_and_only_those_that_occur_are_named():
    bands = position_bands(pd.DataFrame({"index_in_completion": [0, 1, 2, 3, 9, 5000]}))
    assert list(bands) == ["0", "1", "2–3", "2–3", "8–15", "4,096 and more"]
    assert list(bands.categories) == ["0", "1", "2–3", "8–15", "4,096 and more"]


def test_frequency_is_the_count_of_the_token_in_the_table():
    bands = frequency_bands(pd.DataFrame({"token_id": [7] * 10 + [8] * 2 + [9]}))
    assert list(bands) == ["10–99"] * 10 + ["2–9"] * 2 + ["1"]


def test_turns_are_named_by_their_index_in_order():
    assert list(turns(pd.DataFrame({"turn": [3, 1, 11]})).categories) == ["1", "3", "11"]


def test_the_top_set_weighs_its_fraction_and_leaves_out_nan():
    values = np.array([np.nan, 5.0, 1.0, 1.0, 1.0, 0.0])
    assert top_weights(values, 0.4).tolist() == pytest.approx([0, 1, 1 / 3, 1 / 3, 1 / 3, 0])
    assert top_weights(np.array([np.nan]), 0.25).tolist() == [0.0]


def stratum_frame(n_examples=40, per_example=10):
    rng = np.random.default_rng(0)
    n = n_examples * per_example
    data = {"example": np.repeat(np.arange(n_examples), per_example), "loss": rng.gamma(1.0, size=n)}
    tokens = pd.DataFrame(data | {"epistemic": rng.gamma(1.0, size=n)})
    kind = pd.Categorical.from_codes(np.arange(n) % 2, categories=["even", "odd"])
    tokens.loc[kind == "odd", "epistemic"] += 10
    return tokens, kind


def test_a_stratum_has_its_share_its_mean_and_its_part_of_the_top_set():
    tokens, kind = stratum_frame()
    table = stratum_table(tokens, kind, ("loss", "epistemic")).set_index("stratum")
    assert table.loc["odd", "n_tokens"] == 200
    assert table.loc["odd", "share"] == 0.5
    assert table.loc["odd", "mean_loss"] == pytest.approx(tokens["loss"][kind == "odd"].mean())
    assert table.loc["odd", "top_share_epistemic"] == 1.0
    assert table.loc["odd", "enrichment_epistemic"] == 2.0
    assert table.loc["even", "top_share_epistemic"] == 0.0
    assert table["top_share_loss"].sum() == pytest.approx(1.0)
    assert (table["low_loss"] < table["mean_loss"]).all()


def test_intervals_of_a_mean_grow_where_tokens_of_an_example_are_alike():
    rng = np.random.default_rng(1)
    example = np.repeat(np.arange(50), 20)
    alone = rng.normal(size=1000)
    alike = np.repeat(rng.normal(size=50), 20)
    kind = pd.Categorical.from_codes(np.zeros(1000, int), categories=["all"])
    widths = []
    for values in (alone, alike):
        row = stratum_table(pd.DataFrame({"example": example, "loss": values}), kind, ("loss",)).iloc[0]
        widths.append(row["high_loss"] - row["low_loss"])
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(20), rel=0.3)


def test_a_stratum_in_few_examples_has_no_interval_and_says_so():
    tokens, kind = stratum_frame(n_examples=5)
    table = stratum_table(tokens, kind, ("loss",))
    assert table["low_loss"].isna().all()
    assert "5 examples" in table["warning"][0]


def test_a_stratum_without_predictions_is_listed_without_values():
    tokens = pd.DataFrame({"example": [0, 0, 1], "loss": [np.nan, 1.0, 2.0]})
    table = stratum_table(tokens, pd.Categorical(["first", "rest", "rest"]), ("loss",)).set_index("stratum")
    assert table.loc["first", "n_tokens"] == 1
    assert np.isnan(table.loc["first", "mean_loss"])


def test_the_order_of_rows_changes_nothing():
    tokens, kind = stratum_frame()
    shuffled = np.random.default_rng(3).permutation(len(tokens))
    again = stratum_table(tokens.iloc[shuffled], kind[shuffled], ("loss", "epistemic"))
    pd.testing.assert_frame_equal(stratum_table(tokens, kind, ("loss", "epistemic")), again)
