"""Every term against its equation written out with Python loops in float64, its gradient, and its edges."""

import doctest
import math
from functools import partial

import pytest
import torch

from uncertainty import terms
from uncertainty.errors import InputError
from uncertainty.terms import (
    Predictions,
    distillation,
    jsd,
    label_loss,
    oracle,
    policy_gradient,
    reverse_kl,
    tempered,
    truncated_distillation,
)

N, V = 5, 7
GENERATOR = torch.Generator().manual_seed(3)
LOGITS_NV = 2 * torch.randn(N, V, generator=GENERATOR, dtype=torch.float64)
REF_NV = (2 * torch.randn(N, V, generator=GENERATOR, dtype=torch.float64)).log_softmax(-1)
LABEL_N = torch.randint(0, V, (N,), generator=GENERATOR)
TARGET_NV = torch.rand(N, V, generator=GENERATOR, dtype=torch.float64)
ADVANTAGE_N = torch.tensor([1.5, -2.0, 0.0, 0.3, -0.1], dtype=torch.float64)
OLD_N = torch.tensor([-1.0, -2.0, -0.5, -3.0, -0.2], dtype=torch.float64)


def predictions(logits_NV, temperature=1.0):
    return tempered(Predictions(logits_NV.log_softmax(-1), LABEL_N, REF_NV), temperature)


def one_hot(n):
    return [float(v == int(LABEL_N[n])) for v in range(V)]


def top(n, k):
    return sorted(range(V), key=lambda v: -float(REF_NV[n, v]))[:k]


def kept(n, k, scale=1.0):
    return [math.exp(REF_NV[n, v]) / scale if v in top(n, k) else 0.0 for v in range(V)]


def renormalised(n, k):
    return kept(n, k, sum(math.exp(REF_NV[n, v]) for v in top(n, k)))


def bucket(n, k):
    """The weights of the bucket: the reference's tail shared out in proportion to the student's."""
    p = LOGITS_NV[n].softmax(-1).tolist()
    q_rest = sum(math.exp(REF_NV[n, v]) for v in range(V) if v not in top(n, k))
    p_rest = sum(p[v] for v in range(V) if v not in top(n, k))
    return [math.exp(REF_NV[n, v]) if v in top(n, k) else q_rest * p[v] / p_rest for v in range(V)]


def scaled_label(n, weight):
    return [weight * w for w in one_hot(n)]


def ratio(n):
    return math.exp(float(LOGITS_NV[n].log_softmax(-1)[LABEL_N[n]] - OLD_N[n]))


def clipped(n, clip=0.2):
    a, r = float(ADVANTAGE_N[n]), ratio(n)
    cut = (a > 0 and r > 1 + clip) or (a < 0 and r < 1 - clip)
    return scaled_label(n, 0.0 if cut else a * r)


# The paper's form: term -> weight of every token of the vocabulary at place n.
WEIGHTS = {
    "label": (label_loss, one_hot),
    "distillation": (distillation, lambda n: REF_NV[n].exp().tolist()),
    "unnormalised": (partial(truncated_distillation, k=3), lambda n: kept(n, 3)),
    "renormalised": (partial(truncated_distillation, k=3, tail="renormalised"), lambda n: renormalised(n, 3)),
    "bucket": (partial(truncated_distillation, k=3, tail="bucket"), lambda n: bucket(n, 3)),
    "bucket of one": (partial(truncated_distillation, k=V - 1, tail="bucket"), lambda n: bucket(n, V - 1)),
    "all kept": (partial(truncated_distillation, k=V, tail="bucket"), lambda n: REF_NV[n].exp().tolist()),
    "oracle": (partial(oracle, target_NV=TARGET_NV), lambda n: TARGET_NV[n].tolist()),
    "advantage": (partial(policy_gradient, advantage_N=ADVANTAGE_N), lambda n: scaled_label(n, float(ADVANTAGE_N[n]))),
    "ratio": (
        partial(policy_gradient, advantage_N=ADVANTAGE_N, old_log_prob_N=OLD_N),
        lambda n: scaled_label(n, float(ADVANTAGE_N[n]) * ratio(n)),
    ),
    "clip": (partial(policy_gradient, advantage_N=ADVANTAGE_N, old_log_prob_N=OLD_N, clip=0.2), clipped),
}
VALUE_IS_THE_WEIGHTED_SUM = set(WEIGHTS) - {"bucket", "bucket of one", "ratio", "clip"}
DIVERGENCES = {"reverse-kl": reverse_kl, "jsd": jsd, "jsd .2": partial(jsd, beta=0.2)}
ALL = {name: term for name, (term, _) in WEIGHTS.items()} | DIVERGENCES


