"""Packed examples: where they stand, where they are predicted, and that nothing is lost or reordered."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncertainty.data.batches import IGNORE, collate, predictors, targets
from uncertainty.data.packing import pack, plan_rows
from uncertainty.data.render import Example
from uncertainty.errors import InputError


def example(name, ids, first):
    completion = [i >= first for i in range(len(ids))]
    return Example(name, ids, completion, [0 if c else -1 for c in completion], False, [])


def test_two_examples_share_a_sequence_and_positions_restart():
    batch = pack([example("a", [5, 6], 1), example("b", [8, 9, 10], 1), example("c", [7], 0)], width=5)
    assert batch.input_ids_BT.tolist() == [[5, 6, 8, 9, 10], [7, 0, 0, 0, 0]]
    assert batch.labels_BT.tolist() == [[IGNORE, 6, IGNORE, 9, 10], [7, IGNORE, IGNORE, IGNORE, IGNORE]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 0, 1, 2], [0, 0, 0, 0, 0]]
    assert batch.segment_BT.tolist() == [[0, 0, 1, 1, 1], [2, -1, -1, -1, -1]]
    assert (batch.ids, batch.lengths) == (("a", "b", "c"), (2, 3, 1))
    assert (batch.rows, batch.starts) == ((0, 0, 1), (0, 2, 0))
    assert batch.attention_mask_BT is None


def test_a_packed_target_is_predicted_inside_its_own_example():
    batch = pack([example("a", [5, 6], 0), example("b", [8, 9, 10], 2)], width=5)
    at = targets(batch)
    assert at.label_N.tolist() == [6, 10]  # 5 stands first: nothing predicts it, least of all the example before
    assert at.position_N.tolist() == [1, 2]
    assert at.example_N.tolist() == [0, 1]
    assert [index.tolist() for index in predictors(batch, at)] == [[0, 0], [0, 3]]


def test_the_batch_is_only_as_wide_as_its_fullest_sequence():
    assert pack([example("a", [5, 6], 1), example("b", [8, 9], 1)], width=100).input_ids_BT.shape == (1, 4)


def test_an_example_that_does_not_fit_is_named():
    with pytest.raises(InputError, match="example b has 3 tokens and does not fit into packed sequences of 2; pack"):
        pack([example("a", [5], 1), example("b", [8, 9, 10], 1)], width=2)
    with pytest.raises(ValueError, match="at least one example"):
        pack([], width=2)


rows_of_tokens = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 13)), min_size=1, max_size=12)


@given(rows_of_tokens, st.integers(12, 40))
def test_packed_and_padded_batches_have_the_same_targets_in_the_same_order(sizes, width):
    examples = [example(str(i), [100 * i + j + 1 for j in range(n)], first) for i, (n, first) in enumerate(sizes)]
    packed, padded = pack(examples, width=width), collate(examples)
    at, plain = targets(packed), targets(padded)
    for ours, other in zip(at[1:], plain[1:], strict=True):
        assert torch.equal(ours, other)
    row_N, column_N = predictors(packed, at)
    assert torch.equal(packed.input_ids_BT[row_N, column_N + 1], at.label_N)
    assert torch.equal(packed.segment_BT[row_N, column_N], at.example_N)
    assert torch.equal(packed.position_ids_BT[row_N, column_N] + 1, at.position_N)
    assert packed.ids == padded.ids
    assert packed.lengths == padded.lengths
    assert int((packed.segment_BT >= 0).sum()) == sum(packed.lengths)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 120))
def test_rows_hold_every_example_once_and_keep_to_the_width(lengths, width):
    rows = plan_rows(lengths, width)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= width for row in rows)
    assert len(rows) <= 2 * sum(lengths) / width + 1  # no two rows are both at most half full


def test_best_fit_decreasing_fills_rows_where_first_come_would_not():
    assert plan_rows([2, 8, 3, 7], 10) == [[0, 1], [2, 3]]
