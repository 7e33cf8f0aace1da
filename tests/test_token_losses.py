"""The chunked pass against the plain computation on full logits: values, gradients, memory, rounding.

Dimensions: N tokens, V vocabulary, D hidden size.
"""

import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from conftest import TINY, VOCABULARY
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from uncertainty import token_losses as token_losses_module
from uncertainty.errors import InputError
from uncertainty.measures import entropy
from uncertainty.model import final_hidden
from uncertainty.objectives import OBJECTIVES, rest_term
from uncertainty.terms import (
    Predictions,
    distillation,
    label_loss,
    oracle,
    policy_gradient,
    tempered,
)
from uncertainty.token_losses import token_losses, token_signals

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
N = 11


class HeadOnly(nn.Module):
    """As much of a language model as the pass looks at: a head and a configuration."""

    def __init__(self, weight_VD, bias_V=None, **settings):
        super().__init__()
        self.lm_head = nn.Linear(weight_VD.shape[1], weight_VD.shape[0], bias=bias_V is not None, dtype=weight_VD.dtype)
        self.lm_head.weight = nn.Parameter(weight_VD.clone())
        if bias_V is not None:
            self.lm_head.bias = nn.Parameter(bias_V.clone())
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**settings))

    def get_output_embeddings(self):
        return self.lm_head


