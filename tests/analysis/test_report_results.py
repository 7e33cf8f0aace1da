import pandas as pd
import pytest
import scored_run

from analysis.report_data import load_runs
from analysis.report_results import compare_runs, drawn, results_of
from analysis.report_settings import ReportSettings
from uncertainty.errors import InputError
from uncertainty.scores import read_scores

SETTINGS = ReportSettings(replicates=0, drawn_tokens=100)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = scored_run.write_run(folder / "step-0", 40)
    return [first, scored_run.write_run(folder / "step-9", 40, seed=1, shift=3.0)]


@pytest.fixture(scope="module")
def runs(paths):
    return load_runs(paths)


def test_everything_about_a_run_is_computed_on_its_tokens(runs, paths):
    steps = []
    found = results_of(runs[0], SETTINGS, steps.append)
    scores = read_scores(paths[0])
    assert len(steps) == 5
    assert found.accuracy == (scores["label_rank"] == 0).sum() / scores["label_rank"].notna().sum()
    by_class = found.strata["class"].set_index("stratum")
    assert by_class["n_tokens"].sum() == len(scores)
    assert by_class.loc["number", "enrichment_epistemic"] > 2
    assert by_class["top_share_loss"].sum() == pytest.approx(1.0)
    assert found.extremes.query("kind == 'most'")["token"].tolist()[:2] == [" 12", " 12"]


def test_the_context_of_an_extreme_token_is_its_own(runs, paths):
    found = results_of(runs[0], SETTINGS, lambda step: None).extremes
    scores = read_scores(paths[0]).set_index(["example_id", "index_in_completion"])
    for _, row in found.iterrows():
        token = scores.loc[(row["example_id"], row["index_in_completion"])]
        assert token["token"] == row["token"]
        assert token["epistemic"] == pytest.approx(row["epistemic"])


def test_clouds_are_drawn_from_a_subset_that_the_seed_decides(runs):
    first, again = drawn(runs[0], SETTINGS), drawn(runs[0], SETTINGS)
    assert len(first) == 100
    pd.testing.assert_frame_equal(first, again)
    assert first["loss"].notna().all()
    assert len(drawn(runs[0], ReportSettings())) == runs[0].n_predicted


def test_runs_of_the_same_tokens_are_compared(runs):
    found = compare_runs(runs, SETTINGS, required=True)
    number = found.shares.query("measure == 'loss' and `class` == 'number'").set_index("run")["share_of_high_set"]
    assert number["step-9"] > 1.5 * number["step-0"]
    assert set(found.overlaps["measure"]) == {"loss", "entropy", "epistemic"}


def test_runs_of_other_tokens_are_compared_only_where_that_is_not_asked_for(runs, tmp_path):
    other = load_runs([scored_run.write_run(tmp_path / "other", 30)])[0]
    assert "example 'q-30' is in one of them only" in compare_runs([runs[0], other], SETTINGS, required=False).why_not
    with pytest.raises(InputError, match="step-0 and other are not of the same examples"):
        compare_runs([runs[0], other], SETTINGS, required=True)


@pytest.mark.parametrize(
    "wrong", [{"confidence": 1.0}, {"confidence": 0.0}, {"replicates": -1}, {"kendall_tokens": 1}, {"drawn_tokens": 9}]
)
def test_settings_that_cannot_be_right_are_refused(wrong):
    with pytest.raises(InputError):
        ReportSettings(**wrong)
