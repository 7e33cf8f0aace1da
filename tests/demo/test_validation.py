import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from uncertainty.demo import demo_data_path
from uncertainty.demo.oracle import oracle
from uncertainty.demo.validation import join_truth, oracle_table, truth_frame
from uncertainty.errors import InputError


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in demo_data_path().read_text().splitlines()]


@pytest.fixture
def examples(rows):
    return pd.DataFrame(
        {"id": [r["id"] for r in rows], "messages": [json.dumps(r["messages"]) for r in rows], "truncated": False}
    )


@pytest.fixture
def scores(examples):
    """A token table whose aleatoric is the true entropy plus 0.1 or 0.3, and whose loss is 0.5 above the true one."""
    truth = truth_frame(examples)
    bump = np.where(np.arange(len(truth)) % 2, 0.1, 0.3).astype("float32")
    return pd.DataFrame(
        {
            "example_id": truth["example_id"],
            "index_in_completion": truth["index_in_completion"].astype("int32"),
            "token_id": truth["token_id"].astype("int32"),
            "loss": (truth["true_loss"] + 0.5).astype("float32"),
            "entropy": (truth["true_entropy"] + 0.25).astype("float32"),
            "aleatoric": (truth["true_entropy"] + bump).astype("float32"),
            "epistemic": np.where(truth["token_class"] == "fact", 0.2, 0.01).astype("float32"),
        }
    ).sample(frac=1, random_state=0)


def test_means_and_differences_are_those_of_the_scores_made_by_hand(scores, examples):
    table = oracle_table(scores, examples)
    assert table.index[0] == "all"
    assert table.loc["all", "tokens"] == len(scores)
    assert table["reducible"].to_numpy() == pytest.approx(0.5, abs=1e-5)
    assert (table["entropy"] - table["true_entropy"]).to_numpy() == pytest.approx(0.25, abs=1e-5)
    assert (table["aleatoric"] - table["true_entropy"]).to_numpy() == pytest.approx(table["aleatoric_error"].to_numpy())
    assert table.loc["structure", ["true_entropy", "true_loss"]].tolist() == [0, 0]
    assert table.loc["fact", "epistemic"] == pytest.approx(0.2)
    assert table.loc["choice", "epistemic"] == pytest.approx(0.01)
    assert 0.1 < table.loc["all", "aleatoric_error"] < 0.3


def test_the_groups_are_a_partition_by_class_and_of_the_facts_by_frequency(scores, examples):
    table = oracle_table(scores, examples)
    told = table.index.str.startswith("fact, told ")
    assert table.loc[~told, "tokens"].iloc[1:].sum() == len(scores)
    assert table.loc[told, "tokens"].sum() == table.loc["fact", "tokens"]
    assert table.index[told][0] == "fact, told 0 times"


def test_rank_correlation_is_spearmans_and_missing_where_the_truth_is_constant(scores, examples):
    table = oracle_table(scores, examples)
    joined = join_truth(scores, examples)
    choice = joined[joined["token_class"] == "choice"]
    expected = stats.spearmanr(choice["aleatoric"], choice["true_entropy"]).statistic
    assert table.loc["choice", "aleatoric_rank_correlation"] == pytest.approx(expected)
    assert 0.5 < expected < 1
    assert table.loc[["structure", "fact"], "aleatoric_rank_correlation"].isna().all()


def test_the_truth_joined_on_is_the_oracles(rows, scores, examples):
    joined = join_truth(scores, examples)
    for row in rows[:5]:
        truths = oracle(row)
        mine = joined[joined["example_id"] == row["id"]].sort_values("index_in_completion")
        assert mine["token_class"].tolist() == [truth.token_class for truth in truths]
        assert mine["true_entropy"].tolist() == [truth.entropy for truth in truths]
        assert mine["true_loss"].tolist() == [-math.log(truth.probability) for truth in truths]


def test_a_part_of_the_examples_may_be_held_against_the_truth(scores, examples):
    some = examples.head(3)
    table = oracle_table(scores[scores["example_id"].isin(some["id"])], some)
    assert table.loc["all", "tokens"] == len(truth_frame(some))


def test_only_a_truncated_example_may_lack_tokens(scores, examples):
    first = examples["id"][0]
    cut = scores[(scores["example_id"] != first) | (scores["index_in_completion"] < 3)]
    with pytest.raises(InputError, match=f"{first}'.*token 3 of the completion stands in the conversation but has no"):
        oracle_table(cut, examples)
    examples.loc[0, "truncated"] = True
    assert oracle_table(cut, examples).loc["all", "tokens"] == len(cut)


def test_scores_of_other_tokens_are_refused(scores, examples):
    with pytest.raises(InputError, match="has another token id than the demo tokenizer"):
        oracle_table(scores.assign(token_id=scores["token_id"] + 1), examples)
    with pytest.raises(InputError, match="has a score but no place"):
        oracle_table(scores, examples.iloc[1:])
    with pytest.raises(InputError, match="not a question of the demo language"):
        oracle_table(
            scores, examples.assign(messages='[{"role":"user","content":"Hi"},{"role":"assistant","content":""}]')
        )
