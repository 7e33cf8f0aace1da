import numpy as np
import pandas as pd
import pytest
from mask_runs import WORTH, info, tokens

from analysis.mask_worth import WORTH_COLUMNS, is_mask_pair, paired_errors, resolved, same_tokens, worth_table

IDS = tuple(f"q-{n}" for n in range(40))


def worth(first, second, infos):
    both = paired_errors((first, infos[0]), (second, infos[1]))
    return worth_table(*both, 0.95).set_index("tokens")


@pytest.mark.parametrize("passes", [100, 50])
def test_the_worth_of_a_balanced_pass_is_found_also_from_fewer_passes(passes):
    groups = passes // 10 if passes < 100 else 10
    infos = info(), info("balanced", passes=passes)
    found = worth(tokens(), tokens("balanced", passes=passes, groups=groups), infos)
    assert list(found.reset_index().columns) == list(WORTH_COLUMNS)
    row = found.loc["all"]
    assert row["worth"] == pytest.approx(WORTH, rel=0.1)
    assert row["low"] < WORTH < row["high"]
    assert row["high"] / row["low"] < 1.3


def test_runs_of_equal_masks_are_worth_the_same():
    row = worth(tokens(seed=1), tokens(seed=2), (info(), info())).loc["all"]
    assert row["low"] < 1 < row["high"]


def test_tokens_whose_error_is_most_of_the_value_are_told_apart():
    first, second = tokens(), tokens("balanced")
    first.loc[:24, "epistemic_se"] = first["epistemic"][:25]  # 100 % in one run, little in the other
    both = paired_errors((first, info()), (second, info("balanced")))
    assert not resolved(*both)[both[0].owner.code_N == 0].any()
    table = worth_table(*both, 0.95).set_index("tokens")
    assert table.loc["resolved", "n_tokens"] <= table.loc["all", "n_tokens"] - (both[0].owner.code_N == 0).sum()


def test_nothing_resolved_leaves_one_row():
    first, second = (frame.assign(epistemic_se=frame["epistemic"]) for frame in (tokens(), tokens("balanced")))
    assert list(worth(first, second, (info(), info("balanced"))).index) == ["all"]


def test_a_run_of_a_part_in_another_order_is_matched_by_id_and_place():
    whole = tokens()
    part = whole[whole["example"].isin([3, 7, 39])].sample(frac=1, random_state=0)
    ids = ("q-39", "q-x", "q-7", "q-3")
    part = part.assign(example=part["example"].map({39: 0, 7: 2, 3: 3}))
    strange = whole[whole["example"] < 2].assign(example=1)  # two rows of one place, of an example the first has not
    first, second = same_tokens((whole, IDS), (pd.concat([part, strange]), ids))
    assert len(first) == len(second) == 75
    np.testing.assert_array_equal(first["position"], second["position"])
    np.testing.assert_array_equal(first["epistemic"], second["epistemic"])


def test_no_common_token_is_no_comparison():
    first, second = same_tokens((tokens(), IDS), (tokens("balanced"), tuple(f"r-{n}" for n in range(40))))
    assert paired_errors((first, info()), (second, info("balanced"))) is None


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (info("balanced"), True),
        (info("balanced", passes=50), True),
        (info("balanced", seed=7, limit=3), True),
        (info("balanced", model={"files": "a", "device": "cuda"}), True),
        (info("balanced", rate=0.2), False),
        (info("balanced", model={"files": "c"}), False),
        (info("balanced", data={"files": "c"}), False),
        (info("iid", seed=7), False),
    ],
)
def test_a_pair_differs_in_its_masks_and_nothing_else_that_counts(other, expected):
    assert is_mask_pair(info(), other) is expected
    assert not is_mask_pair(other, info())
