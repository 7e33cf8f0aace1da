"""The table of the oracle's validation: its groups, its means and differences by hand, and what its text leaves out."""

from pathlib import Path

import numpy as np
import pytest
from oracle_tokens import tokens
from scipy import stats

from figures.oracle_checkpoints import Stage
from figures.oracle_statistics import (
    ALL,
    COLUMNS,
    ERROR,
    LEARNABLE,
    SPREAD,
    groups,
    rows_of,
    summary,
    validation_table,
)


@pytest.fixture(scope="module")
def stages():
    return [Stage(100, Path("x"), tokens(0)), Stage(300, Path("y"), tokens(1, rho=0.0))]


@pytest.fixture(scope="module")
def table(stages):
    return validation_table(stages, 0.25)


def value(table, group, statistic, x, y=ERROR, step=100, minus=""):
    keys = {"group": group, "statistic": statistic, "x": x, "y": y, "step": step, "minus": minus, "corrected": False}
    (row,) = table[np.logical_and.reduce([table[name] == wanted for name, wanted in keys.items()])].to_dict("records")
    return row


def test_the_groups_are_the_classes_and_what_could_be_learnt(stages):
    frame = stages[0].tokens
    found = groups(frame)
    assert list(found) == [
        *(ALL, SPREAD, LEARNABLE, "structure", "fact", "choice"),
        *("fact, told 0 times", "fact, told 1000+ times"),
    ]
    assert len(found[ALL]) == len(found["structure"]) + len(found["fact"]) + len(found["choice"])
    assert len(found[LEARNABLE]) == len(frame) - len(found["fact, told 0 times"])
    assert set(found[SPREAD]["token_class"]) == {"choice"}
    assert "structure" not in groups(frame[frame["token_class"] != "structure"])


def test_the_numbers_are_those_of_the_tokens(stages, table):
    frame = stages[0].tokens
    fact = frame[frame["token_class"] == "fact"]
    assert list(table) == list(COLUMNS)
    assert value(table, ALL, "mean", "loss", "")["estimate"] == pytest.approx(frame["loss"].mean())
    assert value(table, "fact", "mean", ERROR, "")["estimate"] == pytest.approx(fact[ERROR].mean())
    expected = stats.spearmanr(frame["epistemic"], frame[ERROR]).statistic
    assert value(table, ALL, "spearman", "epistemic")["estimate"] == pytest.approx(expected)
    expected = stats.pearsonr(fact["loss"], fact[ERROR]).statistic
    assert value(table, "fact", "pearson", "loss")["estimate"] == pytest.approx(expected)
    taken = frame.nlargest(200, "entropy")[ERROR].sum() / frame[ERROR].sum()
    assert value(table, ALL, "captured", "entropy")["estimate"] == pytest.approx(taken)


def test_the_interval_of_a_mean_is_by_example(stages, table):
    frame = stages[0].tokens
    row = value(table, ALL, "mean", "loss", "")
    away = (frame["loss"] - frame["loss"].mean()).groupby(frame["example_id"]).sum() / len(frame)
    se = np.sqrt(20 / 19 * (away**2).sum())
    half = stats.t.ppf(0.975, row["n_effective"] - 1) * se
    assert row["high"] - row["estimate"] == pytest.approx(half, rel=1e-3)  # n_effective is rounded
    assert row["estimate"] - row["low"] == pytest.approx(half, rel=1e-3)  # n_effective is rounded


def test_a_difference_is_that_of_the_two(table):
    for statistic in ("spearman", "pearson", "captured"):
        one, loss = (value(table, ALL, statistic, name)["estimate"] for name in ("epistemic", "loss"))
        difference = value(table, ALL, statistic, "epistemic", minus="loss")
        assert difference["estimate"] == pytest.approx(one - loss)
        assert difference["low"] > 0  # here epistemic is nearly the error itself


def test_a_constant_rho_has_no_place_in_text_or_picture(table):
    for statistic in ("spearman", "captured"):
        rows = rows_of(table, ALL, statistic)
        assert set(rows.loc[rows["x"] == "rho", "step"]) == {100}
    text = summary(table, 0.25)
    assert text.count("rho") == 9  # three groups, three statistics, the first stage alone
    captured = value(table, ALL, "captured", "epistemic")
    shown = f"epistemic {captured['estimate']:.2f} [{captured['low']:.2f}, {captured['high']:.2f}]"
    assert shown in text
    assert "share of KL(oracle || model) in the top 25% by" in text
