"""Who owns a token, and intervals from influences summed by example, against textbook formulas."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.by_example import Examples, few_examples, number_examples, t_interval, usable_tokens
from uncertainty.errors import InputError


def numbered(*owners: object) -> Examples:
    return number_examples(pd.Series(list(owners), name="example"))


@pytest.mark.parametrize("owners", [(7, 3, 7, 3, 3), ("b", "a", "b", "a", "a"), (10**12, -4, 10**12, -4, -4)])
def test_examples_are_numbered_in_ascending_order(owners: tuple[object, ...]) -> None:
    examples = numbered(*owners)
    assert examples.code_N.tolist() == [1, 0, 1, 0, 0]
    assert examples.names_D.tolist() == sorted(set(owners), key=str if isinstance(owners[0], str) else None)
    assert examples.n_tokens_D.tolist() == [3, 2]
    assert examples.counts() == {"n_tokens": 5, "n_examples": 2, "n_effective": 1.9}
    assert examples.sums(np.arange(5.0)).tolist() == [8, 2]


def test_the_effective_number_is_that_of_equal_examples() -> None:
    assert numbered(*range(12), *range(12)).n_effective == 12
    assert numbered(*[0] * 99, 1).n_effective == pytest.approx(100**2 / (99**2 + 1))


def test_with_one_token_each_the_interval_of_a_mean_is_students() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    interval = t_interval(values.mean(), values - values.mean(), numbered(*range(50)), 0.9, "plain")
    expected = stats.t.interval(0.9, 49, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert interval.warning == ""


def test_copies_of_a_token_in_its_example_add_nothing() -> None:
    values = np.random.default_rng(0).standard_normal(40)
    once = t_interval(values.mean(), values - values.mean(), numbered(*range(40)), 0.95, "plain")
    owners = numbered(*np.repeat(np.arange(40), 25))
    copied = t_interval(values.mean(), owners.sums(np.repeat(values - values.mean(), 25)), owners, 0.95, "plain")
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize(("scale", "estimate"), [("fisher", 0.9), ("share", 0.9), ("share", 0.02)])
def test_limits_stay_inside_the_range_and_agree_with_the_plain_ones_when_narrow(scale: str, estimate: float) -> None:
    influence = np.random.default_rng(0).standard_normal(50)
    owners = numbered(*range(50))
    wide = t_interval(estimate, influence / 2, owners, 0.95, scale)  # type: ignore[arg-type]
    assert (-1 if scale == "fisher" else 0) <= wide.low < estimate < wide.high <= 1
    narrow, plain = (
        t_interval(estimate, influence / 1e4, owners, 0.95, kind)  # type: ignore[arg-type]
        for kind in (scale, "plain")
    )
    assert narrow.high - narrow.low == pytest.approx(plain.high - plain.low, rel=1e-3)


@pytest.mark.parametrize(("scale", "estimate"), [("fisher", 1.0), ("fisher", -1.0), ("share", 0.0), ("share", 1.0)])
def test_at_the_edge_of_its_range_an_estimate_has_no_interval(scale: str, estimate: float) -> None:
    interval = t_interval(estimate, np.zeros(50), numbered(*range(50)), 0.95, scale)  # type: ignore[arg-type]
    assert math.isnan(interval.low)
    assert interval.warning == "no interval: the estimate is at the edge of its range"


def test_an_undefined_estimate_has_no_interval() -> None:
    interval = t_interval(math.nan, np.zeros(50), numbered(*range(50)), 0.95, "fisher")
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_one_example_with_nearly_all_tokens_gives_a_hopelessly_wide_interval_and_a_warning() -> None:
    owners = numbered(*[0] * 10_000, *range(1, 40))
    influence = owners.sums(np.random.default_rng(0).standard_normal(owners.n_tokens))
    interval = t_interval(0.3, influence, owners, 0.95, "fisher")
    assert interval.low < -0.99
    assert interval.high > 0.99
    assert interval.warning == few_examples(owners)
    assert "only 40 examples, as uneven in length as 1.0 equal ones" in interval.warning


def test_usable_tokens_have_every_column_and_keep_the_optional_as_they_are() -> None:
    frame = pd.DataFrame(
        {
            "example": [5, 5, 9, 9],
            "loss": np.array([1, np.nan, 3, 4], dtype=np.float32),
            "rank": pd.array([1, 2, None, 4], dtype="Int32"),
            "se": [np.nan, 1, 1, 1],
        }
    )
    columns, examples, n_dropped = usable_tokens(frame, ["loss", "rank"], optional=("se", "absent"))
    assert (columns["loss"].tolist(), columns["rank"].tolist(), n_dropped) == ([1, 4], [1, 4], 2)
    assert columns["loss"].dtype == np.float32
    assert math.isnan(columns["se"][0])
    assert set(columns) == {"loss", "rank", "se"}
    assert examples.names_D.tolist() == [5, 9]


def test_a_token_without_an_example_is_refused() -> None:
    with pytest.raises(InputError, match="column 'example': 1 tokens have no example"):
        numbered("a", None)