def draw(*shape, seed=0, dtype=torch.float32, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def labels(count, vocabulary=VOCABULARY, seed=0):
    return torch.randint(0, vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


def chunk_bytes(tokens, dtype=torch.float32, vocabulary=VOCABULARY):
    """Room for so many tokens of student and reference."""
    return 2 * tokens * vocabulary * dtype.itemsize


def plain_logits(model, hidden_ND):
    """The model's own arithmetic written out: nothing shared with the pass."""
    config = model.config.get_text_config()
    logits_NV = model.get_output_embeddings()(hidden_ND)
    scale, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
    cap = getattr(config, "final_logit_softcapping", None)
    logits_NV = logits_NV if scale is None else logits_NV * scale
    logits_NV = logits_NV if divisor is None else logits_NV / divisor
    return logits_NV if cap is None else torch.tanh(logits_NV / cap) * cap


def plain(model, hidden_ND, label_N, reference, term, temperature):
    """Loss values from full logits, by autograd."""
    ref_NV = None if reference is None else plain_logits(*reference).log_softmax(-1).detach()
    p = Predictions(plain_logits(model, hidden_ND).log_softmax(-1), label_N, ref_NV)
    return p, label_loss(p), None if term is None else term(tempered(p, temperature))


def relative(ours, exact):
    return float((ours.double() - exact.double()).norm() / exact.double().norm().clamp(min=1e-30))


def gradients(loss, hidden_ND, model):
    wanted = [hidden_ND, *[x for x in model.get_output_embeddings().parameters() if x.requires_grad]]
    return torch.autograd.grad(loss, wanted)


def compare(model, hidden_ND, label_N, reference, *, term=distillation, temperature=1.0, bound, **options):
    """Values and gradients of the pass equal the plain ones; both losses arrive with a weight of their own."""
    hidden_ND = hidden_ND.detach().requires_grad_()
    nll_weight_N, rest_weight_N = draw(2, len(label_N), seed=9, dtype=hidden_ND.dtype)
    p, nll_N, rest_N = plain(model, hidden_ND, label_N, reference, term, temperature)
    found = token_losses(model, hidden_ND, label_N, reference=reference, term=term, temperature=temperature, **options)

    def weighed(nll, rest):
        return (nll_weight_N * nll).sum() + (0.0 if rest is None else (rest_weight_N * rest).sum())

    exact = gradients(weighed(nll_N, rest_N), hidden_ND, model)
    ours = gradients(weighed(found.nll_N, found.rest_N), hidden_ND, model)
    assert [relative(a, b) <= bound for a, b in zip(ours, exact, strict=True)] == [True] * len(exact), [
        relative(a, b) for a, b in zip(ours, exact, strict=True)
    ]
    assert relative(found.nll_N, nll_N) <= bound
    assert relative(found.entropy_N, entropy(p.log_probs_NV.detach())) <= bound
    assert (found.rest_N is None) == (rest_N is None)
    if rest_N is not None:
        assert relative(found.rest_N, rest_N) <= bound
    if reference is not None:
        assert relative(found.ref_nll_N, label_loss(Predictions(p.ref_log_probs_NV, label_N))) <= bound
    return found


def model_of(name, dtype, *, trainable, bias=False):
    model = TINY[name]().to(dtype).requires_grad_(False)
    head = model.get_output_embeddings()
    if bias:
        head.bias = nn.Parameter(draw(VOCABULARY, seed=5, dtype=dtype))
    return model, head.requires_grad_(trainable)


def inputs_of(dtype, count=N, width=32, distance=0.3):
    hidden_ND = draw(count, width, seed=1, dtype=dtype)
    return hidden_ND, hidden_ND + distance * draw(count, width, seed=2, dtype=dtype), labels(count)


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TINY)
def test_the_pass_equals_full_logits_in_every_family(name, dtype, trainable):
    model, _ = model_of(name, dtype, trainable=trainable)
    hidden_ND, ref_ND, label_N = inputs_of(dtype)
    found = compare(
        model, hidden_ND, label_N, (model, ref_ND), bound=TOLERANCE[dtype], chunk_bytes=chunk_bytes(3, dtype)
    )
    assert {value.dtype for value in found if value is not None} == {dtype}


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
@pytest.mark.parametrize("tokens", [1, 3, 7, N, 1000])
def test_the_size_of_a_chunk_changes_nothing(tokens, trainable):
    model, _ = model_of("gemma2", torch.float64, trainable=trainable, bias=True)
    hidden_ND, ref_ND, label_N = inputs_of(torch.float64)
    compare(model, hidden_ND, label_N, (model, ref_ND), bound=1e-12, chunk_bytes=chunk_bytes(tokens, torch.float64))


REST = {name: rest_term(line, top_k=5) for name, line in OBJECTIVES.items() if line.on_rest}
TERMS = {
    **REST,
    "renormalised": rest_term(OBJECTIVES["distill-topk"], top_k=5, tail="renormalised"),
    "bucket": rest_term(OBJECTIVES["distill-topk"], top_k=5, tail="bucket"),
    "label": label_loss,
    "none": None,
    "oracle": partial(oracle, target_NV=draw(N, VOCABULARY, dtype=torch.float64).softmax(-1)),
    "policy gradient": partial(
        policy_gradient, advantage_N=draw(N, seed=4), old_log_prob_N=-draw(N, seed=5).abs() - 3, clip=0.3
    ),
}


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", TERMS)
def test_every_term_at_every_temperature_equals_full_logits(name, temperature, trainable):
    hidden_ND, ref_ND, label_N = inputs_of(torch.float64)
    for family, bias in (("gemma2", True), ("cohere", False)):
        model, _ = model_of(family, torch.float64, trainable=trainable, bias=bias)
        compare(
            model, hidden_ND, label_N, (model, ref_ND), term=TERMS[name], temperature=temperature, bound=1e-12,
            chunk_bytes=chunk_bytes(4, torch.float64),
        )  # fmt: skip


@pytest.mark.parametrize("name", ["oracle", "policy gradient", "label", "none"])
def test_terms_that_need_no_reference_do_without(name):
    model, _ = model_of("llama", torch.float64, trainable=False)
    hidden_ND, _, label_N = inputs_of(torch.float64)
    found = compare(
        model, hidden_ND, label_N, None, term=TERMS[name], bound=1e-12, chunk_bytes=chunk_bytes(4, torch.float64)
    )
    assert found[3:] == (None, None, None)


def test_scaled_and_divided_logits_of_a_head_with_a_bias():
    model = HeadOnly(
        draw(50, 6, dtype=torch.float64), draw(50, seed=1, dtype=torch.float64),
        logit_scale=0.5, logits_scaling=0.2, final_logit_softcapping=4.0,
    )  # fmt: skip
    hidden_ND, ref_ND, label_N = inputs_of(torch.float64, width=6)
    compare(model, hidden_ND, label_N % 50, (model, ref_ND), temperature=2.0, bound=1e-12, chunk_bytes=1000)


def test_the_reference_may_be_another_model_of_another_width():
    model, _ = model_of("llama", torch.float64, trainable=True)
    other = HeadOnly(draw(VOCABULARY, 9, dtype=torch.float32), final_logit_softcapping=5.0)
    ref_ND = draw(N, 9, seed=3)
    hidden_ND, _, label_N = inputs_of(torch.float64)
    found = token_losses(model, hidden_ND, label_N, reference=(other, ref_ND))
    q_NV = plain_logits(other, ref_ND).double().softmax(-1)
    p_NV = plain_logits(model, hidden_ND).softmax(-1)
    torch.testing.assert_close(found.rest_N, -(q_NV * p_NV.log()).sum(-1), rtol=1e-6, atol=0, check_dtype=False)
    found.rest_N.sum().backward()
    assert other.lm_head.weight.grad is None


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
@pytest.mark.parametrize("term", [None, distillation])
def test_a_selection_known_before_the_pass_gives_the_same_step(term, trainable):
    model, _ = model_of("gemma2", torch.float64, trainable=trainable, bias=True)
    hidden_ND, ref_ND, label_N = inputs_of(torch.float64)
    hidden_ND.requires_grad_()
    selected_N = draw(N, seed=7) > 0

    def step(**options):
        found = token_losses(
            model, hidden_ND, label_N, reference=(model, ref_ND), term=term,
            chunk_bytes=chunk_bytes(4, torch.float64), **options,
        )  # fmt: skip
        rest_N = torch.zeros(()) if found.rest_N is None else 0.7 * found.rest_N
        return found, gradients(torch.where(selected_N, found.nll_N, rest_N).sum(), hidden_ND, model)

    (after, exact), (before, ours) = step(), step(selected_N=selected_N)
    for a, b in zip(ours, exact, strict=True):
        assert relative(a, b) < 1e-14
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(before, after, strict=True))
    again = token_losses(model, hidden_ND, label_N, reference=(model, ref_ND), term=term, selected_N=selected_N)
    everywhere = gradients(again.nll_N.sum(), hidden_ND, model)[0]
    assert bool((everywhere[~selected_N] == 0).all())
    assert bool((everywhere[selected_N] != 0).any())


