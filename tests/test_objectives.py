"""Objectives as one weighted classification: each against ``-sum w log p`` written out in loops, gradients included."""

import doctest
import math
from functools import partial

import pytest
import torch

from uncertainty import objectives
from uncertainty.errors import InputError
from uncertainty.objectives import (
    OBJECTIVES,
    REST_TERMS,
    Predictions,
    distill,
    jsd,
    label_loss,
    masked_mle,
    masked_mle_distill,
    mle,
    objective,
    per_token,
    rest_term,
    reverse_kl,
    tempered,
    truncated_distillation,
    weighted,
)

N, V = 6, 8
GENERATOR = torch.Generator().manual_seed(11)
LOGITS_NV = 2 * torch.randn(N, V, generator=GENERATOR, dtype=torch.float64)
REF_NV = (2 * torch.randn(N, V, generator=GENERATOR, dtype=torch.float64)).log_softmax(-1)
LABEL_N = torch.randint(0, V, (N,), generator=GENERATOR)
SELECTED_N = torch.tensor([True, False, False, True, False, False])
WEIGHT_N = torch.tensor([0.0, 1.5, 2.0, 0.1, 1.0, -0.5], dtype=torch.float64)


def predictions(logits_NV):
    return Predictions(logits_NV.log_softmax(-1), LABEL_N, REF_NV)


def value_and_gradient(function):
    leaf_NV = LOGITS_NV.clone().requires_grad_()
    value = function(leaf_NV)
    return float(value.detach()), torch.autograd.grad(value, leaf_NV)[0]


def written_out(weight, denominator):
    """``-sum_n sum_v w(n, v) log p(v) / denominator`` in loops; ``weight`` gives w and the temperature of p."""

    def value(logits_NV):
        total = torch.zeros((), dtype=torch.float64)
        for n in range(N):
            for v in range(V):
                w, heat = weight(n, v)
                total = total - w * (logits_NV[n] / heat).log_softmax(-1)[v]
        return total / denominator

    return value


def is_label(n, v):
    return float(v == int(LABEL_N[n]))


def q(n, v, heat=1.0):
    return float((REF_NV[n] / heat).softmax(-1)[v])


CASES = {
    "mle": (mle, lambda n, v: (is_label(n, v), 1), N),
    "masked": (partial(masked_mle, selected_N=SELECTED_N), lambda n, v: (is_label(n, v) * SELECTED_N[n], 1), 2),
    "final": (
        partial(masked_mle_distill, selected_N=SELECTED_N),
        lambda n, v: (is_label(n, v) if SELECTED_N[n] else q(n, v), 1),
        N,
    ),
    "final, lambda .3, temperature 2": (
        partial(masked_mle_distill, selected_N=SELECTED_N, lambda_=0.3, temperature=2.0),
        lambda n, v: (is_label(n, v), 1) if SELECTED_N[n] else (0.3 * q(n, v, 2.0), 2.0),
        N,
    ),
    "distill": (distill, lambda n, v: (q(n, v), 1), N),
    "distill, temperature .5": (partial(distill, temperature=0.5), lambda n, v: (q(n, v, 0.5), 0.5), N),
    "weighted": (
        partial(weighted, weight_N=WEIGHT_N),
        lambda n, v: (is_label(n, v) * float(WEIGHT_N[n]), 1),
        N,
    ),
}


def test_doctests():
    assert doctest.testmod(objectives).failed == 0


@pytest.mark.parametrize("name", CASES)
def test_an_objective_is_its_weighted_classification(name):
    function, weight, denominator = CASES[name]
    value, gradient_NV = value_and_gradient(lambda logits_NV: function(predictions(logits_NV)))
    expected, expected_gradient_NV = value_and_gradient(written_out(weight, denominator))
    assert value == pytest.approx(expected, abs=1e-14)
    assert torch.allclose(gradient_NV, expected_gradient_NV, rtol=0, atol=1e-14)


def by_table(name, logits_NV, lambda_=1.0, temperature=1.0):
    """An objective as the trainer makes it: per-token losses, put together, over the denominator."""
    line, p = OBJECTIVES[name], predictions(logits_NV)
    term = rest_term(line, top_k=3, tail="bucket", beta=0.3)
    loss_N = per_token(
        line,
        label_loss(p),
        None if term is None else term(tempered(p, temperature)),
        SELECTED_N if line.needs_selection else None,
        lambda_=lambda_,
        weight_N=WEIGHT_N if line.needs_weights else None,
    )
    return loss_N.sum() / (int(SELECTED_N.sum()) if line.denominator == "selected" else N)


