"""What the command prints of a curve."""

import doctest
import math

import pytest
from pass_curves import curve

from analysis import convergence_text
from analysis.convergence import ESTIMATES, convergence_table
from analysis.convergence_needs import Need, Purpose, needs, purposes
from analysis.convergence_text import needs_text, table_text


@pytest.fixture(scope="module")
def table():
    return convergence_table(curve())


def test_the_table_shows_each_number_of_passes_and_marks_what_is_predicted(table):
    lines = table_text(table, 0.25).splitlines()
    assert [line.split()[0] for line in lines[2:8]] == ["5", "10", "20", "50", "100", "200"]
    row = table[(table["estimate"] == ESTIMATES[0]) & (table["passes"] == 100)].iloc[0]
    assert f"{row['agreement']:.3f} [{row['agreement_low']:.3f}, {row['agreement_high']:.3f}]" in lines[6]
    assert [line.count("~") for line in lines[2:8]] == [0, 0, 0, 0, 0, 2]
    assert lines[8].startswith("~ predicted from two runs of 100 passes")
    assert "not what two runs have in common" in lines[9]
    assert len({len(line) for line in lines[:8]}) == 1


def text(passes, *, measured=False, low=math.nan, high=math.nan, name="ranking", table):
    need = Need(Purpose(name, 0.95 if name == "ranking" else 0.02), ESTIMATES[0], passes, low, high, measured)
    return needs_text(table, [need], 0.25)


def test_a_sentence_says_how_many_passes_and_what_that_rests_on(table):
    assert "(Spearman 0.95 or more): 50 passes are enough (measured at 100: 0." in text(
        50.0, measured=True, table=table
    )
    far = text(341.0, low=250.4, high=480.0, table=table)
    assert "about 350 passes, extrapolated, 260 to 480 by the interval (measured at 100: 0." in far
    assert "more than 4,000 passes" in text(math.inf, table=table)
    assert "cannot be told from this run" in text(math.nan, table=table)
    assert "180 to more than 4,000 by the interval" in text(900.0, low=171.0, high=math.inf, table=table)


def test_the_level_is_told_with_its_noise_and_bias(table):
    said = text(300.0, name="level", table=table)
    assert said.startswith("To know the mean of epistemic within 2 %: about 300 passes, extrapolated (")
    assert "of noise, −0.50 % of bias at 200)" in said


def test_every_purpose_has_its_sentence(table):
    said = needs_text(table, needs(table, purposes()), 0.25).splitlines()
    assert [line.split()[1] for line in said] == ["rank", "select", "know", "know"]
    assert all(line.endswith(".") for line in said)


def test_doctests_hold():
    assert doctest.testmod(convergence_text).failed == 0