def above(share):
    """The tokens of highest loss among those that are known."""

    def choose(losses):
        chosen_N = torch.zeros(len(losses.nll_N), dtype=torch.bool)
        chosen_N[losses.nll_N.topk(math.ceil(share * len(losses.nll_N))).indices] = True
        return chosen_N

    return choose


def contrary(losses):
    """Guesses the opposite of what it chooses in the end."""
    return above(0.4)(losses) ^ (len(losses.nll_N) < N)


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
@pytest.mark.parametrize("choose", [above(0.25), above(1.0), contrary], ids=["quarter", "all", "wrong guesses"])
@pytest.mark.parametrize("term", ["masked-mle+distill", "jsd", "policy gradient", "none"])
def test_a_selection_that_hangs_on_the_values_gives_the_same_step(term, choose, trainable):
    model, _ = model_of("gemma2", torch.float64, trainable=trainable, bias=True)
    hidden_ND, ref_ND, label_N = inputs_of(torch.float64)
    hidden_ND.requires_grad_()
    options = {"reference": (model, ref_ND), "term": TERMS[term], "chunk_bytes": chunk_bytes(2, torch.float64)}

    def step(found, selected_N):
        rest_N = torch.zeros(()) if found.rest_N is None else 0.7 * found.rest_N
        return gradients(torch.where(selected_N, found.nll_N, rest_N).sum(), hidden_ND, model)

    after = token_losses(model, hidden_ND, label_N, **options)
    selected_N = choose(after)
    chosen = token_losses(model, hidden_ND, label_N, choose=choose, **options)
    assert torch.equal(chosen.selected_N, selected_N)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(chosen[:5], after[:5], strict=True))
    for a, b in zip(step(chosen, selected_N), step(after, selected_N), strict=True):
        assert relative(a, b) < 1e-14
    with torch.no_grad():
        assert torch.equal(token_losses(model, hidden_ND, label_N, choose=choose, **options).selected_N, selected_N)