def gradient(term, logits_NV):
    leaf_NV = logits_NV.clone().requires_grad_()
    loss_N = term(predictions(leaf_NV))
    return loss_N.detach(), torch.autograd.grad(loss_N.sum(), leaf_NV)[0]


def test_doctests():
    assert doctest.testmod(terms).failed == 0


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_terms_gradient_is_that_of_its_weighted_sum(name):
    term, weight = WEIGHTS[name]
    leaf_NV = LOGITS_NV.clone().requires_grad_()
    log_probs_NV = leaf_NV.log_softmax(-1)
    expected = [-sum(w * log_probs_NV[n, v] for v, w in enumerate(weight(n)) if w) for n in range(N)]
    (expected_gradient_NV,) = torch.autograd.grad(sum(expected), leaf_NV)
    loss_N, gradient_NV = gradient(term, LOGITS_NV)
    assert torch.allclose(gradient_NV, expected_gradient_NV, rtol=0, atol=1e-14)
    if name in VALUE_IS_THE_WEIGHTED_SUM:
        assert torch.allclose(loss_N, torch.stack([torch.as_tensor(x) for x in expected]), rtol=0, atol=1e-14)


def test_the_bucket_is_the_cross_entropy_of_k_plus_one_outcomes():
    for n in range(N):
        p, q = LOGITS_NV[n].softmax(-1).tolist(), REF_NV[n].exp().tolist()
        p_tail, q_tail = 1 - sum(p[v] for v in top(n, 2)), 1 - sum(q[v] for v in top(n, 2))
        expected = -sum(q[v] * math.log(p[v]) for v in top(n, 2)) - q_tail * math.log(p_tail)
        loss_N = truncated_distillation(predictions(LOGITS_NV), k=2, tail="bucket")
        assert float(loss_N[n]) == pytest.approx(expected, abs=1e-13)


def test_the_clipped_value_is_the_lesser_of_both():
    loss_N = policy_gradient(predictions(LOGITS_NV), ADVANTAGE_N, OLD_N, clip=0.2)
    for n, a in enumerate(ADVANTAGE_N.tolist()):
        expected = -min(a * ratio(n), a * min(max(ratio(n), 0.8), 1.2))
        assert float(loss_N[n]) == pytest.approx(expected, abs=1e-13)


def kl(a, b):
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_divergences_are_their_definitions(beta):
    for n in range(N):
        p, q = LOGITS_NV[n].softmax(-1).tolist(), REF_NV[n].exp().tolist()
        m = [beta * y + (1 - beta) * x for x, y in zip(p, q, strict=True)]
        assert float(reverse_kl(predictions(LOGITS_NV))[n]) == pytest.approx(kl(p, q), abs=1e-13)
        expected = beta * kl(q, m) + (1 - beta) * kl(p, m)
        assert float(jsd(predictions(LOGITS_NV), beta)[n]) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences(name, temperature):
    # Labels with a clamped ratio are far from the clamp's corner here.
    leaf_NV = LOGITS_NV.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ALL[name](predictions(x, temperature)), leaf_NV)


@pytest.mark.parametrize("name", ALL)
def test_the_reference_gets_no_gradient(name):
    reference_NV = REF_NV.clone().requires_grad_()
    log_probs_NV = LOGITS_NV.clone().requires_grad_()
    ALL[name](Predictions(log_probs_NV.log_softmax(-1), LABEL_N, reference_NV)).sum().backward()
    assert reference_NV.grad is None
    assert log_probs_NV.grad is not None


