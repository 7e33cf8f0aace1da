"""The embedded run held against the truth of its language: what the README's table says, at fewer passes."""

import pytest

from uncertainty.demo.validation import oracle_table
from uncertainty.scoring import score_dataset


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    run = score_dataset(out=tmp_path_factory.mktemp("demo") / "run", passes=20)
    return oracle_table(run.scores(), run.examples())


@pytest.mark.slow
def test_aleatoric_follows_the_true_entropy_where_the_language_is_random(table):
    for group in ("choice", "draw", "label"):
        assert table.loc[group, "aleatoric_rank_correlation"] > 0.9
        assert table.loc[group, "aleatoric"] == pytest.approx(table.loc[group, "true_entropy"], abs=0.1)


@pytest.mark.slow
def test_tokens_fixed_by_the_grammar_carry_almost_no_uncertainty(table):
    assert table.loc["structure", "aleatoric"] < 0.01
    assert table.loc["structure", "epistemic"] < 0.01
    assert table.loc["structure", "loss"] < 0.01


@pytest.mark.slow
def test_loss_and_epistemic_fall_with_how_often_a_fact_was_told(table):
    facts = table[table.index.str.startswith("fact, told")]
    assert facts["loss"].is_monotonic_decreasing
    seldom, often = facts.iloc[:3], facts.iloc[-3:]
    assert seldom["epistemic"].min() > 2 * often["epistemic"].max()


@pytest.mark.slow
def test_epistemic_is_where_there_is_something_to_learn(table):
    ignorant = table.loc[["fact", "arithmetic"], "epistemic"].min()
    assert ignorant > 3 * table.loc[["structure", "choice", "label"], "epistemic"].max()


@pytest.mark.slow
def test_dropout_calls_most_ignorance_aleatoric_as_the_readme_says(table):
    """A limit of the method, pinned so that the README's warning stays true: at deterministic tokens the true entropy
    is 0, and yet aleatoric is far above epistemic."""
    for group in ("fact", "arithmetic"):
        assert table.loc[group, "true_entropy"] == 0
        assert table.loc[group, "aleatoric"] > 5 * table.loc[group, "epistemic"]