def test_a_choice_costs_one_vector_and_the_few_wrong_guesses(monkeypatch):
    model, _ = model_of("llama", torch.float32, trainable=False)
    hidden_ND, ref_ND, label_N = inputs_of(torch.float32, count=400)
    hidden_ND.requires_grad_()
    projected = []
    back = token_losses_module.project_back
    monkeypatch.setattr(
        token_losses_module, "project_back", lambda block, weight: projected.append(len(block)) or back(block, weight)
    )
    options = {"reference": (model, ref_ND), "chunk_bytes": chunk_bytes(40)}
    token_losses(model, hidden_ND, label_N, **options)
    assert sum(projected) == 2 * 400
    projected.clear()
    token_losses(model, hidden_ND, label_N, choose=above(0.25), **options)
    assert 400 < sum(projected) < 1.15 * 400


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
def test_rows_beyond_the_tokenizers_vocabulary_are_left_out(trainable):
    model, head = model_of("llama", torch.float64, trainable=trainable)
    hidden_ND, ref_ND, label_N = inputs_of(torch.float64)
    hidden_ND.requires_grad_()
    found = token_losses(model, hidden_ND, label_N % 100, reference=(model, ref_ND), vocabulary=100)
    cut = HeadOnly(head.weight.detach()[:100])
    cut.requires_grad_(trainable)
    _, nll_N, rest_N = plain(cut, hidden_ND, label_N % 100, (cut, ref_ND), distillation, 1.0)
    exact = gradients((nll_N + rest_N).sum(), hidden_ND, cut)
    ours = gradients((found.nll_N + found.rest_N).sum(), hidden_ND, model)
    assert relative(found.nll_N, nll_N) < 1e-12
    assert relative(ours[0], exact[0]) < 1e-12
    if trainable:
        assert relative(ours[1][:100], exact[1]) < 1e-12
        assert bool((ours[1][100:] == 0).all())


@pytest.mark.parametrize("name", ["llama", "gemma", "gemma2", "gpt2", "cohere"])
def test_a_whole_models_gradients_are_those_of_its_own_logits(name):
    """Through the backbone, with the head's and tied embeddings' share."""
    model = TINY[name]().double()
    ids_BT = labels(24).view(2, 12)
    model(input_ids=ids_BT, labels=ids_BT).loss.backward()
    exact = {key: value.grad.clone() for key, value in model.named_parameters()}
    model.zero_grad()
    hidden_ND = final_hidden(model, ids_BT)[:, :-1].flatten(0, 1)
    token_losses(model, hidden_ND, ids_BT[:, 1:].flatten(), chunk_bytes=1).nll_N.mean().backward()
    for key, value in model.named_parameters():
        assert relative(value.grad, exact[key]) < 2e-6, key  # the norms and HF's own loss work in float32


def test_signals_are_the_values_without_a_gradient():
    model, _ = model_of("gemma2", torch.float32, trainable=True)
    hidden_ND, ref_ND, label_N = inputs_of(torch.float32)
    hidden_ND.requires_grad_()
    with_gradient = token_losses(model, hidden_ND, label_N, reference=(model, ref_ND))
    signals = token_signals(model, hidden_ND, label_N, (model, ref_ND))
    with torch.no_grad():
        without = token_losses(model, hidden_ND, label_N, reference=(model, ref_ND))
    for a, b, c in zip(with_gradient[:5], signals[:5], without[:5], strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert not b.requires_grad
        assert not c.requires_grad
    assert [value.requires_grad for value in with_gradient[:5]] == [True, True, False, False, False]
    assert token_signals(model, hidden_ND, label_N, entropy=False).entropy_N is None


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
def test_no_token_is_a_pass_like_any_other(trainable):
    model, head = model_of("llama", torch.float32, trainable=trainable)
    hidden_ND = torch.zeros(0, 32, requires_grad=True)
    found = token_losses(model, hidden_ND, labels(0), reference=(model, torch.zeros(0, 32)))
    assert [value.shape for value in found[:5]] == [(0,)] * 5
    (found.nll_N.sum() + found.rest_N.sum()).backward()
    assert hidden_ND.grad.shape == (0, 32)
    assert not trainable or bool((head.weight.grad == 0).all())


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
def test_autocast_rounds_nothing(trainable):
    model, _ = model_of("gemma2", torch.float32, trainable=trainable)
    hidden_ND, ref_ND, label_N = inputs_of(torch.float32)
    hidden_ND.requires_grad_()

    def step():
        found = token_losses(model, hidden_ND, label_N, reference=(model, ref_ND), term=REST["jsd"])
        return *found[:5], *gradients((found.nll_N + found.rest_N).sum(), hidden_ND, model)

    outside = step()
    with torch.autocast("cpu", torch.bfloat16):
        inside = step()
        assert (hidden_ND @ hidden_ND.T).dtype == torch.bfloat16  # autocast is on, and stays on after the pass
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))


