import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from uncertainty.demo import demo_data_path
from uncertainty.demo.oracle import TokenTruth, facts_seen, oracle
from uncertainty.demo.validation import join_truth, oracle_kl, oracle_table, truth_frame
from uncertainty.demo.words import VOCABULARY
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


def truth(distribution):
    return TokenTruth(1, "x", next(iter(distribution)), "choice", 0.0, distribution, None, None)


def test_the_reducible_error_by_hand():
    coin, certain = truth({1: 0.5, 3: 0.5}), truth({2: 1.0})
    probabilities = np.array([[0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.0, 0.5]])
    with np.errstate(divide="ignore"):
        error = oracle_kl(np.log(probabilities), [coin, certain, coin])
    assert error.tolist() == pytest.approx([math.log(2), -math.log(0.3), 0.0], abs=1e-15)
    assert error.dtype == np.float64


def test_the_reducible_error_is_infinite_where_something_possible_has_probability_zero():
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]))
    # In the second row it is an impossible token that has no probability: nothing is wrong with that.
    error = oracle_kl(log_probs, [truth({0: 0.5, 1: 0.5}), truth({1: 0.25, 2: 0.75})])
    assert error[0] == math.inf
    assert error[1] == pytest.approx(stats.entropy([0.25, 0.75], [0.5, 0.5]))


def test_the_reducible_error_is_scipys_and_the_mean_of_the_loss_above_the_true_loss(rows):
    rng = np.random.default_rng(0)
    truths = [one for row in rows[:20] for one in oracle(row)]
    log_probs = rng.normal(size=(len(truths), len(VOCABULARY))) * 3
    log_probs -= np.log(np.exp(log_probs).sum(1, keepdims=True))
    error = oracle_kl(log_probs, truths)
    for one, log_prob, value in zip(truths, log_probs, error, strict=True):
        p = np.zeros(len(VOCABULARY))
        p[list(one.distribution)] = list(one.distribution.values())
        assert value == pytest.approx(stats.entropy(p, np.exp(log_prob)), rel=1e-12)
        above = sum(q * (math.log(q) - log_prob[token]) for token, q in one.distribution.items())
        assert value == pytest.approx(above)
        if len(one.distribution) == 1:
            assert value == -log_prob[one.token_id]
    assert (error > 0).all()


def test_a_model_that_is_the_oracle_has_no_reducible_error(rows):
    truths = [one for row in rows for one in oracle(row)]
    log_probs = np.full((len(truths), len(VOCABULARY)), -np.inf, dtype=np.float64)
    for row, one in enumerate(truths):
        log_probs[row, list(one.distribution)] = np.log(list(one.distribution.values()))
    assert oracle_kl(log_probs, truths).tolist() == [0.0] * len(truths)


def test_log_probabilities_of_other_tokens_or_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) for 1 tokens"):
        oracle_kl(np.zeros((2, 3)), [truth({0: 1.0})])
    with pytest.raises(ValueError, match="token id 7 is possible in row 0, but V is 3"):
        oracle_kl(np.zeros((1, 3)), [truth({7: 1.0})])


def test_facts_are_grouped_by_how_often_this_model_was_told_them(scores, examples):
    seen = dict.fromkeys(facts_seen(), 5)
    table = oracle_table(scores, examples, seen=seen)
    assert table.index[table.index.str.startswith("fact, told")].tolist() == ["fact, told 1-9 times"]
    assert table.loc["fact, told 1-9 times", "tokens"] == table.loc["fact", "tokens"]