TOP_K, MIXED = partial(truncated_distillation, k=3, tail="bucket"), partial(jsd, beta=0.3)
final = partial(masked_mle_distill, selected_N=SELECTED_N, lambda_=0.3, temperature=2.0)
SCALAR = {
    "mle": mle,
    "masked-mle": partial(masked_mle, selected_N=SELECTED_N),
    "masked-mle+distill": final,
    "masked-mle+distill-topk": partial(final, term=TOP_K),
    "masked-mle+reverse-kl": partial(final, term=reverse_kl),
    "masked-mle+jsd": partial(final, term=MIXED),
    "masked-distill": lambda p: final(p) - masked_mle(p, SELECTED_N) * 2 / N,
    "mle+distill": lambda p: mle(p) + 0.3 * distill(p, 2.0),
    "distill": lambda p: 0.3 * distill(p, 2.0),
    "distill-topk": lambda p: 0.3 * distill(p, 2.0, TOP_K),
    "reverse-kl": lambda p: 0.3 * distill(p, 2.0, reverse_kl),
    "jsd": lambda p: 0.3 * distill(p, 2.0, MIXED),
    "weighted": partial(weighted, weight_N=WEIGHT_N),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_line_of_the_table_is_its_equation(name):
    value, gradient_NV = value_and_gradient(lambda x: by_table(name, x, lambda_=0.3, temperature=2.0))
    expected, expected_gradient_NV = value_and_gradient(lambda x: SCALAR[name](predictions(x)))
    assert value == pytest.approx(expected, abs=1e-14)
    assert torch.allclose(gradient_NV, expected_gradient_NV, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_line_of_the_table_says_what_it_needs(name):
    line = objective(name)
    assert line.name == name
    assert line.needs_reference == (line.on_rest is not None)
    assert line.on_rest is None or line.on_rest in REST_TERMS
    assert line.on_selected in (None, "label")
    assert line.meaning
    assert line.denominator == "all" or (line.needs_selection and line.on_rest is None)


def test_all_selected_is_mle_and_none_selected_is_distillation():
    p = predictions(LOGITS_NV)
    everything, nothing = torch.ones(N, dtype=torch.bool), torch.zeros(N, dtype=torch.bool)
    assert torch.equal(masked_mle_distill(p, everything), mle(p))
    assert torch.equal(masked_mle(p, everything), mle(p))
    assert torch.equal(masked_mle_distill(p, nothing), distill(p))


def test_without_any_token_the_loss_is_zero_and_still_part_of_the_graph():
    leaf_NV = LOGITS_NV.clone().requires_grad_()
    loss = masked_mle(predictions(leaf_NV), torch.zeros(N, dtype=torch.bool))
    loss.backward()
    assert loss.tolist() == 0.0
    assert bool((leaf_NV.grad == 0).all())


def test_an_infinite_loss_of_the_other_branch_leaves_no_nan():
    """A selected token's gradient does not see that the reference finds it impossible, and the other way round."""
    log_probs = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64).log().requires_grad_()
    reference = torch.tensor([[0.2, 0.2, 0.6], [1.0, 0.0, 0.0]], dtype=torch.float64).log()
    p = Predictions(log_probs, torch.tensor([0, 2]), reference)
    loss = masked_mle_distill(p, torch.tensor([True, False]))
    loss.backward()
    assert loss.tolist() == pytest.approx(math.log(2) / 2)
    assert log_probs.grad.tolist() == [[-0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]


NLL_N = torch.ones(3)
YES_N = torch.ones(3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: objective("mel"), "objective 'mel' is not known; choose one of mle, masked-mle"),
        (lambda: per_token(OBJECTIVES["distill"], NLL_N), "needs the term distillation of each token"),
        (lambda: per_token(OBJECTIVES["masked-mle"], NLL_N), "needs a selection of tokens"),
        (lambda: per_token(OBJECTIVES["masked-mle"], NLL_N, selected_N=YES_N[1:]), r"bool of shape \[3\]"),
        (lambda: per_token(OBJECTIVES["masked-mle"], NLL_N, selected_N=NLL_N), "got torch.float32"),
        (lambda: per_token(OBJECTIVES["weighted"], NLL_N), "needs weights per token"),
        (lambda: per_token(OBJECTIVES["weighted"], NLL_N, weight_N=NLL_N[1:]), "give one for each"),
        (lambda: per_token(OBJECTIVES["mle"], NLL_N, weight_N=NLL_N), "takes no weights"),
        (lambda: per_token(OBJECTIVES["mle"], NLL_N, lambda_=-1.0), "lambda must be 0 or above, got -1.0"),
        (lambda: rest_term(OBJECTIVES["jsd"], beta=2.0), "beta must be between 0 and 1"),
        (lambda: rest_term(OBJECTIVES["distill-topk"], top_k=0), "k must be at least 1"),
        (lambda: masked_mle(predictions(LOGITS_NV), torch.ones(N)), "a selection is bool"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
