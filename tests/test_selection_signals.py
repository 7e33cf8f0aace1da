import numpy as np
import pytest
import torch

from uncertainty.errors import InputError
from uncertainty.selection_rules import SIGNALS, Rule
from uncertainty.selection_signals import TokenSignals, keyed_uniform, ranking_values

N = 7
EXAMPLE_N, POSITION_N = torch.tensor([0, 0, 0, 3, 3, 1, 1]), torch.tensor([4, 5, 6, 1, 2, 9, 2])


def rule_by(by, **facts):
    return Rule(by=by, column="epistemic" if by == "column" else None, **facts)


@pytest.fixture
def distributions():
    """Log-probabilities of a model and a reference over 5 tokens, and the labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, N, 5, generator=generator, dtype=torch.float64)
    return *logits.log_softmax(-1), torch.randint(5, (N,), generator=generator)


@pytest.fixture
def signals(distributions):
    log_p_NV, log_q_NV, label_N = distributions
    at_label = torch.arange(N), label_N
    return TokenSignals(
        nll_N=-log_p_NV[at_label].requires_grad_(),
        entropy_N=-(log_p_NV.exp() * log_p_NV).sum(-1),
        ref_nll_N=-log_q_NV[at_label],
        kl_N=(log_q_NV.exp() * (log_q_NV - log_p_NV)).sum(-1).requires_grad_(),
        column_N=torch.arange(N, dtype=torch.float32),
    )


def values(by, signals, *, seed=0, step=0, **facts):
    return ranking_values(rule_by(by, **facts), signals, EXAMPLE_N, POSITION_N, seed=seed, step=step)


def test_each_signal_is_its_formula(signals, distributions):
    log_p_NV, log_q_NV, label_N = (x.numpy() for x in distributions)
    for n in range(N):
        assert values("loss", signals)[n].item() == pytest.approx(-log_p_NV[n, label_N[n]], abs=1e-14)
        entropy = -sum(np.exp(x) * x for x in log_p_NV[n])
        assert values("entropy", signals)[n].item() == pytest.approx(entropy, abs=1e-14)
        excess = log_q_NV[n, label_N[n]] - log_p_NV[n, label_N[n]]
        assert values("rho", signals)[n].item() == pytest.approx(excess, abs=1e-14)
        divergence = sum(np.exp(q) * (q - p) for p, q in zip(log_p_NV[n], log_q_NV[n], strict=True))
        assert values("kl", signals)[n].item() == pytest.approx(divergence, abs=1e-14)
        assert divergence > 0
    assert values("column", signals).tolist() == list(range(N))


def test_the_table_says_whether_the_label_is_looked_at(signals, distributions):
    """Other labels change the values of exactly the signals that are not label-free."""
    log_p_NV, log_q_NV, label_N = distributions
    other = torch.arange(N), (label_N + 1) % 5
    relabelled = signals._replace(nll_N=-log_p_NV[other], ref_nll_N=-log_q_NV[other])
    for by in set(SIGNALS) - {"column"}:
        is_same = torch.equal(values(by, signals), values(by, relabelled))
        assert is_same == SIGNALS[by].label_free, by


def test_no_gradient_flows_into_the_values(signals):
    for by in SIGNALS:
        assert not values(by, signals).requires_grad


@pytest.mark.parametrize("by", sorted(set(SIGNALS) - {"random"}))
def test_what_was_not_computed_is_asked_for(by, signals):
    signal = SIGNALS[by]
    for field in filter(None, (signal.field, signal.minus)):
        with pytest.raises(InputError, match=f"selection by {by} needs {field}, which was not computed"):
            values(by, signals._replace(**{field: None}))


def test_signals_that_need_no_reference_do_without(signals):
    alone = signals._replace(ref_nll_N=None, kl_N=None)
    for by, signal in SIGNALS.items():
        if signal.needs_reference:
            with pytest.raises(InputError, match="give a reference"):
                values(by, alone)
        else:
            assert len(values(by, alone)) == N


def test_random_values_belong_to_the_token_and_not_to_its_place_in_the_batch():
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    first_N = values("random", TokenSignals(), seed=5, step=8)
    moved_N = ranking_values(Rule(by="random"), TokenSignals(), EXAMPLE_N[order], POSITION_N[order], seed=5, step=8)
    assert torch.equal(moved_N, first_N[order])
    assert len(first_N.unique()) == N
    for other in ({"seed": 6, "step": 8}, {"seed": 5, "step": 9}):
        assert not (values("random", TokenSignals(), **other) == first_N).any()


def test_a_document_has_one_random_value():
    value_N = values("random", TokenSignals(), level="document")
    assert len(value_N.unique()) == 3
    assert len({(e, v) for e, v in zip(EXAMPLE_N.tolist(), value_N.tolist(), strict=True)}) == 3


def test_random_values_are_uniform_and_independent():
    example_N, position_N = (x.flatten() for x in torch.meshgrid(torch.arange(100), torch.arange(100), indexing="ij"))
    by_step = torch.stack(
        [keyed_uniform(example_N, position_N, seed=0, step=step, purpose="random") for step in (0, 1)]
    )
    assert 0 < by_step.min() < by_step.max() < 1
    for value_N in by_step:
        counts = torch.histc(value_N, 20, 0, 1)
        assert ((counts - 500) ** 2 / 500).sum() < 43.8  # 19 degrees of freedom, one of a thousand
    block = by_step[0].view(100, 100)
    neighbours = [(*by_step,), (block[:, :-1], block[:, 1:]), (block[:-1], block[1:])]
    for one, other in neighbours:
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.033  # 3.3 / sqrt(10,000)


def test_what_a_number_is_for_changes_it():
    first_N, second_N = (
        keyed_uniform(EXAMPLE_N, POSITION_N, seed=0, step=0, purpose=purpose) for purpose in ("random", "sampled")
    )
    assert not (first_N == second_N).any()
