"""Padding, the shift by one, and the plan of batches."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from uncertainty.data.batches import IGNORE, collate, plan_batches, predictors, targets
from uncertainty.data.render import Example


def example(name, ids, first):
    completion = [i >= first for i in range(len(ids))]
    return Example(name, ids, completion, [0 if c else -1 for c in completion], False, [])


def test_labels_are_the_completion_unshifted_and_padding_is_masked():
    batch = collate([example("a", [5, 6, 7], 1), example("b", [8, 9], 1)])
    assert batch.input_ids_BT.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch.labels_BT.tolist() == [[IGNORE, 6, 7], [IGNORE, 9, IGNORE]]
    assert batch.attention_mask_BT.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.lengths == (3, 2)


def test_a_batch_without_padding_has_no_mask():
    assert collate([example("a", [5, 6], 1), example("b", [8, 9], 1)]).attention_mask_BT is None


def test_the_token_at_a_position_is_predicted_from_the_one_before():
    batch = collate([example("a", [5, 6, 7, 8], 2), example("b", [9, 10], 1)])
    at = targets(batch)
    assert at.row_N.tolist() == [0, 0, 1]
    assert at.position_N.tolist() == [2, 3, 1]
    assert at.label_N.tolist() == [7, 8, 10]
    assert [c.tolist() for c in predictors(batch, at)] == [[0, 0, 1], [1, 2, 0]]


def test_the_first_token_of_a_sequence_has_no_prediction():
    at = targets(collate([example("a", [5, 6, 7], 0)]))
    assert at.position_N.tolist() == [1, 2]


def test_left_padding_gives_the_same_targets_read_from_shifted_columns():
    rows = [example("a", [5, 6, 7, 8], 2), example("b", [9, 10], 0)]
    left, right = collate(rows, side="left"), collate(rows)
    for a, b in zip(targets(left), targets(right), strict=True):
        assert torch.equal(a, b)
    row_N, column_N = predictors(left, targets(left))
    assert left.input_ids_BT[row_N, column_N + 1].tolist() == targets(left).label_N.tolist()
    assert left.starts == (0, 2)


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=60),
    st.integers(1, 5000),
    st.integers(1, 120),
)
def test_a_plan_covers_every_example_once_and_keeps_to_the_budget(lengths, budget, passes):
    groups = plan_batches(lengths, tokens_per_batch=budget, passes=passes)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len(group) == 1 or len(group) * longest * passes <= budget
        assert min(lengths[i] for i in group) >= 0.9 * longest
    assert groups == plan_batches(lengths, tokens_per_batch=budget, passes=passes)


def test_long_examples_come_first_so_that_memory_peaks_at_the_start():
    groups = plan_batches([3, 90, 20, 5], tokens_per_batch=100, passes=10)
    assert groups[0] == [1]


def test_the_example_of_a_target_is_its_row_where_nothing_is_packed():
    at = targets(collate([example("a", [5, 6, 7, 8], 2), example("b", [9, 10], 1)]))
    assert at.example_N.tolist() == at.row_N.tolist() == [0, 0, 1]


def test_targets_of_a_batch_without_any_completion_are_empty():
    at = targets(collate([example("a", [5, 6, 7], 3)]))
    assert [len(column) for column in at] == [0, 0, 0, 0]
