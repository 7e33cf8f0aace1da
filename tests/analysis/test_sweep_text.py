import numpy as np
from sweep_toys import random_series, series

from analysis.sweep import distribution_table, step_table, trend_table
from analysis.sweep_sites import site_table
from analysis.sweep_text import sweep_text

RATES = (0.01, 0.05, 0.1, 0.3)


def text(*found):
    return sweep_text(distribution_table(found), step_table(found), trend_table(found), site_table(found))


def test_a_rising_sweep_says_so_with_its_numbers():
    one = random_series(0, 40, 5, RATES, 2.0)
    lines = text(one).splitlines()
    assert lines[0] == "toy on rows, dropout at attention (2 sites): 40 examples, 200 tokens, 20 passes"
    assert lines[1].split()[1:] == ["0.01", "0.05", "0.1", "0.3"]
    assert lines[2].split()[2:-1] == [f"{one.epistemic[rate].mean():.3g}" for rate in RATES]
    assert (
        lines[5]
        == "  mean: rises at every step from rate 0.01 to 0.3 (all rates), 3 of 3 steps with an interval above 0"
    )
    share = float((np.diff(one.epistemic, axis=1) > 0).all(axis=1).mean())
    assert lines[6].startswith(f"  single tokens: {share:.1%} rise at every step, Kendall's tau 0.")
    assert "at most" in lines[6]  # these have no standard errors, so that every fall is beyond them
    assert lines[6].rstrip("0123456789").endswith("Page's test over examples p = 1.6e-") or "p =" in lines[6]


def test_a_fall_at_the_end_is_told():
    falling = {0.1: [1.0] * 60, 0.3: [2.0] * 60, 0.9: [1.5] * 60}
    told = text(series(falling, standard_error=9.0))
    assert "rises at every step from rate 0.1 to 0.3; highest at 0.3, 1 of 1 steps with an interval above 0" in told
    assert "0.0% rise at every step" in told
    assert "none falls beyond noise at a step" in told


def test_few_examples_are_told_once():
    found = [random_series(0, 12, 5, RATES, 1.0, sites=sites) for sites in ("attention", "mlp")]
    assert text(*found).count("12 examples: ") == 1


def test_sites_are_compared_at_the_rate_nearest_to_a_tenth():
    whole = random_series(0, 40, 5, (0.02, 0.12, 0.5), 1.0, sites="attention+mlp", n_sites=4)
    part = series({rate: whole.epistemic[rate] / 4 for rate in (0.02, 0.12, 0.5)}, whole.epistemic.index)
    told = text(part, whole)
    assert "toy on rows: sensitivity by sites at rate 0.12" in told
    rows = [line.split() for line in told.splitlines()[-2:]]
    mean = whole.epistemic[0.12].mean()
    assert rows == [
        ["attention+mlp", "8", f"{mean:.3g}", "1.00", "reference"],
        ["attention", "2", f"{mean / 4:.3g}", "0.25", "1.000"],
    ]
