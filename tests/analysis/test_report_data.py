import doctest
from pathlib import Path

import numpy as np
import pytest
import scored_run
import toy_run

from analysis import report_data
from analysis.report_data import load_runs, run_facts_table, step_names, texts_of
from uncertainty.errors import InputError
from uncertainty.run_info import RunInfo
from uncertainty.scores import read_scores


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return scored_run.write_run(tmp_path_factory.mktemp("run") / "a", 20)


def test_doctests_hold():
    assert doctest.testmod(report_data).failed == 0


def test_the_frame_is_the_score_table_in_small_columns(path):
    (run,) = load_runs([path])
    scores = read_scores(path)
    assert [run.ids[code] for code in run.tokens["example"]] == scores["example_id"].tolist()
    assert run.tokens["token"].tolist() == scores["token"].tolist()
    for name in ("turn", "position", "index_in_completion", "token_id", "char_start", "char_end", "is_special"):
        assert run.tokens[name].tolist() == scores[name].tolist()
    for name in ("loss", "epistemic", "epistemic_se", "label_prob"):
        assert run.tokens[name].dtype == np.float32
        np.testing.assert_array_equal(run.tokens[name], scores[name])
    assert run.tokens["is_best"].tolist() == (scores["label_rank"] == 0).fillna(False).tolist()
    assert run.n_truncated == 1
    assert run.n_predicted == scores["loss"].notna().sum() < len(scores)


def test_rows_stay_small(path):
    (run,) = load_runs([path])
    per_row = run.tokens.memory_usage(index=False, deep=False).drop("token").sum() / len(run.tokens)
    assert per_row <= 8 * 4 + 2 + 9 * 4


def test_rho_is_loss_minus_the_reference_loss(path, tmp_path):
    other = scored_run.write_run(tmp_path / "ref", 20, seed=1)
    (run,) = load_runs([path], reference=other)
    difference = read_scores(path)["loss"] - read_scores(other)["loss"]
    np.testing.assert_allclose(run.tokens["rho"], difference, rtol=1e-6)
    assert run.reference == "ref"


def test_a_reference_of_other_tokens_is_refused(path, tmp_path):
    other = scored_run.write_run(tmp_path / "ref", 21)
    with pytest.raises(InputError, match="example 'q-20' is in one of them only"):
        load_runs([path], reference=other)


def test_the_same_folder_twice_is_refused(path):
    with pytest.raises(InputError, match="is given twice"):
        load_runs([path, Path(path.parent / "." / "a")])


def test_runs_of_one_name_are_told_apart(path, tmp_path):
    (tmp_path / "other").mkdir()
    other = scored_run.write_run(tmp_path / "other" / "a", 10)
    runs = load_runs([path, other])
    assert [run.name for run in runs] == [f"{path.parent.name}/a", "other/a"]
    assert len({run.slug for run in runs}) == 2


def test_texts_are_those_of_the_examples_asked_for(path):
    (run,) = load_runs([path])
    texts = texts_of(run, ["q-3", "q-3", "q-5"])
    assert sorted(texts["id"]) == ["q-3", "q-5"]


def test_what_was_run_is_told_as_far_as_it_is_known(path, tmp_path):
    facts = dict(run_facts_table(load_runs([path])[0]))
    assert facts["model"] == "toy"
    assert facts["data"] == "toy.jsonl"
    assert facts["dropout passes"] == "20"
    assert facts["skipped rows"] == "1 (empty_completion 1)"
    toy_run.score_toy(tmp_path / "bare")
    assert dict(run_facts_table(load_runs([tmp_path / "bare"])[0]))["model"] == "toy"


def test_a_damaged_shard_is_named(tmp_path):
    path = scored_run.write_run(tmp_path / "a", 12)
    file = path / "tokens" / "part-00001.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"part-00001\.parquet is damaged"):
        load_runs([path])


def test_probes_of_one_training_are_named_by_their_steps():
    def probed(run, *steps):
        return [RunInfo({"training": {"run": run, "step": step}}) for step in steps]

    assert step_names(probed("a", 0, 12_000)) == ["step 0", "step 12,000"]
    assert step_names([*probed("a", 0), *probed("b", 5)]) == []
    assert step_names(probed("a", 5, 5)) == []
    assert step_names([*probed("a", 0), RunInfo({"training": None}), RunInfo({})]) == []
