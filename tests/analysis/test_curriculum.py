import numpy as np
import pandas as pd
import pytest

from analysis.curriculum import check_same_tokens, class_shares, overlaps
from uncertainty.errors import InputError


def keys(n=12, **columns):
    frame = pd.DataFrame({"example": np.arange(n) // 4, "turn": 1, "position": np.arange(n), "token_id": np.arange(n)})
    return frame.assign(**columns)


def test_the_same_tokens_are_the_same():
    check_same_tokens(keys(), keys(), ("a", "b"), (["x", "y", "z"], ["x", "y", "z"]))


@pytest.mark.parametrize(
    ("other", "ids", "message"),
    [
        (keys(11), "xyz", "a and b are not of the same tokens: 12 against 11"),
        (keys(token_id=np.arange(12) + (np.arange(12) == 5)), "xyz", "at token 5 token_id is 5 against 6"),
        (keys(), "xyw", "example 'w' is in one of them only"),
        (keys(), "xzy", "their examples stand in different orders"),
    ],
)
def test_other_tokens_are_refused_with_the_first_difference(other, ids, message):
    with pytest.raises(InputError, match=message) as refused:
        check_same_tokens(keys(), other, ("a", "b"), (list("xyz"), list(ids)))
    assert "\n" not in str(refused.value)


EXAMPLE = pd.Series(np.repeat(np.arange(40), 10))


def test_a_run_overlaps_wholly_with_itself_and_not_with_its_opposite():
    values = np.arange(400.0)
    table = overlaps(["a", "same", "opposite"], [values, values, -values], EXAMPLE, "loss")
    assert table["jaccard"].tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert table["chance"].tolist() == pytest.approx([1 / 7] * 3)


def test_the_overlap_is_that_of_the_two_sets():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=400), rng.normal(size=400)
    row = overlaps(["a", "b"], [first, second], EXAMPLE, "loss").iloc[0]
    a, b = (set(np.argsort(one)[-100:]) for one in (first, second))
    assert row["jaccard"] == pytest.approx(len(a & b) / len(a | b))
    assert row["kept"] == pytest.approx(len(a & b) / 100)
    assert row["low"] < row["jaccard"] < row["high"]


def test_only_tokens_that_all_runs_predict_are_compared():
    first, second = np.arange(400.0), np.arange(400.0)
    second[:40] = np.nan
    row = overlaps(["a", "b"], [first, second], EXAMPLE, "loss").iloc[0]
    assert (row["n_tokens"], row["n_examples"], row["jaccard"]) == (360, 36, 1.0)


def test_class_shares_are_of_the_high_set_and_of_all_tokens():
    classes = pd.Categorical.from_codes(np.arange(400) % 4, categories=["w", "x", "y", "never", "z"])
    values = np.arange(400.0) + 1000 * (np.arange(400) % 4 == 0)
    table = class_shares(["a"], [values], classes, "loss").set_index("class")
    assert table.loc["w", "share_of_high_set"] == 1.0
    assert table.loc["w", "enrichment"] == 4.0
    assert table["share_of_tokens"].tolist() == pytest.approx([0.25] * 4)
    assert "z" not in table.index


@pytest.mark.slow
def test_the_interval_of_an_overlap_covers_what_many_tokens_have():
    """Tokens of one example share a part of both measures; the truth is the overlap over very many examples."""

    def draw(rng, n_examples):
        common = np.repeat(rng.normal(size=n_examples), 20)
        return [common + rng.normal(size=20 * n_examples) for _ in range(2)]

    def table(rng, n_examples):
        example = pd.Series(np.repeat(np.arange(n_examples), 20))
        return overlaps(["a", "b"], draw(rng, n_examples), example, "loss").iloc[0]

    truth = table(np.random.default_rng(0), 20_000)["jaccard"]
    rows = [table(np.random.default_rng([1, trial]), 60) for trial in range(300)]
    covered = np.mean([row["low"] <= truth <= row["high"] for row in rows])
    assert 0.90 <= covered <= 0.98
