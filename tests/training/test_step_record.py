"""What a step selected, in one order, whatever its layout."""

import numpy as np
import torch
from training_toys import Kept, example

from uncertainty.data.batches import collate
from uncertainty.token_losses import TokenLosses
from uncertainty.training.step_record import StepRecord
from uncertainty.training.windows import micro_batch

EXAMPLES = [example("a", [3, 4, 5, 6], 2), example("b", [7, 8, 9], 1), example("c", [10, 11, 12, 13], 3)]
NUMBERS = [40, 7, 3_000_000]
WHOLE = [(7, 1, 8), (7, 2, 9), (40, 2, 5), (40, 3, 6), (3_000_000, 3, 13)]  # (example, position, label), ordered


def losses_of(micro, kl=True):
    value_N = micro.number_N.double() + micro.at.position_N / 8
    return TokenLosses(value_N, None, 2 * value_N, None, 3 * value_N if kl else None)


def parts_of(*groups):
    return [micro_batch(collate([EXAMPLES[i] for i in group]), [NUMBERS[i] for i in group]) for group in groups]


def record(groups, gather=lambda rows: rows, selects=True, kl=True):
    kept = Kept()
    steps = StepRecord(kept)
    steps.begin(4, 0.25)
    for micro in parts_of(*groups):
        selected_N = micro.at.position_N == 3 if selects else None
        value_N = micro.at.position_N.double() if selects else None
        steps.take(micro, losses_of(micro, kl), selected_N, value_N)
    steps.end(gather, 1.5)
    return kept.windows


def test_a_window_is_ordered_by_example_and_position_however_the_step_was_cut():
    for groups in ([[0, 1, 2]], [[2], [0], [1]], [[1, 2], [0]]):
        (window,) = record(groups)
        assert (window.step, window.epoch, window.fraction) == (5, 1.5, 0.25)
        assert list(zip(window.example_N, window.position_N, window.label_N, strict=True)) == WHOLE
        assert window.example_N.dtype == window.position_N.dtype == window.label_N.dtype == np.int64
        assert window.selected_N.tolist() == [False, False, False, True, True]
        np.testing.assert_array_equal(window.nll_N, window.example_N + window.position_N / 8)
        np.testing.assert_array_equal(window.kl_N, 3 * window.nll_N)
        np.testing.assert_array_equal(window.value_N, window.position_N)


def test_without_a_selection_every_token_counts_as_selected_and_is_ranked_by_its_loss():
    (window,) = record([[0, 1, 2]], selects=False, kl=False)
    assert window.selected_N.all()
    np.testing.assert_array_equal(window.value_N, window.nll_N)
    assert window.kl_N is None


def test_places_beyond_what_a_float_can_pack_into_one_number_keep_their_order():
    far = micro_batch(collate([example("far", list(range(3, 40)), 1)]), [2**40 + 1])
    kept = Kept()
    steps = StepRecord(kept)
    steps.begin(0, 1.0)
    flipped = far.at.position_N.flip(0)
    micro = micro_batch(far.batch, [2**40 + 1])
    micro = type(micro)(micro.batch, micro.at._replace(position_N=flipped), micro.number_N, None)
    steps.take(micro, losses_of(micro), None, None)
    steps.end(lambda rows: rows, 1.0)
    assert kept.windows[0].position_N.tolist() == list(range(1, 37))
    assert set(kept.windows[0].example_N.tolist()) == {2**40 + 1}


def test_rows_of_all_processes_make_one_window():
    others = []
    record([[1]], gather=lambda rows: others.append(rows) or rows)
    (window,) = record([[2], [0]], gather=lambda rows: torch.cat([rows, *others]))
    assert list(zip(window.example_N, window.position_N, window.label_N, strict=True)) == WHOLE


def test_every_process_gathers_even_without_a_micro_batch_and_an_empty_step_is_no_window():
    gathered = []
    assert record([], gather=lambda rows: gathered.append(rows.shape) or rows) == []
    assert gathered == [(0, 7)]


def test_a_step_that_begins_anew_forgets_what_was_not_closed():
    kept = Kept()
    steps = StepRecord(kept)
    (first, second) = parts_of([0], [1])
    steps.begin(0, 1.0)
    steps.take(first, losses_of(first), None, None)
    steps.begin(0, 1.0)
    steps.take(second, losses_of(second), None, None)
    steps.end(lambda rows: rows, 1.0)
    assert set(kept.windows[0].example_N.tolist()) == {7}


def test_without_a_record_nothing_is_collected_and_nothing_gathered():
    steps = StepRecord(None)
    steps.begin(0, 1.0)
    (micro,) = parts_of([0])
    steps.take(micro, losses_of(micro), None, None)
    steps.end(lambda rows: 1 / 0, 1.0)