def test_16_bit_hidden_states_of_autocast_meet_a_float32_head():
    model, _ = model_of("llama", torch.float32, trainable=False)
    hidden_ND, _, label_N = inputs_of(torch.float32)
    rounded_ND = hidden_ND.bfloat16().requires_grad_()
    token_losses(model, rounded_ND, label_N).nll_N.sum().backward()
    wide_ND = rounded_ND.detach().float().requires_grad_()
    token_losses(model, wide_ND, label_N).nll_N.sum().backward()
    assert rounded_ND.grad.dtype == torch.bfloat16
    assert torch.equal(rounded_ND.grad, wide_ND.grad.bfloat16())


def near_pair(dtype, device="cpu"):
    """A student close to its reference: peaked predictions over a vocabulary with a tail, KL about 3e-4 nats."""
    weight_VD = draw(4000, 64, scale=0.25).to(device, dtype)
    hidden_ND = draw(40, 64, seed=1, scale=1.5).to(device, dtype)
    return HeadOnly(weight_VD), hidden_ND, (hidden_ND + draw(40, 64, seed=2, scale=0.012).to(device)).to(dtype)


def bfloat16_errors(device):
    model, hidden_ND, ref_ND = near_pair(torch.bfloat16, device)
    model.requires_grad_(False)
    label_N = labels(40, 4000).to(device)
    hidden_ND.requires_grad_()
    found = token_losses(model, hidden_ND, label_N, reference=(model, ref_ND))
    found.rest_N.sum().backward()

    W = model.lm_head.weight.double()
    p, q = (hidden_ND.detach().double() @ W.T).softmax(-1), (ref_ND.double() @ W.T).softmax(-1)
    exact_ND = (p - q) @ W
    separate_ND = p.bfloat16() @ W.bfloat16() - q.bfloat16() @ W.bfloat16()
    kl_N = (q * (q / p).log()).sum(-1)
    assert 1e-4 < float(kl_N.mean()) < 1e-3  # as close as a student that has just begun
    assert relative(found.kl_N, kl_N) < 1e-3
    return relative(hidden_ND.grad, exact_ND), relative(separate_ND, exact_ND)


def test_distillation_survives_bfloat16_where_separate_products_do_not():
    ours, separate = bfloat16_errors("cpu")
    assert ours < 0.01
    assert separate > 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_distillation_survives_bfloat16_on_a_gpu():
    ours, separate = bfloat16_errors("cuda")
    assert ours < 0.01
    assert separate > 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_trainable_16_bit_head_gets_gradients_of_its_dtype_rounded_once(dtype):
    model = HeadOnly(draw(60, 8, dtype=dtype), draw(60, seed=3, dtype=dtype))
    hidden_ND = draw(N, 8, seed=1, dtype=dtype).requires_grad_()
    ref_ND, label_N = draw(N, 8, seed=2, dtype=dtype), labels(N, 60)
    found = token_losses(
        model, hidden_ND, label_N, reference=(model, ref_ND), chunk_bytes=chunk_bytes(3, vocabulary=60)
    )
    ours = gradients((found.nll_N + found.rest_N).sum(), hidden_ND, model)
    exact_model, exact_ND = (
        HeadOnly(model.lm_head.weight.detach().double(), model.lm_head.bias.detach().double()),
        (hidden_ND.detach().double().requires_grad_()),
    )
    _, nll_N, rest_N = plain(exact_model, exact_ND, label_N, (exact_model, ref_ND.double()), distillation, 1.0)
    exact = gradients((nll_N + rest_N).sum(), exact_ND, exact_model)
    assert [gradient.dtype for gradient in ours] == [dtype] * 3
    assert all(relative(a, b) < torch.finfo(dtype).eps / 2 for a, b in zip(ours, exact, strict=True))


