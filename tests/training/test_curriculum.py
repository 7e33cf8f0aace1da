"""What the record says of windows worked by hand and by brute force, and that a resume changes nothing."""

import io
import json
import math
from collections import defaultdict

import numpy as np
import pytest

from uncertainty.token_classes import CLASSES, vocabulary_classes
from uncertainty.training.curriculum import AT_LEAST, CurriculumRecord, Window
from uncertainty.training.curriculum_rows import column_names

SPELLED = [" a", "b", " 1", ".", "\n", "</s>", " the", "ing"]
CLASSES_OF = vocabulary_classes(SPELLED, [token == "</s>" for token in SPELLED])


def record():
    return CurriculumRecord(CLASSES_OF, SPELLED.__getitem__)


def window(step, example, position, label, selected, nll, *, value=None, kl=None, fraction=0.5, epoch=0.0):
    value = nll if value is None else value
    arrays = [np.array(x) for x in (example, position, label)]
    kl_N = None if kl is None else np.array(kl, dtype=float)
    numbers = [np.array(x, dtype=float) for x in (nll, value)]
    return Window(step, epoch, fraction, *arrays, np.array(selected, dtype=bool), *numbers, kl_N)


def random_window(step, rng, examples, *, with_kl=True):
    """The same examples always have the same tokens; what is selected differs."""
    labels = {e: np.random.default_rng(e).integers(0, len(SPELLED), 3 + e % 9) for e in examples}
    example_N = np.concatenate([np.full(len(labels[e]), e) for e in sorted(examples)])
    position_N = np.concatenate([2 + np.arange(len(labels[e])) for e in sorted(examples)])
    label_N = np.concatenate([labels[e] for e in sorted(examples)])
    nll_N, kl_N = rng.gamma(1.0, size=len(label_N)), rng.gamma(1.0, size=len(label_N))
    selected_N = nll_N >= np.quantile(nll_N, 0.7)
    return Window(
        step, step / 10, 0.3, example_N, position_N, label_N, selected_N, nll_N, nll_N, kl_N if with_kl else None
    )


def test_a_window_worked_by_hand():
    record_ = record()
    record_.add(
        window(1, [0, 0, 0, 3], [5, 6, 7, 2], [0, 1, 5, 1], [1, 0, 1, 0], [2.0, 0.5, 3.0, 0.1], kl=[1, 2, 3, 4])
    )
    record_.add(window(2, [4], [1], [2], [0], [1.0], kl=[0.5], fraction=0.25, epoch=0.5))
    row = record_.row()
    assert set(row) == set(column_names())
    assert [row[k] for k in ("step", "first_step", "n_steps", "epoch", "n_tokens", "n_selected")] == [
        2,
        1,
        2,
        0.5,
        5,
        2,
    ]
    assert (row["fraction_asked"], row["fraction_kept"]) == (0.375, 0.4)
    assert [row[k] for k in ("threshold", "threshold_low", "threshold_high")] == [2.0] * 3
    assert [row[k] for k in ("nll", "nll_selected", "nll_rest")] == pytest.approx([6.6 / 5, 2.5, 1.6 / 3])
    assert [row[k] for k in ("kl", "kl_selected", "kl_rest")] == pytest.approx([10.5 / 5, 2.0, 6.5 / 3])
    # " a" begins a word, the first "b" goes on with it, the second stands alone in its example.
    assert {k: v for k, v in row.items() if k.startswith("share_of_tokens/")} == {
        "share_of_tokens/special": 0.2, "share_of_tokens/structural": 0.0, "share_of_tokens/number": 0.2,
        "share_of_tokens/word_start": 0.4, "share_of_tokens/word_continuation": 0.2, "share_of_tokens/punctuation": 0.0,
    }  # fmt: skip
    assert (row["share_of_selected/special"], row["enrichment/special"]) == (0.5, 2.5)
    assert (row["enrichment/word_continuation"], row["enrichment/structural"]) == (0.0, None)
    assert [row[k] for k in ("jaccard", "jaccard_chance", "n_seen_before", "entering", "leaving")] == [
        None, None, 0, None, None,
    ]  # fmt: skip
    assert record_.row() is None


