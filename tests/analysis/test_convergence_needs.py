"""How many passes a purpose takes, on tables written by hand and on a curve whose noise is known."""

import json
import math

import pandas as pd
import pytest
from pass_curves import curve

from analysis.convergence import ESTIMATES, MEASURED, convergence_table
from analysis.convergence_needs import Purpose, needs, needs_record, purposes


def rows(agreements, *, counts=(10, 20, 50), power=1.0, noise=0.03, bias=-0.04):
    table = pd.DataFrame({"passes": counts, "agreement": agreements, "overlap": agreements})
    for name in ("agreement", "overlap"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.02, table[name] + 0.02
    table = table.assign(agreement_power=power, overlap_power=power / 2, how=MEASURED, noise=noise, bias=bias)
    return pd.concat([table.assign(estimate=ESTIMATES[0]), table.assign(estimate=ESTIMATES[1], bias=0.0)])


def one(table, name, threshold):
    return needs(table, [Purpose(name, threshold)])[0]


def test_the_first_number_that_was_measured_to_do_is_enough():
    found = one(rows([0.8, 0.96, 0.97]), "ranking", 0.95)
    assert (found.passes, found.measured) == (20, True)
    assert one(rows([0.96, 0.97, 0.98]), "ranking", 0.95).passes == 10


def test_a_number_after_which_it_fails_again_is_not_enough():
    assert one(rows([0.96, 0.94, 0.97]), "ranking", 0.95).passes == 50


def test_ranks_are_extrapolated_by_the_trend():
    found = one(rows([0.5, 0.7, 0.8]), "ranking", 0.95)
    assert not found.measured
    assert found.passes == pytest.approx(50 * 19 / 4)
    assert found.low == pytest.approx(50 * 19 / (0.82 / 0.18))
    assert found.high == pytest.approx(50 * 19 / (0.78 / 0.22))
    slower = one(rows([0.5, 0.7, 0.8], power=0.5), "ranking", 0.95)
    assert slower.passes == pytest.approx(50 * (19 / 4) ** 2)


def test_top_sets_are_extrapolated_by_their_misses():
    assert one(rows([0.5, 0.7, 0.8]), "selection", 0.9).passes == pytest.approx(50 * 4)


def test_a_trend_that_does_not_rise_never_arrives():
    assert one(rows([0.8, 0.8, 0.8], power=0.0), "ranking", 0.95).passes == math.inf


def test_the_level_takes_noise_and_of_the_plug_in_value_bias():
    plain, corrected = needs(rows([0.8] * 3), [Purpose("level", 0.01)])
    times = plain.passes / 50
    assert math.hypot(0.04 / times, 0.03 / math.sqrt(times)) == pytest.approx(0.01)
    assert corrected.passes == pytest.approx(50 * 9)
    assert not plain.measured
    enough = needs(rows([0.8] * 3), [Purpose("level", 0.06)])
    assert [(need.passes, need.measured) for need in enough] == [(10, True), (10, True)]


def test_what_was_not_measured_cannot_be_told():
    table = rows([math.nan] * 3, noise=math.nan)
    assert all(math.isnan(need.passes) for need in needs(table, purposes()))
    assert all(math.isnan(need.passes) for need in needs(table.assign(how=""), purposes()))


def test_the_need_of_a_known_curve_is_the_one_built_in():
    """Spearman .95 takes Pearson .9542 and so 16 / k = 1 / .9542 - 1: 333 passes; 200 were drawn, 100 measured."""
    found = needs(convergence_table(curve(60)), purposes())
    ranking, selection, *level = found
    assert 250 < ranking.passes < 450
    assert ranking.low < ranking.passes < ranking.high
    assert selection.passes > 200
    assert [need.estimate for need in level] == list(ESTIMATES)
    # bias 1 / k above 2 % until 50 passes; noise 4 / sqrt(1500 k) / 4 of the mean is far below
    assert [need.passes for need in level] == [100, 5]


def test_a_record_is_plain_json():
    found = needs(rows([0.8, 0.8, 0.8], power=0.0), purposes())
    assert json.loads(json.dumps([needs_record(need) for need in found]))[0] == {
        "purpose": "ranking", "threshold": 0.95, "estimate": "epistemic", "passes": None, "low": None, "high": None,
        "measured": False,
    }  # fmt: skip
