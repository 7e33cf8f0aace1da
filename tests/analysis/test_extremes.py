import numpy as np
import pandas as pd
import pytest

from analysis.extremes import EXTREMES, Limits, extreme_rows, in_context


@pytest.fixture
def tokens():
    n = 40
    loss = np.arange(n, dtype=float)
    epistemic = np.arange(n, dtype=float)
    loss[5], epistemic[5] = 100.0, 0.0  # loss says train, epistemic says known
    loss[30], epistemic[30] = 0.0, 100.0
    loss[7] = np.nan
    epistemic[7] = np.nan
    return pd.DataFrame(
        {
            "example_id": [f"e{i // 4}" for i in range(n)],
            "token_id": np.arange(n),
            "index_in_completion": np.arange(n) % 4,
            "token": [f" t{i}" for i in range(n)],
            "char_start": (np.arange(n) % 4) * 4,
            "char_end": (np.arange(n) % 4) * 4 + 4,
            "loss": loss,
            "entropy": loss,
            "aleatoric": loss,
            "epistemic": epistemic,
            "epistemic_se": epistemic / 10,
            "label_prob": 0.5,
        }
    )


def chosen(table, kind):
    return table.loc[table["kind"] == kind, "row"].tolist()


def test_each_kind_begins_with_its_most_extreme_token(tokens):
    table = extreme_rows(tokens)
    assert list(dict.fromkeys(table["kind"])) == list(EXTREMES)
    assert chosen(table, "most")[:2] == [30, 39]
    assert chosen(table, "least")[:2] == [0, 5]
    assert chosen(table, "loss_only")[0] == 5
    assert chosen(table, "epistemic_only")[0] == 30


def test_tokens_without_a_prediction_are_never_chosen(tokens):
    assert 7 not in set(extreme_rows(tokens, Limits(n_tokens=40, per_example=40))["row"])


def test_no_list_holds_more_of_one_example_or_one_token_than_allowed(tokens):
    table = extreme_rows(tokens.assign(token_id=np.arange(40) % 5), Limits(n_tokens=8, per_example=1, per_token=2))
    for kind in EXTREMES:
        rows = chosen(table, kind)
        assert max(np.unique(np.array(rows) // 4, return_counts=True)[1]) == 1
        assert max(np.unique(np.array(rows) % 5, return_counts=True)[1]) <= 2


def test_percentiles_say_where_a_token_stands(tokens):
    row = extreme_rows(tokens).query("kind == 'loss_only'").iloc[0]
    assert row["loss_percentile"] == pytest.approx(100 * (38.5 / 39))
    assert row["epistemic_percentile"] < 5


def test_tokens_on_which_both_agree_fill_no_list_of_disagreements(tokens):
    agreed = tokens.assign(epistemic=tokens["loss"])
    assert set(extreme_rows(agreed)["kind"]) == {"most", "least"}


def test_the_context_is_cut_out_of_the_completion(tokens):
    table = extreme_rows(tokens, Limits(n_tokens=1))
    texts = pd.DataFrame({"id": [f"e{i}" for i in range(10)], "completion": ["aaaabbbbccccdddd" + "z" * 60] * 10})
    found = in_context(tokens, table, texts)
    first = found.iloc[0]
    assert (first["before"], first["token"], first["after"][:4]) == ("aaaabbbb", " t30", "dddd")
    assert first["after"].endswith("…")
    assert first["example_id"] == "e7"


def test_a_table_without_any_prediction_has_no_extremes(tokens):
    assert extreme_rows(tokens.assign(loss=np.nan)).empty