def test_rows_are_plain_json_in_which_undefined_is_null():
    record_ = record()
    record_.add(window(7, [1, 1], [1, 2], [0, 1], [0, 0], [1.0, 2.0], fraction=0.0))
    row = record_.row()
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    undefined = {k for k, v in row.items() if v is None and not k.startswith("enrichment/")}
    assert undefined >= {"threshold", "threshold_low", "nll_selected", "kl", "kl_rest", "share_of_selected/number"}
    assert (row["nll"], row["nll_rest"], row["fraction_kept"]) == (1.5, 1.5, 0.0)


def test_a_step_without_any_token_counts_as_a_step_only():
    record_ = record()
    record_.add(window(1, [], [], [], [], []))
    row = record_.row()
    assert (row["n_steps"], row["n_tokens"], row["fraction_kept"], row["nll"]) == (1, 0, None, None)


def test_thresholds_are_the_smallest_selected_value_of_each_step_not_the_loss():
    record_ = record()
    record_.add(window(1, [0, 0], [1, 2], [0, 1], [1, 1], [9.0, 8.0], value=[3.0, 5.0]))
    record_.add(window(2, [0, 0], [1, 2], [0, 1], [0, 1], [9.0, 8.0], value=[3.0, -6.0]))
    row = record_.row()
    assert [row[k] for k in ("threshold", "threshold_low", "threshold_high")] == [-1.5, -6.0, 3.0]


def test_overlap_is_with_the_last_time_the_same_tokens_were_seen():
    record_ = record()
    tokens = ([0, 0, 0, 1, 1], [1, 2, 3, 1, 2], [0, 1, 2, 3, 4])
    nll = [1.0] * 5
    record_.add(window(1, *tokens, [1, 1, 0, 1, 0], nll))
    assert record_.row()["jaccard"] is None
    record_.add(window(2, [0, 0, 0, 2], [1, 2, 3, 1], [0, 1, 2, 0], [1, 0, 1, 1], nll[:4], epoch=1.0))
    row = record_.row()  # example 0 again: {1, 2} then {1, 3}; example 2 is new
    assert (row["jaccard"], row["n_seen_before"]) == (pytest.approx(1 / 3), 3)
    assert row["jaccard_chance"] == pytest.approx((4 / 3) / (4 - 4 / 3))
    record_.add(window(3, *tokens, [1, 0, 1, 1, 0], nll, epoch=2.0))
    row = record_.row()  # example 0 against the second time, example 1 against the first
    assert (row["jaccard"], row["n_seen_before"]) == (1.0, 5)


def test_overlap_equals_sets_of_tokens_by_brute_force():
    rng, record_ = np.random.default_rng(0), record()
    last: dict[int, set] = {}
    for step in range(1, 13):
        made = random_window(step, rng, rng.choice(12, size=5, replace=False).tolist())
        now = defaultdict(set)
        for example, position, chosen in zip(made.example_N, made.position_N, made.selected_N, strict=True):
            now[int(example)] |= {int(position)} if chosen else set()
        old = {(e, p) for e in now if e in last for p in last[e]}
        new = {(e, p) for e in now if e in last for p in now[e]}
        record_.add(made)
        expected = len(old & new) / len(old | new) if old | new else None
        assert record_.row()["jaccard"] == (None if expected is None else pytest.approx(expected))
        last |= now


