import math

import numpy as np
import pandas as pd
import pytest
from mask_runs import ONE_PASS, WORTH, info, tokens

from analysis.pass_costs import (
    COST_COLUMNS,
    cost_table,
    enough_passes,
    groups_of_run,
    pass_errors,
    rare_share,
    typical_error,
)
from uncertainty.run_info import RunInfo


def hand_made(relative, passes=100, n_examples=12):
    """One token an example, each with the same error."""
    values = {"epistemic": 0.02, "epistemic_se": 0.02 * relative, "n_passes": passes}
    return pd.DataFrame([{"example": n, "position": 1} | values for n in range(n_examples)])


def test_a_case_by_hand():
    # Equal errors of 15 % at 100 passes would take 225 for 10 %. The mean of log(chi^2 / 9) at 9 degrees of freedom is
    # digamma(4.5) - log(4.5) = 1.38887 - 1.50408, so the true error is larger by the factor exp(0.11521) in square.
    table = cost_table(pass_errors(hand_made(0.15), info()), 0.95)
    assert tuple(table.columns) == COST_COLUMNS
    assert table["relative_error"].tolist() == [0.2, 0.1, 0.05]
    assert table["passes"].tolist() == pytest.approx([56.25 * 1.12211, 225 * 1.12211, 900 * 1.12211], rel=1e-4)
    assert table["passes_nine_in_ten"].tolist() == pytest.approx([56.25, 225, 900], rel=1e-5)
    assert table["low"].tolist() == pytest.approx(table["passes"].tolist())  # all examples say the same
    assert table["share_within"].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("masks", "worth"), [("iid", 1.0), ("balanced", WORTH)])
@pytest.mark.parametrize(("passes", "rate", "groups"), [(100, 0.1, 10), (100, 0.05, 5), (50, 0.1, 5)])
def test_the_truth_is_found_whatever_the_passes_and_their_groups(masks, worth, passes, rate, groups):
    said = info(masks, passes=passes, rate=rate)
    groups = groups if masks == "balanced" else 10
    found = cost_table(pass_errors(tokens(masks, passes=passes, groups=groups, seed=3), said), 0.95)
    row = found[found["relative_error"] == 0.1].iloc[0]
    assert row["passes"] == pytest.approx(100 * ONE_PASS**2 / worth, rel=0.08)
    assert row["low"] < row["passes"] < row["high"]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    inside = 0
    for seed in range(60):
        row = cost_table(pass_errors(tokens(n_examples=40, seed=seed), info()), 0.95).iloc[1]
        truth = math.exp(float(np.mean(2 * np.log(_one_pass(40))))) / 0.01
        inside += row["low"] <= truth <= row["high"]
    assert inside >= 53


def _one_pass(n_examples):
    truth = np.random.default_rng(99)
    truth.normal(-4, 1, 25 * n_examples)
    return ONE_PASS * np.exp(0.3 * truth.normal(size=25 * n_examples))


def test_a_typical_error_falls_with_the_root_of_the_passes():
    errors = [typical_error(pass_errors(hand_made(0.2 / math.sqrt(k), 100 * k), info(passes=100 * k))) for k in (1, 4)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=1e-6)


def test_tokens_without_an_error_or_a_value_to_speak_of_are_left_out():
    frame = hand_made(0.2)
    frame.loc[0, "epistemic"], frame.loc[1, "epistemic_se"], frame.loc[2, "epistemic_se"] = 0.0009, np.nan, 0.0
    assert pass_errors(frame, info()).owner.n_tokens == len(frame) - 3
    assert pass_errors(frame.assign(epistemic=1e-6), info()) is None
    assert pass_errors(frame.drop(columns="epistemic_se"), info()) is None
    assert list(cost_table(None, 0.95).columns) == list(COST_COLUMNS)


def test_errors_above_half_of_the_value_are_counted():
    frame = pd.concat([hand_made(0.2), hand_made(0.6)], ignore_index=True)
    assert rare_share(pass_errors(frame, info())) == 0.5


def test_few_examples_have_no_interval():
    table = cost_table(pass_errors(hand_made(0.2, n_examples=1), info()), 0.95)
    assert table["low"].isna().all()
    assert table["warning"].iloc[0].startswith("no interval: 1 example")


@pytest.mark.parametrize(("passes", "rate", "groups"), [(100, 0.1, 10), (100, 0.05, 5), (20, 0.1, 1), (75, 0.1, 1)])
def test_groups_are_those_that_masks_are_drawn_in(passes, rate, groups):
    assert groups_of_run(info("balanced", passes=passes, rate=rate)) == groups
    assert groups_of_run(info("iid", passes=passes, rate=rate)) is None


@pytest.mark.parametrize(("passes", "enough"), [(20, 50), (75, 80)])
def test_the_next_number_of_passes_with_groups_is_named(passes, enough):
    assert enough_passes(info("balanced", passes=passes)) == enough
    assert groups_of_run(info("balanced", passes=enough)) > 1


def test_a_target_makes_groups_as_small_as_may_be():
    said = info("balanced", passes=200)
    assert groups_of_run(said) == 10
    assert groups_of_run(RunInfo(said.settings, {"resolved": {"target_se": "10%"}})) == 20