def test_the_divergence_is_right_where_it_is_small_and_zero_where_both_agree():
    model = HeadOnly(draw(4000, 16))
    hidden_ND = draw(20, 16, seed=1)
    same = token_signals(model, hidden_ND, labels(20, 4000), (model, hidden_ND))
    assert same.kl_N.tolist() == [0.0] * 20
    ref_ND = hidden_ND + 1e-3 * draw(20, 16, seed=2)
    kl_N = token_signals(model, hidden_ND, labels(20, 4000), (model, ref_ND)).kl_N
    exact_N = token_signals(model.double(), hidden_ND.double(), labels(20, 4000), (model, ref_ND.double())).kl_N
    assert 1e-7 < float(exact_N.median()) < 1e-5
    assert relative(kl_N, exact_N) < 0.01


class Largest(TorchDispatchMode):
    """The largest tensor that any operation allocates, and every shape allocated."""

    def __init__(self):
        super().__init__()
        self.elements, self.shapes = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {storage_of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and storage_of(leaf) not in given:
                self.elements = max(self.elements, leaf.numel())
                self.shapes.add(tuple(leaf.shape))
        return result


def storage_of(tensor):
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("term", [distillation, REST["jsd"]], ids=["distillation", "jsd"])
def test_logits_of_all_tokens_never_exist_and_a_frozen_head_costs_no_gradient(term):
    V, D, count = 997, 8, 64
    model = HeadOnly(draw(V, D), final_logit_softcapping=20.0).requires_grad_(False)
    hidden_ND = draw(count, D, seed=1).requires_grad_()
    ref_ND = draw(count, D, seed=2)
    with Largest() as largest:
        found = token_losses(
            model, hidden_ND, labels(count, V), reference=(model, ref_ND), term=term,
            chunk_bytes=chunk_bytes(2, vocabulary=V),
        )  # fmt: skip
        (found.nll_N + found.rest_N).sum().backward()
    assert largest.elements == 2 * 2 * V  # two blocks of two tokens
    assert (V, D) not in largest.shapes
    assert model.lm_head.weight.grad is None


def test_a_trainable_head_is_seen_by_that_probe():
    model = HeadOnly(draw(997, 8))
    with Largest() as largest:
        token_losses(model, draw(4, 8, seed=1), labels(4, 997)).nll_N.sum().backward()
    assert (997, 8) in largest.shapes


def test_it_may_stand_inside_gradient_checkpointing():
    model, _ = model_of("gemma2", torch.float64, trainable=True)
    hidden_ND, ref_ND, label_N = inputs_of(torch.float64)
    hidden_ND.requires_grad_()

    def loss(hidden):
        found = token_losses(model, hidden, label_N, reference=(model, ref_ND))
        return (found.nll_N + 2 * found.rest_N).sum()

    exact = gradients(loss(hidden_ND), hidden_ND, model)
    for reentrant in (False, True):
        ours = gradients_by_backward(checkpoint(loss, hidden_ND, use_reentrant=reentrant), hidden_ND, model)
        assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))