@pytest.mark.parametrize("name", ALL)
def test_impossible_tokens_that_both_agree_on_change_nothing(name):
    """Append a token of probability zero: same values, same gradients, nothing for the new token."""
    wide_NV = torch.cat([LOGITS_NV, torch.full((N, 1), -math.inf, dtype=torch.float64)], 1).requires_grad_()
    wide_ref_NV = torch.cat([REF_NV, torch.full((N, 1), -math.inf, dtype=torch.float64)], 1)
    term = ALL[name]
    if name == "oracle":
        term = partial(oracle, target_NV=torch.cat([TARGET_NV, torch.zeros(N, 1)], 1))
    log_probs_NV = wide_NV.log_softmax(-1)
    loss_N = term(Predictions(log_probs_NV, LABEL_N, wide_ref_NV))
    (gradient_NV,) = torch.autograd.grad(loss_N.sum(), log_probs_NV)
    plain_NV = LOGITS_NV.log_softmax(-1).requires_grad_()
    plain_N = term(Predictions(plain_NV, LABEL_N, REF_NV)) if name != "oracle" else ALL[name](predictions(LOGITS_NV))
    assert torch.allclose(loss_N, plain_N, rtol=0, atol=1e-14)
    assert bool(gradient_NV.isfinite().all())
    assert bool((gradient_NV[:, -1] == 0).all())


@pytest.mark.parametrize(
    "term", [distillation, partial(truncated_distillation, k=1), partial(truncated_distillation, k=1, tail="bucket")]
)
def test_weight_without_probability_is_an_infinite_loss_with_a_gradient_that_is_no_nan(term):
    leaf = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=torch.float64).requires_grad_()
    reference = torch.tensor([[0.3, 0.6, 0.1]], dtype=torch.float64).log()
    loss_N = term(Predictions(leaf, torch.tensor([0]), reference))
    (gradient_NV,) = torch.autograd.grad(loss_N.sum(), leaf)
    assert loss_N.tolist() == [math.inf]
    assert not bool(gradient_NV.isnan().any())


def test_a_label_of_no_advantage_costs_nothing_even_if_impossible():
    leaf = torch.tensor([[0.0, -math.inf]]).requires_grad_()
    loss_N = policy_gradient(Predictions(leaf, torch.tensor([1])), torch.tensor([0.0]))
    loss_N.sum().backward()
    assert loss_N.tolist() == [0.0]
    assert leaf.grad.tolist() == [[0.0, 0.0]]


def test_forward_divergence_is_least_at_the_reference_and_truncation_is_not():
    """At p = q the gradient of distillation and of the bucket vanishes; a truncated teacher keeps pulling."""
    sizes = {
        name: float(gradient(ALL[name], REF_NV)[1].norm())
        for name in ("distillation", "bucket", "unnormalised", "renormalised", "reverse-kl", "jsd")
    }
    assert max(sizes[name] for name in ("distillation", "bucket", "reverse-kl", "jsd")) < 1e-15
    assert min(sizes["unnormalised"], sizes["renormalised"]) > 0.1


def test_a_chunk_takes_its_own_rows_of_what_a_term_holds():
    at = torch.tensor([3, 1])
    whole = predictions(LOGITS_NV)
    part = Predictions(whole.log_probs_NV[at], LABEL_N[at], REF_NV[at], at, N)
    for name, term in ALL.items():
        assert torch.equal(term(part), term(whole)[at]), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: distillation(Predictions(p.log_probs_NV, p.label_N)), "a reference and none was given"),
        (lambda p: distillation(Predictions(p.log_probs_NV, p.label_N, REF_NV[:, 1:])), "one vocabulary"),
        (lambda p: truncated_distillation(p, k=0), "k must be at least 1 token, got 0"),
        (lambda p: truncated_distillation(p, tail="cut"), "tail 'cut' is not known; choose one of unnormalised"),
        (lambda p: jsd(p, 1.0), "beta must be between 0 and 1"),
        (lambda p: tempered(p, 0.0), "temperature must be above 0, got 0.0"),
        (lambda p: policy_gradient(p, ADVANTAGE_N, clip=0.2), "clip needs old_log_prob_N"),
        (lambda p: policy_gradient(p, ADVANTAGE_N, OLD_N, clip=0.0), "clip must be above 0"),
        (lambda p: policy_gradient(p, ADVANTAGE_N[1:]), "4 values were given for 5 tokens"),
        (lambda p: oracle(p, TARGET_NV[:, 1:]), "targets are"),
        (lambda p: oracle(p, -TARGET_NV), "a negative probability"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(predictions(LOGITS_NV))
    assert "\n" not in str(caught.value)