def test_types_that_enter_and_leave_are_those_whose_rate_changed_most_and_are_frequent_enough():
    def many(step, rates):
        label_N = np.repeat(list(rates), [n for n, _ in rates.values()])
        chosen_N = np.concatenate([np.arange(n) < k for n, k in rates.values()])
        size = len(label_N)
        return window(step, np.zeros(size), np.arange(size), label_N, chosen_N, np.ones(size))

    record_ = record()
    record_.add(many(1, {0: (20, 10), 1: (20, 20), 2: (20, 5), 3: (AT_LEAST - 1, 0), 4: (10, 5), 6: (40, 0)}))
    assert record_.row()["entering"] is None
    # The example is another one, so the counts may differ.
    second = many(2, {0: (20, 5), 1: (10, 10), 2: (20, 20), 3: (50, 50), 4: (20, 15), 6: (40, 10)})
    record_.add(Window(**{**vars(second), "example_N": second.example_N + 1}))
    row = record_.row()
    assert [(move["token"], move["rate"], move["rate_before"]) for move in row["entering"]] == [
        (" 1", 1.0, 0.25), ("\n", 0.75, 0.5), (" the", 0.25, 0.0),
    ]  # fmt: skip
    assert row["leaving"] == [{"token_id": 0, "token": " a", "rate": 0.25, "rate_before": 0.5, "n": 20, "n_before": 20}]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_resumed_record_gives_the_rows_of_one_that_was_never_stopped(cut):
    def steps():
        rng = np.random.default_rng(1)
        return [random_window(s, rng, rng.choice(9, size=6, replace=False).tolist()) for s in range(1, 13)]

    def run(record_, windows):
        for one in windows:
            record_.add(one)
            if one.step % 3 == 0:
                rows.append(record_.row())
        return record_

    rows = []
    run(record(), steps())
    whole, rows = rows, []
    stream = io.BytesIO()
    np.savez(stream, **run(record(), steps()[:cut]).state_dict())
    stream.seek(0)
    again = record()
    again.load_state_dict(np.load(stream))  # no pickle: NumPy refuses one unless asked
    run(again, steps()[cut:])
    assert rows == whole
    assert any(row["jaccard"] is not None for row in whole)
    assert any(row["entering"] for row in whole)


def test_the_state_is_a_snapshot_and_takes_one_bit_a_token():
    record_ = record()
    size = 80_000
    record_.add(
        window(1, np.arange(size) // 100, np.arange(size) % 100, np.zeros(size, int), np.ones(size), np.ones(size))
    )
    state = record_.state_dict()
    before = {name: array.copy() for name, array in state.items()}
    record_.add(window(2, [0] * 100, range(100), [1] * 100, [0] * 100, [1.0] * 100))
    assert all(np.array_equal(state[name], before[name]) for name in state)
    assert state["seen.bits"].nbytes == 800 * math.ceil(100 / 8)


def test_what_cannot_be_a_window_is_refused():
    with pytest.raises(ValueError, match="each once"):
        window(1, [0, 0], [2, 2], [0, 1], [0, 1], [1.0, 1.0])
    with pytest.raises(ValueError, match="each once"):
        window(1, [1, 0], [1, 2], [0, 1], [0, 1], [1.0, 1.0])
    with pytest.raises(ValueError, match="nll_N of step 4 is not finite"):
        window(4, [0, 0], [1, 2], [0, 1], [0, 1], [1.0, math.nan])
    with pytest.raises(ValueError, match="differ in shape"):
        window(1, [0, 0], [1, 2], [0], [0, 1], [1.0, 1.0])
    record_ = record()
    record_.add(window(1, [0, 0], [1, 2], [0, 1], [0, 1], [1.0, 1.0]))
    with pytest.raises(ValueError, match="example 0 had 2 completion tokens and has 1 now"):
        record_.add(window(2, [0], [1], [0], [1], [1.0]))
    with pytest.raises(ValueError, match="smallest selected value of step 3 is -inf"):
        record().add(window(3, [0], [1], [0], [1], [1.0], value=[-math.inf]))
    other = CurriculumRecord(vocabulary_classes(["a"], [False]), str)
    with pytest.raises(ValueError, match="counts 8 tokens, the vocabulary 1"):
        other.load_state_dict(record().state_dict())


def test_shares_of_the_classes_sum_to_one():
    rng, record_ = np.random.default_rng(2), record()
    record_.add(random_window(1, rng, [1, 2, 3, 4], with_kl=False))
    row = record_.row()
    for kind in ("share_of_tokens", "share_of_selected"):
        assert sum(row[f"{kind}/{name.replace(' ', '_')}"] for name in CLASSES) == pytest.approx(1)
    assert row["kl"] is None
