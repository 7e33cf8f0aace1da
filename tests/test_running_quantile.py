import math

import pytest
import torch

from uncertainty.errors import InputError
from uncertainty.running_quantile import RunningQuantile
from uncertainty.selection import Rule, select


def tokens(values):
    values_N = torch.as_tensor(values, dtype=torch.float32)
    return values_N, torch.zeros(len(values_N), dtype=torch.int64), torch.arange(len(values_N))


def stream(n_batches, *, n_tokens=200, seed=0, drift=0.0):
    generator = torch.Generator().manual_seed(seed)
    for batch in range(n_batches):
        yield tokens(torch.rand(n_tokens, generator=generator) * math.exp(-drift * batch))


def test_three_micro_batches_by_hand():
    running = RunningQuantile(decay=0.5)
    assert running.select(*tokens([1.0, 2.0, 3.0, 4.0]), fraction=0.5).tolist() == [False, False, True, True]
    assert running.threshold == 3.0
    assert running.select(*tokens([5.0, 6.0, 7.0, 4.5]), fraction=0.5).tolist() == [True, True, True, True]
    assert running.threshold == 4.5  # half of 3 and half of 6
    assert running.select(*tokens([0.0, 4.0, 0.5, 1.0]), fraction=0.5).tolist() == [False, True, False, False]
    assert running.threshold == 2.75  # half of 4.5 and half of 1


def test_without_a_past_it_is_the_exact_selection_of_the_micro_batch():
    running = RunningQuantile(decay=0.0)
    for batch in stream(5):
        exact_N = select(*batch, Rule(), fraction=0.3, seed=0, step=0)
        assert running.select(*batch, fraction=0.3).tolist() == exact_N.tolist()


def test_on_a_steady_stream_the_share_is_the_fraction_and_the_threshold_the_quantile():
    running = RunningQuantile()
    shares = [running.select(*batch, fraction=0.25).float().mean().item() for batch in stream(100)]
    assert sum(shares) / 100 == pytest.approx(0.25, abs=0.01)
    assert running.threshold == pytest.approx(0.75, abs=0.03)


def test_the_clamp_holds_the_share_while_values_fall():
    """Without a clamp the threshold stays behind and far too little is kept."""
    falling = {"n_batches": 20, "drift": 0.2}
    held = [int(x.sum()) for x in run(RunningQuantile(), **falling)]
    free = [int(x.sum()) for x in run(RunningQuantile(clamp=(0.001, 100.0)), **falling)]
    assert min(held) == 25
    assert min(free) < 10


def run(running, **facts):
    return [running.select(*batch, fraction=0.25) for batch in stream(facts.pop("n_batches"), **facts)]


def test_the_clamp_holds_the_share_while_values_rise():
    kept = [int(x.sum()) for x in run(RunningQuantile(clamp=(0.5, 1.2)), n_batches=20, drift=-0.5)]
    assert max(kept) == 60


def test_among_equal_values_the_first_ones_are_kept():
    selected_N = RunningQuantile().select(*tokens([1.0] * 20), fraction=0.25)
    assert selected_N.nonzero().flatten().tolist() == list(range(10))  # all are at the threshold; at most twice 5


def test_it_goes_on_where_it_was_interrupted():
    whole, first = RunningQuantile(), RunningQuantile()
    batches = list(stream(10))
    expected = [whole.select(*batch, fraction=0.25).tolist() for batch in batches]
    found = [first.select(*batch, fraction=0.25).tolist() for batch in batches[:6]]
    second = RunningQuantile()
    second.load_state_dict(first.state_dict())
    found += [second.select(*batch, fraction=0.25).tolist() for batch in batches[6:]]
    assert found == expected
    assert second.state_dict() == whole.state_dict()


def test_a_micro_batch_without_tokens_changes_nothing():
    running = RunningQuantile()
    assert running.select(*tokens([]), fraction=0.25).shape == (0,)
    assert running.state_dict() == {"threshold": None}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"decay": 0.99}, "from 0 to 0.9, got 0.99"),
        ({"decay": -0.1}, "from 0 to 0.9"),
        ({"decay": math.nan}, "from 0 to 0.9"),
        ({"clamp": (0.0, 2.0)}, "two multiples around 1"),
        ({"clamp": (0.5, 0.9)}, "two multiples around 1"),
        ({"clamp": (0.5, math.inf)}, "two multiples around 1"),
    ],
)
def test_numbers_that_would_lose_the_quantile_are_refused(facts, message):
    with pytest.raises(InputError, match=message):
        RunningQuantile(**facts)


def test_values_that_no_average_leaves_are_refused():
    with pytest.raises(InputError, match="quantile of a micro-batch is inf"):
        RunningQuantile().select(*tokens([1.0, math.inf]), fraction=0.5)
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        RunningQuantile().select(*tokens([1.0, math.nan]), fraction=0.5)