def gradients_by_backward(loss, hidden_ND, model):
    weight = model.get_output_embeddings().weight
    hidden_ND.grad = weight.grad = None
    loss.backward()
    return hidden_ND.grad, weight.grad


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
def test_a_second_backward_is_refused(trainable):
    model, _ = model_of("llama", torch.float32, trainable=trainable)
    hidden_ND, ref_ND, label_N = inputs_of(torch.float32)
    hidden_ND.requires_grad_()
    loss = token_losses(model, hidden_ND, label_N, reference=(model, ref_ND)).nll_N.sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    loss = token_losses(model, hidden_ND, label_N, reference=(model, ref_ND)).nll_N.square().sum()
    (gradient_ND,) = torch.autograd.grad(loss, hidden_ND, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient_ND.sum().backward()


def test_a_head_that_changed_before_backward_is_refused():
    model, head = model_of("llama", torch.float32, trainable=True)
    hidden_ND, _, label_N = inputs_of(torch.float32)
    loss = token_losses(model, hidden_ND, label_N).nll_N.sum()
    with torch.no_grad():
        head.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def with_adapter_on_the_head():
    return peft.get_peft_model(TINY["llama"](), peft.LoraConfig(r=2, target_modules=["lm_head"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_ND": draw(N, 9)}, r"hidden states are \[11, 9\].*the head reads \[N, 32\]"),
        ({"label_N": labels(N - 1)}, r"labels torch.int64 of shape \[10\]"),
        ({"label_N": labels(N).int()}, "labels torch.int32"),
        ({"label_N": torch.full((N,), VOCABULARY)}, "a label lies outside the vocabulary of 112 tokens"),
        ({"label_N": torch.full((N,), -100)}, "a label lies outside the vocabulary"),
        ({"reference": (HeadOnly(draw(50, 32)), draw(N, 32))}, "predicts 50 tokens and the model 112"),
        ({"reference": (HeadOnly(draw(112, 8)), draw(N, 32))}, r"reference are \[11, 32\], expected \[11, 8\]"),
        ({"selected_N": torch.ones(N)}, r"a selection is bool of shape \[11\]"),
        ({"selected_N": torch.ones(N).bool(), "choose": above(0.5)}, "a selection is given and a function"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"vocabulary": 113}, "113 tokens asked of a vocabulary head that has 112"),
        ({"term": REST["jsd"]}, "a reference and none was given"),
        ({"term": partial(policy_gradient, advantage_N=torch.ones(3))}, "3 values were given for 11 tokens"),
        ({"model": with_adapter_on_the_head()}, "an adapter sits on the vocabulary head"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, message, tiny_model):
    arguments = {"model": tiny_model("llama"), "hidden_ND": draw(N, 32), "label_N": labels(N)} | options
    with pytest.raises(InputError, match=message) as caught:
        token_losses(**arguments)
    assert "\n" not in str(caught.value)


MEASURE = """
import sys, torch
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_token_losses import HeadOnly
from uncertainty.token_losses import token_losses
torch.set_num_threads(1)
T, V, D = 1024, 131072, 64
model = HeadOnly(torch.randn(V, D) * 0.05).requires_grad_(False)
hidden, ref, label = torch.randn(T, D, requires_grad=True), torch.randn(T, D), torch.randint(0, V, (T,))
token_losses(model, hidden[:1], label[:1], reference=(model, ref[:1])).nll_N.sum().backward()

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

Path("/proc/self/clear_refs").write_text("5")  # a child starts with its parent's peak
before = memory("VmRSS")
if sys.argv[1] == "ours":
    found = token_losses(model, hidden, label, reference=(model, ref))
    nll, rest = found.nll_N, found.rest_N
else:
    log_p = (hidden @ model.lm_head.weight.T).log_softmax(-1)
    with torch.no_grad():
        q = (ref @ model.lm_head.weight.T).softmax(-1)
    nll, rest = -log_p.gather(-1, label[:, None])[:, 0], -(q * log_p).sum(-1)
torch.where(torch.arange(T) % 4 == 0, nll, rest).mean().backward()
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_at_most_a_quarter_of_the_naive_losses():
    code = MEASURE.format(tests=str(Path(__file__).parent))
    extra = {}
    for way in ("ours", "naive"):
        done = subprocess.run(
            [sys.executable, "-c", code, way], capture_output=True, text=True, check=True, timeout=120
        )
        extra[way] = int(done.stdout) / 1024
    assert extra["naive"] > 3 * 512  # MiB: logits, probabilities of the reference and a gradient
    assert extra["ours"] <= 0.25 * extra["naive"], extra
    assert math.isfinite(extra["ours"])
