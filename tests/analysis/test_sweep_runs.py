import numpy as np
import pytest
from sweep_toys import info, write_run, write_sweep

from analysis.sweep_runs import find_runs, read_series
from uncertainty.errors import InputError
from uncertainty.scores import read_scores

RATES = (0.1, 0.2, 0.5)


def test_a_sweep_is_read_as_one_series_per_set_of_sites(tmp_path):
    folder = write_sweep(tmp_path / "sweep", RATES, ("attention", "attention+mlp"))
    runs, unfinished = find_runs(folder)
    assert unfinished == []
    found = read_series(runs)
    assert [(one.model, one.dataset, one.sites, one.passes) for one in found] == [
        ("toy", "rows", "attention", 20),
        ("toy", "rows", "attention+mlp", 20),
    ]
    assert [one.rates for one in found] == [RATES, RATES]
    assert [run.kinds for run in found[1].runs] == ["attention+mlp"] * 3
    assert [run.n_sites for one in found for run in one.runs] == [1, 1, 1, 4, 4, 4]


def test_each_column_holds_the_values_of_its_run(tmp_path):
    folder = write_sweep(tmp_path / "sweep", RATES)
    (one,) = read_series(find_runs(folder)[0])
    for rate in RATES:
        scores = read_scores(folder / f"attention-{rate}").dropna(subset="epistemic")
        np.testing.assert_array_equal(one.epistemic[rate], scores["epistemic"])
        np.testing.assert_array_equal(one.standard_error[rate], scores["epistemic_se"])
        assert list(one.epistemic.index) == list(scores["example_id"].factorize()[0])
    np.testing.assert_allclose(one.epistemic[0.5], 5 * one.epistemic[0.1], rtol=1e-6)
    assert one.n_left_out == 0


def test_runs_are_in_the_order_of_their_rates_not_of_their_names(tmp_path):
    folder = write_sweep(tmp_path / "sweep", (0.5, 0.09, 0.1))
    assert read_series(find_runs(folder)[0])[0].rates == (0.09, 0.1, 0.5)


def test_unfinished_runs_are_named_and_left_out(tmp_path):
    folder = write_sweep(tmp_path / "sweep", (0.1,))
    write_run(folder / "attention-0.2", info(0.2), finish=False)
    runs, unfinished = find_runs(folder)
    assert [run.rate for run in runs] == [0.1]
    assert unfinished == [folder / "attention-0.2"]


def test_tokens_that_one_run_lacks_are_left_out_of_all(tmp_path, monkeypatch):
    folder = write_sweep(tmp_path / "sweep", (0.1, 0.2))
    whole = read_series(find_runs(folder)[0])[0]

    def without_first_example(run, **how):
        scores = read_scores(run, **how)
        return scores[scores["example_id"] != "row-0-0"] if run.name.endswith("0.1") else scores.iloc[::-1]

    monkeypatch.setattr("analysis.sweep_runs.read_scores", without_first_example)
    part = read_series(find_runs(folder)[0])[0]
    assert part.n_left_out == int((whole.epistemic.index == 0).sum()) == 9
    np.testing.assert_array_equal(part.epistemic, whole.epistemic[whole.epistemic.index != 0])


def test_a_demo_is_called_so_and_a_file_by_its_folder(tmp_path):
    run = info(0.1)
    run.record["model"] = {"name": "/somewhere/uncertainty/demo/model"}
    run.record["dataset"] = {"origin": "../data/gsm8k/test.jsonl"}
    write_run(tmp_path / "sweep" / "one", run)
    (one,) = read_series(find_runs(tmp_path / "sweep")[0])
    assert (one.model, one.dataset) == ("demo", "gsm8k/test.jsonl")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"passes": 10}, "differ in passes; the runs of a sweep may differ in rate and sites only"),
        ({"seed": 1, "limit": 5}, "differ in limit, seed;"),
        ({"family": info(0.1).settings["family"]}, "have the same model, data, sites and rate"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, settings, message):
    write_run(tmp_path / "one", info(0.1))
    write_run(tmp_path / "two", info(0.2, **settings))
    with pytest.raises(InputError, match=message):
        read_series(find_runs(tmp_path)[0])


def test_runs_of_another_version_can_be_compared(tmp_path):
    write_run(tmp_path / "one", info(0.1, versions={"torch": "1"}))
    write_run(tmp_path / "two", info(0.2, versions={"torch": "2"}))
    assert len(read_series(find_runs(tmp_path)[0])) == 1


def test_models_are_told_apart_by_what_they_are_not_by_name(tmp_path):
    write_run(tmp_path / "one", info(0.1))
    write_run(tmp_path / "two", info(0.1, model={"name": "toy", "files": {"weights": "another sha256"}}))
    assert len(read_series(find_runs(tmp_path)[0])) == 2


def test_a_run_of_another_family_is_refused(tmp_path):
    noise = {"family": "weight-noise", "rate": 0.1, "noise": "gaussian", "sites": []}
    write_run(tmp_path / "noise", info(0.1, family=noise))
    with pytest.raises(InputError, match="drawn by --family weight-noise, and a sweep is of dropout rates"):
        find_runs(tmp_path)


def test_what_is_no_sweep_is_one_line(tmp_path):
    with pytest.raises(InputError, match="does not exist; name the folder that unc-sweep wrote"):
        find_runs(tmp_path / "none")
    with pytest.raises(InputError, match="holds no run folder"):
        find_runs(tmp_path)
    write_run(tmp_path / "half", info(0.1), finish=False)
    with pytest.raises(InputError, match="holds 1 unfinished runs"):
        find_runs(tmp_path)
    foreign = info(0.1)
    del foreign.settings["family"]
    write_run(tmp_path / "other", foreign)
    with pytest.raises(InputError, match="does not say at which dropout rate it was scored"):
        find_runs(tmp_path)
