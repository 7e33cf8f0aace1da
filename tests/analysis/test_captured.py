"""The captured share: by hand, by its definition, its interval by leaving out examples, and what is refused."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.by_example import number_examples
from analysis.captured import CAPTURED_COLUMNS, captured_share, captured_shares
from analysis.ranks import rank
from uncertainty.errors import InputError


def share(amount, signal, fraction):
    return captured_share(np.array(amount, dtype=float), rank(np.array(signal, dtype=float)), fraction).value


def simulated(seed, n_examples=60, spread=1.0):
    """Tokens of examples that differ in level, by a factor e^spread; the signal is the amount with noise and ties."""
    rng = np.random.default_rng(seed)
    example = np.repeat(np.arange(n_examples), rng.integers(3, 30, n_examples))
    amount = rng.gamma(0.4, np.exp(spread * rng.normal(size=n_examples))[example])
    signal = np.round(np.log(amount + 1e-3) + rng.normal(size=len(example)), 1)
    return pd.DataFrame({"example": example, "kl": amount, "signal": signal, "other": rng.normal(size=len(example))})


def test_a_share_worked_by_hand():
    # The two largest of the signal are the tokens with amounts 5 and 1, of 10 in all.
    assert share([1, 4, 5, 0], [9, 1, 8, 2], 0.5) == pytest.approx(0.6)


def test_tokens_that_tie_at_the_edge_share_the_room_that_is_left():
    # One place is left for the three that tie: a third of 4 + 5 + 0.
    assert share([1, 4, 5, 0], [9, 8, 8, 8], 0.5) == pytest.approx((1 + 3) / 10)
    assert share([1, 4, 5, 0], [7, 7, 7, 7], 0.5) == pytest.approx(0.5)


def test_the_ideal_selector_captures_its_definition_and_no_signal_captures_more():
    frame = simulated(0)
    table = captured_shares(frame, "kl", ("signal", "other"), fraction=0.25).set_index("signal")
    amounts = np.sort(frame["kl"].to_numpy())[::-1]
    n_taken = round(0.25 * len(amounts))
    assert table.loc["ideal", "estimate"] == pytest.approx(amounts[:n_taken].sum() / amounts.sum())
    assert table["estimate"].max() == table.loc["ideal", "estimate"]
    assert table.loc["random", "estimate"] == n_taken / len(amounts)
    assert table.loc["other", "low"] < 0.25 < table.loc["other", "high"]


def test_random_is_the_mean_over_random_selections():
    frame = simulated(1)
    rng = np.random.default_rng(0)
    drawn = [share(frame["kl"], rng.permutation(len(frame)), 0.25) for _ in range(2000)]
    expected = captured_shares(frame, "kl", ("signal",)).set_index("signal").loc["random", "estimate"]
    assert np.mean(drawn) == pytest.approx(expected, abs=4 * np.std(drawn) / math.sqrt(2000))


def test_the_share_does_not_change_with_the_order_of_rows_or_the_unit_of_the_amount():
    frame = simulated(2)
    table = captured_shares(frame, "kl", ("signal", "other"), minus="signal")
    other = captured_shares(frame.sample(frac=1, random_state=0).assign(kl=lambda f: 7 * f["kl"]), "kl",
                            ("signal", "other"), minus="signal")  # fmt: skip
    pd.testing.assert_frame_equal(table, other)


def test_the_influences_give_the_standard_error_that_leaving_out_examples_gives():
    for seed in range(3):
        frame = simulated(seed, n_examples=150)
        amount, signal = frame["kl"].to_numpy(), frame["signal"].to_numpy()
        found = captured_share(amount, rank(signal), 0.25)
        examples = number_examples(frame["example"])
        by_influence = math.sqrt(np.sum((examples.sums(found.influence_N) / len(frame)) ** 2))
        left = [share(amount[frame["example"] != d], signal[frame["example"] != d], 0.25) for d in range(150)]
        jackknife = math.sqrt(149 / 150 * np.sum((np.array(left) - np.mean(left)) ** 2))
        assert by_influence == pytest.approx(jackknife, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "least"), [(0.5, 0.91), (1.0, 0.86)])
def test_intervals_by_example_cover_the_share_of_a_large_population(spread, least):
    big = simulated(99, 40_000, spread)
    truth = captured_shares(big, "kl", ("signal", "other"), minus="other").set_index(["signal", "minus"])["estimate"]
    hits = dict.fromkeys((("signal", ""), ("ideal", ""), ("signal", "other")), 0)
    for seed in range(300):
        table = captured_shares(simulated(seed, 100, spread), "kl", ("signal", "other"), minus="other")
        table = table.set_index(["signal", "minus"])
        for key in hits:
            hits[key] += table.loc[key, "low"] <= truth[key] <= table.loc[key, "high"]
    for key, count in hits.items():
        assert least <= count / 300 <= 0.985, (key, count)


def test_differences_are_those_of_the_shares():
    table = captured_shares(simulated(3), "kl", ("signal", "other"), minus="signal").set_index(["signal", "minus"])
    expected = table.loc[("other", ""), "estimate"] - table.loc[("signal", ""), "estimate"]
    assert table.loc[("other", "signal"), "estimate"] == pytest.approx(expected)
    assert table.loc[("other", "signal"), "high"] < 0
    assert list(table.reset_index()[list(CAPTURED_COLUMNS)]) == list(CAPTURED_COLUMNS)
    assert ("signal", "signal") not in table.index


def test_a_constant_signal_captures_its_fraction_and_has_no_interval():
    frame = simulated(4).assign(rho=0.0)
    table = captured_shares(frame, "kl", ("signal", "rho"), minus="signal").set_index(["signal", "minus"])
    assert table.loc[("rho", ""), "estimate"] == pytest.approx(round(len(frame) / 4) / len(frame))
    for key in (("rho", ""), ("rho", "signal")):
        assert table.loc[key, "warning"] == "rho is constant"
        assert math.isnan(table.loc[key, "low"])


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        ({"kl": -1.0}, {}, "negative or infinite"),
        ({"kl": np.inf}, {}, "negative or infinite"),
        ({"kl": 0.0}, {}, "0 for every token"),
        ({}, {"fraction": 1.0}, "fraction is 1.0"),
        ({}, {"confidence": 0.0}, "confidence"),
        ({}, {"minus": "missing"}, "minus is 'missing'"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(change, settings, said):
    with pytest.raises(InputError, match=said):
        captured_shares(simulated(5).assign(**change), "kl", ("signal",), **settings)


def test_one_token_has_no_top():
    with pytest.raises(InputError, match="takes at least 2"):
        captured_shares(simulated(5).head(1), "kl", ("signal",))
