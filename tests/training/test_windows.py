"""Windows, micro-batches and columns: every example once, in an order that knows nothing of the layout."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_toys import example

from uncertainty.data.batches import collate
from uncertainty.errors import InputError
from uncertainty.training.windows import (
    Collator,
    Windows,
    check_trainable,
    count_targets,
    micro_batch,
    permutation,
    score_column,
    training_loader,
)

EXAMPLES = [example(f"e{i}", list(range(3, 3 + n)), first) for i, (n, first) in enumerate([(5, 2), (3, 1), (4, 4)])]

sizes = {"n": st.integers(1, 60), "batch": st.integers(1, 17), "micro": st.integers(1, 9), "world": st.integers(1, 4)}


def dealt(n, batch, micro, world, epoch=0, seed=0):
    """[step][turn][rank] -> numbers of the examples."""
    ranks = []
    for rank in range(world):
        windows = Windows(n, batch=batch, micro=micro, seed=seed, world=world, rank=rank)
        windows.set_epoch(epoch)
        parts = list(windows)
        assert len(parts) == len(windows) == windows.steps * windows.accumulation
        ranks.append([parts[i : i + windows.accumulation] for i in range(0, len(parts), windows.accumulation)])
    return [list(zip(*step, strict=True)) for step in zip(*ranks, strict=True)]


@given(**sizes, epoch=st.integers(0, 3))
@settings(max_examples=30)
def test_an_epoch_holds_every_example_once_in_the_order_of_the_permutation(n, batch, micro, world, epoch):
    steps = dealt(n, batch, micro, world, epoch)
    windows = [[number for turn in step for part in turn for number in part] for step in steps]
    order = permutation(n, 0, epoch)
    assert windows == [order[i : i + batch] for i in range(0, n, batch)]
    assert sorted(order) == list(range(n))


@given(**sizes)
@settings(max_examples=30)
def test_micro_batches_are_of_the_size_asked_for_and_as_many_in_every_process(n, batch, micro, world):
    for step in dealt(n, batch, micro, world):
        parts = [part for turn in step for part in turn]
        assert len(parts) == world * -(-batch // (micro * world))
        assert all(len(part) <= micro for part in parts)
        full = [part for part in parts if len(part) == micro]
        assert parts[: len(full)] == full  # only the end of a window is short


def test_the_order_hangs_on_seed_and_epoch_alone():
    orders = {tuple(permutation(20, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    torch.manual_seed(1)
    np.random.seed(1)
    assert tuple(permutation(20, 0, 0)) in orders
    assert permutation(5, 0, 0) == [2, 4, 3, 0, 1]  # of numpy's PCG64: the same on every machine


def test_the_loader_gives_whole_steps_and_follows_the_epoch():
    windows = Windows(3, batch=2, micro=1, seed=0)
    loader = training_loader(EXAMPLES, windows, Collator(EXAMPLES[0]))
    for epoch in (0, 1):
        windows.set_epoch(epoch)
        found = [one["micro"].batch.ids for one in loader]
        order = permutation(3, 0, epoch)
        spare = EXAMPLES[0].id
        assert found == [(f"e{order[0]}",), (f"e{order[1]}",), (f"e{order[2]}",), (spare,)]
    assert len(loader) == 4


@pytest.mark.parametrize("packing", [False, True])
def test_a_micro_batch_carries_its_targets_under_their_numbers(packing):
    made = Collator(EXAMPLES[0], pad_id=9, packing=packing, width=9)([(7, EXAMPLES[1]), (4, EXAMPLES[0])])
    micro = made["micro"]
    assert micro.number_N.tolist() == [7, 7, 4, 4, 4]
    assert micro.at.position_N.tolist() == [1, 2, 2, 3, 4]
    assert micro.at.label_N.tolist() == [4, 5, 5, 6, 7]
    assert micro.column_N is None
    assert torch.equal(made["input_ids"], micro.batch.input_ids_BT)
    assert torch.equal(made["labels"], micro.batch.labels_BT)
    assert made["input_ids"].shape == ((1, 8) if packing else (2, 5))
    assert (9 in made["input_ids"]) == (not packing)
    assert count_targets([micro, micro]) == 10


@pytest.mark.parametrize("packing", [False, True])
def test_an_empty_micro_batch_has_tokens_to_run_and_none_to_learn(packing):
    columns = {one.id: np.ones(len(one.input_ids), dtype=np.float32) for one in EXAMPLES}
    made = Collator(EXAMPLES[1], packing=packing, width=3, columns=columns)([])
    assert made["input_ids"].tolist() == [[3, 4]]
    assert made["labels"].tolist() == [[-100, -100]]
    assert len(made["micro"].number_N) == len(made["micro"].column_N) == count_targets([made["micro"]]) == 0


def test_an_example_wider_than_the_packed_rows_makes_them_wider():
    made = Collator(EXAMPLES[0], packing=True, width=2)([(0, EXAMPLES[0])])
    assert made["input_ids"].shape == (1, 5)


def test_columns_are_laid_at_their_tokens():
    columns = {"e0": np.array([np.nan, np.nan, 2, 3, 4], np.float32), "e1": np.array([np.nan, 10, 20], np.float32)}
    for packing in (False, True):
        made = Collator(EXAMPLES[0], packing=packing, width=9, columns=columns)([(1, EXAMPLES[1]), (0, EXAMPLES[0])])
        assert made["micro"].column_N.tolist() == [10, 20, 2, 3, 4]


def test_the_numbers_of_a_micro_batch_are_those_it_is_told():
    assert micro_batch(collate(EXAMPLES), [5, 9, 1]).number_N.tolist() == [5, 5, 5, 9, 9]


def table(*rows):
    return pd.DataFrame(rows, columns=["example_id", "position", "token_id", "epistemic"])


GOOD = [("e0", 2, 5, 0.1), ("e0", 3, 6, 0.2), ("e0", 4, 7, 0.3), ("e1", 2, 5, 0.5), ("e1", 1, 4, 0.4)]
MEND = "score the same data with the same template and tokenizer first"


@given(order=st.permutations(GOOD))
@settings(max_examples=20)
def test_a_column_is_read_whatever_the_order_of_the_tables_rows(order):
    found = score_column(EXAMPLES[:2], table(*order, ("other", 1, 2, 9.0)), "epistemic", "runs/a")
    assert found.keys() == {"e0", "e1"}
    np.testing.assert_array_equal(found["e0"], np.array([np.nan, np.nan, 0.1, 0.2, 0.3], np.float32))
    np.testing.assert_array_equal(found["e1"], np.array([np.nan, 0.4, 0.5], np.float32))


def test_a_completion_that_begins_the_sequence_needs_no_value_there():
    text = example("t", [8, 9], 0)
    assert score_column([text], table(("t", 1, 9, 0.7)), "epistemic", "runs/a")["t"][1] == np.float32(0.7)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (GOOD[:3], "runs/a has no example 'e1', which is trained on; "),
        ([*GOOD[:3], ("e1", 1, 4, 0.4), ("e1", 2, 6, 0.5)], "runs/a spells example 'e1' with other tokens than the "),
        ([*GOOD, ("e1", 3, 6, 0.5)], "runs/a spells example 'e1' with other tokens than the training data; "),
        (GOOD[1:], "runs/a has no epistemic for position 2 of example 'e0'; "),
        ([*GOOD[:4], ("e1", 1, 4, np.nan)], "runs/a has no epistemic for position 1 of example 'e1'; "),
    ],
)
def test_a_table_that_does_not_fit_is_refused(rows, message):
    with pytest.raises(InputError) as caught:
        score_column(EXAMPLES[:2], table(*rows), "epistemic", "runs/a")
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(MEND)


def test_data_without_a_completion_token_is_refused():
    check_trainable(EXAMPLES, "data.jsonl")
    with pytest.raises(InputError) as caught:
        check_trainable([EXAMPLES[2], example("first-only", [3, 4], 2)], "data.jsonl")
    assert str(caught.value) == (
        "no completion token of data.jsonl is left to train on (all lie in the prompt, or beyond the cut); "
        "check --template and --max-length with unc-score --show 3"
    )
